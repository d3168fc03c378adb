from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from terradistill.config import load_settings
from terradistill.hardware import Hardware
from terradistill.settings import Settings


@pytest.fixture
def cpu() -> Hardware:
    return Hardware(torch.device("cpu"))


@pytest.fixture
def tiny() -> Settings:
    return load_settings(["tiny"])


@pytest.fixture
def scenes() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Two classes that a glance tells apart: dark with a bright stripe, bright with a dark one; (24, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    pixels = rng.integers(0, 40, (24, 32, 32, 3)) + 60
    for image, label, at in zip(pixels, labels, rng.integers(0, 28, 24), strict=True):
        image[:, at : at + 4] += 90
        if label:
            image[:] = 255 - image
    return pixels.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


class Log:
    """A `Watch` that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def progress(self, done: int, total: int) -> None: ...

    def log(self, step: int, **values: float) -> None:
        self.rows.append({"step": step, **values})

    def forget_after(self, step: int) -> None:
        self.rows = [row for row in self.rows if row["step"] <= step]
