"""Continuing a run: which checkpoint it goes on from, and whether it is still the same run.

`config.yaml` of a run says what made its weights. A call with other settings would make it untrue, so it is refused
unless `resume_with_changes` is set; then the former file stays as `config-until-step-N.yaml`.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from ddt_lightning.atomic import write_text
from ddt_lightning.training.checkpoint import last_checkpoint, resume_step
from ddt_lightning.training.kept import damage, whole_checkpoint

FREE = (
    "config", "run_dir", "ckpt_path", "call_minutes", "answer_minutes", "resume_with_changes", "checkpoint",
    "data.workers", "data.memory_mb", "data.cache",
    "model.parallel.activation_checkpointing", "model.parallel.compile",
    "trainer.default_root_dir", "trainer.max_steps", "trainer.max_time", "trainer.fast_dev_run",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.plugins",
    "trainer.sync_batchnorm", "trainer.use_distributed_sampler",
    "trainer.logger", "trainer.log_every_n_steps", "trainer.profiler", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "trainer.enable_checkpointing", "trainer.detect_anomaly", "trainer.barebones",
    "trainer.val_check_interval", "trainer.check_val_every_n_epoch", "trainer.limit_val_batches",
    "trainer.num_sanity_val_steps", "trainer.limit_test_batches", "trainer.limit_predict_batches",
)  # fmt: skip
"""Settings that leave the weights of a step as they are: how long, on what, and how it is watched. A batch size is that
of all processes together, so the number of processes is free. All others, also unknown ones, count as changes."""
OFF = ("model.parallel.bf16_params",)
"""Settings whose false says the same as their absence, where their section is null."""
WATCHING = ("ddt_lightning.callbacks.", "lightning.pytorch.callbacks.LearningRateMonitor")
"""Callbacks that watch a run and change nothing."""
LISTED = 8
"""Changed settings named in an error."""


def checkpoint_to_continue(run_dir: str, wanted: str | None) -> Path | None:
    """The checkpoint that a call continues from, or None for a new run.

    Args:
        run_dir: folder of the run.
        wanted: `last` for the run's own, a file, or None for a new run.

    A damaged `last` is named on stderr, and the one before it is used.

    Raises:
        FileNotFoundError: a named checkpoint does not exist.
        ValueError: it is damaged, or all of the run are.
    """
    if wanted is None:
        return None
    if wanted == "last":
        path, problems = whole_checkpoint(run_dir)
        if problems and path:
            print(f"ddt-fit: {'; '.join(problems)}: goes on from {path} (step {resume_step(path)})", file=sys.stderr)
        return path
    path = Path(wanted)
    if not path.exists():
        raise FileNotFoundError(f"`ckpt_path` ({wanted}) does not exist.")
    problem = damage(path)
    if problem:
        raise ValueError(problem)
    return path


def changes(
    before: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Settings that differ and decide what is trained: dotted name -> both values; one that is not there is None.

    Args:
        before: settings of a run.
        now: those of a call that would go on with it.
        defaults: values of what `before` lacks. A `config.yaml` is complete, so an option that it lacks is newer than
            the run, and such options do by default what was done without them.
    """
    old, new = (decisive(settings) for settings in (before, now))
    old = {name: value for name, value in decisive(defaults or {}).items() if name in new} | old
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


def decisive(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, without what is `FREE` and without callbacks that only watch."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = prefix + key
        if name in FREE or (name in OFF and not value):
            continue
        if name == "trainer.callbacks":
            listed = value if isinstance(value, list) else [value] if value else []
            value = [one for one in listed if not str(one["class_path"]).startswith(WATCHING)]
        found |= decisive(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def read_settings(file: Path) -> dict[str, Any]:
    """The settings of a run's `config.yaml`; empty where there is none."""
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}


def check_unchanged(checkpoint: Path, now: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse to continue a run with settings that did not make its checkpoint.

    Args:
        checkpoint: of the run.
        now: settings of the call.
        defaults: of all options, for those that are newer than the run.

    Raises:
        ValueError: settings differ, or nothing says which made it; or the run is longer than it shall become.
    """
    file, step = checkpoint.parents[1] / "config.yaml", resume_step(checkpoint)
    cure = "`--resume_with_changes true` goes on nevertheless, another `--run_dir` starts a new run."
    if not file.is_file():
        raise ValueError(f"`ckpt_path` ({checkpoint}) has no {file}, which would say how it was trained: {cure}")
    found = changes(read_settings(file), now, defaults)
    if found:
        named = [f"{name} was {old!r} and is now {new!r}" for name, (old, new) in sorted(found.items())]
        more = f"; and {len(named) - LISTED} more" if len(named) > LISTED else ""
        raise ValueError(
            f"`ckpt_path` ({checkpoint}, step {step}) was trained with other settings: "
            f"{'; '.join(named[:LISTED])}{more}. {cure}"
        )
    most = now["trainer"]["max_steps"]
    if 0 < most < step:
        raise ValueError(
            f"`trainer.max_steps` ({most}) is below step {step} of `ckpt_path` ({checkpoint}): "
            "name another `--run_dir`."
        )


def check_place(words: list[str], run_dir: str) -> None:
    """Refuse the `config.yaml` of a run that was moved or copied, where it would start anew at its former place.

    Args:
        words: the command line; its `--config` files are looked at.
        run_dir: folder that would be written to.

    Raises:
        ValueError: naming the folder to give as `--run_dir`.
    """
    if any(word.split("=")[0] == "--run_dir" for word in words) or Path(run_dir).exists():
        return
    for option, file in zip(["", *words], [*words, ""], strict=True):
        path = Path(option.partition("=")[2] if option.startswith("--config=") else file)
        if option.split("=")[0] in ("--config", "-c") and path.name == "config.yaml":
            if last_checkpoint(path.parent).exists():
                raise ValueError(
                    f"{path} lies in a run folder with a checkpoint, but would write to {run_dir}, which does not "
                    f"exist: `--run_dir {path.parent}` continues that run, `--run_dir {run_dir}` starts a new one."
                )


def keep_former(run_dir: Path, step: int, now: dict[str, Any]) -> None:
    """Keep the settings of the first `step` steps, before others replace them, as `config-until-step-N.yaml`."""
    file, kept = run_dir / "config.yaml", run_dir / f"config-until-step-{step}.yaml"
    former = read_settings(file)
    longer = former.get("trainer", {}).get("max_steps") != now["trainer"]["max_steps"]  # schedules may depend on it
    if former and not kept.exists() and (longer or changes(former, now)):
        write_text(kept, file.read_text(encoding="utf-8"))
