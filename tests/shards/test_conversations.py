"""Conversations from files and the converters of `data/`, from real samples to token shards that training reads."""

import io
import json
import runpy
import sys
import tarfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ddt_lightning.cli import main
from ddt_lightning.commands.data import check
from ddt_lightning.commands.encode import read_columns
from ddt_lightning.encoding import cropped
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.shards.chat import ChatShards
from ddt_lightning.shards.conversations import chat_sample, chat_samples, image_file
from ddt_lightning.shards.images import CROP_MARGIN, decode_image, read_images, read_sample
from ddt_lightning.shards.read import Columns, read_shard
from ddt_lightning.shards.rows import read_ids
from ddt_lightning.shards.tokens import TokenShards
from ddt_lightning.shards.write import write_shards
from ddt_lightning.tokens.tokenizer import Tokenizer
from ddt_lightning.vocab import Vocab, train_text_tokenizer
from tests.reading import read_chat
from tests.tiny import TEXTS, tiny_tokenizer

ROOT = Path(__file__).parents[2]
SIDE, K, CODES = 16, 6, 24


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(SIDE).save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    """a.jpg, sub/b.png and, outside of the folder, secret.png."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for path in (folder / "a.jpg", folder / "sub" / "b.png", tmp_path / "secret.png"):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "notes.txt").write_text("x")
    return folder


def said(*parts):
    """Turns in which user and assistant alternate."""
    return [{"role": ("user", "assistant")[n % 2], "content": part} for n, part in enumerate(parts)]


def script(name: str, *args: object) -> SimpleNamespace:
    """Exit code and output of a converter, run in this process: importing torch takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [name, *map(str, args)])
        try:
            runpy.run_path(str(ROOT / "data" / name), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def encode(tokenizer: Path, shards: Path | str, out: Path, *more: str) -> dict[str, dict]:
    """Records of the token shards by key."""
    pattern = shards if isinstance(shards, str) else f"{shards}/*.tar"
    main(["encode", "--tokenizer", str(tokenizer), "--shards", pattern, "--out", str(out), "--processes", "1", *more])
    return {r["__key__"]: r for path in sorted(out.glob("*.tar")) for r in read_shard(str(path), {})}


def turns(record: dict) -> list[dict]:
    return json.loads(record["json"])["turns"]


def first_records(path: Path, count: int) -> list[dict]:
    return list(islice(read_shard(str(path), {}), count))


# ---------------------------------------------------------------------------------------------- JSON Lines and safety


def test_lines_become_chats_and_training_reads_them(images, tokenizer, tmp_path, capsys):
    talk = said(
        ["what is this?", {"image": "a.jpg"}],
        "noise",
        [{"image": "sub/b.png"}, "and this, and", {"image": "a.jpg"}],
        ["a picture:", {"image": "sub/b.png"}],
    )
    lines = [json.dumps({"turns": talk}), "", "no json", json.dumps({"turns": said([{"image": "gone.png"}], ["x"])})]
    (tmp_path / "talk.jsonl").write_text("\n".join(lines))
    main(["data", "chat", str(tmp_path / "talk.jsonl"), "--images", str(images), "--out", str(tmp_path / "chats")])
    shown = capsys.readouterr()
    assert "1 conversations in 1 shards" in shown.out
    assert "talk.jsonl:3" in shown.err and "there is no image" in shown.err
    check([str(tmp_path / "chats" / "*.tar")])
    (record,) = encode(tokenizer, tmp_path / "chats", tmp_path / "tokens").values()
    expected = said(
        ["what is this?", {"image": 0}], ["noise"], [{"image": 1}, "and this, and", {"image": 0}],
        ["a picture:", {"image": 1}],
    )  # fmt: skip
    assert turns(record) == expected
    pixels = [decode_image((images / name).read_bytes(), SIDE) for name in ("a.jpg", "sub/b.png")]
    model = Pipeline(Tokenizer.from_pretrained(tokenizer))
    ids = model.encode(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()).numpy()
    assert np.array_equal(read_ids(record), ids)
    vocab = Vocab(train_text_tokenizer(TEXTS, 300), CODES, K)
    vocab.save(tmp_path / "vocab")
    data = ChatShards(
        str(tmp_path / "vocab"), conversations=[f"{tmp_path}/tokens/*.tar"], batch_size=1, lanes=1, workers=0
    )
    data.setup("fit")
    row = next(iter(data.train_dataloader()))["ids"][0].tolist()
    read, shots = read_chat(vocab, [i for i in row if i != vocab.pad])
    assert shots == [ids[n].tolist() for n in (0, 1, 0, 1)]
    texts = [[part for part in turn["content"] if isinstance(part, str)] for turn in read]
    assert texts == [["what is this?"], ["noise"], ["and this, and"], ["a picture:"]]


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "sub/../../secret.png", "link.png", "notes.txt", "../images/notes.txt", "a.jpg/../link.png", ""],
)
def test_images_outside_the_folder_are_never_read(images, name):
    with pytest.raises((ValueError, FileNotFoundError)):
        image_file(images, name)
    absolute = str(images.parent / "secret.png")
    with pytest.raises(ValueError, match="outside"):
        image_file(images, absolute)
    problems: dict[str, str] = {}
    assert list(chat_samples([("x", said([{"image": name}], ["y"]))], images, problems)) == [] and "x" in problems


