"""A stage's run: arguments to trainer, module and data, then fit, continue or release, inside one folder."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

import lightning.pytorch as pl
import yaml
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ddt_lightning.atomic import remove_partial, whole_folder, write_text
from ddt_lightning.settings import join_words
from ddt_lightning.training.checkpoint import last_checkpoint, resume_step
from ddt_lightning.training.continuation import check_place, check_unchanged, checkpoint_to_continue, keep_former
from ddt_lightning.training.guard import FiniteLoss
from ddt_lightning.training.history import FILE, RunLogger, cut_rows
from ddt_lightning.training.kept import KeptCheckpoints, put_in_place
from ddt_lightning.training.lost import ExpectAnswers, end_others, lost_process
from ddt_lightning.training.messages import Messages, quiet_libraries
from ddt_lightning.training.owed import OwedValidation, due, saved_before_validation
from ddt_lightning.training.stop import StopOnSignal


class FinalCheckpoint(pl.Callback):
    """Saves `last.ckpt` when training ends, whatever the checkpoint interval."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the last step, be it by `max_time`, before weight averaging puts the averages in place."""
        ended = trainer.should_stop or trainer.global_step >= trainer.max_steps
        saving: Any = trainer.checkpoint_callback
        if saving is not None and ended:
            path = last_checkpoint(trainer.default_root_dir)
            trainer.save_checkpoint(path)
            saving._last_checkpoint_saved = str(path)  # or it would save a short run again, with the averages in place


class WholeConfig(SaveConfigCallback):
    """Writes `config.yaml` in one step: a run whose file is cut off could not be continued."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replace the file of an earlier call."""
        text = self.parser.dump(self.config, skip_unset=False)
        write_text(Path(trainer.default_root_dir) / self.config_filename, text)


class Watcher(Protocol):
    """A callback that is prepared before the processes of a run form a group."""

    def prepare(self, trainer: pl.Trainer) -> None:
        """Look at the devices."""


