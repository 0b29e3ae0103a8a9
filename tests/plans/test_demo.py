"""The demo: every command line parses, steps are skipped only when nothing changed, time adds up over restarts."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from ddt_lightning.plans import chains, demo
from ddt_lightning.plans.chains import run_to_end
from ddt_lightning.plans.fingerprint import CLI, fingerprint, fingerprints
from ddt_lightning.plans.step import Chain, Record, Step
from tests.command_lines import parse_plan, parsed

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


STEPS = ["scenes", "tokenizer", "renderer", "tokens", "pretrain", "instruct", "rl", "eval", "report"]


@pytest.mark.parametrize("overlay", [None, "stages/demo-quick.yaml", "stages/demo-long.yaml"])
def test_every_command_line_parses(overlay, monkeypatch):
    words = [] if overlay is None else ["--config", demo.Demo.CONFIG, "--config", overlay]
    sizes = parsed("run demo", *words)["sizes"]
    steps = demo.plan(sizes)
    configs = parse_plan(steps, monkeypatch)
    assert [step.name for step in steps] == STEPS
    assert set(sizes.seconds) == set(STEPS)
    for stage in ("tokenizer", "renderer", "pretrain", "instruct", "rl"):
        assert configs[stage].trainer.max_steps == getattr(sizes, f"{stage}_steps")
    assert overlay is None or sizes.run == f"runs/{Path(overlay).stem}"


def test_without_plans_and_practice_the_flow_is_the_plain_one():
    off = {**dict.fromkeys(("plans", "answer_plans", "even_edits", "select"), False), "groups": 0}
    off |= {"edits_in_words": 0, "questions_in_words": 0}
    sizes = replace(parsed("run demo")["sizes"], **off, formats={"draw": 0.5, "edit": 0.5}, rl_steps=0)
    scenes, *_, instruct, scored, _ = demo.plan(sizes)
    folder = "runs/demo"
    sized = {"images": 24000, "groups": 0, "edits": 8000, "edits_in_words": 0, "questions": 6000}
    sized |= {"questions_in_words": 0, "text": 4000, "val": 512}
    counts = [f"--{kind}={count}" for kind, count in sized.items()]
    assert list(scenes.commands) == [[CLI, "data", "scenes", "--out", f"{folder}/shards", *counts]]
    assert not any("plan" in word or "right" in word for word in instruct.commands[0])
    evaluate = [CLI, "eval", "all", "--model", f"{folder}/model"]
    evaluate += [f"--{kind}=200" for kind in ("images", "edits", "questions", "captions")]
    assert list(scored.commands) == [
        [*evaluate, "--out", f"{folder}/eval", "--prompt_images=4"],
        [*evaluate, "--out", f"{folder}/eval/seen", "--seen=true", "--prompt_images=2"],
    ]
    assert scored.before.args == (Path(folder), "instruct")
    with pytest.raises(ValueError, match=r"`select` \(true\) needs `plans` \(False\)"):
        demo.plan(replace(sizes, select=True))
    with pytest.raises(ValueError, match=r"`answer_plans` \(true\) needs `plans` \(False\)"):
        demo.plan(replace(sizes, answer_plans=True))
    with pytest.raises(ValueError, match=r"`rl_steps` \(5\) need `rl_prompts` \(\[\]\)"):
        demo.plan(replace(sizes, rl_steps=5, rl_prompts=[]))


def practised_on(sizes):
    """Prompts, prompts to watch and rewards of the practice step's command line."""
    (command,) = next(step for step in demo.plan(sizes) if step.name == "rl").commands

    def given(option, default):
        return json.loads(command[command.index(option) + 1]) if option in command else default

    return given("--data.prompts", None), given("--data.val_prompts", None), given("--model.rewards", {})