@pytest.mark.parametrize(
    "talk",
    [
        [],
        said([{"image": "a.jpg"}]),
        said(["no image"], ["x"]),
        [{"role": "assistant", "content": [{"image": "a.jpg"}]}, {"role": "user", "content": ["x"]}],
        said([{"image": 0}], ["x"]),
        said([{"image": "a.jpg"}, 7], ["x"]),
        said([{"image": "a.jpg"}], None),
    ],
)
def test_turns_that_training_would_refuse_are_refused(images, talk):
    with pytest.raises((ValueError, TypeError)):
        chat_sample(talk, images)


def test_chat_shards_of_others_are_checked_when_they_are_read(images):
    record = {"__key__": "0", "__url__": "s.tar", "0.png": (images / "sub" / "b.png").read_bytes()}

    def read(talk):
        return read_sample({**record, "json": json.dumps({"turns": talk}).encode()}, Columns())

    assert len(read(said([{"image": 0}], ["x"])).images) == 1
    for wrong in (said([{"image": 1}], ["x"]), said([{"image": -1}], ["x"]), said([{"image": True}], ["x"]), [], "x"):
        with pytest.raises(ValueError, match="turn"):
            read(wrong)


def test_members_of_other_types_and_other_paths_are_never_looked_at(tmp_path):
    write_shards(tmp_path, "x", [{"__key__": "a", "txt": "one"}], 1)
    with tarfile.open(tmp_path / "x-000000.tar", "a") as tar:
        for name in ("b.pkl", "b.pth", "b.py"):
            (tmp_path / "evil").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
            tar.add(tmp_path / "evil", name)
        (tmp_path / "line").write_text("two")
        tar.add(tmp_path / "line", "../../up.txt")
    before = sorted(path for path in tmp_path.parent.rglob("*"))
    records = list(read_shard(str(tmp_path / "x-000000.tar"), {}))
    assert [set(record) - {"__key__", "__url__", "__local_path__"} for record in records] == [{"txt"}, {"txt"}]
    assert sorted(path for path in tmp_path.parent.rglob("*")) == before


# ------------------------------------------------------------------------------------------------- views of an image


