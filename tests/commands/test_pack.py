"""`ddt pack`: small folders that draw as the model did, with cards whose hashes and scores are true."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddt_lightning import settings
from ddt_lightning.cli import main
from ddt_lightning.metrics.cards import mean_card, write_cards
from ddt_lightning.pipeline import Pipeline
from ddt_lightning.shards.write import write_shards
from ddt_lightning.tokens.renderer import Renderer, RendererConfig
from tests.tiny import taught_tokenizer, tiny_model

ABOUT = ["--command", "make demo", "--data", "rendered scenes"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("model"), side=32, tokenizer=taught_tokenizer(32))
    pipeline = Pipeline.from_pretrained(folder)
    renderer = Renderer(RendererConfig(), pipeline.tokenizer)
    renderer.start_from(pipeline.tokenizer.decoder, "x0")
    renderer.save_pretrained(folder / "renderer")
    return folder


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize(("bits", "share", "far"), [("16", 0.56, 1.0), ("8", 0.45, 3.0)])
def test_a_packed_model_is_small_and_draws_the_same(model, tmp_path, monkeypatch, bits, share, far):
    place = tmp_path / "data" / "pretrained"
    monkeypatch.setattr(settings, "PLACES", (tmp_path,))
    main(["pack", str(model), str(place / "tiny"), *ABOUT, "--bits", bits])
    assert size(place / "tiny") < share * size(model)
    before, after = Pipeline.from_pretrained(model), Pipeline.from_pretrained("tiny")
    assert after.renderer is not None and before.renderer is not None
    assert all(parameter.dtype == torch.float32 for net in (after.tokenizer, after.renderer, after.llm)
               for parameter in net.parameters())  # fmt: skip
    ids = torch.randint(24, (8, 6), generator=torch.Generator().manual_seed(0))
    for count in (6, 3):
        distance = (before.decode(ids[:, :count], steps=4).int() - after.decode(ids[:, :count], steps=4).int()).abs()
        assert distance.float().mean() < far
    noise = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert (before.encode(noise) == after.encode(noise)).float().mean() > 0.9
    assert after.vocab.words == before.vocab.words
    main(["generate", "a red circle", "--model", "tiny", "--out", str(tmp_path / "drawn")])
    assert (tmp_path / "drawn" / "00000.png").is_file()


def test_a_card_says_whether_scores_are_of_the_rounded_weights(model, tmp_path):
    main(["pack", str(model), str(tmp_path / "first"), *ABOUT])
    marks = Pipeline.from_pretrained(tmp_path / "first").fingerprints()
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text(json.dumps({"time/total_s": 1.0}))
    of_all, of_one = {**marks, "judge": "0"}, {"tokenizer": marks["tokenizer"]}
    for number, (weights, said) in enumerate(
        [(of_all, "of these weights"), (of_one, "of these weights"), ({**of_one, "lm": "0"}, "before"), ({}, "before")]
    ):
        write_cards(run / "eval" / "t2i.json", {"t2i/overall": mean_card([True] * 8, "p")}, {"weights": weights})
        main(["pack", str(tmp_path / "first"), str(tmp_path / str(number)), *ABOUT, "--run", str(run)])
        assert f"measured {said}" in (tmp_path / str(number) / "README.md").read_text()


def test_the_card_names_hashes_scores_and_seconds(model, tmp_path, capsys):
    run = tmp_path / "run"
    write_cards(run / "eval" / "t2i.json", {"t2i/overall": mean_card([True, False] * 8, "p")}, {"weights": {}})
    write_cards(run / "eval" / "seen" / "t2i.json", {"t2i/overall": mean_card([True] * 8, "p")}, {"weights": {}})
    (run / "metrics.json").write_text(json.dumps({"time/total_s": 1234.5}))
    packed = tmp_path / "scenes"
    main(["pack", str(model), str(packed), *ABOUT, "--run", str(run), "--licence", "MIT"])
    card = (packed / "README.md").read_text()
    assert "`make demo` in 1,234 seconds" in card and "Data: rendered scenes" in card and "Licence: MIT." in card
    assert "| t2i/overall | 0.500 |" in card and "| seen/t2i/overall | 1.000 | 0.676 to 1.000 | 8 |" in card
    assert "measured before weights were rounded" in card and "--model scenes" in card
    named = dict(re.findall(r"^\| (\S+) \| [\d,]+ \| ([0-9a-f]{64}) \|$", card, re.M))
    files = {str(path.relative_to(packed)): path for path in packed.rglob("*") if path.is_file()}
    assert named == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name != "README.md"
    }
    for call, message in (
        ([str(packed)], "is there already"),
        ([str(tmp_path / "x"), "--most_mb", "0.01"], "`--most_mb`"),
        ([str(tmp_path / "x"), "--run", str(tmp_path)], "has no metrics.json"),
    ):
        with pytest.raises(SystemExit):
            main(["pack", str(model), *call, *ABOUT])
        assert message in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_words_come_from_the_vocabulary_or_from_shards(model, tmp_path, capsys):
    older = tmp_path / "older"
    main(["pack", str(model), str(older), *ABOUT])
    (older / "vocab" / "words.txt").unlink()
    with pytest.raises(SystemExit):
        main(["pack", str(older), str(tmp_path / "x"), *ABOUT])
    assert "`--texts`" in capsys.readouterr().err
    write_shards(tmp_path / "texts", "text", [{"__key__": str(n), "txt": "zebra crossing"} for n in range(9)], 99)
    main(["pack", str(older), str(tmp_path / "x"), *ABOUT, "--texts", f"{tmp_path}/texts/*.tar"])
    vocab = Pipeline.from_pretrained(tmp_path / "x").vocab
    assert vocab.unknown_words("a zebra star") == ["a", "star"]


def test_storing_twice_changes_nothing(model, tmp_path):
    main(["pack", str(model), str(tmp_path / "one"), *ABOUT, "--bits", "8"])
    main(["pack", str(tmp_path / "one"), str(tmp_path / "two"), *ABOUT, "--bits", "8"])
    for part in ("tokenizer", "renderer", "lm"):
        first, second = (load_file(tmp_path / name / part / "model.safetensors") for name in ("one", "two"))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
