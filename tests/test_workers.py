"""Worker processes: order, errors, what workers keep, and that none outlives its caller or a failed call."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddt_lightning.workers import run_tasks


def gone(pids: set[int], seconds: float = 10) -> bool:
    """Whether processes end in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


def pid_after(seconds: float) -> int:
    """The worker's process id, after a while, so that each of two workers takes one task."""
    time.sleep(seconds)
    return os.getpid()


def slow_or_wrong(seconds: float) -> float:
    """Waits; 0 seconds are an error."""
    time.sleep(seconds)
    return 1 / seconds


def test_tasks_keep_their_order_and_their_errors():
    assert list(run_tasks(divmod, [(7, 2), (9, 4)], 2, "x")) == [(3, 1), (2, 1)]
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(divmod, [(7, 2), (9, 0), (1, 1)], 2, "x"))
    assert list(run_tasks(divmod, [(5, 5)], 2, "x")) == [(1, 0)]  # a new pool after the error


def test_workers_stay_for_later_calls_and_an_error_ends_them_with_their_tasks():
    pids: set[int] = set()
    while len(pids) < 2:  # on a busy machine the first worker may take both tasks before the second has started
        pids |= set(run_tasks(pid_after, [(1.0,), (1.0,)], 2, "x"))
    assert set(run_tasks(pid_after, [(0.0,)] * 4, 2, "x")) <= pids and os.getpid() not in pids
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(slow_or_wrong, [(0.0,), *[(60.0,)] * 5], 2, "x"))
    assert time.monotonic() - started < 30 and gone(pids)


CALLER = """
import os, time
from ddt_lightning.workers import run_tasks
from tests.test_workers import pid_after
if __name__ == "__main__":
    for pid in run_tasks(pid_after, [(1.0,), (1.0,)], 2, "x"):
        print(pid, flush=True)
    list(run_tasks(time.sleep, [(60,), (60,)], 2, "x"))
"""


def heed_interrupts() -> None:
    """Let Ctrl-C end a child also where the tests run in the background, whose children ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_caller(sent):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    caller = subprocess.Popen([sys.executable, "-c", CALLER], **pipes, text=True, preexec_fn=heed_interrupts)
    assert caller.stdout is not None
    pids = {int(caller.stdout.readline()) for _ in range(2)}
    caller.send_signal(sent)
    caller.communicate(timeout=30)
    assert caller.returncode != 0 and gone(pids)
