from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import tilewright


@pytest.fixture(autouse=True)
def _strictly() -> Iterator[None]:
    """A fusion that fails raises, and no test sees another's graphs."""
    torch._dynamo.reset()
    tilewright.compiler.reset()
    with tilewright.options(strict=True):
        yield
