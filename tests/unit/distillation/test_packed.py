"""Four scenes in the place of one, and out again, as the scoreboard does it."""

from typing import Any

import numpy as np

from terradistill.distillation.sets import as_stored
from terradistill.evaluation.harness import Labelled
from terradistill.evaluation.method import Method


def test_four_halved_scenes_of_a_class_stand_in_one_and_come_back() -> None:
    labels = np.array([0, 1] * 4)
    images = np.zeros((8, 16, 16, 3), np.uint8)
    images[:, :8] = (20 * np.arange(1, 9))[:, None, None, None]  # dark below, so that turned scenes would be seen
    nobody: Any = None
    sets, stored = as_stored(nobody, [Labelled(images, labels)], Method("x", 2, soft=False))
    (back,) = sets
    assert back.images.shape == images.shape, "at the size that they had"
    assert back.labels.tolist() == [0] * 4 + [1] * 4
    assert np.abs(back.images[:, 2, 2, 0].astype(int) - [20, 60, 100, 140, 40, 80, 120, 160]).max() < 10
    assert back.images[:, 13:].max() < 10
    alone, whole = as_stored(nobody, [Labelled(images, labels)], Method("x", 1, soft=False))
    assert alone[0].images is images
    assert stored["bytes"] < whole["bytes"]
