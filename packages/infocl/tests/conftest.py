"""Shared by the tests of this folder: helper modules beside them, one thread, reproducible random numbers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
# The helpers are a package of their own name, importable whatever pytest's import mode
sys.path.insert(0, str(HERE))


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
