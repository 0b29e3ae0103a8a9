"""The `ddt` command line: parsing, exit codes, quick help, and every verb on a tiny model, without a subprocess."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.testing import CompileCounterWithBackend

from ddt_lightning import encoding, inputs, pipeline, terminal
from ddt_lightning.atomic import staged
from ddt_lightning.cli import VERBS, load, main, parse
from ddt_lightning.commands import encode as encode_module
from ddt_lightning.images import read_images as read_image_files
from ddt_lightning.images import to_png, unstack
from ddt_lightning.metrics.cards import flat, mean_card, read_cards, write_cards
from ddt_lightning.metrics.geneval import summary
from ddt_lightning.metrics.intervals import wilson
from ddt_lightning.sampling import Sampling
from ddt_lightning.scenes.suite import suite
from ddt_lightning.second_look import look_again
from ddt_lightning.shards import rows as shard_rows
from ddt_lightning.shards.images import decode_image, read_images
from ddt_lightning.shards.read import read_shard
from ddt_lightning.shards.write import read_tokens_json, write_shards
from ddt_lightning.tokens.tokenizer import Tokenizer
from tests.tiny import tiny_model, tiny_tokenizer

SIDE = 32
FAST = ["--steps", "2", "--processes", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), side=SIDE)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    return tmp_path / "in.png"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard each of images, edits and questions."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)

    def png() -> bytes:
        return shard_png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))

    write_shards(
        folder,
        "images",
        [
            {"__key__": f"a{n}", "png": png(), "txt": f"caption {n}", "json": {"captions": ["one", "two"], "scene": n}}
            for n in range(5)
        ],
        3,
    )
    edits = [{"__key__": f"e{n}", "source.png": png(), "target.png": png(), "txt": "make it red"} for n in range(2)]
    write_shards(folder, "edits", edits, 9)
    asked = [{"question": "how many?", "answers": ["2"]}, {"question": "is it red?", "answers": ["no"]}]
    write_shards(folder, "questions", [{"__key__": "q0", "png": png(), "json": {"vqa": asked}}], 9)
    return folder


def shard_png(pixels: np.ndarray) -> bytes:
    return to_png(pixels)


def failure(capsys: pytest.CaptureFixture, *args: str) -> tuple[int, str]:
    """Exit code and stderr of a call that must not succeed."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return int(stop.value.code), capsys.readouterr().err


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------ command line


def test_every_verb_has_help_and_documents_its_options():
    for verb in VERBS:
        function = load(verb)
        assert (function.__doc__ or "").splitlines()[0].endswith("."), verb
        with pytest.raises(SystemExit) as stop:
            parse(verb, function, ["--help"])
        assert stop.value.code == 0


@pytest.mark.parametrize("words", [["--help"], ["eval", "--help"], ["generate", "--help"], ["eval", "t2i", "--help"]])
def test_help_is_quick_and_imports_no_torch(words):
    code = (
        "import sys; from ddt_lightning.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 6  # under 0.6 s on an idle core; the tests share theirs


def test_overview_lists_all_verbs(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["eval"],
        ["eval", "nonsense"],
        ["generate", "--out", "x"],
        ["generate", "a ring", "--out", "x", "--unknown", "1"],
        ["generate", "a ring", "--out", "x", "--steps", "many"],
        ["encode", "--out", "x"],
    ],
)
def test_wrong_usage_is_exit_2(capsys, args):
    code, text = failure(capsys, *args)
    assert code == 2 and "Traceback" not in text and text


def test_bad_input_is_one_line_and_exit_1(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("DDT_DEBUG", raising=False)
    call = ("generate", "a ring", "--out", str(tmp_path / "o"), "--model", str(tmp_path / "none"))
    code, text = failure(capsys, *call)
    assert code == 1 and text.count("\n") == 1 and "--model" in text and not (tmp_path / "o").exists()
    monkeypatch.setenv("DDT_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(list(call))


def test_signature_becomes_the_command_line():
    loading = inputs.Loading

    def verb(first: str, many: list[str], out: str, *, flag: bool = False, load: loading = loading()) -> None:  # noqa: B008
        """Do it.

        Args:
            first: a word.
            many: words.
            out: a folder.
            flag: yes or no.
            load: a model.
        """

    found = parse("verb", verb, ["1", "a*", "{b,c}", "--out", "o", "--flag", "true", "--batch", "3"])
    assert found == {"first": "1", "many": ["a*", "{b,c}"], "out": "o", "flag": True, "load": loading(batch=3)}


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["--numbers", "1", "-2", "--names", "a", "b"], {"numbers": [1, -2], "names": ["a", "b"]}),
        (["--numbers", "7", "--names=[x,y]"], {"numbers": [7], "names": ["x", "y"]}),
        (["--names", "run[1]/*.tar", "--pairs", "a=b=c", "d=1"],
         {"names": ["run[1]/*.tar"], "pairs": {"a": "b=c", "d": "1"}}),
        (["--names", "null", "--pairs={a: b}"], {"names": None, "pairs": {"a": "b"}}),
        (["--either", "a"], {"either": "a"}),
    ],
)  # fmt: skip
def test_lists_and_mappings_are_words(words, read):
    def verb(
        *, numbers: list[int] | None = None, names: list[str] | None = None, pairs: dict[str, str] | None = None,
        either: list[str] | str | None = None,
    ) -> None:  # fmt: skip
        """Do it."""

    nothing = {"numbers": None, "names": None, "pairs": None, "either": None}
    assert parse("verb", verb, words) == nothing | read


