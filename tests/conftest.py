"""Shared by all tests: one thread per process, outside data by environment only."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def ddt_data() -> Path:
    """Folder of real data, or a skip."""
    if "DDT_DATA" not in os.environ:
        pytest.skip("DDT_DATA is not set")
    return Path(os.environ["DDT_DATA"])


@pytest.fixture(scope="session")
def ddt_judges() -> Path:
    """Folder of real judges, or a skip."""
    if "DDT_JUDGES" not in os.environ:
        pytest.skip("DDT_JUDGES is not set")
    return Path(os.environ["DDT_JUDGES"])
