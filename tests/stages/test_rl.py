"""`ddt-fit rl` on a tiny model: it learns what is rewarded, and runs are the same however they are split."""

import csv
import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddt_lightning import cli
from ddt_lightning.metrics.emoji_attributes import AttributeClassifier
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.sampling import Sampling
from tests.tiny import taught_tokenizer, tiny_model

ROOT = Path(__file__).parents[2]


def bright(images, prompts):
    """The brightness of the images."""
    return (images.float().mean((1, 2, 3)) / 255).tolist()


def light(images, prompts):
    """1 for images that are lighter than most, else 0."""
    return [float(one.float().mean() > 128) for one in images]


def coin(images, prompts):
    """1 for about every other image, by the parity of a pixel, else 0."""
    return [float(one.sum().item() % 2) for one in images[:, :, 0, 0]]


def short(images, prompts):
    """Short texts are worth more."""
    return [1 / (1 + len(prompt["written"])) for prompt in prompts]


def equal(images, prompts):
    """All images are worth the same."""
    return [0.5] * len(images)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), tokenizer=taught_tokenizer(16))


def fit_by_two(*args, **options):
    """`fit` by two processes, begun in a new one: a process that has compiled a model cannot fork and train."""
    words = ["--trainer.devices=2", "--trainer.strategy=ddp_fork"]
    started = multiprocessing.get_context("spawn").Process(target=fit, args=(*args, *words), kwargs=options)
    started.start()
    started.join()
    assert started.exitcode == 0


def fit(model, run, *more, reward="bright"):
    args = ["--config", "stages/rl.yaml", "--config", "tests/smoke/rl.yaml", "--run_dir", str(run)]
    args += ["--init_from", str(model), "--data.vocab", str(model / "vocab"), "--model.tokenizer", str(model)]
    args += [f"--model.rewards={json.dumps({f'tests.stages.test_rl.{reward}': 1.0})}"]
    return cli.fit("rl", [*args, *more])


def weights(run):
    return load_file(run / "release" / "lm" / "model.safetensors")


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=tolerance)


def logged(run):
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


@pytest.mark.parametrize("policy", ["both", "ids"])
def test_what_is_rewarded_becomes_frequent(model, tmp_path, policy):
    longer = ["--trainer.max_steps=24", "--model.optim.total_steps=24", "--trainer.val_check_interval=24"]
    faster = ["--model.optim.lr=0.02", "--model.practice.group=8", "--model.practice.kl_weight=0.001"]
    fit(model, tmp_path, *longer, *faster, f"--model.practice.policy={policy}", "--checkpoint.every_n_train_steps=24")
    found = logged(tmp_path)
    reward = found["train/reward"]
    assert len(reward) == 24
    assert sum(reward[-5:]) / 5 > sum(reward[:5]) / 5 + 0.03
    assert found["train/kl"][0] == pytest.approx(0.0, abs=1e-5) and found["train/kl"][-1] > 0.01
    assert ("train/entropy_plan" in found) == (policy == "both")
    for name in ("equal_groups", "distance", "distinct", "cut_plans", "entropy_first", "entropy_last", "loss"):
        assert len(found[f"train/{name}"]) == 24
    tags = [name.removeprefix("val/reward/") for name in found if name.startswith("val/reward/")]
    assert set(tags) == {"single_object", "two_object", "counting", "colors", "position", "color_attr"}
    assert len(found["val/reward"]) == 1
    # the release is an instruct model like the one it came from
    pipeline = Pipeline.from_pretrained(model)
    released = Pipeline(pipeline.tokenizer, *load(tmp_path))
    before, after = (
        used.text_to_image(["a red circle"] * 20, Sampling(steps=1, guidance=1.0, temperature=1.0), plan="auto",
                           plan_length=8)
        for used in (pipeline, released)
    )  # fmt: skip
    assert after.float().mean() > before.float().mean()


def load(run):
    from transformers import AutoModelForCausalLM

    from ddt_lightning.vocab import Vocab

    release = run / "release"
    return AutoModelForCausalLM.from_pretrained(release / "lm").eval(), Vocab.load(release / "vocab")