def test_fields_come_from_yaml_and_options(tmp_path):
    (tmp_path / "a.yaml").write_text("steps: 3\nnames: [x]\n")
    (tmp_path / "b.yaml").write_text("names: [y, z]\n")

    @dataclass(frozen=True)
    class Study:
        """A study.

        Args:
            steps: how many.
            names: of what.
        """

        CONFIG: ClassVar[str] = str(tmp_path / "a.yaml")
        steps: int
        names: list[str] = field(default_factory=list)

    def verb(study: Study, *, out: str = "o") -> None:
        """Do it."""

    assert parse("verb", verb, [])["study"] == Study(3, ["x"])
    assert parse("verb", verb, ["--steps", "4", "--names", "u", "v"])["study"] == Study(4, ["u", "v"])
    given = ["--config", Study.CONFIG, "--config", str(tmp_path / "b.yaml")]
    assert parse("verb", verb, given) == {"study": Study(3, ["y", "z"]), "out": "o"}
    with pytest.raises(SystemExit) as stop:
        parse("verb", verb, ["--config", str(tmp_path / "b.yaml")])
    assert stop.value.code == 2


def test_wordings_and_transform_are_those_of_training(tmp_path):
    assert pipeline.DRAW == shard_rows.DRAW[0] and pipeline.DESCRIBE == shard_rows.DESCRIBE[0]
    pixels = Image.fromarray(np.random.default_rng(1).integers(0, 256, (37, 51, 3), dtype=np.uint8))
    pixels.save(tmp_path / "x.png")
    (read,) = unstack(read_image_files([tmp_path / "x.png"], 16))
    assert np.array_equal(read, decode_image((tmp_path / "x.png").read_bytes(), 16))
    assert np.array_equal(read, np.asarray(pixels.resize((16, 16), Image.Resampling.LANCZOS, box=(7, 0, 44, 37))))
    pixels.resize((16, 16)).save(tmp_path / "x.png")
    assert np.array_equal(unstack(read_image_files([tmp_path / "x.png"], 16))[0], np.asarray(pixels.resize((16, 16))))


# ----------------------------------------------------------------------------------------------------------- drawing


def test_generate_repeats_and_writes_a_line_for_each_image(model, tmp_path):
    for out in ("a", "b"):
        main(["generate", "a ring", "--model", str(model), "--out", str(tmp_path / out), "--seed", "3", "--steps", "2",
              "--images", "2", "--batch", "1" if out == "a" else "2"])  # fmt: skip
    rows = lines(tmp_path / "a" / "results.jsonl")
    assert [row["file"] for row in rows] == ["00000.png", "00001.png"] and [row["seed"] for row in rows] == [3, 4]
    assert rows[0]["prompt"] == "a ring" and rows[0]["steps"] == 2 and len(rows[0]["ids"]) == 6
    assert rows == lines(tmp_path / "b" / "results.jsonl")
    used = pipeline.Pipeline.from_pretrained(model)
    drawn = used.text_to_image(["a ring"], seed=4, steps=2)[0].permute(1, 2, 0).numpy()
    saved = np.asarray(Image.open(tmp_path / "a" / "00001.png"))
    assert np.abs(saved.astype(int) - drawn).max() <= 1
    assert rows[0]["weights"] == used.fingerprints()


def test_without_a_folder_pictures_get_a_new_one_and_are_shown(model, tmp_path, monkeypatch, capsys):
    shown: list[list[np.ndarray]] = []
    monkeypatch.setattr(terminal, "show", shown.append)
    monkeypatch.chdir(tmp_path)
    call = ["--model", str(model), "--steps", "1", "--plan", "red ring 4 4 5"]
    for _ in range(2):
        main(["generate", "a red circle", *call])
    main(["edit", "pictures/002-a-red-circle/00000.png", "make the ring green", *call, "--show", "false"])
    said = capsys.readouterr().out.splitlines()
    assert said[::2] == ["plan: red ring 4 4 5"] * 3
    assert said[1::2] == [f"pictures/{name}/00000.png" for name in
                          ("001-a-red-circle", "002-a-red-circle", "003-make-the-ring-green")]  # fmt: skip
    saved = [np.asarray(Image.open(path)) for path in said[1::2]]
    assert [len(pictures) for pictures in shown] == [1, 1]
    assert all(np.array_equal(one, file) for (one,), file in zip(shown, saved, strict=False))
    main(["generate", "a red circle", *call, "--images", "6", "--out", "six"])
    assert capsys.readouterr().out.splitlines()[-1] == "6 images in six" and len(shown[-1]) == 4


