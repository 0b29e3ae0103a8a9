"""Faults of the disk: what is said, what is left, and that a run goes on from it as if nothing was."""

import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import save

from ddt_lightning import cli
from ddt_lightning.atomic import remove_partial
from ddt_lightning.training.checkpoint import resume_step
from ddt_lightning.training.kept import before, damage, put_in_place, whole_checkpoint

ROOT = Path(__file__).parents[2]
TINY = ["--config", "stages/tok.yaml", "--config", "tests/smoke/tokenizer.yaml", "--trainer.limit_val_batches=0"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def fit(run: Path, steps: int, *more: str) -> None:
    cli.fit_main(["tokenizer", *TINY, "--run_dir", str(run), f"--trainer.max_steps={steps}", *more])


def refused(capsys, run: Path, steps: int, *more: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        fit(run, steps, *more)
    said = capsys.readouterr().err.strip()
    assert left.value.code == 1 and "Traceback" not in said and len(said.splitlines()) == 1, said
    return said


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "release" / "tokenizer" / "model.safetensors")


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Four steps without a fault, with the checkpoints of the third and of the fourth."""
    run, place = tmp_path_factory.mktemp("whole") / "run", Path.cwd()
    os.chdir(ROOT)
    fit(run, 3)
    last = run / "checkpoints" / "last.ckpt"
    third = shutil.copy(last, last.with_name("third.ckpt"))
    fit(run, 4)
    assert resume_step(before(last)) == resume_step(last) == 4  # the end is saved twice
    third.replace(before(last))
    os.chdir(place)
    return run


def spoilt(whole: Path, folder: Path, how: str) -> Path:
    """A copy of a run of four steps whose newest checkpoint has some damage."""
    run = folder / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "release")
    last = run / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    if how == "empty":
        data.clear()
    elif how == "cut off":
        del data[len(data) // 2 :]
    elif how == "one bit":
        data[len(data) // 2] ^= 1
    else:
        data[:] = bytes(len(data))
    last.write_bytes(data)
    return run


@pytest.mark.parametrize("how", ["empty", "cut off", "one bit", "zeros"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(how, whole, tmp_path, capsys):
    run = spoilt(whole, tmp_path, how)
    last = run / "checkpoints" / "last.ckpt"
    assert resume_step(before(last)) == 3
    fit(run, 4)
    said = capsys.readouterr().err
    assert f"`ckpt_path` ({last}) is" in said and f"goes on from {before(last)} (step 3)" in said
    assert same(run, whole)
    assert resume_step(last) == 4 and not damage(last) and not damage(before(last))
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_run_without_a_whole_checkpoint_does_not_begin_anew(whole, tmp_path, capsys):
    run = spoilt(whole, tmp_path, "cut off")
    last = run / "checkpoints" / "last.ckpt"
    shutil.copy(last, before(last))
    text = refused(capsys, run, 4)
    assert str(last) in text and str(before(last)) in text and "`--run_dir` starts a new run" in text
    text = refused(capsys, tmp_path / "other", 4, "--ckpt_path", str(last))
    assert f"`ckpt_path` ({last}) is cut off" in text and not (tmp_path / "other").exists()


def test_a_kill_between_two_names_leaves_the_one_before(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.rename(last.with_name(".last.ckpt.partial"))
    assert whole_checkpoint(tmp_path / "run") == (before(last), [])
    assert whole_checkpoint(tmp_path / "nothing") == (None, [])


def test_the_one_before_takes_the_place_of_the_newest(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = run / "checkpoints" / "last.ckpt"
    newest, older = last.read_bytes(), before(last).read_bytes()
    put_in_place(run, last)
    assert last.read_bytes() == newest
    last.rename(last.with_name(".last.ckpt.partial"))
    put_in_place(run, before(last))
    assert last.read_bytes() == before(last).read_bytes() == older
    assert sorted(one.name for one in last.parent.iterdir()) == ["last-before.ckpt", "last.ckpt"]


def test_a_folder_takes_the_place_of_the_newest(tmp_path):
    last = tmp_path / "checkpoints" / "last.ckpt"
    (before(last) / "inner").mkdir(parents=True)
    (before(last) / "inner" / "part").write_text("rows")
    last.mkdir()
    put_in_place(tmp_path, before(last))
    assert (last / "inner" / "part").read_text() == "rows" and last.with_name("last-damaged.ckpt").is_dir()


def test_what_a_killed_call_left_under_temporary_names_is_removed(tmp_path):
    for name in (".release.abc.partial/inner/.x.partial", "checkpoints/.last.ckpt.partial", "checkpoints/last.ckpt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    assert [str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()] == ["checkpoints/last.ckpt"]
    remove_partial(tmp_path / "nowhere")


def test_sums_of_a_checkpoint_are_there_to_compare(whole):
    with zipfile.ZipFile(whole / "checkpoints" / "last.ckpt") as archive:
        assert archive.testzip() is None and all(one.CRC for one in archive.infolist() if one.file_size)


def test_sharded_checkpoints_lack_nothing(tmp_path):
    folder = tmp_path / "last.ckpt"
    save({"state_dict": {"w": torch.arange(1000.0)}}, checkpoint_id=str(folder))
    assert "lacks meta.pt: it was not saved to its end" in damage(folder)
    torch.save({"global_step": 7}, folder / "meta.pt")
    assert damage(folder) == "" and resume_step(folder) == 7
    (part,) = folder.glob("*.distcp")
    part.write_bytes(part.read_bytes()[:1000])
    assert "is missing or cut off" in damage(folder)
    (folder / ".metadata").write_bytes(b"")
    assert "is damaged" in damage(folder)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 24 MiB, or a skip."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid():
        pytest.skip("only root mounts a small disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # a log may still be open


def test_a_full_disk_loses_no_checkpoint(small_disk, whole, capsys):
    run = small_disk / "run"
    fit(run, 2)
    last, filler = run / "checkpoints" / "last.ckpt", small_disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(shutil.disk_usage(small_disk).free - 200_000))
    text = refused(capsys, run, 4)
    assert (
        f"the checkpoint of step 3 cannot be written to {last}" in text and f"{last} (step 2) is the last one" in text
    )
    assert "MiB are free there" in text
    assert resume_step(last) == 2 and not damage(last) and not list(last.parent.glob(".*"))
    filler.unlink()
    fit(run, 4)
    assert same(run, whole)


def test_a_folder_without_leave_to_write(small_disk, capsys):
    fit(small_disk / "run", 2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    text = refused(capsys, small_disk / "run", 4)
    assert "Read-only file system" in text and str(small_disk / "run") in text
    assert resume_step(small_disk / "run" / "checkpoints" / "last.ckpt") == 2