def test_plans_selection_and_practice_run_through_all_steps():
    long = ("--config", "stages/demo.yaml", "--config", "stages/demo-long.yaml", "--run", "runs/demo")
    sizes = parsed("run demo", *long)["sizes"]
    steps = {step.name: step for step in demo.plan(sizes)}
    assert {"--plans=true", "--both_ways=true"} <= set(steps["scenes"].commands[0])
    silent = demo.plan(replace(sizes, answer_plans=False, even_edits=False))[0].commands[0]
    assert [*silent, "--answer_plans=true", "--even_edits=true"] == steps["scenes"].commands[0]
    assert "--kinds_in_words=6" in silent

    def tuned_with(**changed):
        return next(step for step in demo.plan(replace(sizes, **changed)) if step.name == "instruct").commands[0]

    shown = {"draw": 0.5, "answer": 0.5}
    silence = {"edits_in_words": 0, "questions_in_words": 0}
    plain = tuned_with(**silence, formats=shown)
    assert [
        word for word in plain if word.rpartition("=")[0] in ("--data.draw", "--data.describe", "--data.answer")
    ] == [
        "--data.draw=0.5",
        "--data.answer=0.5",
    ]
    assert "--data.conversations" not in plain
    for changed in ({"formats": shown}, silence):
        with pytest.raises(ValueError, match=r"`edits_in_words` \(.*\) are drawn by `formats\.converse`"):
            demo.plan(replace(sizes, **changed))
    worded = steps["instruct"].commands[0]
    assert worded[worded.index("--data.conversations") + 1] == '["runs/demo/shards/edits_in_words-train-*.tar"]'
    asked = tuned_with(questions_in_words=9)
    spoken = json.loads(asked[asked.index("--data.conversations") + 1])
    assert spoken == [f"runs/demo/shards/{kind}_in_words-train-*.tar" for kind in ("edits", "questions")]
    asked = tuned_with(questions_in_words=9, edits_in_words=0)
    assert json.loads(asked[asked.index("--data.conversations") + 1]) == spoken[1:]
    drawing = practised_on(replace(sizes, rl_prompts=["seen", "groups"]))
    assert drawing == (["seen", "groups"], ["held_out", "held_out_groups"], {})
    both = practised_on(replace(sizes, rl_prompts=["edits", "seen"]))
    assert both == (["edits", "seen"], ["held_out_edits", "held_out"], {"ddt_lightning.rl.rewards.shapes_or_edit": 1.0})
    grouped = {step.name: step.commands for step in demo.plan(replace(sizes, groups=9))}
    assert '"runs/demo/shards/groups-*.tar"' in " ".join(grouped["tokens"][0])
    assert '"runs/demo/tokens/groups-train-*.tar"' in " ".join(grouped["tokens"][1])
    assert '"runs/demo/tokens/right/groups-train-*.tar"' in " ".join(grouped["instruct"][0])
    judged = [" ".join(command[1:4]) for command in grouped["eval"]]
    assert judged == [*["eval all --model"] * 2, *["eval plan --model"] * 2, *["eval words --model"] * 2,
                      *["eval t2i --split=groups"] * 2]  # fmt: skip
    assert "groups-" not in "".join(str(step.commands) for step in demo.plan(replace(sizes, groups=0)))
    assert "groups-" not in " ".join(grouped["pretrain"][0])
    assert "--out runs/demo/tokens/right" in " ".join(steps["tokens"].commands[1])
    tuned = " ".join(tuned_with(groups=0))
    for kind, place in {"images": "tokens/right", "edits": "tokens/right", "questions": "tokens"}.items():
        assert f'--data.{kind} ["runs/demo/{place}/{kind}-train-*.tar"]' in tuned
    assert "tokens/right" not in " ".join(steps["pretrain"].commands[0])
    practice = " ".join(steps["rl"].commands[0])
    for given in ("--init_from runs/demo/instruct", "--data.vocab runs/demo/instruct/release/vocab",
                  "--model.tokenizer runs/demo/tokenizer", "--model.renderer runs/demo/renderer",
                  f"--trainer.max_steps={sizes.rl_steps}"):  # fmt: skip
        assert given in practice
    verbs = [" ".join(command[1:3]) for command in steps["eval"].commands]
    assert verbs == [
        "eval all",
        "eval all",
        "eval plan",
        "eval plan",
        "eval words",
        "eval words",
        "eval t2i",
        "eval t2i",
    ]
    assert all("--plan=auto" in command for command in steps["eval"].commands[:2])
    assert steps["eval"].before.args == (Path("runs/demo"), "rl")
    assert set(STEPS) - {step.name for step in demo.plan(replace(sizes, rl_steps=0))} == {"rl"}
    before = fingerprints(Chain("demo", "", demo.plan(sizes)))
    longer = fingerprints(Chain("demo", "", demo.plan(replace(sizes, rl_steps=240))))
    changed = [a != b for a, b in zip(before, longer, strict=True)]
    assert changed == [name in ("rl", "eval", "report") for name in steps]


