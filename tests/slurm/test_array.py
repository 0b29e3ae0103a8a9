"""stages/encode.sbatch on a real SLURM of one node: one task of an array runs out of time, and no shard is missing."""

import os
import sys
from pathlib import Path

import pytest

from ddt_lightning.cli import main
from tests.commands.test_encode_tasks import SCRIPT, SIDE, contents, make_shards
from tests.slurm.cluster import Cluster, lacking
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking()), reason=lacking())]


def test_a_task_out_of_time_is_requeued_alone(tmp_path):
    tiny_tokenizer(SIDE).save_pretrained(tmp_path / "tokenizer")
    words = ["--tokenizer", str(tmp_path / "tokenizer"), *make_shards(tmp_path / "in", 6), "--processes", "1", "--out"]
    main(["encode", *words, str(tmp_path / "one")])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    options = ["--array=0-1", "--gpus-per-node=0", "--cpus-per-task=1", f"--chdir={ROOT}"]
    cluster = Cluster()
    try:
        job = cluster.submit(SCRIPT, *options, f"--output={tmp_path}/%a.log", PATH=path, PYTHONPATH=str(ROOT),
                             ARGS=" ".join([*words, str(tmp_path / "many")]))  # fmt: skip
        tasks = [f"{job}_0", f"{job}_1"]
        for task in tasks:
            cluster.wait(lambda task=task: "RUNNING" in cluster.state(task)["JobState"], task)
        (last,) = (task for task in tasks if cluster.state(task)["JobId"] == str(job))  # it has the array's number
        cluster.run("scancel", "--signal=USR1", "--batch", last)
        for task in tasks:
            ended = cluster.end(task)
            assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1" if task == last else "0")
    finally:
        cluster.stop()
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
