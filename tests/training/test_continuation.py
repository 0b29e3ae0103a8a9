"""A run is continued with the settings that made its checkpoint, or says that they changed."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ddt_lightning import cli
from ddt_lightning.training.continuation import changes, check_place, keep_former

ROOT = Path(__file__).parents[2]
TINY = ["--config", "stages/tok.yaml", "--config", "tests/smoke/tokenizer.yaml", "--trainer.limit_val_batches=0"]
SETTINGS = {
    "seed_everything": 0,
    "run_dir": "runs/a",
    "checkpoint": {"every_n_train_steps": 500},
    "data": {"shards": ["a.tar"], "batch_size": 8, "workers": 0},
    "model": {"optim": {"lr": 0.1}, "loss": None},
    "trainer": {
        "max_steps": 4, "devices": 1, "precision": None, "logger": None,
        "callbacks": [
            {"class_path": "ddt_lightning.training.averaging.EmaWeightAveraging", "init_args": {"decay": 0.9}},
            {"class_path": "ddt_lightning.callbacks.codebook.CodebookMonitor", "init_args": {"every": 5}},
        ],
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def changed(path: str, value: object) -> dict:
    settings = deepcopy(SETTINGS)
    *parents, last = path.split(".")
    inner = settings
    for name in parents:
        inner = inner[int(name)] if name.isdigit() else inner.setdefault(name, {})
    inner[last] = value
    return settings


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("seed_everything", 1, "seed_everything"),
        ("data.shards", ["b.tar"], "data.shards"),
        ("data.batch_size", 16, "data.batch_size"),
        ("data.unheard_of", 1, "data.unheard_of"),
        ("model.optim.lr", 0.2, "model.optim.lr"),
        ("model.loss", {"weight": 1}, "model.loss.weight"),
        ("trainer.precision", "bf16-mixed", "trainer.precision"),
        ("trainer.callbacks.0.init_args.decay", 0.5, "trainer.callbacks"),
        ("trainer.accumulate_grad_batches", 2, "trainer.accumulate_grad_batches"),
    ],
)
def test_what_decides_the_weights_is_a_change(path, value, named):
    assert named in changes(SETTINGS, changed(path, value)) and named in changes(changed(path, value), SETTINGS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("run_dir", "runs/b"),
        ("checkpoint.every_n_train_steps", 1),
        ("data.workers", 3),
        ("data.cache", "/tmp/cache"),
        ("trainer.max_steps", 9),
        ("trainer.max_time", "00:01:00:00"),
        ("trainer.devices", 2),
        ("trainer.strategy", "ddp"),
        ("trainer.logger", {"class_path": "wandb"}),
        ("trainer.callbacks.1.init_args.every", 1),
        ("call_minutes", 3.0),
    ],
)
def test_what_leaves_the_weights_as_they_are_is_none(path, value):
    assert changes(SETTINGS, changed(path, value)) == {}


def test_an_option_that_is_newer_than_the_run_had_its_default():
    newer, defaults = changed("model.optim.nesterov", True), {"model": {"optim": {"nesterov": True}}}
    assert changes(SETTINGS, newer) == {"model.optim.nesterov": (None, True)}
    assert changes(SETTINGS, newer, defaults) == {}
    assert changes(SETTINGS, changed("model.optim.nesterov", False), defaults) == {
        "model.optim.nesterov": (True, False)
    }
    assert changes(newer, SETTINGS, defaults) == {"model.optim.nesterov": (True, None)}
    assert changes(changed("model.optim.nesterov", False), newer, defaults) == {"model.optim.nesterov": (False, True)}


def refusal(capsys: pytest.CaptureFixture, *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.fit_main(["tokenizer", *words])
    text = capsys.readouterr().err
    assert left.value.code == 1 and text.count("\n") == 1
    return text


def test_a_run_never_claims_what_was_not_trained(tmp_path, capsys):
    run = tmp_path / "run"
    call = [*TINY, "--run_dir", str(run)]
    cli.fit("tokenizer", [*call, "--trainer.max_steps=2"])
    capsys.readouterr()
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    text = refusal(capsys, *call, "--seed_everything=7", "--model.optim.lr=0.5", "--trainer.max_steps=2")
    assert "model.optim.lr was 0.002 and is now 0.5; seed_everything was 0 and is now 7" in text
    assert "--resume_with_changes true" in text and "--run_dir" in text
    assert "`trainer.max_steps` (1) is below step 2" in refusal(capsys, *call, "--trainer.max_steps=1")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before

    cli.fit("tokenizer", [*call, "--seed_everything=7", "--trainer.max_steps=3", "--resume_with_changes", "true"])
    former, now = (yaml.safe_load((run / name).read_text()) for name in ("config-until-step-2.yaml", "config.yaml"))
    assert (former["seed_everything"], now["seed_everything"]) == (0, 7) and not now["resume_with_changes"]
    weights = load_file(run / "release" / "tokenizer" / "model.safetensors")

    run.rename(tmp_path / "moved")
    text = refusal(capsys, "--config", str(tmp_path / "moved" / "config.yaml"))
    assert f"`--run_dir {tmp_path / 'moved'}` continues that run" in text and not run.exists()
    cli.fit("tokenizer", ["--config", str(tmp_path / "moved" / "config.yaml"), "--run_dir", str(tmp_path / "moved")])
    again = load_file(tmp_path / "moved" / "release" / "tokenizer" / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert sorted(file.name for file in (tmp_path / "moved").glob("config*")) == [
        "config-until-step-2.yaml", "config.yaml",
    ]  # fmt: skip

    settings = yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text())
    del settings["model"]["optim"]["momentum"]  # as if the option were newer than the run
    (tmp_path / "moved" / "config.yaml").write_text(yaml.safe_dump(settings))
    words = [*TINY, "--run_dir", str(tmp_path / "moved"), "--seed_everything=7"]
    cli.fit("tokenizer", [*words, "--trainer.max_steps=3"])
    assert "model.optim.momentum was" in refusal(capsys, *words, "--trainer.max_steps=3", "--model.optim.momentum=0.5")
    (tmp_path / "moved" / "config.yaml").unlink()
    assert "has no" in refusal(capsys, *TINY, "--run_dir", str(tmp_path / "moved"), "--trainer.max_steps=3")


def test_the_first_of_two_former_settings_is_kept(tmp_path):
    for settings in (SETTINGS, changed("seed_everything", 1)):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        keep_former(tmp_path, 5, changed("seed_everything", 2))  # nothing was trained with the second
    assert yaml.safe_load((tmp_path / "config-until-step-5.yaml").read_text()) == SETTINGS
    keep_former(tmp_path, 6, changed("seed_everything", 1))
    assert not (tmp_path / "config-until-step-6.yaml").exists()


def test_a_config_may_start_a_new_run_elsewhere(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    config = str(tmp_path / "config.yaml")
    for words in (["--config", config], [f"--config={config}"], ["-c", config]):
        with pytest.raises(ValueError, match="starts a new one"):
            check_place(words, "runs/never")
        check_place([*words, "--run_dir", "runs/never"], "runs/never")
        check_place(words, str(tmp_path))


class Killed(BaseException):
    """The process is gone."""


def test_a_kill_while_the_settings_are_written_leaves_those_of_the_call_before(tmp_path, monkeypatch):
    call = [*TINY, "--run_dir", str(tmp_path)]
    cli.fit("tokenizer", [*call, "--trainer.max_steps=2"])
    before = (tmp_path / "config.yaml").read_bytes()
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).name == "config.yaml":
            assert self.read_bytes().startswith(before[:100])  # all of the new file lies beside it
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(Killed):
        cli.fit("tokenizer", [*call, "--trainer.max_steps=3"])
    assert (tmp_path / "config.yaml").read_bytes() == before
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    cli.fit("tokenizer", [*call, "--trainer.max_steps=3"])
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["max_steps"] == 3
