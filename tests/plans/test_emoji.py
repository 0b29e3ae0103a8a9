"""`ddt run emoji`: every command line parses, every training and evaluation reads the part that it should."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ddt_lightning import cli
from ddt_lightning.emoji.held_out import PARTS
from ddt_lightning.model_folder import find_part
from ddt_lightning.plans import emoji
from ddt_lightning.vocab import Vocab
from tests.command_lines import parse_plan, parsed

ROOT = Path(__file__).parents[2]
STEPS = [
    "shards", "judges", "tokenizer", "renderer", "tokens", "pretrain", "instruct", "rl", "eval", "draw", "report",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("overlay", [None, "stages/emoji-quick.yaml"])
def test_every_command_line_parses(overlay, monkeypatch, tmp_path):
    words = [] if overlay is None else ["--config", emoji.EmojiRun.CONFIG, "--config", overlay]
    sizes = parsed("run emoji", *words, "--run", str(tmp_path / "run"))["sizes"]
    steps = emoji.plan(sizes)
    assert not list(tmp_path.iterdir())  # planning writes nothing
    configs = parse_plan(steps, monkeypatch)
    assert [step.name for step in steps] == STEPS and set(sizes.seconds) == set(STEPS)
    for stage in ("tokenizer", "renderer", "pretrain", "instruct", "rl"):
        assert configs[stage].trainer.max_steps == getattr(sizes, f"{stage}_steps")
    assert dict(configs["rl"].model.rewards) == {"ddt_lightning.rl.emoji_rewards.attributes_right": 1.0}
    overlaid = yaml.safe_load(Path(sizes.overlay).read_text())
    assert configs["tokenizer"].model.tokenizer.tokens == overlaid["model"]["tokenizer"]["tokens"]
    for stage in ("tokenizer", "renderer", "pretrain"):
        data = configs[stage].data
        assert [Path(one).name for one in (*data.shards, *data.val_shards)] == [
            "images-train-*.tar",
            "images-val-*.tar",
        ]
    for kind in ("images", "edits", "questions"):
        data = configs["instruct"].data
        place = "tokens" if kind == "questions" else "tokens/right"
        assert data[kind] == [f"{sizes.run}/{place}/{kind}-train-*.tar"]
        assert data[f"val_{kind}"] == [f"{sizes.run}/tokens/{kind}-val-*.tar"]


def test_each_part_is_evaluated_in_a_folder_of_its_own():
    sizes = parsed("run emoji")["sizes"]
    commands = next(step for step in emoji.plan(sizes) if step.name == "eval").commands
    places = {}
    for command in commands:
        shards, out = (command[command.index(option) + 1] for option in ("--shards", "--out"))
        places.setdefault(out, set()).add(Path(shards).name.partition("-")[2])
    assert all(len(found) == 1 for found in places.values())
    found = {names.copy().pop().removesuffix("-*.tar") for names in places.values()}
    assert found == {"train", *(f"val-{part}" for part in PARTS)} and len(places) == 4
    assert places["runs/emoji/eval/seen"] == {"train-*.tar"}


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_the_judge_that_teaches_never_examines():
    sizes = parsed("run emoji")["sizes"]
    steps = {step.name: step for step in emoji.plan(sizes)}
    folder = {name: f"{sizes.run}/judges/{name}" for name in ("teacher", "examiner")}
    trained = {option(command, "--out"): command for command in steps["judges"].commands}
    assert set(trained) == set(folder.values())
    assert {command[-1] for command in trained.values()} == {"--seed=0", "--seed=1"}
    teacher, examiner = (f"{place}/attributes.safetensors" for place in folder.values())
    select = next(command for command in steps["tokens"].commands if "select" in command)
    assert option(select, "--judge") == option(steps["rl"].commands[0], "--model.judge") == teacher
    judged = [command for command in steps["eval"].commands if "--classifier" in command]
    assert {option(command, "--classifier") for command in judged} == {examiner}
    assert [option(command, "--out") for command in judged] == ["runs/emoji/eval", "runs/emoji/eval/seen"]
    used = {word for name in ("eval", "draw", "report") for command in steps[name].commands for word in command}
    assert teacher not in used
    # drawings of training pictures are near them by right, so that copies are counted for held-out ones alone
    assert ["--train" in command for command in judged] == [True, False]


def test_practice_sees_training_combinations_alone():
    sizes = parsed("run emoji")["sizes"]
    practice = emoji.plan(sizes)[STEPS.index("rl")]
    assert option(practice.commands[0], "--data.prompts") == f"{sizes.run}/shards/prompts-train.jsonl"
    assert option(practice.commands[0], "--data.val_prompts") == f"{sizes.run}/shards/prompts-val-combination.jsonl"
    assert option(practice.commands[0], "--init_from") == f"{sizes.run}/instruct"


def test_without_practice_and_selection_the_tuned_model_is_evaluated():
    sizes = replace(parsed("run emoji")["sizes"], rl_steps=0, least=0.0)
    steps = {step.name: step for step in emoji.plan(sizes)}
    assert list(steps) == [name for name in STEPS if name != "rl"]
    assert steps["eval"].before.args == (Path(sizes.run), "instruct")
    assert "tokens/right" not in " ".join(word for step in steps.values() for words in step.commands for word in words)
    assert emoji.plan(replace(sizes, rl_steps=1))[STEPS.index("eval")].before.args == (Path(sizes.run), "rl")


def test_a_run_from_a_trained_model_takes_its_parts(tmp_path, capsys):
    """In the places where a run of each stage holds them, so that all later steps are the same."""
    sizes = parsed("run emoji", "--start", "emoji", "--run", str(tmp_path / "run"))["sizes"]
    steps, trained = emoji.plan(sizes), emoji.plan(replace(sizes, start=None))
    assert [step.name for step in steps] == STEPS
    taken = ("tokenizer", "renderer", "pretrain")
    for one, other in zip(steps, trained, strict=True):
        assert (one.commands == []) == (one.name in taken) and (one.name in taken or one.commands == other.commands)
        if one.name in taken:
            assert one.inputs != other.inputs
            one.before()
    for part, stage in (("tokenizer", "tokenizer"), ("renderer", "renderer"), ("lm", "pretrain")):
        files = [
            folder / "model.safetensors"
            for folder in (find_part(part, "emoji"), find_part(part, tmp_path / "run" / stage))
        ]
        assert files[0].read_bytes() == files[1].read_bytes() and tmp_path in files[1].parents
    vocab, former = Vocab.load(tmp_path / "run" / "pretrain" / "vocab"), Vocab.load(find_part("vocab", "emoji"))
    assert vocab.size == former.size and former.words and vocab.words is None  # it will meet others
    with pytest.raises(FileNotFoundError, match=r"`--start` \(stages\) holds no tokenizer"):
        emoji.plan(replace(sizes, start="stages"))


def test_weights_for_lpips_are_passed_on():
    sizes = parsed("run emoji", "--lpips", "alexnet.pth")["sizes"]
    commands = next(step for step in emoji.plan(sizes) if step.name == "eval").commands
    assert [command[2] for command in commands if "alexnet.pth" in command] == ["reconstruction"] * 4


def test_missing_pictures_are_named(tmp_path, monkeypatch, capsys):
    def refused() -> str:
        with pytest.raises(SystemExit) as left:
            cli.main(["run", "emoji", "--run", str(tmp_path / "run")])
        assert left.value.code == 1
        return capsys.readouterr().err

    monkeypatch.delenv("DDT_DATA", raising=False)
    assert "DDT_DATA" in refused()
    monkeypatch.setenv("DDT_DATA", str(tmp_path))
    assert "emoji-*.tar.gz" in refused()
    assert not (tmp_path / "run").exists()


def test_metrics_keep_the_parts_apart(tmp_path):
    for folder, value in (("eval", 0.5), ("eval/seen", 0.75), ("eval/concept", 0.25)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        card = {"tokenizer/psnr": {"value": value, "n": 4}}
        (tmp_path / folder / "reconstruction.json").write_text(json.dumps(card))
    metrics = emoji.collect_metrics(tmp_path, STEPS, ["seen", "concept", "style"])
    assert metrics == {
        "tokenizer/psnr": 0.5, "seen/tokenizer/psnr": 0.75, "concept/tokenizer/psnr": 0.25, "time/total_s": 0.0,
    }  # fmt: skip
