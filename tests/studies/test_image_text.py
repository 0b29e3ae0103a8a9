"""The fit of images and texts: ridge regression against its formula; a real backbone finds captions; the verbs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from ddt_lightning.cli import main
from ddt_lightning.evaluation.scorers import load_pair
from ddt_lightning.metrics.cards import read_cards
from ddt_lightning.metrics.efficientnet import EfficientNetLite0
from ddt_lightning.metrics.image_text import ImageTextFit, fit_map
from ddt_lightning.metrics.sentences import Sentences
from ddt_lightning.shards.write import write_shards
from ddt_lightning.studies.image_text import Vectors, fits

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 230)}
PLACES = {"left": slice(0, 24), "right": slice(24, 48)}


def test_map_is_the_ridge_regression():
    rng = np.random.default_rng(0)
    features, vectors = rng.normal(size=(40, 6)), rng.normal(size=(40, 3))
    found = fit_map(torch.tensor(features).float(), torch.tensor(vectors).float(), 0.5)
    x = (features - features.mean(0)) / features.std(0, ddof=1)
    # least squares with the penalty as more rows, by another solver
    rows = np.vstack([x, np.sqrt(0.5 * 40) * np.eye(6)])
    wanted = np.linalg.lstsq(rows, np.vstack([vectors - vectors.mean(0), np.zeros((6, 3))]), rcond=None)[0]
    assert np.abs(found.weight.numpy() - wanted).max() < 1e-4
    unit = x @ wanted / np.linalg.norm(x @ wanted, axis=1, keepdims=True)
    assert np.abs(found.of_images(torch.tensor(features).float()).numpy() - unit).max() < 1e-4


def test_images_find_their_captions_where_the_map_is_exact():
    torch.manual_seed(0)
    features = torch.randn(150, 8)
    vectors = features @ torch.randn(8, 8)
    own, other, found = fits(fit_map(features, vectors, 1e-6), Vectors(features, vectors, vectors))
    assert min(own) > 0.999 and max(other) < 0.99 and all(found)
    shuffled = vectors.roll(7, 0)
    assert np.mean(fits(fit_map(features, vectors, 1e-6), Vectors(features, shuffled, shuffled))[2]) < 0.1


def drawn(colour: str, place: str, rng: np.random.Generator) -> bytes:
    image = rng.integers(100, 156, (48, 48, 3)).astype(np.uint8)
    image[8:40, PLACES[place]] = COLOURS[colour]
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(1)
    looks = [(colour, place) for colour in COLOURS for place in PLACES]
    for part, number in (("train", 60), ("val", 12)):
        samples = [
            {"__key__": f"{n:03d}", "png": drawn(*look, rng), "txt": f"a {look[0]} square on the {look[1]}"}
            for n in range(number)
            for look in [looks[n % len(looks)]]
        ]
        write_shards(folder, f"images-{part}", samples, 100)
    return folder


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("minilm")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "square", "on", "the", *COLOURS, *PLACES]
    BertTokenizerFast(vocab={word: n for n, word in enumerate(words)}).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def fitted(shards, minilm, tmp_path_factory, ddt_judges) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "fit"
    main(["study", "fit", f"{shards}/images-train-*.tar", "--val_shards", f"{shards}/images-val-*.tar", "--out",
          str(folder), "--image_size", "48", "--minilm", minilm])  # fmt: skip
    return folder


def test_fit_tells_captions_apart(fitted, minilm, ddt_judges, shards):
    card = json.loads((fitted / "fit.json").read_text())
    scores = {name: one["value"] for name, one in card["scores"].items()}
    # two of the twelve held-out images share each caption, and the first of equal ones counts
    assert scores["own_caption"] > 0.8 and scores["found"] >= 0.5 > scores["found_by_chance"] == pytest.approx(1 / 12)
    assert scores["own_caption"] > scores["next_caption"] + 0.5
    pair = load_pair(str(ddt_judges / "efficientnet_lite0.safetensors"), minilm, "cpu")
    fit = ImageTextFit(fitted / "fit.safetensors", pair)
    assert card["name"] == fit.name and card["networks"] == pair.hashes
    image = np.asarray(Image.open(io.BytesIO(drawn("red", "left", np.random.default_rng(5)))))
    texts = [f"a {colour} square on the {place}" for colour in COLOURS for place in PLACES]
    assert int((fit.images([image]) @ fit.texts(texts).T).argmax()) == 0
    # by hand: the backbone's features, the map, and MiniLM's vectors less their mean
    stored = load_file(fitted / "fit.safetensors")
    eye = EfficientNetLite0(ddt_judges / "efficientnet_lite0.safetensors")
    seen = (eye(torch.from_numpy(image).permute(2, 0, 1)[None]) - stored["center"]) / stored["scale"] @ stored["weight"]
    said = Sentences(minilm)(texts) - stored["anchor"]
    cosine = torch.nn.functional.cosine_similarity(seen, said)
    assert torch.allclose(fit.images([image]) @ fit.texts(texts).T, cosine[None], atol=1e-4)


def test_images_of_a_folder_are_scored(fitted, minilm, tmp_path, shards):
    made, rng = tmp_path / "made", np.random.default_rng(9)
    made.mkdir()
    lines = []
    for n, colour in enumerate(COLOURS):
        (made / f"{n}.png").write_bytes(drawn(colour, "left", rng))
        lines.append(json.dumps({"file": f"{n}.png", "prompt": f"a {colour} square on the left"}))
    (made / "results.jsonl").write_text("\n".join(lines))
    main(["eval", "prompts", str(made), "--out", str(tmp_path / "o"), "--fit", str(fitted / "fit.safetensors"),
          "--minilm", minilm])  # fmt: skip
    cards = read_cards(tmp_path / "o")
    name = json.loads((fitted / "fit.json").read_text())["name"]
    assert cards[f"t2i/{name}"]["value"] > cards[f"t2i/{name}_floor_shuffled"]["value"] + 30
    assert cards[f"t2i/{name}"]["scorers"] == json.loads((fitted / "fit.json").read_text())["networks"]
    scored = [json.loads(line)[name] for line in (tmp_path / "o/prompts/results.jsonl").read_text().splitlines()]
    assert np.mean(scored) == pytest.approx(cards[f"t2i/{name}"]["value"], abs=1e-3)


def test_what_does_not_fit_is_named(fitted, minilm, ddt_judges, tmp_path, shards, capsys):
    pair = load_pair(str(ddt_judges / "efficientnet_lite0.safetensors"), minilm, "cpu")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no fit of images and texts"):
        ImageTextFit(tmp_path / "other.safetensors", pair)
    with pytest.raises(FileNotFoundError, match="`--fit`"):
        ImageTextFit(tmp_path / "none.safetensors", pair)
    pair.hashes["minilm"] = "0" * 16
    with pytest.raises(ValueError, match="is between the networks"):
        ImageTextFit(fitted / "fit.safetensors", pair)
    (tmp_path / "plain").mkdir()
    write_shards(
        tmp_path / "plain", "images", [{"__key__": "0", "png": drawn("red", "left", np.random.default_rng(0))}], 9
    )
    for args, message in (
        (["study", "fit", f"{tmp_path}/plain/*.tar", "--val_shards", f"{shards}/images-val-*.tar", "--minilm", minilm],
         "0 images have captions"),
        (["eval", "prompts", "a dog"], "`--clip` or `--fit` must be given"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main([*args, "--out", str(tmp_path / "o")])
        assert message in capsys.readouterr().err
