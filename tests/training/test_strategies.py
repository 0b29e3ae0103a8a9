"""Twenty steps on several gloo processes against one: copies of the weights, each sharded over some (HSDP)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import forked
from tests.stages.test_stages import arguments, csv_rows, world  # noqa: F401 - fixtures

LONGER = ["--trainer.max_steps=20", "--model.optim.total_steps=20", "--trainer.val_check_interval=10",
          "--checkpoint.every_n_train_steps=100"]  # fmt: skip
SHARDED = ["--config", "stages/fsdp.yaml", "--trainer.accelerator=cpu"]
COPIES = [*SHARDED, "--trainer.strategy.init_args.replicas=2"]


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in csv_rows(run / "metrics.csv") if row[name]]


def assert_equal_runs(one: Path, other: Path, part: str, names: list[str]) -> None:
    """The same losses to 1e-4 and weights to 1e-5."""
    for name in names:
        found, expected = column(other, name), column(one, name)
        assert found == pytest.approx(expected, rel=1e-4) and len(found) == (20 if "train" in name else 2), name
    whole, gathered = (load_file(run / "release" / part / "model.safetensors") for run in (one, other))
    assert whole.keys() == gathered.keys()
    for name, value in whole.items():
        torch.testing.assert_close(gathered[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize(
    ("processes", "optimiser"),
    [
        (2, "adamw"),
        pytest.param(4, "adamw", marks=pytest.mark.slow),
        pytest.param(4, "muon", marks=pytest.mark.slow),
    ],
)
def test_two_copies_of_a_sharded_language_model_equal_one_process(tmp_path, world, processes, optimiser):  # noqa: F811
    """Train losses, those of validation over the labels of all processes, and the weights."""
    one, several = tmp_path / "one", tmp_path / "several"
    more = [*LONGER, f"--model.optim.name={optimiser}"]
    forked.fit(
        (1, "pretrain", [*arguments("pretrain", one, world), *more]),
        (processes, "pretrain", [*arguments("pretrain", several, world), *COPIES, *more]),
    )
    assert_equal_runs(one, several, "lm", ["train/loss", "val/loss", "val/text_loss", "val/image_loss"])