def test_options_change_single_sizes(capsys):
    words = ("--config", "stages/demo.yaml", "--config", "stages/demo-quick.yaml", "--images", "1000")
    settings = parsed("run demo", *words, "--until", "tokens")
    assert settings["until"] == "tokens"
    assert settings["sizes"] == replace(parsed("run demo", *words[:4])["sizes"], images=1000)
    assert parsed("run demo")["sizes"] == replace(settings["sizes"], **yaml.safe_load(Path(words[1]).read_text()))
    with pytest.raises(SystemExit):
        parsed("run demo", "--until", "nowhere")
    assert "until" in capsys.readouterr().err


def test_planning_writes_nothing(tmp_path):
    sizes = parsed("run demo", "--run", str(tmp_path / "run"))["sizes"]
    marks = fingerprints(Chain("demo", "", demo.plan(sizes)))
    assert not list(tmp_path.iterdir())
    other = fingerprints(Chain("demo", "", demo.plan(replace(sizes, seconds={name: 9.0 for name in STEPS}))))
    assert marks == other  # an estimate is no part of a result


def two_steps(run: Path, word: str = "one") -> list[Step]:
    """A plan of two real command lines: each packs a file into its folder."""
    (run / "input").write_text("x")

    def step(name: str, text: str) -> Step:
        command = ["zipfile", "-c", str(run / name / f"{text}.zip"), str(run / "input")]
        make = ["compileall", "-q", str(run)]
        return Step(name, "pack", [make, command], run / name, before=partial((run / name).mkdir, exist_ok=True))

    return [step("first", word), step("second", "two")]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A demo of two steps; `small.run(word)` runs it and returns what was started."""

    class Small:
        folder = tmp_path
        started: list[str]

        def run(self, word: str = "one", until: str = "second", fails: str = "") -> list[str]:
            self.started = []
            original = chains.running

            def running(step, record, log):
                self.started.append(step.name)
                if step.name == fails:
                    step = replace(step, commands=[["zipfile", "-l", "missing"]])
                return original(step, record, log)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(chains, "running", running)
                run_to_end(two_steps(tmp_path, word), tmp_path, until)
            return self.started

    return Small()


def test_finished_steps_are_skipped_and_changes_run_again(small):
    assert small.run() == ["first", "second"]
    assert small.run() == []
    assert small.run(word="other") == ["first", "second"]  # a changed command, and what builds on it
    assert not (small.folder / "first" / "one.zip").exists()  # nothing of the old step is left
    (small.folder / "second" / "two.zip").unlink()
    (small.folder / "second").rmdir()
    assert small.run(word="other") == ["second"]  # its result is gone


def test_a_failed_step_says_where_and_goes_on_from_there(small):
    with pytest.raises(ChildProcessError, match="missing"):
        small.run(fails="second")
    spent = json.loads((small.folder / "steps" / "second.json").read_text())
    assert not spent["done"]
    assert small.run() == ["second"]
    done = json.loads((small.folder / "steps" / "second.json").read_text())
    assert done["done"] and done["seconds"] > spent["seconds"]  # time adds up over the restart


def test_fingerprint_depends_on_command_yaml_and_before(tmp_path, monkeypatch):
    step = demo.plan(parsed("run demo")["sizes"])[1]
    mark = fingerprint(step, "before")
    assert mark == fingerprint(step, "before")
    assert mark != fingerprint(step, "other")
    assert mark != fingerprint(replace(step, commands=[[*step.commands[0], "--x=1"]]), "before")
    yaml = tmp_path / "tok.yaml"
    yaml.write_text("a: 1\n")
    edited = replace(step, commands=[["m", str(yaml)]])
    mark = fingerprint(edited, "")
    yaml.write_text("a: 2\n")
    assert mark != fingerprint(edited, "")


def test_metrics_hold_scores_and_times(tmp_path):
    (tmp_path / "eval" / "seen").mkdir(parents=True)
    for folder, value in (("eval", 0.5), ("eval/seen", 0.75)):
        scores = {"vqa/accuracy": {"value": value, "n": 4}, "decode/steps": {"value": 16, "n": 1}}
        (tmp_path / folder / "vqa.json").write_text(json.dumps(scores))
    for name, seconds in {"tokenizer": 2.0, "eval": 1.5}.items():
        record = Record(tmp_path, name)
        record.seconds = seconds
        record.write()
    metrics = demo.collect_metrics(tmp_path, STEPS)
    scores = {"vqa/accuracy": 0.5, "seen/vqa/accuracy": 0.75, "decode/steps": 16}
    assert metrics == {**scores, "time/tokenizer_s": 2.0, "time/eval_s": 1.5, "time/total_s": 3.5}
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
