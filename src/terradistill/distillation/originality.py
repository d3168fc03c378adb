"""Candidates that are near-copies of train scenes, found while a set is chosen, when no test scene may be looked at."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.arrays import Rows, evenly
from terradistill.data.images import load_pixels, resize
from terradistill.distillation.work import Work
from terradistill.evaluation.copies import SIDE, flagged, likeness, thresholds

CALIBRATED_BY = 200  # scenes of a class, spread evenly


class Originality:
    """How like to each other the known scenes of each class are, and whether an image is more like one than that."""

    def __init__(self, work: Work) -> None:
        known, cache = work.known_at(SIDE)
        self.pixels, self.labels = load_pixels(known, SIDE, cache), known.labels
        self.limits: dict[int, Tensor] = {}

    def copies(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Tensor:
        """Which images are near-copies of a train scene of their class: bool (n,).

        Args:
            images: uint8 (n, H, W, 3).
            labels: their classes, int64 (n,).
        """
        small = np.stack([resize(image, SIDE) for image in images])
        found = torch.zeros(len(images), dtype=torch.bool)
        for label in np.unique(labels).tolist():
            scenes, here = Rows(self.pixels, np.flatnonzero(self.labels == label)), labels == label
            if label not in self.limits:
                some = evenly(CALIBRATED_BY, len(scenes))
                self.limits[label] = thresholds(likeness(scenes[some], scenes, itself=some))
            found[here] = flagged(likeness(small[here], scenes), self.limits[label])
        return found