def test_views_are_the_centre_and_random_crops(tokenizer, tmp_path, capsys):
    ramp = np.zeros((180, 240, 3), np.uint8)  # red is x, green is y
    ramp[..., 0], ramp[..., 1] = np.arange(240), np.arange(180)[:, None]
    stream = io.BytesIO()
    Image.fromarray(ramp).save(stream, "PNG")
    samples = [{"__key__": f"{n}", "png": stream.getvalue(), "txt": f"caption {n}"} for n in range(3)]
    write_shards(tmp_path / "in", "x", samples, 9)
    one = encode(tokenizer, tmp_path / "in", tmp_path / "one")
    many = encode(tokenizer, tmp_path / "in", tmp_path / "many", "--views", "4", "--batch", "2")
    model = Pipeline(Tokenizer.from_pretrained(tokenizer))
    seen = []
    for sample in read_images([f"{tmp_path}/in/*.tar"]):
        crops = cropped(sample, SIDE, 4).images
        ids = model.encode(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()).numpy()
        assert np.array_equal(read_ids(many[sample.key]), ids) and ids.shape == (4, K)
        assert np.array_equal(ids[:1], read_ids(one[sample.key]))
        assert many[sample.key]["txt"] == one[sample.key]["txt"]
        for number, crop in enumerate(crops):
            length = 180 / (CROP_MARGIN if number else 1)
            for colour, size in ((0, 240), (1, 180)):
                middles = (int(crop[..., colour].min()), int(crop[..., colour].max()))  # of the outermost pixels
                assert middles[1] - middles[0] == pytest.approx(length * (1 - 1 / SIDE), abs=4)
                assert middles[0] >= length / SIDE / 2 - 3 and middles[1] <= size - length / SIDE / 2 + 3
            if number:
                seen.append(middles)
    assert len(set(seen)) > 5  # of 9: each key and view has its own crop
    assert "3 random crops" in json.loads((tmp_path / "many" / "tokens.json").read_text())["transform"]
    near = encode(tokenizer, tmp_path / "in", tmp_path / "near", "--views", "2", "--crop_margin", "1.03")
    crops = cropped(sample, SIDE, 2, 1.03).images
    widths = [int(crop[..., 1].max()) - int(crop[..., 1].min()) for crop in crops]
    assert widths[1] == pytest.approx(180 / 1.03 * (1 - 1 / SIDE), abs=4)  # of 180 rows
    ids = model.encode(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()).numpy()
    assert np.array_equal(read_ids(near[sample.key]), ids)
    noted = json.loads((tmp_path / "near" / "tokens.json").read_text())["transform"]
    assert noted.endswith("centre and 1 random crops with a margin of 1.03")
    with pytest.raises(SystemExit):
        encode(tokenizer, tmp_path / "in", tmp_path / "no", "--views", "2", "--crop_margin", "0.9")
    assert "`--crop_margin` (0.9) must be at least 1" in capsys.readouterr().err
    call = ["decode", "--tokenizer", str(tokenizer), "--shards", f"{tmp_path}/many/*.tar", "--out", f"{tmp_path}/back"]
    main([*call, "--processes", "1", "--steps", "1"])
    assert [len(sample.images) for sample in read_images([f"{tmp_path}/back/*.tar"])] == [1, 1, 1]
    pair = {"__key__": "e", "source.png": stream.getvalue(), "target.png": stream.getvalue(), "txt": "same"}
    write_shards(tmp_path / "edits", "x", [pair], 1)
    with pytest.raises(SystemExit):
        encode(tokenizer, tmp_path / "edits", tmp_path / "no", "--views", "2")
    assert "`--views` (2) is for captioned images" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ sources of others


def test_img2dataset_output_loads_unchanged(ddt_data, tokenizer, tmp_path, monkeypatch):
    """Real captioned photos, packed as img2dataset packs them."""
    source = ddt_data / "flickr8k_64" / "flickr8k64-val-000000.tar.gz"
    samples = []
    for number, record in enumerate(first_records(source, 8)):
        caption = record["txt"].decode()
        meta = {"caption": caption, "url": "http://x/y.jpg", "key": f"{number:09d}", "status": "success", "width": 64}
        samples.append({"__key__": f"{number:09d}", "jpg": record["jpg"], "txt": caption, "json": meta})
    write_shards(tmp_path / "laion", "x", samples, 8)
    (tmp_path / "laion" / "x-000000.tar").rename(tmp_path / "laion" / "00000.tar")
    (tmp_path / "laion" / "00000_stats.json").write_text("{}")
    monkeypatch.setenv("DDT_DATA", str(tmp_path))
    overlay = yaml.safe_load((ROOT / "data" / "laion.yaml").read_text())["data"]
    found = list(read_images(overlay["shards"], columns=Columns(**overlay["columns"])))
    assert [sample.texts for sample in found] == [(sample["txt"],) for sample in samples]
    check(overlay["shards"])
    records = encode(tokenizer, overlay["shards"][0], tmp_path / "out", "--columns", str(ROOT / "data" / "laion.yaml"))
    assert [record["txt"].decode() for record in records.values()] == [sample["txt"] for sample in samples]
    data = TokenShards([f"{tmp_path}/out/*.tar"], vocab=str(tmp_path / "vocab"), batch_size=4, lanes=2, workers=0)
    Vocab(train_text_tokenizer(TEXTS, 300), CODES, K).save(tmp_path / "vocab")
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["ids"].shape[0] == 4


