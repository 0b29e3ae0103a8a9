"""The comparison of runs finds every difference of one bit, and nothing in two equal runs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.faults.compare import differences, other_batches, unequal
from tests.faults.watch import digest, journal, note


def state(run: Path) -> dict:
    return {
        "state_dict": {"w": torch.tensor([0.0, 1.0]), "none": torch.zeros(0)},
        "optimizer": [{"lr": 0.1, "moments": torch.ones(2, 2)}],
        "callbacks": {"checkpoint": {"path": f"{run}/checkpoints/last.ckpt", "best": float("nan")}},
        "global_step": 3,
    }


def make(run: Path) -> Path:
    (run / "checkpoints").mkdir(parents=True)
    (run / "release").mkdir()
    torch.save(state(run), run / "checkpoints" / "last.ckpt")
    (run / "release" / "model.safetensors").write_bytes(b"weights")
    (run / "config.yaml").write_text(f"run_dir: {run}\nsteps: 3\n")
    (run / "metrics.csv").write_text("step,loss,val\n0,0.1,\n1,0.2,\n")
    for step in range(3):
        note(journal(run, 0), "step", step=step, batch=digest({"x": torch.full((2,), float(step))}))
    return run


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    return make(tmp_path / "one"), make(tmp_path / "two")


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def do(run: Path) -> None:
        found = state(run)
        change(found)
        torch.save(found, run / "checkpoints" / "last.ckpt")

    return do


PLANTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit of a weight": (
        edit(lambda found: found["state_dict"]["w"].view(torch.int32)[1].add_(1)),
        "checkpoints/last.ckpt['state_dict']['w'] by 1.2e-07",
    ),
    "the sign of a zero": (edit(lambda found: found["state_dict"]["w"].mul_(torch.tensor([-1.0, 1.0]))), "['w'] by 0"),
    "a type": (
        edit(lambda found: found["state_dict"].update(w=torch.tensor([0, 1], dtype=torch.float64))),
        "['w'] in shape or kind",
    ),
    "an average": (edit(lambda found: found["optimizer"][0]["moments"].add_(1e-3)), "['optimizer'][0]['moments'] by"),
    "a step": (edit(lambda found: found.update(global_step=4)), "['global_step']: 3 and 4"),
    "a missing part": (edit(lambda found: found.pop("optimizer")), "['optimizer'] is on one side only"),
    "a missing file": (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing"),
    "a left file": (lambda run: (run / ".release.partial").touch(), ".release.partial is left over"),
    "a released file": (lambda run: (run / "release" / "model.safetensors").write_bytes(b"Weights"), "7 bytes"),
    "a digit of a row": (
        lambda run: (run / "metrics.csv").write_text("step,loss,val\n0,0.1,\n1,0.3,\n"),
        "metrics.csv[1]['loss']",
    ),
    "a row twice": (
        lambda run: (run / "metrics.csv").write_text("step,loss,val\n0,0.1,\n1,0.2,\n1,0.2,\n"),
        "metrics.csv: [",
    ),
    "a setting": (lambda run: (run / "config.yaml").write_text(f"run_dir: {run}\nsteps: 4\n"), "['steps']: 3 and 4"),
}  # fmt: skip


def test_equal_runs_differ_in_nothing(pair):
    one, two = pair
    edit(lambda found: found.update(loops={"completed": 7}))(two)
    (two / "throughput.csv").write_text("step,seconds\n")  # times differ
    shutil.copy(two / "checkpoints" / "last.ckpt", two / "checkpoints" / "last-before.ckpt")
    assert differences(one, two) == [] and other_batches(one, two, 1) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_found(name, pair):
    plant, named = PLANTED[name]
    plant(pair[1])
    (found,) = differences(*pair)
    assert named in found


def test_a_batch_that_was_taken_in_another_order_is_found(pair):
    one, two = pair
    note(journal(two, 0), "step", step=1, batch=digest({"x": torch.full((2,), 1.0)}))  # again after a restart
    assert other_batches(one, two, 1) == []
    note(journal(two, 0), "step", step=2, batch=digest({"x": torch.full((2,), 1.0)}))
    assert other_batches(one, two, 1) == ["process 0 took another batch for step 2"]


def test_values_of_another_type_differ():
    assert unequal(1, 1.0) and unequal([1], [1, 2]) and unequal(True, 1) and not unequal(float("nan"), float("nan"))
