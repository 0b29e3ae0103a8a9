"""`ddt encode` on many tasks: a thousand shards, killed tasks and damage give the folder that one call makes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ddt_lightning import encoding
from ddt_lightning.cli import main
from ddt_lightning.images import to_png
from ddt_lightning.shards.finished import FOLDER, read_record, record_of
from ddt_lightning.shards.write import write_shards
from tests.tiny import tiny_tokenizer

SHARDS, TASKS, SIDE = 1000, 4, 16
SCRIPT = Path(__file__).parents[2] / "stages" / "encode.sbatch"
PLANTED = {"before": 17, "between": 401, "behind": 730}
"""Shards at which a task dies once: before the shard is there, between it and its record, behind both."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(SIDE).save_pretrained(folder)
    return str(folder)


def make_shards(folder: Path, count: int) -> list[str]:
    """Shards of a picture each, and the option that names them."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    write_shards(folder, "i", ({"__key__": f"{n}", "png": to_png(p), "txt": "t"} for n, p in enumerate(pixels)), 1)
    return ["--shards", f"{folder}/i-*.tar"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder of token shards."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(words: list[str]) -> int:
    """A process of its own that runs a verb."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main(words)
        code = 0
    except SystemExit as stop:
        code = int(stop.code)
    finally:
        os._exit(code)