def test_instructpix2pix_triples_need_the_mapping_alone(ddt_data, tokenizer, tmp_path):
    names = {"source.jpg": "original_image.jpg", "target.jpg": "edited_image.jpg", "txt": "edit_prompt.txt"}
    real = first_records(ddt_data / "edit" / "aurora-val-000000.tar", 6)
    samples = [{"__key__": r["__key__"], **{name: r[member] for member, name in names.items()}} for r in real]
    write_shards(tmp_path / "ip2p", "x", samples, 6)
    overlay = str(ROOT / "data" / "instructpix2pix.yaml")
    mapped = encode(tokenizer, tmp_path / "ip2p", tmp_path / "mapped", "--columns", overlay)
    write_shards(tmp_path / "plain", "x", [{k: v for k, v in r.items() if k in ("__key__", *names)} for r in real], 6)
    plain = encode(tokenizer, tmp_path / "plain", tmp_path / "own")
    assert len(mapped) == 6 and mapped.keys() == plain.keys()
    for key, record in mapped.items():
        assert record["ids.npy"] == plain[key]["ids.npy"] and turns(record) == turns(plain[key])
    for path, text in ((tmp_path / "no.yaml", None), (tmp_path / "bad.yaml", "data: {}")):
        if text is not None:
            path.write_text(text)
        with pytest.raises((FileNotFoundError, ValueError), match="--columns"):
            read_columns(str(path))


def test_magicbrush_sessions_become_conversations_of_several_edits(ddt_data, tokenizer, tmp_path):
    """Real edits, chained as MagicBrush does: the second starts from what the first made."""
    first, second = first_records(ddt_data / "edit" / "aurora-train-000000.tar", 2)
    folder = tmp_path / "MagicBrush" / "images" / "100"
    folder.mkdir(parents=True)
    for name, data in {"in": first["source.jpg"], "out1": first["target.jpg"], "out2": second["target.jpg"]}.items():
        (folder / f"100-{name}.jpg").write_bytes(data)
    one = {"input": "100-in.jpg", "output": "100-out1.jpg", "instruction": first["txt"].decode()}
    two = {"input": "100-out1.jpg", "output": "100-out2.jpg", "instruction": second["txt"].decode()}
    sessions = {"100": [one, two], "broken": [one, one], "../..": [one]}
    (tmp_path / "MagicBrush" / "edit_sessions.json").write_text(json.dumps(sessions))
    done = script("magicbrush.py", tmp_path / "MagicBrush", "--out", tmp_path / "chats")
    assert done.returncode == 0, done.stderr
    assert "1 conversations" in done.stdout and "broken" in done.stderr and "../.." in done.stderr
    (record,) = encode(tokenizer, tmp_path / "chats", tmp_path / "tokens").values()
    assert turns(record) == said(
        [{"image": 0}, one["instruction"]], [{"image": 1}], [two["instruction"]], [{"image": 2}]
    )  # fmt: skip
    assert read_ids(record).shape == (3, K)
    done = script("magicbrush.py", tmp_path / "MagicBrush", "--out", tmp_path / "singles", "--single")
    found = encode(tokenizer, tmp_path / "singles", tmp_path / "own")
    assert turns(found["00000001"]) == said([{"image": 0}, two["instruction"]], [{"image": 1}])


