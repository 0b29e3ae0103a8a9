"""A stage's run: arguments to trainer, module and data, then fit, continue or release, inside one folder."""

import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from ddt_lightning.settings import join_words
from ddt_lightning.training.checkpoint import last_checkpoint, resume_step
from ddt_lightning.training.guard import FiniteLoss
from ddt_lightning.training.history import put_back, set_aside
from ddt_lightning.training.stop import StopOnSignal

HARMLESS = (
    r".*LeafSpec.* is deprecated",  # Lightning's own use of torch
    r"You're using the WeightAveraging callback with a model that overrides",  # about sharding; averaging is for DDP
    # these are the same on every process, or the first one's alone
    r"It is recommended to use `self.log\('(step|val/(psnr|codebook_|shapes_))",
)
"""Warnings of the libraries that no user can act on."""


class FinalCheckpoint(pl.Callback):
    """Saves `last.ckpt` when training ends, whatever the checkpoint interval."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the last step, be it by `max_time`, before weight averaging puts the averages in place."""
        ended = trainer.should_stop or trainer.global_step >= trainer.max_steps
        if trainer.checkpoint_callback is not None and ended:
            trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir))


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
    """

    def __init__(
        self, module: type[pl.LightningModule], data: type[pl.LightningDataModule], args: list[str], stage: str
    ) -> None:
        self.stage = stage
        super().__init__(
            module,
            data,
            args=args,
            run=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
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
        parser.add_argument("--init_from", type=str | None, default=None, help="start a new run from these weights")
        text = (
            "save and leave with exit code 138 after so long; the same call goes on (`trainer.max_time` ends the run)"
        )
        parser.add_argument("--call_minutes", type=float | None, default=None, help=text)
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

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with a csv log in the run folder and a progress bar on terminals only, unless configured."""
        if self.config.trainer.logger is None:
            kwargs["logger"] = CSVLogger(self.config.run_dir, name="", version="", flush_logs_every_n_steps=50)
        if self.config.trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks[:0] = [FinalCheckpoint(), FiniteLoss()]
        trainer.callbacks.append(StopOnSignal(self.config.call_minutes))
        return trainer


def checkpoint_to_continue(cli: StageCLI) -> Path | None:
    """The checkpoint this call continues from, or None for a new run.

    Raises:
        FileNotFoundError: a named checkpoint does not exist.
    """
    wanted = cli.config.ckpt_path
    path = last_checkpoint(cli.config.run_dir) if wanted == "last" else wanted and Path(wanted)
    if path and path.exists():
        return path
    if wanted not in (None, "last"):
        raise FileNotFoundError(f"`ckpt_path` ({wanted}) does not exist.")
    return None


def put_averages_in_place(trainer: pl.Trainer) -> None:
    """What Lightning leaves out where a checkpoint of the last step leaves nothing to train: the end of training."""
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging):
            callback.on_train_end(trainer, trainer.lightning_module)


def write_release(cli: StageCLI) -> None:
    """Write the trained weights to `release/`, replacing an older release in one step."""
    run_dir = Path(cli.config.run_dir)
    folder = Path(tempfile.mkdtemp(prefix=".release-", dir=run_dir))
    cli.model.release(folder)
    if cli.trainer.is_global_zero:
        shutil.rmtree(run_dir / "release", ignore_errors=True)
        folder.chmod(0o755)
        os.replace(folder, run_dir / "release")
    else:
        shutil.rmtree(folder)


def run(cli: StageCLI) -> pl.Trainer:
    """Fit a stage from the start or from its last checkpoint, then write its release.

    Raises:
        ValueError: the checkpoint to continue from was made by another configuration.
    """
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)
    run_dir = Path(cli.config.run_dir)
    checkpoint = checkpoint_to_continue(cli)
    step = resume_step(checkpoint) if checkpoint else 0
    if cli.trainer.is_global_zero and not cli.trainer.fast_dev_run:
        set_aside(run_dir, step)
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        detail = " ".join(str(error).split())
        raise ValueError(
            f"`ckpt_path` ({checkpoint}) does not fit this configuration: use the run's own config.yaml, or a new "
            f"`run_dir`. {detail[:300]}"
        ) from error
    if cli.trainer.fast_dev_run:
        return cli.trainer
    if cli.trainer.is_global_zero:
        put_back(run_dir)
    if cli.trainer.global_step >= cli.trainer.max_steps > 0:
        if step >= cli.trainer.max_steps:
            put_averages_in_place(cli.trainer)
        write_release(cli)
    return cli.trainer
