"""Four scenes in the place of one, and out again."""

import numpy as np

from terradistill.distillation.comparison import _packed, _unpacked
from terradistill.evaluation.harness import Labelled


def test_four_halved_scenes_of_a_class_stand_in_one_and_come_back() -> None:
    labels = np.array([0, 1] * 4)
    images = np.zeros((8, 16, 16, 3), np.uint8)
    images[:, :8] = (20 * np.arange(1, 9))[:, None, None, None]  # dark below, so that turned scenes would be seen
    packed = _packed(Labelled(images, labels))
    assert packed.shape == (2, 16, 16, 3)
    assert packed[0, 0, 0, 0] == 20, "the first of class 0"
    assert packed[0, 0, 8, 0] == 60, "the second of it, to its right"
    assert packed[1, 8, 0, 0] == 120, "the third of class 1, below its first"
    assert packed[1, 15, 15, 0] == 0

    back = _unpacked(packed, labels)
    assert back.labels.tolist() == [0] * 4 + [1] * 4
    assert back.images[:, 2, 2, 0].tolist() == [20, 60, 100, 140, 40, 80, 120, 160]
    assert not back.images[:, 13:].any()
