"""How near made images come to the real scenes of one class: in bands of detail, in pixels, in features."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from terradistill.evaluation.copies import Likeness, flagged, likeness, thresholds, twins
from terradistill.evaluation.similarity import most_similar

Features = Callable[[NDArray[np.uint8]], Tensor]


@dataclass(frozen=True)
class Neighbours:
    """Of n images, their neighbours among m real scenes that were learned from.

    Attributes:
        found: likeness by band; see `terradistill.evaluation.copies`.
        limits: float32 (3,), how like real scenes are to each other in each band.
        ssim: float32 (n, up to 5), of the most similar scenes, the highest first (NN-SSIM of DPD is their mean).
        similar: int64 (n,), the most similar scene.
        cosine: float32 (n,), of the nearest scene's features.
        near: int64 (n,), which scene that is.
        cosine_limit: what 99 % of real scenes stay below.
        n_twins: scenes that occur twice, and so say nothing of how like scenes are.
    """

    found: Likeness
    limits: Tensor
    ssim: Tensor
    similar: Tensor
    cosine: Tensor
    near: Tensor
    cosine_limit: float
    n_twins: int = 0

    @property
    def flagged(self) -> Tensor:
        """Which images are near-copies: bool (n,)."""
        return flagged(self.found, self.limits)

    @property
    def excess(self) -> tuple[Tensor, Tensor, Tensor]:
        """How far beyond the limit, 1 being identity, in the band that comes nearest to a copy; that band; of which."""
        beyond = (self.found.value - self.limits) / (1 - self.limits).clamp_min(1e-6)
        most, band = beyond.max(1)
        return most, band, self.found.nearest.gather(1, band[:, None])[:, 0]


def neighbours_of(
    images: NDArray[np.uint8], real: NDArray[np.uint8], others: NDArray[np.uint8], features: Features
) -> Neighbours:
    """Compare images with the real scenes of their class.

    Args:
        images: uint8 (n, 64, 64, 3).
        real: scenes that were learned from, uint8 (m, 64, 64, 3), m at least 1.
        others: scenes that were not, uint8 (k, 64, 64, 3), which say how like scenes are without being copies. Without
            any, those of `real` say so to each other, and there are at least two of them.
        features: of uint8 images, float32 (n, D).
    """
    f_real = F.normalize(features(real), dim=1)
    if len(others):
        alike, near = likeness(others, real), F.normalize(features(others), dim=1) @ f_real.T
    else:
        alike = likeness(real, real, itself=np.arange(len(real)))
        near = (f_real @ f_real.T).fill_diagonal_(-1)
    ssim, which = most_similar(images, real)
    cosine = (F.normalize(features(images), dim=1) @ f_real.T).max(1)
    return Neighbours(
        found=likeness(images, real),
        limits=thresholds(alike),
        ssim=ssim,
        similar=which[:, 0],
        cosine=cosine.values,
        near=cosine.indices,
        cosine_limit=float(torch.quantile(near.max(1).values, 0.99)),
        n_twins=int(twins(alike).sum()),
    )
