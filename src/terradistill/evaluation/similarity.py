"""How alike two images are, place by place: SSIM, and the most similar of many."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

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
    x, y = (x + 1) / 2, (y + 1) / 2
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    alike = alike / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))
    return alike.mean((1, 2, 3))


def most_similar(
    images: NDArray[np.uint8], others: NDArray[np.uint8], k: int = 5, batch_size: int = 512
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
    found = []
    for image in to_float(images):
        parts = [others[start : start + batch_size] for start in range(0, len(others), batch_size)]
        found.append(torch.cat([ssim(image[None], to_float(part)) for part in parts]))
    best = torch.stack(found).topk(min(k, len(others)), dim=1)
    return best.values, best.indices


def _windowed(x: Tensor) -> Tensor:
    """Gaussian-weighted means of the windows that lie wholly inside."""
    n, channels, height, width = x.shape
    offset = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    row = torch.exp(-(offset**2) / (2 * SIGMA**2))
    row = row / row.sum()
    planes = x.reshape(n * channels, 1, height, width)
    planes = F.conv2d(F.conv2d(planes, row.view(1, 1, 1, -1)), row.view(1, 1, -1, 1))
    return planes.view(n, channels, *planes.shape[2:])