def test_words_that_a_model_never_met_are_named(model, picture, tmp_path, capsys):
    call = ["--model", str(model), "--steps", "1", "--out", str(tmp_path / "o")]
    main(["generate", "two red stars above a Blue star", *call])
    assert capsys.readouterr().err == (
        "unknown to this model, as its training texts never hold them: stars, Blue (but blue), star\n"
    )
    assert lines(tmp_path / "o" / "results.jsonl")[0]["unknown_words"] == ["stars", "Blue", "star"]
    main(["edit", str(picture), "make the star green", *call])
    assert capsys.readouterr().err.endswith(": star\n")
    main(["generate", "two crosses above the ring", *call])
    assert capsys.readouterr().err == "" and lines(tmp_path / "o" / "results.jsonl")[0]["unknown_words"] == []


def test_compiled_steps_draw_the_same_images(model, tmp_path, monkeypatch):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    scored = ["eval", "t2i", "--images", "1", "--prompts", "2", *FAST]
    drawn = ["generate", "a ring", "--images", "2", "--batch", "1", "--steps", "1"]
    edited = ["edit", str(tmp_path / "plain" / "00000.png"), "make it red", "--steps", "1"]
    shared = ["--model", str(model), "--out"]
    main([*drawn, *shared, str(tmp_path / "plain")])
    assert counter.frame_count == 0
    main([*drawn, *shared, str(tmp_path / "compiled"), "--compile", "true"])
    assert counter.frame_count > 0
    plain, compiled = (lines(tmp_path / name / "results.jsonl") for name in ("plain", "compiled"))
    assert [row.pop("compile") for row in (*plain, *compiled)] == [False, False, True, True]
    assert plain == compiled
    for out, verb in {"edited": edited, "scored": scored}.items():
        torch._dynamo.reset()
        before = counter.frame_count
        main([*verb, *shared, str(tmp_path / out), "--compile", "true"])
        assert counter.frame_count > before


def test_generate_from_files_of_prompts(model, tmp_path):
    (tmp_path / "p.txt").write_text("a ring\n\ntwo crosses\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a ring"}\n{"prompt": "two crosses"}\n')
    for name in ("p.txt", "p.jsonl"):
        call = ["generate", str(tmp_path / name), "--model", str(model), "--out", str(tmp_path / "out" / name)]
        main([*call, "--steps", "1", "--chat", "false"])
        assert [row["prompt"] for row in lines(tmp_path / "out" / name / "results.jsonl")] == ["a ring", "two crosses"]


