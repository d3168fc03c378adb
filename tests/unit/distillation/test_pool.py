"""Candidates that are drawn once."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.distillation.pool import Pool
from terradistill.settings import SamplingSettings


def test_only_what_is_new_is_drawn(tmp_path: Path) -> None:
    calls: list[list[int]] = []

    def draw(places: NDArray[np.int64]) -> torch.Tensor:
        calls.append(places.tolist())
        return torch.as_tensor(places, dtype=torch.float32)[:, None, None, None] + torch.zeros(len(places), 2, 3, 3)

    def asked(*names: str) -> list[object]:
        return [[name, 7, None] for name in names]

    pool = Pool(tmp_path, SamplingSettings())
    assert pool.get(asked("a", "b"), draw)[:, 0, 0, 0].tolist() == [0, 1]
    assert pool.get(asked("c", "b", "d", "a"), draw)[:, 0, 0, 0].tolist() == [0, 1, 2, 0]
    assert pool.get(asked("b"), draw).shape == (1, 2, 3, 3)
    assert calls == [[0, 1], [0, 2]]


def test_other_ways_to_draw_share_nothing_and_other_choices_all(tmp_path: Path) -> None:
    def folders(**sampling: object) -> int:
        pool = Pool(tmp_path, SamplingSettings.model_validate(sampling))
        pool.get(["x"], lambda k: torch.zeros(len(k), 1, 2, 2))
        return len(list(tmp_path.iterdir()))

    assert folders() == 1
    assert folders(steps=10) == 2
    assert folders(prototype_scale=0.5) == 3
    assert folders(candidates=9, selection="margin", refine_rounds=0, batch_size=7, avoid_copies=False) == 3