def test_llava_conversations_become_chats(ddt_data, tokenizer, tmp_path):
    """Real photos with people's questions and answers, written as LLaVA writes them."""
    photos = tmp_path / "photos"
    photos.mkdir()
    entries, expected = [], []
    for record in first_records(ddt_data / "vqa" / "vqav2coco-train-000000.tar", 5):
        (photos / f"{record['__key__']}.jpg").write_bytes(record["jpg"])
        asked = json.loads(record["json"])["vqa"]
        talk, plain = [], []
        for number, one in enumerate(asked):
            place = "" if number else "<image>\n"
            talk += [{"from": "human", "value": place + one["question"]}, {"from": "gpt", "value": one["answer"]}]
            plain += [[*([] if number else [{"image": 0}]), one["question"]], [one["answer"]]]
        entries.append({"id": record["__key__"], "image": f"{record['__key__']}.jpg", "conversations": talk})
        expected.append(said(*plain))
    human = {"from": "human", "value": "<image> <image>"}
    bad = [
        {"image": "000000.jpg", "conversations": [human, {"from": "gpt", "value": "x"}]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        {"image": "../llava.json", "conversations": entries[0]["conversations"]},
        {"image": "000000.jpg", "conversations": [{"from": "system", "value": "<image>"}]},
        "no entry",
    ]
    files = {"llava.json": json.dumps([*entries, *bad]), "llava.jsonl": "\n".join(map(json.dumps, entries))}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        done = script("llava.py", tmp_path / name, "--images", photos, "--out", tmp_path / f"{name}-chats")
        assert done.returncode == 0, done.stderr
        assert ("5 samples were left out" in done.stderr) == (name == "llava.json")
        found = encode(tokenizer, tmp_path / f"{name}-chats", tmp_path / f"{name}-tokens")
        assert [turns(record) for record in found.values()] == expected


def test_vqav2_files_become_questions(ddt_data, tokenizer, tmp_path):
    photos, questions, annotations = tmp_path / "train2014", [], []
    photos.mkdir()
    for record in first_records(ddt_data / "vqa" / "vqav2coco-train-000000.tar", 6):
        data = json.loads(record["json"])
        number = data["coco_id"]
        (photos / f"COCO_train2014_{number:012d}.jpg").write_bytes(record["jpg"])
        for one in data["vqa"]:
            key = {"image_id": number, "question_id": len(questions)}
            people = [{"answer": answer} for answer in one.get("answers") or [one["answer"]] * 10]
            questions.append({**key, "question": one["question"]})
            annotations.append({**key, "multiple_choice_answer": one["answer"], "answers": people})
    asked = len(questions)
    questions.append({"image_id": 1, "question_id": asked, "question": "of a photo that is not there?"})
    annotations.append({**annotations[0], "question_id": asked})
    questions.append({"image_id": 1, "question_id": asked + 1, "question": "without an answer?"})
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": annotations}))
    done = script(
        "vqav2.py", tmp_path / "q.json", tmp_path / "a.json", "--images", photos, "--out", tmp_path / "shards"
    )
    assert done.returncode == 0 and "1 images are not there" in done.stdout, done.stderr
    found = encode(tokenizer, tmp_path / "shards", tmp_path / "tokens")
    pairs = zip(questions[:asked], annotations[:asked], strict=True)
    expected = Counter((question["question"], answer["multiple_choice_answer"]) for question, answer in pairs)
    assert Counter((turns(r)[0]["content"][1], turns(r)[1]["content"][0]) for r in found.values()) == expected


@pytest.mark.parametrize(
    ("shards", "samples", "conversations"),
    [
        ("edit/aurora-val-000000.tar", 51, 51),
        ("vqa/vqav2coco-val-000000.tar", 35, 52),
        ("vqa/whatsup-all-000000.tar", 95, 95),
        ("vqa/easyvqa-val-000000.tar.gz", 200, 1957),
        ("vqa/nlvr-dev-000000.tar.gz", 989, 989),
    ],
)
def test_real_shards_need_nothing(ddt_data, tokenizer, tmp_path, shards, samples, conversations):
    assert len(list(read_images([str(ddt_data / shards)]))) == samples
    found = encode(tokenizer, str(ddt_data / shards), tmp_path / "out")
    assert len(found) == conversations and all(len(turns(record)) == 2 for record in found.values())
