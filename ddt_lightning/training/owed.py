"""Validation that was due after the step of a checkpoint: the call that goes on from there begins with it.

A checkpoint is saved after a step and before the validation that may follow it, so that a validation that fails costs
no steps. A run that is killed between the two has not validated; Lightning takes that validation for done.
"""

from pathlib import Path

import lightning.pytorch as pl

from ddt_lightning.training.checkpoint import read_meta


class OwedValidation(pl.Callback):
    """Validates before the first step of a run that is continued, where that is due."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate as the loop would have done."""
        steps = trainer.fit_loop.epoch_loop
        if not trainer.global_step or not due(trainer) or steps.val_loop.restarted_mid_evaluation:
            return
        progress = steps.val_loop.batch_progress.state_dict()
        steps.val_loop.restarting = False  # from its first batch
        trainer.validating = True
        steps.val_loop.run()
        trainer.training = True
        steps.val_loop.batch_progress.load_state_dict(progress)  # Lightning counts what it takes for done


def due(trainer: pl.Trainer) -> bool:
    """True where validation follows the step that a run is at."""
    every = trainer.val_check_batch  # None where validation goes by time
    taken = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return bool(trainer.enable_validation and every is not None and taken % every == 0)


def saved_before_validation(checkpoint: Path) -> bool:
    """True for a checkpoint of a step whose validation, if one was due, came later."""
    progress = read_meta(checkpoint)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    return bool(progress["completed"] < progress["processed"])
