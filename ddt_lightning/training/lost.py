"""The end of a run that lost a process: one line that says which, why that usually is, and what to do.

A process that loads data is mostly ended by the memory limit of a machine or a job. Another process of a run that died
is noticed by the next operation that takes all of them; one that hangs, when its answer is due.
"""

import re
import signal
from datetime import timedelta

import lightning.pytorch as pl
from torch.distributed import distributed_c10d

from ddt_lightning.training.checkpoint import last_checkpoint, resume_step

LOADER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited)")
"""What torch says of a process for data that is gone; one that raised an error is another matter."""
OTHERS = re.compile("gloo|nccl|processgroup|connection (closed|reset) by peer|timed out|broken pipe", re.I)
"""Words in the error of an operation of all processes some of which are gone."""


class ExpectAnswers(pl.Callback):
    """Limits how long a process waits for the others, from the first step on: to start may take one of them long.

    Args:
        minutes: None leaves it to the strategy, whose 30 minutes are torch's.

    Raises:
        ValueError: no time at all.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and minutes <= 0:
            raise ValueError(f"`answer_minutes` ({minutes}) must be above 0; null leaves the strategy's 30 minutes.")
        self.minutes = minutes

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the limit of every group of processes."""
        if self.minutes is not None and trainer.world_size > 1:
            for group in list(distributed_c10d._world.pg_map):
                distributed_c10d._set_pg_timeout(timedelta(minutes=self.minutes), group)


def lost_process(error: Exception, trainer: pl.Trainer, workers: int) -> OSError | None:
    """The line of an error that means a lost process; None for any other error.

    Args:
        error: what ended training.
        trainer: of the run.
        workers: processes that load data, of the run's settings.
    """
    text = " ".join(str(error).split())
    last = last_checkpoint(trainer.default_root_dir)
    rest = f"the same command goes on after step {resume_step(last)}" if last.exists() else "there is no checkpoint yet"
    loader = LOADER.search(text)
    if loader:
        how = f"by signal {loader[2].strip()}" if loader[2] else "unexpectedly"
        return OSError(
            f"a process that loads data (pid {loader[1]}) ended {how} after step {trainer.global_step}; the limit of "
            f"memory is the usual reason: fewer `--data.workers` than {workers}, or more memory; {rest}."
        )
    if trainer.world_size > 1 and OTHERS.search(text):
        return OSError(
            f"process {trainer.global_rank} of {trainer.world_size} lost the others after step {trainer.global_step}: "
            f"one died, or did not answer within `answer_minutes` ({text[:120]}); {rest}."
        )
    return None


def end_others(trainer: pl.Trainer) -> None:
    """End the processes that this one started, which may hang."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises whenever a child ends once one for data is gone
    launcher = trainer.strategy.launcher
    if hasattr(launcher, "kill"):
        launcher.kill(signal.SIGKILL)