def test_a_continued_run_is_an_uninterrupted_one(model, tmp_path):
    fit(model, tmp_path / "whole")
    fit(model, tmp_path / "parts", "--trainer.max_steps=2")
    trainer = fit(model, tmp_path / "parts")
    assert trainer.global_step == 4
    same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    whole, parts = logged(tmp_path / "whole"), logged(tmp_path / "parts")
    assert whole["train/reward"] == parts["train/reward"] and len(whole["train/reward"]) == 4
    assert not torch.equal(*(w["model.embed_tokens.weight"] for w in (weights(tmp_path / "whole"), load_file(
        model / "lm" / "model.safetensors"))))  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_two_processes_do_what_one_does(model, tmp_path):
    fit(model, tmp_path / "one", "--trainer.max_steps=2")
    fit_by_two(model, tmp_path / "two", "--trainer.max_steps=2")
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    for name in ("train/reward", "train/equal_groups", "train/distance", "val/reward"):
        assert one[name] == pytest.approx(two[name], abs=1e-6)
    first, second = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("one", "two")
    )
    same(first, second, 1e-5)
    assert not any("reference" in name for name in first)  # the start is in its own run


@pytest.mark.filterwarnings("ignore")
def test_two_processes_draw_again_as_one_does(model, tmp_path):
    again = ["--trainer.max_steps=1", "--model.practice.group=2", "--model.practice.resample=2"]
    again.append("--data.val_prompts=null")
    fit(model, tmp_path / "one", *again, reward="light")
    fit_by_two(model, tmp_path / "two", *again, reward="light")
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert one["train/left_out"] < one["train/equal_groups"]
    for name in ("train/reward", "train/equal_groups", "train/left_out", "train/distance"):
        assert one[name] == pytest.approx(two[name], abs=1e-6)
    saved = [torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("one", "two")]
    # of the only step, times 1 - beta1: Adam's step makes those near 0 large, and rounding with them
    gradients = [{number: state["exp_avg"] for number, state in run["optimizer_states"][0]["state"].items()}
                 for run in saved]  # fmt: skip
    assert max(float(one.abs().max()) for one in gradients[0].values()) > 1e-4
    same(*gradients, 1e-6)
    same(*(run["state_dict"] for run in saved), 1e-4)  # a third of Adam's step


QUESTIONS = ["--data.prompts=questions", "--data.val_prompts=held_out_questions"]


def test_answers_that_are_rewarded_become_frequent(model, tmp_path):
    longer = ["--trainer.max_steps=20", "--model.optim.total_steps=20", "--trainer.val_check_interval=20"]
    faster = ["--model.optim.lr=0.02", "--model.practice.group=8", "--model.practice.kl_weight=0.001"]
    fit(model, tmp_path, *QUESTIONS, *longer, *faster, "--checkpoint.every_n_train_steps=20", reward="short")
    found = logged(tmp_path)
    reward = found["train/reward"]
    assert sum(reward[-5:]) / 5 > sum(reward[:5]) / 5 + 0.05
    assert found["train/kl"][0] == pytest.approx(0.0, abs=1e-5) and found["train/kl"][-1] > 0.01
    assert found["train/entropy_answer"][-1] < found["train/entropy_answer"][0]
    assert "train/distance" not in found and "train/entropy_first" not in found
    assert {f"val/reward/{tag}" for tag in ("count", "colour", "kind", "yesno", "position")} < found.keys()


@pytest.mark.filterwarnings("ignore")
def test_practice_on_questions_is_the_same_however_it_is_split(model, tmp_path):
    steps = [*QUESTIONS, "--trainer.max_steps=2"]
    fit(model, tmp_path / "whole", *steps, reward="short")
    fit(model, tmp_path / "parts", *QUESTIONS, "--trainer.max_steps=1", reward="short")
    fit(model, tmp_path / "parts", *steps, reward="short")
    fit_by_two(model, tmp_path / "two", *steps, reward="short")
    same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    whole, parts, two = (logged(tmp_path / run) for run in ("whole", "parts", "two"))
    for name in ("train/reward", "train/equal_groups", "train/distinct", "train/cut_plans", "val/reward"):
        assert whole[name] == parts[name] == pytest.approx(two[name], abs=1e-6)


