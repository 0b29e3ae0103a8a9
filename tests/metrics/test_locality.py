"""The spread of a change against its extremes, a computation by loops, and what must not matter to it."""

import math
from itertools import pairwise

import pytest
import torch

from ddt_lightning.metrics.locality import change_spread

SIDE = 64


@pytest.fixture
def pair():
    """Two unlike images: smooth shapes on one, noise over a part of the other."""
    draw = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, SIDE, SIDE, generator=draw)
    b = torch.rand(3, 3, 1, 1, generator=draw).expand(-1, -1, SIDE, SIDE).clone()
    b[:, :, 20:44, 10:30] = torch.rand(3, 3, 24, 20, generator=draw) * 0.3
    return a, b


def as_bytes(image):
    return (255 * image).round().to(torch.uint8)


@pytest.mark.parametrize("rows", [8, 16, 32, 48, 56])
def test_swapped_regions_are_local_whatever_their_area(pair, rows):
    a, b = pair
    mixed = torch.cat([b[:, :, :rows], a[:, :, rows:]], 2)
    spread, moved = change_spread(mixed, a, b)
    assert spread.abs().max() < 1e-12
    apart = (b - a).square().mean(1)
    torch.testing.assert_close(moved, (apart[:, :rows].sum((1, 2)) / apart.sum((1, 2))).double(), rtol=1e-4, atol=0)


def test_regions_off_the_places_borders_stay_near_zero(pair):
    a, b = pair
    mixed = a.clone()
    mixed[:, :, 13:47, 5:51] = b[:, :, 13:47, 5:51]
    spread, _ = change_spread(as_bytes(mixed), as_bytes(a), as_bytes(b))
    assert spread.max() < 0.25  # 20 of 64 places lie on the border
    finer, _ = change_spread(as_bytes(mixed), as_bytes(a), as_bytes(b), cells=32)
    assert (finer < spread / 2).all()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_blend_is_everywhere_whatever_its_share(pair, share):
    a, b = pair
    spread, moved = change_spread(a + share * (b - a), a, b)
    assert spread.min() > 1 - 1e-6
    torch.testing.assert_close(moved, torch.full((3,), share**2 / (share**2 + (1 - share) ** 2)).double())
    rounded, _ = change_spread(as_bytes(a + share * (b - a)), as_bytes(a), as_bytes(b))
    assert rounded.min() > 0.99  # uint8, as measured


def test_patterns_finer_than_a_place_are_everywhere(pair):
    a, b = pair
    mixed = a.clone()
    mixed[:, :, ::2] = b[:, :, ::2]
    assert change_spread(mixed, a, b)[0].min() > 0.9
    assert change_spread(mixed, a, b, cells=SIDE)[0].max() < 1e-12  # and regions where a place is a pixel


def test_more_even_is_more(pair):
    """A region that moves further than the rest: the spread falls from a blend's to a swap's."""
    a, b = pair
    found = []
    for inside, outside in ((0.5, 0.5), (0.6, 0.4), (0.8, 0.2), (0.95, 0.05), (1.0, 0.0)):
        way = torch.full((1, 1, SIDE, SIDE), outside)
        way[..., :32] = inside
        found.append(change_spread(a + way * (b - a), a, b)[0])
    assert all((after < before).all() for before, after in pairwise(found))


def test_against_loops(pair):
    a, b = pair
    mixed = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    spread, moved = change_spread(mixed, a, b, cells=4)
    size = SIDE // 4
    for n in range(3):
        shares, weights = [], []
        for i in range(4):
            for j in range(4):
                place = (n, slice(None), slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size))
                c = float((mixed[place].double() - a[place].double()).pow(2).mean())
                d = float((mixed[place].double() - b[place].double()).pow(2).mean())
                shares.append(c / (c + d))
                weights.append(float((b[place].double() - a[place].double()).pow(2).mean()))
        mean = sum(w * g for w, g in zip(weights, shares, strict=True)) / sum(weights)
        variance = sum(w * (g - mean) ** 2 for w, g in zip(weights, shares, strict=True)) / sum(weights)
        assert math.isclose(float(moved[n]), mean, rel_tol=1e-9)
        assert math.isclose(float(spread[n]), 1 - variance / (mean * (1 - mean)), rel_tol=1e-9)


def test_what_does_not_matter(pair):
    a, b = pair
    mixed = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    spread, moved = change_spread(mixed, a, b)
    turned, back = change_spread(mixed, b, a)
    torch.testing.assert_close(turned, spread)
    torch.testing.assert_close(back, 1 - moved)
    flipped, _ = change_spread(*(image.flip(-1) for image in (mixed, a, b)))
    torch.testing.assert_close(flipped, spread)
    brighter, _ = change_spread(*(3 * image + 1 for image in (mixed, a, b)))
    torch.testing.assert_close(brighter, spread, rtol=1e-4, atol=1e-6)
    # places where A and B agree say nothing, whatever the mix does there
    a[..., 32:], b[..., 32:] = 0.5, 0.5
    other = mixed.clone()
    other[..., 32:] = 0.9
    torch.testing.assert_close(change_spread(mixed, a, b)[0], change_spread(other, a, b)[0])


def test_nothing_to_tell(pair):
    a, b = pair
    assert change_spread(a, a, b)[0].isnan().all() and (change_spread(a, a, b)[1] == 0).all()
    assert change_spread(b, a, b)[0].isnan().all() and (change_spread(b, a, b)[1] > 1 - 1e-12).all()
    spread, moved = change_spread(b, a, a)
    assert spread.isnan().all() and moved.isnan().all()


def test_errors(pair):
    a, b = pair
    with pytest.raises(ValueError, match="differ in shape"):
        change_spread(a[:1], a, b)
    with pytest.raises(ValueError, match="`cells`"):
        change_spread(a, a, b, cells=SIDE + 1)