class StageParser(LightningArgumentParser):
    """Reports a usage error in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and leave with code 2."""
        if os.environ.get("DDT_DEBUG") and ex is not None:
            raise ex
        print(f"ddt-fit: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


class StageCLI(LightningCLI):
    """LightningCLI with one `run_dir`, a named checkpoint group, and no subcommands.

    Args:
        module: the stage's LightningModule.
        data: its data module.
        args: command-line arguments after the stage.
        stage: name of the stage; the default run folder is `runs/STAGE`.
        watch: makes a callback of the run's settings that watches it.
    """

    def __init__(
        self,
        module: type[pl.LightningModule],
        data: type[pl.LightningDataModule],
        args: list[str],
        stage: str,
        watch: Callable[[dict[str, Any]], Watcher] | None = None,
    ) -> None:
        self.stage, self.words, self.watch = stage, args, watch
        quiet_libraries()
        super().__init__(
            module,
            data,
            args=args,
            run=False,
            seed_everything_default=0,
            save_config_callback=WholeConfig,
            save_config_kwargs={"save_to_log_dir": False},
            auto_configure_optimizers=False,
            trainer_defaults={
                "max_epochs": -1,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "check_val_every_n_epoch": None,
                "enable_model_summary": False,
            },
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser whose errors take one line."""
        parser = StageParser(**kwargs)
        parser.add_argument(
            "-c", "--config", action="config", help="YAML file; later ones are merged over earlier ones"
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options that belong to the run rather than to the trainer, the module or the data."""
        parser.add_argument("--run_dir", type=str, default=f"runs/{self.stage}", help="folder of everything written")
        parser.add_argument("--ckpt_path", type=str | None, default="last", help="continue from here; `last` or a file")
        text = "go on where other settings made the checkpoint; the former config.yaml is kept"
        parser.add_argument("--resume_with_changes", type=bool, default=False, help=text)
        parser.add_argument("--init_from", type=str | None, default=None, help="start a new run from these weights")
        text = (
            "save and leave with exit code 138 after so long; the same call goes on (`trainer.max_time` ends the run)"
        )
        parser.add_argument("--call_minutes", type=float | None, default=None, help=text)
        text = "while training, end a call whose other processes do not answer for so long; null: after 30 minutes"
        parser.add_argument("--answer_minutes", type=float | None, default=None, help=text)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.save_last": True,
                "checkpoint.save_top_k": 0,
                "checkpoint.every_n_train_steps": 500,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("init_from", "model.init_from")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401
        """Parse what was given, leaving `sys.argv` to the launcher of the other processes."""
        self.config = parser.parse_args(join_words(parser, args))

    def settings(self) -> dict[str, Any]:
        """All settings, as `config.yaml` of the run says them."""
        found: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        return found

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint to continue from, and refuse what would make a `config.yaml` untrue.

        Raises:
            FileNotFoundError: a named checkpoint does not exist.
            ValueError: it was made by other settings, or the `config.yaml` of a moved run would write elsewhere.
        """
        check_place(self.words, self.config.run_dir)
        self.checkpoint = checkpoint_to_continue(self.config.run_dir, self.config.ckpt_path)
        if self.checkpoint and not (self.config.resume_with_changes or self.config.trainer.fast_dev_run):
            defaults = self.parser.dump(self.parser.get_defaults(), skip_unset=False, skip_validation=True)
            check_unchanged(self.checkpoint, self.settings(), yaml.safe_load(defaults))
        self.config["resume_with_changes"] = False  # of this call alone, not of those that use its config.yaml
        self.messages = Messages(self.stage, self.settings()["data"])

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with a csv log in the run folder before other loggers, and a progress bar on terminals only."""
        own = RunLogger(self.config.run_dir)
        if self.config.trainer.logger is None:
            kwargs["logger"] = own
        if self.config.trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        kwargs["plugins"] = with_environment(self.config_init.trainer.plugins)
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.loggers and not trainer.fast_dev_run:
            others = [one for one in trainer.loggers if not (isinstance(one, CSVLogger) and same_place(one, own))]
            trainer.loggers = [own, *others]
        if self.watch is not None:
            watcher = self.watch(self.settings())
            watcher.prepare(trainer)
            trainer.callbacks.append(watcher)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # unless another one was configured
            trainer.strategy.checkpoint_io = KeptCheckpoints()
        trainer.callbacks[:0] = [self.messages, FinalCheckpoint(), FiniteLoss()]
        trainer.callbacks += [
            StopOnSignal(self.config.call_minutes), ExpectAnswers(self.config.answer_minutes), OwedValidation(),
        ]  # fmt: skip
        return trainer


def with_environment(plugins: Any) -> list[Any]:  # noqa: ANN401
    """The plugins of a trainer, and in a job of SLURM its environment without Lightning's answer to signals.

    That would save elsewhere and requeue the job, beside `StopOnSignal` and stages/slurm.sbatch.
    """
    listed = plugins if isinstance(plugins, list) else [plugins] if plugins is not None else []
    if SLURMEnvironment.detect() and not any(isinstance(one, ClusterEnvironment) for one in listed):
        return [*listed, SLURMEnvironment(auto_requeue=False)]
    return listed


def same_place(one: CSVLogger, other: CSVLogger) -> bool:
    """True for loggers that write to one file."""
    return Path(one.log_dir).resolve() == Path(other.log_dir).resolve()


def put_averages_in_place(trainer: pl.Trainer) -> None:
    """Put averaged weights in place where nothing was left to train: Lightning then leaves the end of training out."""
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging):
            callback.on_train_end(trainer, trainer.lightning_module)


def write_release(cli: StageCLI) -> None:
    """Write the trained weights to `release/`, replacing an older release in one step."""
    if cli.trainer.is_global_zero:
        target = Path(cli.config.run_dir) / "release"
        with whole_folder(target) as folder:
            cli.model.release(folder)
            shutil.rmtree(target, ignore_errors=True)
    else:  # gathering sharded weights takes every process
        with tempfile.TemporaryDirectory() as nowhere:
            cli.model.release(Path(nowhere))


def run(cli: StageCLI) -> pl.Trainer:
    """Fit a stage from the start or from its last checkpoint, then write its release.

    Raises:
        ValueError: the checkpoint to continue from was made by another configuration.
        OSError: another process of the run, or one that loads data, is gone.
    """
    trainer, run_dir, checkpoint = cli.trainer, Path(cli.config.run_dir), cli.checkpoint
    step = resume_step(checkpoint) if checkpoint else 0
    ended = step >= trainer.max_steps > 0
    owed = checkpoint is not None and saved_before_validation(checkpoint)
    first = trainer.is_global_zero
    if first:
        cli.messages.begin(cli.config.run_dir, step)
    if first and not trainer.fast_dev_run:
        remove_partial(run_dir)
        keep_former(run_dir, step, cli.settings())
        if owed or not ended:
            cut_rows(run_dir / FILE, step)
        if checkpoint:
            put_in_place(run_dir, checkpoint)
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except RuntimeError as error:
        lost = lost_process(error, trainer, cli.settings()["data"].get("workers", 0))
        if lost is not None:
            end_others(trainer)
            raise lost from error
        if "loading state_dict" not in str(error):
            raise
        detail = " ".join(str(error).split())
        raise ValueError(
            f"`ckpt_path` ({checkpoint}) does not fit this configuration: use the run's own config.yaml, or a new "
            f"`run_dir`. {detail[:300]}"
        ) from error
    except SystemExit as left:
        if isinstance(left.__context__, KeyboardInterrupt):  # Lightning makes exit code 1 of it
            raise KeyboardInterrupt from None
        raise
    if trainer.fast_dev_run:
        return trainer
    done = trainer.global_step >= trainer.max_steps > 0
    if done:
        if ended and owed and due(trainer):
            trainer.validate(cli.model, cli.datamodule, verbose=False)
        if ended:
            put_averages_in_place(trainer)
        write_release(cli)
    if first:
        cli.messages.end(trainer, cli.config.run_dir, step, released=done)
    return trainer
