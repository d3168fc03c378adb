"""Near-copies: is an image one of the real ones, perhaps turned, recompressed or noised?

An image is taken apart into three bands (what 16 pixels a side hold, what 32 add, what is finer), each without its
mean and of length 1; the likeness of two images in a band is the dot product, over the eight views. Detail of two
scenes that are not the same does not correlate, so even a noisy copy of a plain scene stands out [ours]. How like a
scene is to others of its class without being one of them is read off real scenes: see `thresholds`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from terradistill.data.arrays import Rows
from terradistill.data.images import to_float
from terradistill.data.views import N_VIEWS, view

SIDE = 64  # pixels at which images are compared
BANDS = ("coarse", "middle", "fine")
SHARE = 0.01  # of real scenes that may be beyond the limits
COMPARED = 256  # images and scenes at a time: 0.1 GB of bands
SLACK = 0.25  # of the way from the limit to identity: real scenes exceed a limit seen on few by a little


@dataclass(frozen=True)
class Likeness:
    """The most alike of a set of real scenes, band by band.

    Attributes:
        value: float32 (n, 3), the highest likeness of each image in each band, at most 1.
        nearest: int64 (n, 3), which scene that is.
    """

    value: Tensor
    nearest: Tensor


def bands(images: Tensor) -> list[Tensor]:
    """Three float32 tensors (n, d) of rows of length 1, for images (n, 3, 64, 64)."""
    small, smaller = F.avg_pool2d(images, 2), F.avg_pool2d(images, 4)
    parts = (smaller, small - _doubled(smaller), images - _doubled(small))
    return [F.normalize((part - part.mean((2, 3), keepdim=True)).flatten(1), dim=1, eps=1e-4) for part in parts]


def likeness(
    images: NDArray[np.uint8], others: NDArray[np.uint8] | Rows, *, itself: NDArray[np.int64] | None = None
) -> Likeness:
    """How like each image is to the most alike of the others in any view.

    Args:
        images: uint8 (n, 64, 64, 3).
        others: uint8 (m, 64, 64, 3), m at least 1.
        itself: where each image is among the others, int64 (n,), so that it is not compared with itself.
    """
    if len(images) > COMPARED:
        parts = [slice(start, start + COMPARED) for start in range(0, len(images), COMPARED)]
        found = [likeness(images[part], others, itself=None if itself is None else itself[part]) for part in parts]
        return Likeness(torch.cat([each.value for each in found]), torch.cat([each.nearest for each in found]))
    # Views of the images, of which there are fewer than others; views and bands can be taken in either order.
    seen, n = to_float(images), len(images)
    own = [torch.cat(parts) for parts in zip(*(bands(view(seen, k)) for k in range(N_VIEWS)), strict=True)]
    value = torch.full((n, len(BANDS)), -torch.inf)
    nearest = torch.zeros(n, len(BANDS), dtype=torch.long)
    for start in range(0, len(others), COMPARED):
        theirs = bands(to_float(others[start : start + COMPARED]))
        for band, (a, b) in enumerate(zip(own, theirs, strict=True)):
            dots = (a @ b.T).view(N_VIEWS, n, -1).amax(0)
            if itself is not None:
                here = np.flatnonzero((itself >= start) & (itself < start + len(b)))
                dots[torch.as_tensor(here), torch.as_tensor(itself[here] - start)] = -torch.inf
            best, where = dots.max(1)
            better = best > value[:, band]
            value[better, band], nearest[better, band] = best[better], where[better] + start
    return Likeness(value, nearest)


def twins(real: Likeness) -> Tensor:
    """Which of n real scenes occur twice (turned, recompressed, …): bool (n,). They say nothing of likeness.

    Such a scene is half-way from what is usual to identity in every band, fine detail too. [ours]
    """
    usual = torch.quantile(real.value, 0.9, dim=0)
    return (real.value > usual + 0.5 * (1 - usual)).all(1)


def thresholds(real: Likeness) -> Tensor:
    """How like an image may be in each band, float32 (3,): at most `SHARE` of the real scenes are more so in any.

    Scenes that occur twice are left out, or one of them would let every copy of its class pass.
    """
    alone = real.value[~twins(real)]
    return torch.quantile(alone if len(alone) else real.value, 1 - SHARE / len(BANDS), dim=0, interpolation="higher")


def flagged(found: Likeness, most: Tensor) -> Tensor:
    """Which images are near-copies: bool (n,). `most` is what `thresholds` allows."""
    return (found.value > most + SLACK * (1 - most)).any(1)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
