"""The tokens tab's pictures, against the pipeline called by hand."""

import numpy as np
import pytest
import torch

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ddt-lightning[app]'")

from ddt_lightning.app.examples import known
from ddt_lightning.app.studio import PREVIEW, Picture, open_studio
from ddt_lightning.app.tokens import counts, exchanged, first_tokens
from ddt_lightning.inputs import Loading
from ddt_lightning.spatial.autoencoder import NetsConfig
from ddt_lightning.spatial.vqgan import Vqgan, VqganConfig
from tests.tiny import taught_tokenizer, tiny_model


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    tiny_model(folder / "model", tokenizer=taught_tokenizer(16))
    Vqgan(
        VqganConfig(latent_size=32, nets=NetsConfig(patch=2, channels=[8, 8], groups=4), grid=[2, 4])
    ).save_pretrained(folder / "vqgan")
    return open_studio(Loading(str(folder / "model"), device="cpu"), [str(folder / "vqgan")], None)


def pictures(count: int, side: int = 16) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def test_strips_double_and_end_with_all_tokens():
    assert counts(32) == [1, 2, 4, 8, 16, 32] and counts(6) == [1, 2, 4, 6] and counts(1) == [1]


def test_exchange_takes_the_first_tokens_of_the_other(studio):
    a, b = (studio.ids(image) for image in pictures(2))
    none, every = exchanged(studio.plain, a, b, 0), exchanged(studio.plain, a, b, 6)
    assert np.array_equal(none[0], every[1]) and np.array_equal(none[1], every[0])
    some = exchanged(studio.plain, a, b, 2)[0]
    by_hand = studio.plain.decode(torch.cat([b[:2], a[2:]])[None], PREVIEW, seed=0)
    assert np.abs(some.astype(int) - by_hand[0].permute(1, 2, 0).numpy()).max() <= 1  # rounding of a batch of two


def test_other_tokenizers_read_the_picture_at_their_own_size(studio):
    ((name, other),) = studio.others.items()
    assert name.startswith("VQGAN (") and other.image_size == 32
    html = first_tokens(other, Picture(pictures(1)[0], "noise"))
    assert (
        html.count("<img") == 1 + len(counts(other.tokenizer.config.tokens))
        and html.count(" dB") == html.count("<img") - 1
    )


def test_another_kind_of_latents_is_refused_by_name(studio, tmp_path):
    folder = tmp_path / "m"
    tiny_model(folder)
    Vqgan(VqganConfig(latent_channels=4)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"`--against` \(.*other\) has latents of 4 channels"):
        open_studio(Loading(str(folder), device="cpu"), [str(tmp_path / "other")], None)


def test_examples_are_those_whose_words_were_learned(studio):
    texts = ["a red circle", "a red zeppelin", "two crosses"]
    assert known(texts, studio.pipeline.vocab) == ["a red circle", "two crosses"]
    assert "zeppelin" in studio.unknown("a red zeppelin") and studio.unknown("a red circle") == ""
