"""CLIP and DINO of local folders against transformers called by hand; images prepared as their releases do."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms
from transformers import AutoTokenizer, CLIPModel, ViTModel

from ddt_lightning.metrics.embeddings import CLIP_MEAN, CLIP_STD, Clip, Dino, preprocess, unit_vectors
from tests.scorers import tiny_clip, tiny_dino


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(40, 60), (61, 33), (32, 32), (300, 301)])
@pytest.mark.parametrize(("short", "side"), [(32, 32), (256, 224)])
def test_images_are_prepared_as_by_torchvision(size, short, side):
    image = noise(*size)
    known = transforms.Compose(
        [
            transforms.Resize(short, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )(Image.fromarray(image))
    assert torch.allclose(preprocess([image], short, side, CLIP_MEAN, CLIP_STD)[0], known, atol=1e-5)


def test_clip_equals_its_parts(tmp_path):
    folder = str(tiny_clip(tmp_path))
    clip, model, tokenizer = (
        Clip(folder, batch=2),
        CLIPModel.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    images, texts = [noise(40, 60, n) for n in range(5)], ["a dog", "two red cats", "x " * 200]
    found, encoded = clip.images(images), clip.texts(texts)
    assert found.shape == (5, 8) and encoded.shape == (3, 8)
    assert torch.allclose(found.norm(dim=1), torch.ones(5)) and torch.allclose(encoded.norm(dim=1), torch.ones(3))
    with torch.no_grad():
        whole = model(
            pixel_values=preprocess(images, 32, 32, CLIP_MEAN, CLIP_STD),
            **tokenizer(texts[:2], padding=True, return_tensors="pt"),
        )
    assert torch.allclose(found, whole.image_embeds, atol=1e-5)
    assert torch.allclose(encoded[:2], whole.text_embeds, atol=1e-5)


def test_vectors_of_old_and_new_transformers():
    class Output:
        pooler_output = torch.tensor([[3.0, 4.0]])

    assert torch.equal(unit_vectors(torch.tensor([[3.0, 4.0]])), unit_vectors(Output()))
    assert unit_vectors(Output()).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_dino_is_the_class_token(tmp_path):
    folder = str(tiny_dino(tmp_path))
    dino, model = Dino(folder), ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    images = [noise(40, 60), noise(300, 300)]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    with torch.no_grad():
        token = model(preprocess(images, 256, 224, mean, std)).last_hidden_state[:, 0]
    assert torch.allclose(dino.images(images), token / token.norm(dim=1, keepdim=True), atol=1e-5)
    assert torch.equal(dino.images([images[0]])[0], dino.images([images[0].copy()])[0])


def test_a_scorer_with_random_weights_is_refused(tmp_path):
    folder = tiny_clip(tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    whole = dict(weights)
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks visual_projection"):
        Clip(str(folder))
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="text tokenizer of"):
        Clip(str(folder))
    with pytest.raises(ValueError, match="is a clip, not one of vit, dinov2"):
        Dino(str(folder))
    with pytest.raises(FileNotFoundError, match="`--dino`"):
        Dino(str(tmp_path / "none"))