def refused(capsys, words: list[str]) -> str:
    """What a call that must not succeed says."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_a_thousand_shards_over_tasks_that_are_killed(tokenizer, tmp_path, monkeypatch):
    words = ["encode", "--tokenizer", tokenizer, *make_shards(tmp_path / "in", SHARDS), "--processes", "1", "--out"]
    begun = time.perf_counter()
    main([*words, str(tmp_path / "one")])
    alone = time.perf_counter() - begun
    encode, record = encoding.encode_shard, encoding.write_record

    def dies(where, target):
        """End this process as a failing machine does, once at each planted place."""
        mark = tmp_path / where
        if f"{PLANTED[where]:06d}" in str(target) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def encode_shard(*args):
        with (tmp_path / "log").open("a") as log:
            log.write(f"{Path(args[3]).name}\n")
        dies("before", args[3])
        return encode(*args)

    def write_record(shard, *args):
        dies("between", shard)
        record(shard, *args)
        dies("behind", shard)

    monkeypatch.setattr(encoding, "encode_shard", encode_shard)
    monkeypatch.setattr(encoding, "write_record", write_record)
    draw, out = random.Random(0), tmp_path / "many"
    tasks = [[*words, str(out), "--task", str(n), "--tasks", str(TASKS)] for n in range(TASKS)]
    kills, ended = 0, set()
    for _ in range(6):  # of tasks that run at a time; some end, most are killed
        pids = {start(tasks[n]): n for n in range(TASKS) if n not in ended}
        for pid in pids:
            time.sleep(draw.uniform(0, 0.15) * alone)
            os.kill(pid, signal.SIGKILL)
        for pid, n in pids.items():
            status = os.waitpid(pid, 0)[1]
            kills += os.WIFSIGNALED(status)
            ended |= {n} if status == 0 else set()
    while len(ended) < TASKS:
        n = min(set(range(TASKS)) - ended)
        status = os.waitpid(start(tasks[n]), 0)[1]
        assert status == 0 or os.WIFSIGNALED(status)
        kills += os.WIFSIGNALED(status)
        ended |= {n} if status == 0 else set()
    encoded = (tmp_path / "log").read_text().split()
    assert kills >= 10 and all((tmp_path / where).exists() for where in PLANTED)
    assert len(set(encoded)) == SHARDS and len(encoded) <= SHARDS + kills
    assert contents(out) == contents(tmp_path / "one")
    main([*words, str(out), "--check", "true"])


def test_the_check_names_what_is_missing_or_differs(tokenizer, tmp_path, capsys):
    words = ["encode", "--tokenizer", tokenizer, *make_shards(tmp_path / "in", 9), "--processes", "1", "--out"]
    out = tmp_path / "out"
    main([*words, str(out), "--task", "0", "--tasks", "2"])
    assert "5 samples in 5 token shards" in (said := capsys.readouterr().out) and "4 are not there yet" in said
    assert not (out / "tokens.json").exists()
    assert "4 of 9 token shards" in refused(capsys, [*words, str(out), "--check", "true"])
    main([*words, str(out), "--task", "1", "--tasks", "2"])
    whole = contents(out)
    assert "tokens.json" in whole and len(whole) == 19
    main([*words, str(out), "--check", "true"])
    assert "9 samples in 9 token shards" in capsys.readouterr().out
    shards = sorted(out.glob("*.tar"))
    flipped = bytearray(shards[1].read_bytes())
    flipped[700] ^= 1
    shards[1].write_bytes(flipped)
    shards[2].write_bytes(shards[2].read_bytes()[:-512])
    shards[4].unlink()
    record_of(shards[5]).write_text("{")
    record_of(shards[7]).unlink()
    error = refused(capsys, [*words, str(out), "--check", "true"])
    assert "5 of 9 token shards" in error and not (out / "tokens.json").exists()
    for number, reason in {
        1: "has other bytes",
        2: "has 9728 bytes",
        4: "is missing",
        5: "has no record",
        7: "has no record",
    }.items():
        assert f"{shards[number].name} {reason}" in error
    times = {path: path.stat().st_mtime_ns for path in shards if path.exists()}
    main([*words, str(out), "--task", "1", "--tasks", "2"])
    assert not (out / "tokens.json").exists()  # 2 and 4 are of the other task
    main([*words, str(out), "--task", "0", "--tasks", "2"])
    assert contents(out) == whole
    assert [n for n in range(9) if shards[n].stat().st_mtime_ns != times.get(shards[n])] == [1, 2, 4, 5, 7]


def test_changed_sources_and_numbers_of_tasks(tokenizer, tmp_path, capsys):
    """Another number of tasks goes on from the same records; the task that has a changed source encodes it again."""
    options = make_shards(tmp_path / "in", 7)
    words = ["encode", "--tokenizer", tokenizer, *options, "--processes", "1", "--out", str(tmp_path / "out")]
    main([*words, "--task", "2", "--tasks", "3"])
    capsys.readouterr()
    main(words)
    assert "5 samples in 5 token shards" in (said := capsys.readouterr().out) and "2 shards were there already" in said
    made_from = [read_record(path)["made_from"] for path in sorted((tmp_path / "out").glob("*.tar"))]
    write_shards(tmp_path / "in", "i", ({"__key__": f"{n}", "png": to_png(np.full((SIDE, SIDE, 3), n, np.uint8))}
                                        for n in range(7)), 1)  # fmt: skip
    main([*words, "--task", "0", "--tasks", "2"])
    assert "4 samples in 4 token shards" in capsys.readouterr().out
    after = [read_record(path)["made_from"] for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert [old != new for old, new in zip(made_from, after, strict=True)] == [True, False] * 3 + [True]
    for wrong in (["--task", "2", "--tasks", "2"], ["--task", "-1"], ["--tasks", "0"]):
        assert wrong[0] in refused(capsys, [*words, *wrong])
    assert sorted(path.suffix for path in (tmp_path / "out" / FOLDER).iterdir()) == [".json"] * 7
    assert json.loads((tmp_path / "out" / "tokens.json").read_text())["K"] == 6


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_the_job_array_passes_its_options_and_exit_code_on(tmp_path):
    """With a `srun` that says what it is given."""
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s|" "$@"\nexit 3\n')
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "i-0.tar").touch()
    args = {"ARGS": "--tokenizer t --shards *.tar s3://b/{0..9}.tar --out o", "SLURM_ARRAY_TASK_COUNT": "4"}
    for more, tasks in (({}, "4"), ({"TASKS": "64"}, "64")):
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "3", **args, **more}
        done = subprocess.run(["bash", str(SCRIPT)], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 3, done.stderr
        expected = ["ddt", "encode", *args["ARGS"].split(), "--task", "3", "--tasks", tasks]
        assert done.stdout.split("|")[:-1] == expected
