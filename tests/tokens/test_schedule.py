"""The token schedule against the published table and closed forms."""

import pytest
import torch

from ddt_lightning.tokens.flow import time_grid
from ddt_lightning.tokens.schedule import ScheduleConfig, last_visible, visibility, visible_mask

STAGED = ScheduleConfig([200, 400, 600, 800, 1000], [192, 184, 72, 48, 16])
TIMES = [0, 50, 100, 150, 200, 300, 400, 500, 600, 700, 800, 900, 950, 1000]
# Selftok's table of visible tokens at 50 sampling steps
STEPS_50 = [
    512, 511, 509, 508, 506, 505, 503, 501, 500, 498, 497, 492, 487, 482, 477, 473, 468, 463, 458, 453, 449, 441, 434,
    427, 420, 413, 405, 398, 391, 384, 376, 358, 339, 321, 303, 284, 266, 248, 229, 211, 192, 172, 154, 135, 116, 96,
    77, 58, 39, 20,
]  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (STAGED, [0, 48, 96, 144, 192, 284, 376, 412, 448, 472, 496, 504, 508, 511]),
        (ScheduleConfig(), [0, 25, 51, 76, 102, 153, 204, 256, 307, 358, 409, 460, 486, 511]),
    ],
)
def test_published_table(schedule, expected):
    assert last_visible(schedule, 512, torch.tensor(TIMES, dtype=torch.float32)).tolist() == expected


def test_the_fifty_sampling_steps():
    grid = time_grid(50)[:-1]
    assert (last_visible(STAGED, 512, (1000 * grid).floor()) + 1).tolist() == STEPS_50


def test_visibility_is_the_measured_share_of_times():
    t = (torch.arange(200_000) + 0.5) / 200_000
    measured = visible_mask(STAGED, 512, t).double().mean(0)
    assert torch.allclose(measured, visibility(STAGED, 512), atol=1e-5)
    assert visibility(STAGED, 512).sum().item() == pytest.approx(354.1, abs=0.05)


@pytest.mark.parametrize("tokens", [1, 7, 32])
def test_first_token_always_visible_and_count_never_falls(tokens):
    last = last_visible(ScheduleConfig(), tokens, torch.linspace(0, 1000, 5001))
    assert last[0] == 0
    assert last[-1] == tokens - 1
    assert (last.diff() >= 0).all()


@pytest.mark.parametrize(
    ("stages", "counts", "named"),
    [
        ([500], [], "schedule.stages"),
        ([600, 300, 1000], [1, 1, 1], "schedule.stages"),
        ([500, 1000], [4], "schedule.tokens_per_stage"),
        ([500, 1000], [4, 0], "schedule.tokens_per_stage"),
    ],
)
def test_bad_schedules_name_the_option(stages, counts, named):
    with pytest.raises(ValueError, match=named):
        ScheduleConfig(stages, counts)


def test_stages_must_hand_out_all_tokens():
    with pytest.raises(ValueError, match="tokens_per_stage"):
        ScheduleConfig([500, 1000], [4, 4]).check(9)
