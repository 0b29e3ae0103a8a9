"""Nearest pictures: copies are found, mirrored ones too, and distances are root mean squares."""

import pytest
import torch

from ddt_lightning.metrics.nearest import nearest


def test_copies_and_their_mirror_images_are_found():
    others = torch.randint(0, 256, (7, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    distance, where = nearest(torch.stack([others[4], others[2].flip(-1)]), others, batch=3)
    assert where.tolist() == [4, 2] and distance.max() < 1e-3
    black, grey = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.full((2, 3, 64, 64), 51, dtype=torch.uint8)
    assert nearest(black, grey)[0].item() == pytest.approx(51 / 255, abs=1e-4)
    half = grey.clone()
    half[:, :, :32] = 0  # of the picture differs
    assert nearest(black, half)[0].item() == pytest.approx(51 / 255 * 0.5**0.5, rel=0.02)