def test_nothing_is_learned_from_equal_rewards(model, tmp_path):
    fit(model, tmp_path, "--trainer.max_steps=2", reward="equal")
    same(weights(tmp_path), load_file(model / "lm" / "model.safetensors"))
    assert logged(tmp_path)["train/equal_groups"] == [1.0, 1.0]


def test_groups_that_teach_nothing_are_drawn_again(model, tmp_path):
    few = ["--model.practice.group=2", "--data.batch_size=8", "--trainer.max_steps=2", "--data.val_prompts=null"]
    fit(model, tmp_path / "once", *few, reward="coin")
    fit(model, tmp_path / "again", *few, "--model.practice.resample=6", reward="coin")
    once, again = logged(tmp_path / "once"), logged(tmp_path / "again")
    assert once["train/reward"][0] == again["train/reward"][0]  # what is logged was drawn first
    assert once["train/left_out"] == once["train/equal_groups"] and once["train/left_out"][0] > 0.2
    assert again["train/equal_groups"][0] == once["train/equal_groups"][0] > again["train/left_out"][0]


def test_rejection_learns_what_was_worth_enough(model, tmp_path):
    fit(model, tmp_path / "some", "--model.practice.objective=rejection", "--trainer.max_steps=1", reward="coin")
    some = logged(tmp_path / "some")
    assert some["train/left_out"][0] == pytest.approx(1 - some["train/reward"][0])
    fit(model, tmp_path / "none", "--model.practice.objective=rejection", "--trainer.max_steps=1", reward="equal")
    assert logged(tmp_path / "none")["train/left_out"] == [1.0]
    start = load_file(model / "lm" / "model.safetensors")
    same(weights(tmp_path / "none"), start)
    assert any(not torch.equal(one, start[name]) for name, one in weights(tmp_path / "some").items())


def test_a_judge_rewards_practice(model, tmp_path):
    """Practice with the classifier of a file, on prompts of a file as `ddt data emoji` writes them."""
    AttributeClassifier({"style": ["noto", "twemoji"], "skin": ["light", "dark"]}).eval().save(tmp_path / "judge")
    for name in ("seen", "held_out"):
        rows = [{"tag": style, "prompt": f"{name} cook, {style} style", "emoji": {"style": style, "skin": "dark"}}
                for style in ("noto", "twemoji")]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"--data.prompts={tmp_path}/seen.jsonl", f"--data.val_prompts={tmp_path}/held_out.jsonl"]
    words += ["--model.rewards={ddt_lightning.rl.emoji_rewards.attributes_right: 1.0}", "--trainer.max_steps=1"]
    fit(model, tmp_path / "run", *words, f"--model.judge={tmp_path}/judge", "--trainer.val_check_interval=1")
    found = logged(tmp_path / "run")
    of_style = [found[f"val/reward/{style}"][0] for style in ("noto", "twemoji")]
    # each drawing is read as one style and one tone, so that one of two attributes is right or both or none
    assert all(value in (0.0, 0.5, 1.0) for value in of_style)
    assert found["val/reward"][0] == pytest.approx(sum(of_style) / 2)
    assert 0 <= found["train/reward"][0] <= 1 and "train/reward/noto" in found


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--model.practice.group=1", "`model.practice.group`"),
        ("--model.practice.temperature=0", "`model.practice.temperature`"),
        ("--model.practice.kl_weight=-1", "`model.practice.kl_weight`"),
        ('--model.practice={"policy": "plan", "plan": "none"}', "`model.practice.plan`"),
        ("--data.batch_size=0", "`data.batch_size`"),
        ("--model.tokenizer=nowhere", "nowhere"),
        ("--model.judge=nowhere", "`model.judge` (nowhere) is needed by none of `model.rewards`"),
        ("--model.rewards={ddt_lightning.rl.emoji_rewards.attributes_right: 1.0}", "`model.judge` is needed by"),
        ("--model.rewards={ddt_lightning.rl.rewards.edit_right: 1.0}", "`model.rewards`: edit_right needs 'target'"),
    ],
)
def test_bad_options_are_named(model, tmp_path, option, named):
    with pytest.raises((ValueError, FileNotFoundError, SystemExit)) as error:
        fit(model, tmp_path, option)
    assert named in str(error.value)
