"""How alike two images are, place by place: SSIM, and the most similar of many."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.images import to_float

WINDOW, SIGMA = 11, 1.5  # of the Gaussian window (Wang et al. 2004)
C1, C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), the mean over channels and whole windows: float32 (n,), at most 1.

    Written here since torchmetrics averages over padded borders too, which differs much on small scenes.

    Args:
        x: images in [-1, 1], (n, C, H, W), sides at least 11; or one, (1, C, H, W), to compare with all of `y`.
        y: images, (n, C, H, W).
    """
    return _alike(_Moments.of(x), _Moments.of(y))


@dataclass(frozen=True)
class _Moments:
    """Images in [0, 1], and the mean and the variance of their windows."""

    image: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "_Moments":
        images = (images + 1) / 2
        mean = _windowed(images)
        return cls(images, mean, _windowed(images * images) - mean**2)

    def one(self, k: int) -> "_Moments":
        return _Moments(self.image[k : k + 1], self.mean[k : k + 1], self.variance[k : k + 1])


def _alike(x: _Moments, y: _Moments) -> Tensor:
    covariance = _windowed(x.image * y.image) - x.mean * y.mean
    alike = (2 * x.mean * y.mean + C1) * (2 * covariance + C2)
    alike = alike / ((x.mean**2 + y.mean**2 + C1) * (x.variance + y.variance + C2))
    return alike.mean((1, 2, 3))


def most_similar(
    images: NDArray[np.uint8], others: NDArray[np.uint8], k: int = 5, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """The k most similar of the others, by SSIM, for each image.

    Args:
        images: uint8 (n, H, W, 3).
        others: uint8 (m, H, W, 3).
        k: how many; fewer where there are fewer others.
        batch_size: of the others, looked at together.

    Returns:
        SSIM float32 (n, min(k, m)), the highest first, and which they are, int64 of the same shape.
    """
    own, found = _Moments.of(to_float(images)), []
    for start in range(0, len(others), batch_size):
        part = _Moments.of(to_float(others[start : start + batch_size]))
        found.append(torch.stack([_alike(own.one(i), part) for i in range(len(images))]))
    best = torch.cat(found, 1).topk(min(k, len(others)), dim=1)
    return best.values, best.indices


def _windowed(x: Tensor) -> Tensor:
    """Gaussian-weighted means of the windows that lie wholly inside, by matrix products: on small scenes several times
    faster than convolutions of single planes."""
    return _windows(x.shape[2]).to(x) @ x @ _windows(x.shape[3]).to(x).T


def _windows(length: int) -> Tensor:
    """A window a row, float32 (length - 10, length)."""
    offset = torch.arange(WINDOW, dtype=torch.float32) - WINDOW // 2
    row = torch.exp(-(offset**2) / (2 * SIGMA**2))
    return torch.eye(length).unfold(0, WINDOW, 1) @ (row / row.sum())
