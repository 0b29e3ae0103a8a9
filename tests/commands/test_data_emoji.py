"""`ddt data emoji`: shards that the project's own readers take, and no held-out picture in training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ddt_lightning import cli
from ddt_lightning.emoji.facts import GENDERS
from ddt_lightning.emoji.held_out import PARTS, TRAIN
from ddt_lightning.shards.chat import to_turns
from ddt_lightning.shards.images import read_images
from ddt_lightning.shards.prompts import read_prompts
from ddt_lightning.shards.read import expand, read_shard
from ddt_lightning.shards.rows import plans_of
from ddt_lightning.shards.write import write_shards
from tests.emoji.world import metadata, picture, row

ROOT = Path(__file__).parents[2]
KINDS = ("images", "edits", "questions")


def write_source(folder: Path, rows: list[dict], pictures: list[bytes]) -> str:
    samples = [
        {"__key__": f"{number:06d}", "png": picture, "json": about}
        for number, (about, picture) in enumerate(zip(rows, pictures, strict=True))
    ]
    write_shards(folder, "emoji-all", samples, 200)
    return str(folder / "emoji-all-*.tar")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    rows = [*metadata("noto"), *metadata("twemoji"), row("E040", "some brand", group="extras-openmoji")]
    return write_source(tmp_path_factory.mktemp("source"), rows, [picture(number) for number in range(len(rows))])


def make(source: str, out: Path, *words: str) -> Path:
    cli.main(["data", "emoji", "--shards", source, "--out", str(out), *words])
    return out


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Path:
    sizes = ("--edits", "120", "--questions", "160", "--val", "12", "--prompts", "3", "--per_shard", "100")
    return make(source, tmp_path_factory.mktemp("made") / "world", *sizes)


def pictures_of(folder: Path, name: str) -> set[bytes]:
    """PNG files in the image, edit and question shards of a part."""
    found = set()
    for kind in KINDS:
        for url in expand([f"{folder}/{kind}-{name}-*.tar"], "shards"):
            for record in read_shard(url, {}):
                found |= {data for member, data in record.items() if member.endswith("png")}
    return found


def check_no_leak(folder: Path) -> None:
    """No file and no attributes of a held-out picture are in any training shard."""
    train = pictures_of(folder, TRAIN)
    for part in PARTS:
        images = {record["png"] for url in expand([f"{folder}/images-val-{part}-*.tar"], "shards")
                  for record in read_shard(url, {})}  # fmt: skip
        assert images and not images & train
    said = texts_of_training(folder)
    concepts = [sample.data["emoji"] for sample in read_images([f"{folder}/images-val-concept-*.tar"])]
    names = {about[name] for about in concepts for name in ("name", "head")} - set(GENDERS)  # of adults by their hair
    assert names and not names & said
    assert not {about["concept"] for about in concepts} & {
        about["concept"] for sample in read_images([f"{folder}/*-train-*.tar"]) for about in facts_of(sample.data)
    }


def facts_of(data: dict) -> list[dict]:
    return [data["emoji"]] if "emoji" in data else [data["source"], data["target"]]


def texts_of_training(folder: Path) -> set[str]:
    """Captions, tags in them, answers, and parts of plans of training samples."""
    said: set[str] = set()
    for sample in read_images([f"{folder}/*-train-*.tar"]):
        said.update(sample.texts)
        for text in sample.texts:
            said.update(text.rpartition("(")[2].rstrip(")").split(", "))
        said.update(answer for one in sample.questions for answer in one["answers"])
        said.update(str(sample.data.get("plan", "")).split(", "))
    return said


def test_nothing_that_is_held_out_is_in_training(made):
    check_no_leak(made)


def test_every_sample_is_read_by_the_projects_own_readers(made):
    counts = dict.fromkeys(KINDS, 0)
    for name in (TRAIN, *(f"val-{part}" for part in PARTS)):
        for kind in KINDS:
            for sample in read_images([f"{made}/{kind}-{name}-*.tar"]):
                counts[kind] += name == TRAIN
                assert sample.data["held_out"] == (None if name == TRAIN else name.removeprefix("val-"))
                if kind == "images":
                    assert len(sample.texts) >= 4
                    assert len(plans_of(sample.data, len(sample.texts), "captions")) == len(sample.texts)
                elif kind == "edits":
                    ((request, answer),) = to_turns(sample)
                    assert len(sample.images) == 2 and request["content"][1] == sample.texts[0]
                    assert plans_of(sample.data, 1, "answers")[0].count(" to ") == 1 and answer
                else:
                    ((request, answer),) = to_turns(sample)
                    assert request["content"][1].endswith("?") and answer["content"] == sample.questions[0]["answers"]
                    assert sample.questions[0]["type"]
    assert counts["edits"] == 120 and counts["questions"] == 160 and counts["images"] > 300


def test_what_edits_show_is_what_their_json_says(made):
    """Pictures of edits are those of the emoji that the json names."""
    images = {}
    for url in expand([f"{made}/images-*.tar"], "shards"):
        for record in read_shard(url, {}):
            about = json.loads(record["json"])["emoji"]
            images[about["style"], about["code"]] = record["png"]
    for url in expand([f"{made}/edits-*.tar"], "shards"):
        for record in read_shard(url, {}):
            data = json.loads(record["json"])
            for role in ("source", "target"):
                assert record[f"{role}.png"] == images[data[role]["style"], data[role]["code"]]


def test_prompts_and_licences_lie_beside(made, source, tmp_path):
    rows = [json.loads(line) for line in (made / "prompts.jsonl").read_text().splitlines()]
    assert {one["held_out"] for one in rows} == {None, *PARTS} and len(rows) == 12
    assert all(one["prompt"].endswith(f"{one['emoji']['style']} style") for one in rows)
    wanted = {"prompts-train": None, "prompts-val-combination": "combination"}
    for file, part in wanted.items():
        asked = read_prompts(str(made / f"{file}.jsonl"), "data.prompts")  # what practice with a reward reads
        name = TRAIN if part is None else f"val-{part}"
        shown = [sample.data["emoji"] for sample in read_images([f"{made}/images-{name}-*.tar"])]
        people = {one["code"] + one["style"] for one in shown if "gender" in one and "skin" in one}
        assert {one["emoji"]["code"] + one["emoji"]["style"] for one in asked} == people and len(asked) == len(people)
        assert all(one["held_out"] == part and one["tag"] == one["emoji"]["style"] for one in asked)
    text = (made / "LICENSES.md").read_text()
    assert "Apache License 2.0" in text and "CC BY 4.0" in text and "openmoji.org" not in text


def test_same_call_same_bytes_and_old_shards_go(source, tmp_path):
    words = ("--edits", "30", "--questions", "30", "--val", "4", "--per_shard", "20")
    one, other = (make(source, tmp_path / name, *words) for name in ("one", "other"))
    files = {path.name: path.read_bytes() for path in one.iterdir()}
    assert files == {path.name: path.read_bytes() for path in other.iterdir()}
    make(source, one, "--edits", "0", "--questions", "10", "--val", "0", "--styles", "twemoji")
    names = {path.name.rpartition("-")[0] for path in one.glob("*.tar")}
    assert names == {"images-train", "questions-train", "images-val-concept", "images-val-combination"}
    assert len(list(one.glob("questions-train-*.tar"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--styles", "apple"), "`--styles` (apple) is unknown: choose from noto, twemoji, openmoji"),
        (("--styles", "openmoji"), "hold no picture of it"),
        (("--edits", "-1"), "`--edits` (-1) must be at least 0"),
        (("--per_shard", "0"), "`--per_shard` (0) must be at least 1"),
        (("--shards", "nowhere/*.tar"), "`--shards` (nowhere/*.tar) matches no shard"),
    ],
)
def test_errors_name_the_option(source, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as left:
        make(source, tmp_path / "out", *words)
    assert left.value.code == 1 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_metadata_that_lacks_something_is_named(tmp_path, capsys):
    about = {name: value for name, value in row("1F600", "grinning face").items() if name != "base"}
    place = write_source(tmp_path / "source", [about], [picture(1)])
    with pytest.raises(SystemExit):
        make(place, tmp_path / "out")
    assert "emoji-all-000000.tar:000000 lacks a PNG, or a json with style, hexcode, base" in capsys.readouterr().err


def test_the_script_is_the_verb():
    done = subprocess.run(
        [sys.executable, str(ROOT / "data" / "emoji.py"), "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and "usage: ddt data emoji" in done.stdout


@pytest.mark.parametrize("styles", [["noto", "twemoji"], ["openmoji"]])
def test_the_real_pictures(ddt_data, tmp_path, styles):
    from ddt_lightning.commands.data_emoji import read_pictures
    from ddt_lightning.emoji.facts import distinct, read_emoji
    from ddt_lightning.emoji.held_out import split
    from ddt_lightning.emoji.language import plan_facts, read_edit_plan, read_plan, write_edit_plan, write_plan
    from tests.emoji.test_held_out import check_combinations

    if not (ddt_data / "emoji").is_dir():
        pytest.skip("DDT_DATA has no emoji/")
    shards = [f"{ddt_data}/emoji/emoji-{style}-*.tar.gz" for style in styles]
    rows, pictures = read_pictures(shards, styles)
    kept = distinct(rows, pictures)
    world = read_emoji([rows[number] for number in kept])
    assert len({(one.style, one.name) for one in world}) == len(world) > 3500 * len(styles)
    check_combinations(world)
    nouns: dict[str, set[str]] = {}
    for one in world:
        assert read_plan(write_plan(one)) == plan_facts(one)
        if one.gender:
            nouns.setdefault(one.concept, set()).add(one.noun)
    assert len(nouns) > 70 and all(len(found) == 1 for found in nouns.values())
    assert read_edit_plan(write_edit_plan(world[0], world[-1])) == (plan_facts(world[0]), plan_facts(world[-1]))
    parts = {part: len(members) / len(world) for part, members in split(world).items()}
    assert 0.03 < parts["concept"] < 0.08 and 0.02 < parts["combination"] < 0.06
    assert (0.03 < parts["style"] < 0.06) if len(styles) > 1 else parts["style"] == 0
    if len(styles) > 1:
        sizes = ("--edits", "300", "--questions", "300", "--val", "20", "--prompts", "4")
        check_no_leak(make(" ".join(shards[:1]), tmp_path / "out", "--shards", *shards, *sizes))
