"""`ddt data`: the embedded world's shards, and looking through any shards."""

import json
import os
from collections import Counter
from dataclasses import replace

import pytest

from ddt_lightning.cli import main
from ddt_lightning.commands.data import check, scenes, stats
from ddt_lightning.commands.encode import world_of
from ddt_lightning.scenes.combinations import shows
from ddt_lightning.scenes.language import NUMBERS, OPPOSITE, parse_caption
from ddt_lightning.scenes.layout import mentioned, read_edit_plan, read_plan, write_edit_plan, write_plan
from ddt_lightning.scenes.render import KINDS, Scene, render
from ddt_lightning.scenes.suite import held_out, suite, train_edit
from ddt_lightning.scenes.tasks import EDITS
from ddt_lightning.scenes.world import World
from ddt_lightning.seeding import numpy_rng
from ddt_lightning.shards.from_scenes import SceneShards, Teaching, make_sample
from ddt_lightning.shards.images import ImageShards, read_images
from ddt_lightning.shards.read import read_shard
from ddt_lightning.shards.write import write_shards

DATA = os.environ.get("DDT_DATA", "")
SIZES = {"images": 18, "edits": 10, "questions": 9, "text": 8, "val": 3, "side": 32, "per_shard": 100, "workers": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "shards"
    scenes(str(out), **SIZES)
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_kind_has_shards_for_training_and_validation(world):
    kinds = ("edits", "images", "questions", "text")
    expected = [f"{k}-train-{i:06d}.tar" for k in kinds for i in range(8)] + [f"{k}-val-000000.tar" for k in kinds]
    assert sorted(contents(world)) == sorted([*expected, "prompts.jsonl", "world.json"])
    assert [json.loads(line) for line in (world / "prompts.jsonl").read_text().splitlines()] == suite()


def test_images_are_their_scenes_and_captions_name_them(world):
    found = list(read_images([str(world / "images-train-*.tar")]))
    assert len({sample.key for sample in found}) == 18
    for sample in found:
        scene = Scene.from_dict(sample.data["scene"])
        assert (sample.images[0] == render(scene, 32)).all() and not held_out(scene)
        assert sample.texts[0] == sample.data["caption"] and set(sample.texts) == set(sample.data["captions"])
        for text in sample.texts:
            assert sum(count for *_, count in parse_caption(text)) == len(scene.shapes)


def test_edits_and_questions_hold_what_training_needs(world):
    edits = list(read_images([str(world / "edits-*.tar")]))
    assert len(edits) == 13
    for sample in edits:
        for image, name in zip(sample.images, ("source", "target"), strict=True):
            assert (image == render(Scene.from_dict(sample.data[name]), 32)).all()
        assert len(sample.texts) == 1
    asked = list(read_images([str(world / "questions-*.tar")]))
    assert len(asked) == 12 and all(len(sample.questions) == 1 for sample in asked)
    lines = [record["txt"] for record in read_shard(str(world / "text-train-000000.tar"), {})]
    assert len(lines) == 1 and lines[0].decode().strip()


def test_the_world_trains_a_tokenizer(world):
    data = ImageShards([str(world / "images-train-*.tar")], [str(world / "images-val-*.tar")], image_size=32, workers=0)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["image"].shape == (32, 3, 32, 32)
    assert [len(batch["image"]) for batch in data.val_dataloader()] == [3]


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(world, tmp_path):
    scenes(str(tmp_path / "again"), **{**SIZES, "workers": 2})
    assert contents(tmp_path / "again") == contents(world)
    scenes(str(tmp_path / "other"), **{**SIZES, "seed": 1})
    assert contents(tmp_path / "other") != contents(world)


def test_fewer_shards_replace_more(tmp_path):
    small = {**SIZES, "edits": 0, "questions": 0, "text": 0, "val": 0}
    scenes(str(tmp_path), **{**small, "per_shard": 1})
    assert len(list(tmp_path.glob("*.tar"))) == 18
    (tmp_path / "mine-000000.tar").write_bytes(b"")
    scenes(str(tmp_path), **small)
    shards = [f"images-train-{i:06d}.tar" for i in range(8)]
    assert sorted(contents(tmp_path)) == [*shards, "mine-000000.tar", "prompts.jsonl", "world.json"]


@pytest.mark.parametrize("option", ["images", "val", "side", "per_shard", "workers"])
def test_options_out_of_range_are_named(tmp_path, option):
    with pytest.raises(ValueError, match=rf"`--{option}` \(-1\)"):
        scenes(str(tmp_path / "x"), **{**SIZES, option: -1})
    assert not (tmp_path / "x").exists()


def test_check_passes_the_embedded_world(world, capsys):
    check([str(world / "*.tar")])
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith("57 samples, 59 images") and out[-1].endswith(" 0 bad")


def test_check_names_what_is_bad(world, tmp_path, capsys):
    records = list(read_shard(str(world / "images-train-000000.tar"), {}))
    good = [{key: value for key, value in one.items() if key != "__url__"} for one in records]
    bad = [
        *good,
        {**good[0], "__key__": "broken", "png": b"no image"},
        {"__key__": "lonely", "png": good[0]["png"], "txt": "no json"},
    ]
    (url,) = write_shards(tmp_path, "bad", bad, 100)
    with pytest.raises(ValueError, match=r"1 samples or shards cannot be used, the first is bad-000000\.tar:broken:"):
        check([str(url)])
    out = capsys.readouterr().out
    assert "bad-000000.tar:broken: png is not a readable image" in out
    count = len(bad)
    assert f"json ({count - 1} of {count}) png txt" in out  # a member that is optional is missed by nobody


def test_stats_count(world, capsys):
    stats([str(world / "images-train-*.tar")])
    out = capsys.readouterr().out
    assert "samples  18, 0 bad" in out and "18 x json png txt" in out and "18 x 32x32" in out


def test_the_command_line_makes_shards(tmp_path, capsys):
    arguments = [f"--{name}={value}" for name, value in {**SIZES, "edits": 0, "questions": 0, "text": 0}.items()]
    main(["data", "scenes", "--out", str(tmp_path / "shards"), *arguments])
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 9
    assert capsys.readouterr().out.startswith("9 shards in")
    with pytest.raises(SystemExit) as stop:
        main(["data", "scenes", "--out", str(tmp_path / "shards"), "--images=-1"])
    assert stop.value.code == 1 and "`--images` (-1)" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.isdir(DATA), reason="DDT_DATA (real shards) is not set")
