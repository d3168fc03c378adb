"""Candidates that are near-copies of train scenes, found while a set is chosen, when no test scene may be looked at."""

import json

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.arrays import Rows, evenly
from terradistill.data.images import load_pixels, resize
from terradistill.distillation.work import Work
from terradistill.evaluation.copies import SIDE, flagged, likeness, thresholds
from terradistill.files import write_text

CALIBRATED_BY = 200  # scenes of a class, spread evenly


class Originality:
    """How like to each other the known scenes of each class are, and whether an image is more like one than that."""

    def __init__(self, work: Work) -> None:
        known, cache = work.known_at(SIDE)
        self.pixels, self.labels = load_pixels(known, SIDE, cache), known.labels
        # Beside the pixels that they are read off: what chooses, refines and judges asks for the same.
        self.kept = cache.with_name(f"{cache.stem}-limits.json")
        found = json.loads(self.kept.read_text(encoding="utf-8")) if self.kept.exists() else {}
        self.limits = {int(label): torch.tensor(most) for label, most in found.items()}

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
                write_text(self.kept, json.dumps({each: most.tolist() for each, most in self.limits.items()}))
            found[here] = flagged(likeness(small[here], scenes), self.limits[label])
        return found
