"""How near made images come to the real scenes of one class: in bands of detail, in pixels, in features."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from terradistill.data.arrays import evenly
from terradistill.evaluation.copies import Likeness, flagged, likeness, thresholds, twins
from terradistill.evaluation.similarity import most_similar

CALIBRATED_BY = 500  # scenes of a class and side, at most
_NONE = torch.tensor(-1.0)  # a cosine that is never the highest
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
        others: scenes that were not, uint8 (k, 64, 64, 3); m + k at least 2. How like scenes are without being copies
            is read off them and off those of `real`, each beside the others.
        features: of uint8 images, float32 (n, D).
    """
    f_real = F.normalize(features(real), dim=1)
    # Real scenes of either side say it, those learned from without themselves: few of one side know no rare likeness.
    alike: list[Likeness] = []
    near: list[Tensor] = []
    if len(real) > 1:
        some = evenly(CALIBRATED_BY, len(real))
        alike.append(likeness(real[some], real, itself=some))
        near.append((f_real[some] @ f_real.T).index_put((torch.arange(len(some)), torch.as_tensor(some)), _NONE))
    if len(others):
        alike.append(likeness(others, real))
        near.append(F.normalize(features(others), dim=1) @ f_real.T)
    usual = Likeness(torch.cat([each.value for each in alike]), torch.cat([each.nearest for each in alike]))
    ssim, which = most_similar(images, real)
    cosine = (F.normalize(features(images), dim=1) @ f_real.T).max(1)
    return Neighbours(
        found=likeness(images, real),
        limits=thresholds(usual),
        ssim=ssim,
        similar=which[:, 0],
        cosine=cosine.values,
        near=cosine.indices,
        cosine_limit=float(torch.quantile(torch.cat(near).max(1).values, 0.99)),
        n_twins=int(twins(usual).sum()),
    )