@pytest.mark.parametrize(
    ("prompt", "extra", "message"),
    [
        ("bad.jsonl", [], "bad.jsonl, line 2"),
        ("none.txt", [], "No file of prompts none.txt"),
        (" ", [], "empty"),
        ("a ring", ["--images", "0"], "`--images` (0)"),
        ("a ring", ["--tokens", "7"], "`tokens` (7)"),
        ("a ring", ["--temperature", "-1"], "`temperature` (-1.0)"),
        ("a ring", ["--device", "cuda:99"], "`--device` (cuda:99)"),
        ("word " * 400, [], "limit of 256"),
    ],
)
def test_a_failed_call_leaves_nothing(model, tmp_path, capsys, monkeypatch, prompt, extra, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    code, text = failure(capsys, "generate", prompt, "--model", str(model), "--out", "deep/out", "--steps", "1", *extra)
    *notes, last = text.splitlines()
    assert code == 1 and message in last and all(note.startswith("unknown to this model") for note in notes)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_edit_describe_reconstruct(model, picture, tmp_path, capsys):
    common = ["--model", str(model)]
    main(["edit", str(picture), "make it red", *common, "--out", str(tmp_path / "e"), "--steps", "1"])
    (row,) = lines(tmp_path / "e" / "results.jsonl")
    assert row["instruction"] == "make it red" and Image.open(tmp_path / "e" / row["file"]).size == (SIDE, SIDE)
    capsys.readouterr()
    main(["describe", str(picture), *common, "--question", "how many?", "--max_new_tokens", "3"])
    said = json.loads(capsys.readouterr().out)
    assert said["question"] == "how many?" and isinstance(said["text"], str)
    main(["describe", str(tmp_path), *common, "--max_new_tokens", "3", "--out", str(tmp_path / "d")])
    assert lines(tmp_path / "d" / "results.jsonl")[0]["image"] == str(picture)
    main(["reconstruct", str(picture), *common, "--out", str(tmp_path / "r"), "--tokens", "[2,6]", "--steps", "1"])
    rows = lines(tmp_path / "r" / "results.jsonl")
    assert [row["tokens"] for row in rows] == [2, 6] and all(5 < row["psnr"] < 100 for row in rows)


@pytest.mark.parametrize("looks", [0, 2, Sampling.looks])
def test_words_about_images_heed_looks(picture, tmp_path, capsys, monkeypatch, looks):
    """Of a model that says what it sees before it answers, by captions, answers and conversations."""
    folder = tiny_model(tmp_path / "model", side=SIDE, plans=True)
    told = json.loads((folder / "vocab" / "vocab.json").read_text())
    (folder / "vocab" / "vocab.json").write_text(json.dumps({**told, "answer_plans": True}))
    talk = {"turns": [{"role": "user", "content": [{"image": 0}, "how many?"]}], "images": [picture.name]}
    (tmp_path / "talks.jsonl").write_text(json.dumps(talk) + "\n")
    seen = []

    def watched(model, vocab, prompts, write, length, seeds, given, *end):
        seen.append(given)
        return look_again(model, vocab, prompts, write, length, seeds, given, *end)

    monkeypatch.setattr(pipeline, "look_again", watched)
    common = ["--model", str(folder), "--max_new_tokens", "2"]
    common += [] if looks == Sampling.looks else ["--looks", str(looks)]
    main(["describe", str(picture), *common])
    main(["describe", str(picture), "--question", "how many?", *common])
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    main(["chat", str(tmp_path / "talks.jsonl"), "--out", str(tmp_path / "said"), *common])
    assert seen == [looks] * 3 == [record["looks"] for record in (*said, *lines(tmp_path / "said" / "results.jsonl"))]


def test_several_images_and_no_image_as_an_instruction(model, picture, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(picture, other / "00000.png")
    common = ["--model", str(model), "--steps", "1"]
    main(["reconstruct", str(picture), str(other), *common, "--tokens", "2", "6", "--out", str(tmp_path / "r")])
    rows = lines(tmp_path / "r" / "results.jsonl")
    assert [(row["source"], row["tokens"]) for row in rows] == [
        (str(file), count) for file in (picture, other / "00000.png") for count in (2, 6)
    ]
    capsys.readouterr()
    main(["describe", str(picture), str(other), "--model", str(model), "--max_new_tokens", "2"])
    said = [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()]
    assert said == [str(picture), str(other / "00000.png")]
    before = (other / "00000.png").read_bytes()
    code, text = failure(capsys, "edit", str(picture), str(other / "00000.png"), "make it red", *common, "--out", "x")
    assert code == 1 and "is an image, not an instruction" in text
    for option in ("looks", "temperature"):
        code, text = failure(capsys, "describe", str(picture), "--model", "nowhere", f"--{option}", "-1")
        assert code == 1 and f"`{option}` (-1" in text
    for call in (["edit", str(other), "make it red"], ["reconstruct", str(other)], ["describe", str(other)]):
        code, text = failure(capsys, *call, "--model", str(model), "--out", str(other))
        assert code == 1 and "`--out`" in text and "00000.png" in text
    assert (other / "00000.png").read_bytes() == before


def test_bad_images(model, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    (tmp_path / "empty").mkdir()
    for image, message in (("broken.png", "not a readable image"), ("empty", "no image"), ("x.png", "No image file")):
        call = ("reconstruct", str(tmp_path / image), "--model", str(model), "--out", str(tmp_path / "o"))
        code, text = failure(capsys, *call)
        assert code == 1 and message in text and not (tmp_path / "o").exists()


def test_staging_keeps_what_was_there(tmp_path):
    out = tmp_path / "a" / "out"
    with pytest.raises(RuntimeError), staged(out) as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert not (tmp_path / "a").exists()
    with staged(out) as folder:
        (folder / "x").write_text("1")
        (folder / "y").write_text("1")
    with staged(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "z").write_text("2")
        (folder / "x").write_text("2")
    assert {p.name: p.read_text() for p in out.rglob("*") if p.is_file()} == {"x": "2", "y": "1", "z": "2"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    with pytest.raises(ValueError, match="is a file"), staged(out / "x"):
        pass


# ---------------------------------------------------------------------------------------------------------- encoding


def test_encode_gives_the_tokenizers_ids_and_conversations(model, shards, tmp_path, capsys):
    out = tmp_path / "tokens"
    call = ["encode", "--tokenizer", str(model), "--shards", f"{shards}/*.tar", "--out", str(out), "--processes", "1"]
    main([*call, "--batch", "2"])
    fields_ = read_tokens_json(out)
    tokenizer = pipeline.load_tokenizer(model / "tokenizer")
    assert fields_["tokenizer"] == tokenizer.fingerprint() and (fields_["K"], fields_["codebook_size"]) == (6, 24)
    records = {r["__key__"]: r for path in sorted(out.glob("*.tar")) for r in read_shard(str(path), {})}
    assert list(records) == ["e0", "e1", "a0", "a1", "a2", "a3", "a4", "q0-0", "q0-1"]
    used = pipeline.Pipeline(tokenizer)
    for sample in read_images([f"{shards}/*.tar"]):
        expected = used.encode(torch.from_numpy(np.stack(sample.images)).permute(0, 3, 1, 2)).numpy()
        key = sample.key if sample.key in records else f"{sample.key}-0"
        assert np.array_equal(shard_rows.read_ids(records[key]), expected)
    assert records["a3"]["txt"] == b"caption 3" and json.loads(records["a3"]["json"])["scene"] == 3
    edit, question = (json.loads(records[key]["json"])["turns"] for key in ("e1", "q0-1"))
    assert [turn["content"] for turn in edit] == [[{"image": 0}, "make it red"], [{"image": 1}]]
    assert [turn["content"] for turn in question] == [[{"image": 0}, "is it red?"], ["no"]]


def test_encode_skips_what_is_done_and_redoes_what_changed(model, shards, tmp_path, capsys):
    out, source = tmp_path / "tokens", tmp_path / "shards"
    source.mkdir()
    for path in shards.glob("images*.tar"):
        (source / path.name).write_bytes(path.read_bytes())
    call = ["encode", "--tokenizer", str(model / "tokenizer"), "--shards", f"{source}/*.tar", "--out", str(out)]
    call += ["--processes", "1"]
    main(call)
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    main(call)
    assert "0 samples in 0 token shards" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")} == first
    (out / "images-000001.tar").unlink()
    write_shards(source, "other", [{"__key__": "n", "png": shard_png(np.zeros((9, 9, 3), np.uint8)), "txt": "t"}], 1)
    main(call)
    second = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert sorted(second) == ["images-000000.tar", "images-000001.tar", "other-000000.tar"]
    assert second["images-000000.tar"] == first["images-000000.tar"]
    other = tiny_tokenizer(SIDE, seed=5)
    other.save_pretrained(tmp_path / "other")
    code, text = failure(capsys, "encode", "--tokenizer", str(tmp_path / "other"), "--shards", f"{source}/images*.tar",
                         "--out", str(out), "--processes", "1")  # fmt: skip
    assert code == 1 and other.fingerprint() in text and read_tokens_json(out)["tokenizer"] in text
    main(["encode", "--tokenizer", str(tmp_path / "other"), *call[3:]])
    assert read_tokens_json(out)["tokenizer"] == other.fingerprint()


def test_a_killed_encode_leaves_whole_shards_and_no_tokens_json(model, shards, tmp_path, monkeypatch):
    out, real = tmp_path / "tokens", encoding.encode_shard

    def dies(*args):
        if "images-000001" in args[3]:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(encoding, "encode_shard", dies)
    call = ["encode", "--tokenizer", str(model), "--shards", f"{shards}/*.tar", "--out", str(out), "--processes", "1"]
    with pytest.raises(SystemExit) as stop:
        main(call)
    assert stop.value.code == 130
    assert not (out / "tokens.json").exists() and not list(out.glob(".*partial"))
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            assert tar.getnames()
    before = {path.name for path in out.glob("*.tar")}
    assert "images-000000.tar" in before
    monkeypatch.setattr(encoding, "encode_shard", real)
    main(call)
    assert read_tokens_json(out)["K"] == 6 and len(list(out.glob("*.tar"))) == 4


def test_encode_with_two_processes_is_the_same(model, shards, tmp_path):
    for processes in ("1", "2"):
        main(["encode", "--tokenizer", str(model), "--shards", f"{shards}/images*.tar", "--out",
              str(tmp_path / processes), "--processes", processes])  # fmt: skip
    for path in (tmp_path / "1").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_encode_errors(model, shards, tmp_path, capsys):
    base = ["encode", "--out", str(tmp_path / "o"), "--processes", "1"]
    write_shards(tmp_path, "texts", [{"__key__": "t", "txt": "x"}], 1)
    for args, message in (
        (["--tokenizer", str(tmp_path), "--shards", f"{shards}/*.tar"], "--tokenizer"),
        (["--tokenizer", str(model), "--shards", f"{shards}/none-*.tar"], "matches no shard"),
        (["--tokenizer", str(model), "--shards", f"{tmp_path}/texts-*.tar"], "has no image"),
        (["--tokenizer", str(model), "--shards", f"[{shards}/edits-*.tar,{tmp_path}/*.tar]", "--batch", "0"], "batch"),
    ):
        code, text = failure(capsys, *base, *args)
        assert code == 1 and message in text, text
    with pytest.raises(ValueError, match="same name"):
        encode_module.token_names(["a/x.tar", "b/x.tar.gz"])


def test_decode_is_the_inverse(model, shards, tmp_path, capsys):
    tokens, images = tmp_path / "tokens", tmp_path / "images"
    common = ["--tokenizer", str(model), "--processes", "1"]
    main(["encode", *common, "--shards", f"{shards}/*.tar", "--out", str(tokens)])
    main(["decode", *common, "--shards", f"{tokens}/*.tar", "--out", str(images), "--steps", "1", "--batch", "2"])
    found = {sample.key: sample for sample in read_images([f"{images}/*.tar"])}
    assert set(found) == {"e0", "e1", "a0", "a1", "a2", "a3", "a4", "q0-0", "q0-1"}
    assert len(found["e0"].images) == 2 and found["e0"].texts == ("make it red",)
    assert found["q0-1"].questions[0]["answers"] == ["no"] and found["a2"].texts == ("caption 2", "one", "two")
    used = pipeline.Pipeline.from_pretrained(model, llm=False)
    record = next(r for r in read_shard(f"{tokens}/images-000000.tar", {}) if r["__key__"] == "a1")
    seed = encoding.image_seed(0, "a1", 0)
    image = used.decode(torch.from_numpy(shard_rows.read_ids(record)), seed=[seed], steps=1)[0].permute(1, 2, 0)
    assert np.abs(found["a1"].images[0].astype(int) - image.numpy()).max() <= 1
    other = tiny_tokenizer(SIDE, seed=5)
    other.save_pretrained(tmp_path / "other")
    code, text = failure(capsys, "decode", "--tokenizer", str(tmp_path / "other"), "--shards", f"{tokens}/*.tar",
                         "--out", str(tmp_path / "x"), "--processes", "1")  # fmt: skip
    assert code == 1 and other.fingerprint() in text and not (tmp_path / "x").exists()


# -------------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def evaluated(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "eval"
    common = ["--model", str(model), "--out", str(out), *FAST]
    main(["eval", "reconstruction", *common, "--images", "6", "--prefix_images", "3", "--tokens", "[0,3]"])
    main(["eval", "t2i", *common, "--prompts", "2", "--images", "2", "--batch", "10"])
    main(["eval", "edit", *common, "--edits", "9"])
    main(["eval", "vqa", *common, "--questions", "7"])
    main(["eval", "caption", *common, "--captions", "4"])
    return out


def test_eval_writes_the_keys_of_the_design(evaluated):
    keys = set(flat(evaluated))
    tags = {"single_object", "two_object", "counting", "colors", "position", "color_attr", "overall"}
    edits = {"add", "remove", "replace", "recolour", "move", "background", "daynight"}
    assert keys == {
        *(f"tokenizer/{name}" for name in ("psnr", "psnr@0", "psnr@3", "psnr@6", "ssim", "seams")),
        *(f"tokenizer/codebook_{name}" for name in ("usage", "perplexity")),
        *(f"tokenizer/x0_error_{band}_noise" for band in ("low", "mid", "high")),
        *(f"t2i/shapes_geneval/{tag}" for tag in tags),
        *(f"t2i/{name}" for name in ("ceiling_render", "ceiling_tokenizer", "floor_shuffled", "floor_circles")),
        *(f"t2i/colour_layout/{name}" for name in ("overall", "floor_shuffled")),
        "edit/exact_match",
        *(f"edit/exact_match/{kind}" for kind in edits),
        *("edit/ceiling_tokenizer", *(f"edit/ceiling_tokenizer/{kind}" for kind in edits)),
        *("edit/kept_l1", *(f"edit/kept_l1/{kind}" for kind in sorted(edits - {"background", "daynight"}))),
        *(f"edit/{name}{end}" for name in ("l1", "l2") for end in ("", *(f"/{kind}" for kind in sorted(edits)))),
        "vqa/accuracy",
        "vqa/floor_blind",
        "caption/scene_match",
        "decode/steps",
        "decode/guidance",
    }


def test_cards_say_how_they_were_made(evaluated, model):
    cards = read_cards(evaluated)
    weights = pipeline.Pipeline.from_pretrained(model).fingerprints()
    for key, card in cards.items():
        assert {"value", "interval", "n", "protocol", "seed", "weights", "settings", "versions"} <= set(card), key
        assert card["weights"].items() <= weights.items() and card["settings"]["steps"] == 2
        assert {"guidance", "decode_guidance", "temperature", "batch", "device", "image_size"} <= set(card["settings"])
        assert {"torch", "torchmetrics", "torch-fidelity", "ddt_lightning"} <= set(card["versions"]), key
        assert card["interval"] is None or card["interval"][0] <= card["value"] <= card["interval"][1], key
    assert cards["tokenizer/psnr"]["n"] == 6 and cards["tokenizer/psnr@3"]["n"] == cards["tokenizer/psnr@6"]["n"] == 3
    assert cards["t2i/shapes_geneval/overall"]["n"] == 24 and cards["vqa/accuracy"]["n"] == 7
    assert cards["decode/guidance"]["value"] == 1.5


def test_results_jsonl_is_geneval_form_and_summarises_to_the_card(evaluated):
    rows = lines(evaluated / "results.jsonl")
    assert list(rows[0]) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    cards = flat(evaluated)
    assert {f"t2i/shapes_geneval/{tag}": value for tag, value in summary(rows).items()}.items() <= cards.items()
    for row in rows:
        image = evaluated / row["filename"]
        assert image.is_file() and json.loads((image.parents[1] / "metadata.jsonl").read_text()) == json.loads(
            row["metadata"]
        )


def test_combinations_that_training_shows_on_request(model, tmp_path):
    common = ["--model", str(model), "--out", str(tmp_path), "--seen", "true", *FAST]
    main(["eval", "t2i", *common, "--prompts", "2", "--images", "1"])
    main(["eval", "edit", *common, "--edits", "2"])
    main(["eval", "vqa", *common, "--questions", "2"])
    main(["eval", "caption", *common, "--captions", "2"])
    asked = {row["prompt"] for row in lines(tmp_path / "results.jsonl")}
    assert asked <= {row["prompt"] for row in suite(seen=True)} and len(asked) == 12
    cards = read_cards(tmp_path)
    for key in ("t2i/shapes_geneval/overall", "edit/exact_match", "vqa/accuracy", "caption/scene_match"):
        assert "that training shows" in cards[key]["protocol"], key


def test_sample_indexes_name_files_that_exist(evaluated):
    for name in ("reconstruction", "t2i", "edit", "vqa", "caption"):
        index = json.loads((evaluated / "samples" / f"{name}.json").read_text())
        files = re.findall(r"[\w/-]+\.png", json.dumps(index))
        assert index and files and all((evaluated / file).is_file() for file in files)
        assert Image.open(evaluated / f"{name}.png").size[0] > SIDE
    assert not list(evaluated.parent.glob(".*partial"))


def test_report_of_an_evaluation(evaluated, capsys):
    main(["report", str(evaluated.parent)])
    page = Path(capsys.readouterr().out.strip())
    assert page == evaluated.parent / "report.html" and page.read_text().count("data:image/png") > 40


def test_eval_does_not_depend_on_batch_or_processes(model, tmp_path):
    for name, extra in {"one": ["--processes", "1", "--batch", "2"], "two": ["--processes", "2"]}.items():
        call = ["eval", "reconstruction", "--model", str(model), "--out", str(tmp_path / name), "--images", "5"]
        main([*call, "--steps", "1", *extra])
    one, two = (flat(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys() and all(one[key] == pytest.approx(two[key], abs=1e-2) for key in one)


def test_eval_reconstruction_of_shards(model, shards, tmp_path):
    out = tmp_path / "eval"
    patterns = f"{shards}/images*.tar"
    main(["eval", "reconstruction", "--model", str(model), "--out", str(out), *FAST, "--shards", patterns])
    card = read_cards(out)["tokenizer/psnr"]
    used = pipeline.Pipeline.from_pretrained(model, llm=False)
    originals = torch.from_numpy(np.stack([s.images[0] for s in read_images([patterns])])).permute(0, 3, 1, 2)
    error = (used.reconstruct(originals, steps=2).double() - originals.double()).square().flatten(1).mean(1)
    assert card["value"] == pytest.approx(float((10 * torch.log10(255**2 / error)).mean()), abs=1e-2)
    assert card["n"] == 5 and patterns in card["settings"]["source"]


@pytest.mark.parametrize("patch", [1, 16])
def test_patches_of_a_pixel_or_of_the_whole_image_have_no_seams_to_measure(tmp_path, patch):
    sizes = replace(tiny_tokenizer().config, patch=patch)
    Tokenizer(sizes).save_pretrained(tmp_path / "model" / "tokenizer")
    call = ["eval", "reconstruction", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "eval")]
    main([*call, "--images", "2", "--steps", "1", "--processes", "1"])
    cards = read_cards(tmp_path / "eval")
    assert "tokenizer/psnr" in cards and "tokenizer/seams" not in cards


@pytest.mark.parametrize("chat", ["true", "false"])
def test_a_pretrained_model_can_be_asked_by_its_captions(model, tmp_path, monkeypatch, chat):
    call = ["eval", "t2i", "--model", str(model), "--out", str(tmp_path / "eval"), "--prompts", "2", "--images", "1"]
    ask, formats = pipeline.Pipeline.draw_prompts, []

    def watched(self, prompts, *, chat=True):
        formats.append(chat)
        return ask(self, prompts, chat=chat)

    monkeypatch.setattr(pipeline.Pipeline, "draw_prompts", watched)
    main([*call, "--chat", chat, "--steps", "2", "--processes", "1"])
    assert formats == [chat == "true"]
    assert read_cards(tmp_path / "eval")["t2i/ceiling_render"]["settings"]["chat"] is (chat == "true")


def test_flat_refuses_two_decode_settings(evaluated, tmp_path):
    shared = {"seed": 0, "weights": {}, "settings": {}}
    write_cards(tmp_path / "a.json", {"decode/steps": {"value": 8.0}}, shared)
    write_cards(tmp_path / "b.json", {"decode/steps": {"value": 16.0}}, shared)
    with pytest.raises(ValueError, match="decode/steps"):
        flat(tmp_path)


def test_mean_card_intervals():
    card = mean_card([True] * 9 + [False], "x")
    assert card["value"] == pytest.approx(0.9) and card["interval"] == pytest.approx(wilson(9, 10))
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = mean_card(values.tolist(), "x")["interval"]
    assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / 20, rel=1e-3)
    assert mean_card([2.5], "x")["interval"] is None
    with pytest.raises(ValueError, match="Nothing"):
        mean_card([], "x")


def test_doctor_tells_of_missing_weights(capsys, tmp_path, model):
    main(["doctor", "--model", str(tmp_path)])
    text = capsys.readouterr().out
    assert "torch " in text and "cpu " in text and "lacks tokenizer/config.json" in text
    main(["doctor", "--model", str(model)])
    assert "is whole" in capsys.readouterr().out


def test_a_language_run_with_its_tokenizer_elsewhere(model, tmp_path, capsys):
    release = tmp_path / "pretrain" / "release"
    for part in ("lm", "vocab"):
        shutil.copytree(model / part, release / part)
    call = ["generate", "a ring", "--model", str(tmp_path / "pretrain"), "--chat", "false", "--steps", "1"]
    code, text = failure(capsys, *call, "--out", str(tmp_path / "a"))
    assert code == 1 and "`--tokenizer`" in text
    main([*call, "--tokenizer", str(model), "--out", str(tmp_path / "a")])
    main([*call[:3], str(model), *call[4:], "--out", str(tmp_path / "b")])
    assert lines(tmp_path / "a" / "results.jsonl") == lines(tmp_path / "b" / "results.jsonl")


def test_real_edits_and_questions_become_conversations(model, tmp_path, ddt_data):
    for kind, count in (("edit/aurora", 51), ("vqa/vqav2coco", 52)):
        out = tmp_path / kind
        main(["encode", "--tokenizer", str(model), "--shards", f"{ddt_data}/{kind}-val-*.tar", "--out", str(out),
              "--processes", "1"])  # fmt: skip
        turns = [json.loads(r["json"])["turns"] for path in out.glob("*.tar") for r in read_shard(str(path), {})]
        assert len(turns) == count and all(len(turn) == 2 for turn in turns)


def test_generate_and_edit_write_their_plans(model, tmp_path):
    given, own, edited = (tmp_path / name for name in ("given", "own", "edited"))
    fast = ["--model", str(model), "--steps", "1"]
    main(["generate", "a ring", *fast, "--out", str(given), "--plan", "red ring 4 4 5, teal day |"])
    main(["generate", "a ring", *fast, "--out", str(own), "--plan", "auto", "--plan_length", "12"])
    assert lines(given / "results.jsonl")[0]["plan"] == "red ring 4 4 5, teal day |"
    assert lines(own / "results.jsonl")[0]["plan"] not in ("auto", "none")  # random weights write something
    main(["edit", str(given / "00000.png"), "make it red", "now blue", *fast, "--out", str(edited), "--plan", "two |"])
    assert [row["plan"] for row in lines(edited / "results.jsonl")] == ["two |", "two |"]


def test_drawings_are_scored_with_their_plans(model, tmp_path):
    call = ["eval", "t2i", "--model", str(model), *FAST, "--prompts", "2", "--images", "1"]
    main([*call, "--out", str(tmp_path / "with"), "--plan", "red ring 4 4 5, teal day |"])
    main([*call, "--out", str(tmp_path / "without")])
    rows = lines(tmp_path / "with" / "results.jsonl")
    assert len(rows) == 12 and {row["plan"] for row in rows} == {"red ring 4 4 5, teal day |"}
    assert all("plan" not in row for row in lines(tmp_path / "without" / "results.jsonl"))
    assert read_cards(tmp_path / "with")["t2i/shapes_geneval/overall"]["settings"]["plan"] == rows[0]["plan"]
