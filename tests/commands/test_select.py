"""ddt data select: which token samples are kept, against images decoded one by one."""

import json

import numpy as np
import pytest
import torch

from ddt_lightning.cli import main
from ddt_lightning.encoding import image_seed
from ddt_lightning.metrics.emoji_attributes import AttributeClassifier, read
from ddt_lightning.metrics.picture_encoder import file_hash, to_side
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.shards.read import read_shard
from ddt_lightning.shards.write import write_shards, write_tokens_json
from tests.tiny import taught_tokenizer

WORLD = "tests.commands.test_select"


def brightness(images, prompts):
    """The mean of each image in 0..1."""
    return (images.float().mean((1, 2, 3)) / 255).tolist()


def planned(images, prompts):
    """1 for prompts with a plan that ends, else 0."""
    return [float((prompt["plan"] or "").endswith("|")) for prompt in prompts]


@pytest.fixture(scope="module")
def tokenizer():
    return taught_tokenizer(16)


@pytest.fixture
def made(tokenizer, tmp_path):
    """A tokenizer folder, and token shards of captioned images, edits and questions."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 24, (40, 6)).astype(np.uint16)
    pictures = [
        {"__key__": f"a{n}", "ids.npy": row, "txt": "a ring", "json": {"plan": "ring |" if n % 2 else "ring"}}
        for n, row in enumerate(rows[:20])
    ]
    ask = {"role": "user", "content": [{"image": 0}, "make it red"]}
    edits = [
        {
            "__key__": f"e{n}",
            "ids.npy": rows[20 + 2 * n : 22 + 2 * n],
            "json": {"turns": [ask, {"role": "assistant", "content": [{"image": 1}]}]},
        }
        for n in range(8)
    ]
    said = {"role": "assistant", "content": ["two"]}
    questions = [{"__key__": f"q{n}", "ids.npy": rows[n : n + 1], "json": {"turns": [ask, said]}} for n in range(3)]
    for kind, samples in {"images": pictures, "edits": edits, "questions": questions}.items():
        write_shards(tmp_path / "tokens", kind, samples, 10)
    facts = {"tokenizer": tokenizer.fingerprint(), "K": 6, "codebook_size": 24, "order": "fine_to_coarse"}
    write_tokens_json(tmp_path / "tokens", **facts, transform="none", source="here")
    return tmp_path, rows


def select(folder, kind, reward, *words):
    call = ["data", "select", "--tokenizer", f"{folder}/tokenizer", "--shards", f"{folder}/tokens/{kind}-*.tar"]
    call += ["--rewards", json.dumps({f"{WORLD}.{reward}": 1.0}), "--out", f"{folder}/right", "--processes", "1"]
    main([*call, "--steps", "2", *words])
    return {
        record["__key__"]: record
        for path in sorted((folder / "right").glob("*.tar"))
        for record in read_shard(str(path), {})
    }


@pytest.mark.parametrize(("kind", "batch"), [("images", 3), ("edits", 64)])
def test_kept_is_what_is_worth_enough(made, tokenizer, kind, batch, capsys):
    folder, rows = made
    ids = torch.from_numpy((rows[:20] if kind == "images" else rows[21:36:2]).astype(np.int64))
    pipeline = Pipeline(tokenizer)
    seeds = [image_seed(0, f"{kind[0].replace('i', 'a')}{n}", 0) for n in range(len(ids))]
    images = [pipeline.decode(row[None], seed=[seed], steps=2) for row, seed in zip(ids, seeds, strict=True)]
    values = brightness(torch.cat(images), None)
    least = float(np.median(values))
    found = select(folder, kind, "brightness", "--least", str(least), "--batch", str(batch))
    assert set(found) == {f"{kind[0].replace('i', 'a')}{n}" for n, value in enumerate(values) if value >= least}
    assert 0 < len(found) < len(values)
    assert f"{len(found)} of {len(values)} samples" in capsys.readouterr().out
    whole = {record["__key__"]: record for p in (folder / "tokens").glob("*.tar") for record in read_shard(str(p), {})}
    for key, record in found.items():
        assert {name: record[name] for name in ("ids.npy", "json")} == {
            name: whole[key][name] for name in ("ids.npy", "json")
        }
    fields = json.loads((folder / "right" / "tokens.json").read_text())
    assert fields["tokenizer"] == tokenizer.fingerprint() and fields["selected"]["least"] == least


def test_prompts_have_plans_and_questions_draw_nothing(made, capsys):
    folder, _ = made
    assert set(select(folder, "images", "planned")) == {f"a{n}" for n in range(1, 20, 2)}
    with pytest.raises(SystemExit):
        select(folder, "questions", "planned")
    assert "draws no image" in capsys.readouterr().err


def first_class(images, prompts, judge):
    """1 where the judge reads the first style, else 0."""
    return [float(one["style"] == judge.classes["style"][0]) for one in read(judge, images)]


def test_a_judge_of_a_file_chooses(made, tokenizer):
    folder, rows = made
    torch.manual_seed(0)
    judge = AttributeClassifier({"style": ["noto", "twemoji"]}).eval()
    pipeline = Pipeline(tokenizer)
    ids = torch.from_numpy(rows[:20].astype(np.int64))
    images = pipeline.decode(ids, seed=[image_seed(0, f"a{n}", 0) for n in range(20)], steps=2)
    with torch.no_grad():  # a border between the styles in the middle of these images
        first, second = judge.logits(to_side(images))["style"].unbind(1)
        judge.heads["style"].bias[1] += (first - second).median()
    styles = [one["style"] for one in read(judge, images)]
    judge.save(folder / "judge.safetensors")
    found = select(folder, "images", "first_class", "--judge", f"{folder}/judge.safetensors")
    assert set(found) == {f"a{n}" for n, style in enumerate(styles) if style == "noto"} and 0 < len(found) < 20
    noted = json.loads((folder / "right" / "tokens.json").read_text())["selected"]
    assert noted["judge"] == file_hash(folder / "judge.safetensors")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--judge", "nowhere"], "`--judge` (nowhere) is needed by none of `--rewards`"),
        (["--rewards", '{"ddt_lightning.rl.emoji_rewards.plan_attributes_right": 1}'], "`--judge` is needed by ddt_"),
        (["--least", "2"], "`--least` (2.0): none of the 20 samples"),
        (["--out", "tokens"], "`--out`"),
        (["--rewards", "{}"], "`--rewards` is empty"),
        (["--rewards", "{nowhere.at.all: 1}"], "`--rewards` (nowhere.at.all) cannot be imported"),
        (["--renderer", "nowhere"], "`--renderer` (nowhere)"),
    ],
)
def test_impossible_options_are_named(made, words, named, capsys):
    folder, _ = made
    words = [f"{folder}/tokens" if word == "tokens" else word for word in words]
    with pytest.raises(SystemExit):
        select(folder, "images", "brightness", *words)
    assert named in capsys.readouterr().err
