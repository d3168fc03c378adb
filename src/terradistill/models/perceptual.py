"""Distances between images in the features of a classifier: what is seen where, and which textures."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, normalize


class Perceptual(nn.Module):
    """LPIPS without its learned weights (Zhang et al. 2018), on the blocks of a ConvNet that knows the scenes, and a
    distance of textures beside it."""

    def __init__(self, network: Any) -> None:
        """`network` is a trained "convnet3" of `build_network`; it is frozen."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Of images (n, 3, H, W) in [-1, 1]: what each block says before it is pooled, float32 (n, D, h, w)."""
        found, x = [], images
        for layer in self.network.body:
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                break
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x.float())
        return found

    def forward(self, images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Mean distance of two batches (n, 3, H, W) in [-1, 1]: two scalars.

        The first is of what is seen where: features of unit length, the squared difference of each position. The
        second is of textures, wherever their pixels are: means and root mean squares of each feature in squares of 8
        pixels, their squared difference as a share of the wanted square [ours; Gram matrices of a whole image in Gatys
        et al. 2015, of patches in EnhanceNet, Sajjadi et al. 2017]. Summed over the blocks.
        """
        with torch.no_grad():
            wanted = self.features(others)
        places, textures = [], []
        for block, (a, b) in enumerate(zip(self.features(images), wanted, strict=True)):
            places.append((normalize(a, dim=1, eps=1e-3) - normalize(b, dim=1, eps=1e-3)).square().sum(1).mean())
            for u, v in zip(_strengths(a, 8 >> block), _strengths(b, 8 >> block), strict=True):
                textures.append((u - v).square().mean() / v.square().mean())
        return torch.stack(places).sum(), torch.stack(textures).sum()


def _strengths(features: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Means and root mean squares of features (n, D, h, w) in squares of so many positions a side."""
    side = max(1, side)
    return avg_pool2d(features, side), (avg_pool2d(features.square(), side) + 1e-4).sqrt()
