"""Health of a job's processes: sound ones, one that does not come, and a device that multiplies wrongly."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ddt_lightning.cli import main
from ddt_lightning.training import health
from tests.faults.calls import free_port

ROOT = Path(__file__).parents[2]


def start(ranks: Sequence[int], processes: int, minutes: float = 2) -> list[subprocess.Popen]:
    """Processes of a job as torchrun starts them."""
    job = {"TORCHELASTIC_RUN_ID": "job", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    job |= {"WORLD_SIZE": str(processes), "GROUP_RANK": "0"}
    call = [sys.executable, "-m", "ddt_lightning.cli", "health", "--minutes", str(minutes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return [
        subprocess.Popen(call, env={**os.environ, **job, "RANK": str(n), "LOCAL_RANK": str(n)}, **pipes) for n in ranks
    ]


def ends(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    texts = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def test_sound_processes_say_one_line():
    (first, said, errors), second = ends(start([0, 1], 2))
    assert first == 0 and said.startswith("healthy: 2 processes, machines: 1; ") and said.count("\n") == 1, errors
    assert errors == "" and second == (0, "", "")


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named():
    for code, said, errors in ends(start([0, 2], 3, minutes=1)):
        assert (code, said) == (1, "") and "process 1 did not come; machines that came: " in errors
        assert "process 0" not in errors and "process 2" not in errors


def test_a_device_that_multiplies_wrongly_is_named(monkeypatch, capsys):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    right = torch.Tensor.__matmul__

    def wrong(a, b):  # one element, and only in float32: the comparison is in float64
        product = right(a, b)
        product[3, 5] += 1.0 if a.dtype == torch.float32 else 0.0
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong)
    with pytest.raises(SystemExit) as left:
        main(["health", "--minutes", "1"])
    assert left.value.code == 1 and "process 0 on " in (text := capsys.readouterr().err) and "product is wrong" in text
    monkeypatch.undo()
    main(["health", "--minutes", "1"])
    assert capsys.readouterr().out.startswith("healthy")


def test_a_device_that_fails_is_a_finding_and_not_the_end():
    found = health.multiply(torch.device("cuda:63"))
    assert found.problem and found.seconds == 0.0
    sound = health.Finding("a", "cpu", 0.1, "")
    assert health.problems([sound, sound]) == ""
    assert health.problems([sound, found, None]).startswith(f"process 1 on {found.machine} (cuda:63): ")


def test_no_time_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["health", "--minutes", "0"])
    assert "`minutes` (0.0) must be above 0" in capsys.readouterr().err
