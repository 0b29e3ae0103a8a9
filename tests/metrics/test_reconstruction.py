"""Reconstruction and codebook metrics against torchmetrics and closed forms."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ddt_lightning.metrics.codebook import code_counts, perplexity, perplexity_by_position, usage
from ddt_lightning.metrics.reconstruction import PSNR_CAP, l1, psnr, seams, ssim


def noisy_pair(levels: tuple[float, ...] = (2.0, 30.0)) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with unequal errors, where pooled and per-image PSNR differ."""
    generator = torch.Generator().manual_seed(0)
    original = torch.randint(0, 256, (len(levels), 3, 24, 24), generator=generator).to(torch.uint8)
    noise = torch.randn(original.shape, generator=generator) * torch.tensor(levels).view(-1, 1, 1, 1)
    return (original + noise).clamp(0, 255).round().to(torch.uint8), original


def test_psnr_is_the_mean_per_image_not_pooled():
    image, original = noisy_pair()
    ours = psnr(image, original)
    assert ours.shape == (2,)
    per_image = peak_signal_noise_ratio(
        image.double(), original.double(), data_range=255.0, dim=(1, 2, 3), reduction="elementwise_mean"
    )
    pooled = peak_signal_noise_ratio(image.double(), original.double(), data_range=255.0)
    assert ours.mean() == pytest.approx(float(per_image), abs=1e-4)  # fp32 there
    assert ours.mean() > float(pooled) + 3


def test_seams_are_the_steps_that_only_borders_have():
    ramp = torch.arange(0, 32, 2, dtype=torch.uint8).expand(
        1, 3, 16, 16
    )  # a step of 2 everywhere in rows, 0 in columns
    patches = (torch.arange(16) // 4 % 2 * 10).to(torch.uint8)
    tiled = (ramp + patches).to(torch.uint8)
    assert float(seams(ramp, ramp, 4)) == 0.0
    # in rows the three borders have steps of 12, 8 and 12 in place of 2; columns have none: 26 over 6 borders in all
    assert float(seams(tiled, ramp, 4)) == pytest.approx(26 / 6)
    assert float(seams(tiled, tiled, 4)) == 0.0
    assert float(seams(tiled, ramp, 5)) < 0  # these borders lie elsewhere
    image, original = noisy_pair()
    assert seams(image, original, 4).abs().max() < 3  # noise has no seams
    with pytest.raises(ValueError, match=r"`patch` \(24\)"):
        seams(image, original, 24)


def test_psnr_closed_form_and_cap():
    original = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image = torch.full_like(original, 10)
    assert float(psnr(image, original)) == pytest.approx(20 * math.log10(25.5))
    assert float(psnr(original, original)) == PSNR_CAP
    assert float(l1(image, original)) == pytest.approx(10 / 255)


def test_ssim_is_torchmetrics_per_image():
    image, original = noisy_pair()
    ours = ssim(image, original)
    for n in range(2):
        theirs = structural_similarity_index_measure(
            image[n : n + 1].double() / 255, original[n : n + 1].double() / 255, data_range=1.0
        )
        assert float(ours[n]) == pytest.approx(float(theirs), abs=1e-9)


@pytest.mark.parametrize("measure", [psnr, ssim, l1])
def test_wrong_input_is_an_error(measure):
    image, original = noisy_pair()
    with pytest.raises(ValueError, match="uint8"):
        measure(image.float(), original)
    with pytest.raises(ValueError, match="shape"):
        measure(image[:, :, :8], original)


def test_perplexity_of_known_distributions():
    assert perplexity(torch.full((16,), 3)) == pytest.approx(16)
    assert perplexity(torch.tensor([9, 0, 0])) == pytest.approx(1)
    assert perplexity(torch.zeros(4, dtype=torch.int64)) == 0.0
    half = torch.tensor([1, 1, 2])
    assert perplexity(half) == pytest.approx(2 ** (0.5 * 2 + 0.5 * 1))


def test_counts_add_up_over_batches():
    ids = torch.randint(0, 10, (20, 6), generator=torch.Generator().manual_seed(0))
    whole = code_counts(ids, 12)
    assert torch.equal(whole, code_counts(ids[:7], 12) + code_counts(ids[7:], 12))
    assert whole.sum() == 120 and len(whole) == 12
    assert usage(whole) == pytest.approx(len(ids.unique()) / 12)


def test_positions_tell_a_collapsed_span():
    ids = torch.stack([torch.arange(64) % 16, torch.arange(64) % 16, torch.zeros(64).long(), torch.zeros(64).long()], 1)
    assert perplexity_by_position(ids, 16, groups=2) == pytest.approx([16, 1])
    assert len(perplexity_by_position(ids, 16, groups=9)) == 4