def test_check_reads_real_shards(capsys):
    check(["${DDT_DATA}/vqa/vqav2coco-val-000000.tar", "${DDT_DATA}/edit/aurora-val-000000.tar"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("86 samples, 137 images")


def test_an_edit_in_words_asks_for_the_plan_that_an_edit_of_the_image_has():
    shown = Counter()
    for number in range(60):
        made = make_sample("edits_in_words", "train", number)["json"]
        (asked, answered) = made["turns"]
        said, instruction = asked["content"]
        (plan,) = answered["content"]
        source, _ = read_edit_plan(plan)
        edit = train_edit(numpy_rng("shard", 0, "edits_in_words", "train", number), even=True)
        assert said == write_plan(edit.source) and mentioned(source) == list(read_plan(said).shapes)
        assert plan == write_edit_plan(edit)
        assert shows(edit.source, World()) and shows(edit.target, World())
        assert instruction and made["kind"] in EDITS
        shown[len(source.shapes)] += 1
    assert min(shown[count] for count in (1, 2, 3)) > 10


def test_edits_and_questions_in_words_may_speak_of_more_kinds_and_hold_out_the_same(capsys):
    usual, spoken = World(), SceneShards(teaching=Teaching(kinds_in_words=18))
    seen = set()
    for number in range(60):
        (plan,) = make_sample("edits_in_words", "train", number, spoken)["json"]["turns"][1]["content"]
        layout, _ = make_sample("questions_in_words", "train", number, spoken)["json"]["turns"][1]["content"]
        for scene in filter(None, (*read_edit_plan(plan), read_plan(layout))):
            seen |= {shape.kind for shape in scene.shapes}
            drawn = tuple(shape for shape in scene.shapes if shape.kind in KINDS)
            assert not drawn or shows(replace(scene, shapes=drawn), usual)
    assert len(seen) == 18 and set(KINDS) < seen
    for kind in ("images", "edits", "questions"):
        assert make_sample(kind, "train", 3, spoken) == make_sample(kind, "train", 3)
    with pytest.raises(SystemExit):
        main(["data", "scenes", "--out", "unused", "--kinds=18", "--kinds_in_words=12"])
    assert "`--kinds_in_words` (12) must be at least `--kinds` (18)" in capsys.readouterr().err


def answer_from(layout, question):
    """The answer to a question that a layout decides, in the checker's words; None where its relation does."""
    shapes = layout.shapes
    kinds = Counter(shape.kind for shape in shapes)
    if question.startswith("how many"):
        asked = question.split()[2].removesuffix("s").removesuffix("e")
        named = [kind for kind in kinds if kind.removesuffix("e") == asked]
        return NUMBERS[kinds[named[0]] if named else len(shapes)]
    if question.startswith("what colour"):
        return next(shape.colour for shape in shapes if question.endswith(f" {shape.kind}?"))
    if question.startswith("which shape"):
        return next(shape.kind for shape in shapes if question.endswith(f" {shape.colour}?"))
    if question.startswith("is there"):
        return "yes" if any(question.endswith(f" {shape.colour} {shape.kind}?") for shape in shapes) else "no"
    return None


def test_questions_in_words_are_answered_behind_the_layout_that_was_said():
    answers, numbers = Counter(), Counter()
    for number in range(100):
        turns = make_sample("questions_in_words", "train", number)["json"]["turns"]
        said = turns[0]["content"].pop(0)
        assert turns[1]["content"].pop(0) == said
        layout = read_plan(said)
        assert shows(layout, World())
        asked = [(user["content"], spoken["content"]) for user, spoken in zip(turns[::2], turns[1::2], strict=True)]
        assert len({question for (question,), _ in asked}) == len(asked)
        for (question,), (answer,) in asked:
            assert answer_from(layout, question) in (answer, None)
            answers[question.split()[0], answer] += 1
        numbers[len(asked)] += 1
    assert max(numbers) == 6 and numbers[6] > 50
    assert {answer for word, answer in answers if word == "where"} == {"left", "right", "above", "below"}
    assert answers["is", "yes"] and answers["is", "no"]
    assert len(make_sample("questions_in_words", "val", 0)["json"]["turns"]) == 2


def test_plans_and_captions_both_ways_are_options():
    small = SceneShards(side=16)
    plain = make_sample("images", "train", 3, small)
    assert "plan" not in plain["json"] and "plan" not in make_sample("edits", "train", 3, small)["json"]
    more = SceneShards(side=16, teaching=Teaching(plans=True, both_ways=True))
    assert "plan" not in make_sample("questions", "train", 3, more)["json"]
    looked = make_sample("questions", "train", 3, SceneShards(side=16, teaching=Teaching(answer_plans=True)))["json"]
    assert looked["plan"] == write_plan(Scene.from_dict(looked["scene"]))
    assert looked == {**make_sample("questions", "train", 3, small)["json"], "plan": looked["plan"]}
    both_ways = 0
    for number in range(30):
        made = make_sample("images", "train", number, more)["json"]
        scene, texts = Scene.from_dict(made["scene"]), made["captions"]
        for text, plan in zip(texts, made["plan"], strict=True):
            assert plan == write_plan(scene, text)
        usual = make_sample("images", "train", number, small)["json"]["captions"]
        assert texts[: len(usual)] == usual
        said = {word for word in OPPOSITE for text in texts if f" {word} " in text}
        both_ways += any(OPPOSITE[word] in said for word in said)
    assert both_ways > 8
    edit = make_sample("edits", "train", 3, more)["json"]
    source, target = read_edit_plan(edit["plan"])
    assert sorted(shape.kind for shape in target.shapes) == sorted(one["kind"] for one in edit["target"]["shapes"])
    assert sorted(shape.kind for shape in source.shapes) == sorted(one["kind"] for one in edit["source"]["shapes"])


def test_groups_are_captioned_images_of_their_own(tmp_path):
    options = SceneShards(side=16, teaching=Teaching(plans=True))
    for number in range(10):
        made = make_sample("groups", "train", number, options)["json"]
        scene = Scene.from_dict(made["scene"])
        assert len(scene.shapes) == 3 and made["captions"][0].startswith("a photo of two ") and not held_out(scene)
        assert made["plan"] == [write_plan(scene, text) for text in made["captions"]]
    assert "plan" not in make_sample("groups", "train", 0, SceneShards(side=16))["json"]
    few = ["--images=0", "--groups=6", "--edits=0", "--questions=0", "--text=0", "--val=2", "--side=16", "--workers=1"]
    main(["data", "scenes", "--out", str(tmp_path / "g"), *few])
    assert len(list(read_images([str(tmp_path / "g" / "groups-train-*.tar")]))) == 6
    assert len(list(read_images([str(tmp_path / "g" / "groups-val-*.tar")]))) == 2


def test_counterparts_stand_beside_what_they_differ_from():
    """Every other sample is as without them; the one behind it says the same of other places."""
    words = {"left": "right", "right": "left", "above": "below", "below": "above", "over": "under", "under": "over",
             "top": "bottom", "bottom": "top"}  # fmt: skip
    found = 0
    for name in ("flips", "contrast"):
        options = SceneShards(side=16, teaching=Teaching(**{name: True}))
        for number in range(0, 40, 2):
            first, second = (make_sample("images", "train", n, options)["json"] for n in (number, number + 1))
            assert first == make_sample("images", "train", number, SceneShards(side=16))["json"]
            a, b = (Scene.from_dict(one["scene"]) for one in (first, second))
            assert not held_out(b)
            if second == make_sample("images", "train", number + 1, SceneShards(side=16))["json"]:
                continue  # no counterpart may be shown
            found += 1
            assert a != b and [(s.kind, s.colour) for s in a.shapes] == [(s.kind, s.colour) for s in b.shapes]
            for text, other in zip(first["captions"], second["captions"], strict=True):
                assert all(
                    word in (said, words.get(said)) for said, word in zip(text.split(), other.split(), strict=True)
                )
        assert make_sample("images", "val", 1, options) == make_sample("images", "val", 1, SceneShards(side=16))
    assert found > 20


def test_a_larger_world_is_recorded_and_kept(tmp_path):
    few = ["--images=30", "--edits=8", "--questions=8", "--text=8", "--val=2", "--side=32", "--workers=1"]
    main(["data", "scenes", "--out", str(tmp_path / "w"), *few, "--kinds=12", "--held_out=both", "--pairs_shown=0.65",
          "--plans=true", "--contrast=true"])  # fmt: skip
    facts = json.loads((tmp_path / "w" / "world.json").read_text())
    assert facts == {"kinds": 12, "held_out": "both", "pairs_shown": 0.65, "plans": True, "answer_plans": False,
                     "both_ways": False, "flips": False, "contrast": True, "even_edits": False,
                     "kinds_in_words": None, "side": 32, "seed": 0}  # fmt: skip
    world = World(12, "both", 0.65)
    prompts = {name: [json.loads(line) for line in (tmp_path / "w" / name).read_text().splitlines()]
               for name in ("prompts.jsonl", "prompts-novel.jsonl")}  # fmt: skip
    assert prompts == {"prompts.jsonl": suite(world=world), "prompts-novel.jsonl": suite(world=world, split="novel")}
    scenes_of = [
        Scene.from_dict(sample.data[name])
        for kind, names in {"images": ["scene"], "edits": ["source", "target"], "questions": ["scene"]}.items()
        for sample in read_images([str(tmp_path / "w" / f"{kind}-train-*.tar")])
        for name in names
    ]
    assert len(scenes_of) == 54 and all(shows(scene, world) for scene in scenes_of)
    assert {shape.kind for scene in scenes_of for shape in scene.shapes} >= {"star", "pillar"}
    with pytest.raises(SystemExit):
        main(["data", "scenes", "--out", str(tmp_path / "x"), *few, "--kinds=7"])
    with pytest.raises(SystemExit):
        main(["data", "scenes", "--out", str(tmp_path / "x"), *few, "--pairs_shown=0.3"])


def test_encoded_shards_keep_the_record_of_their_world(world, tmp_path):
    sources = [str(path) for path in world.glob("*.tar")]
    assert world_of(sources) == {"world": json.loads((world / "world.json").read_text())}
    assert world_of([str(tmp_path / "photos-000000.tar")]) == {}
    (tmp_path / "world.json").write_text(json.dumps({"kinds": 12, "held_out": "mirror", "pairs_shown": 0.8}))
    with pytest.raises(ValueError, match=r"`--shards`: .*kinds=6, .*kinds=12: encode scenes of one world"):
        world_of([*sources, str(tmp_path / "images-train-000000.tar")])
