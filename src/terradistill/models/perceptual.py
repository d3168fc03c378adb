"""A distance between images in the features of a classifier: how a texture looks, not where its pixels are."""

from typing import Any

import torch
from torch import Tensor, nn


class Perceptual(nn.Module):
    """LPIPS without its learned weights (Zhang et al. 2018), on the blocks of a ConvNet that knows the scenes.

    The features of each position have unit length; the distance is the mean over positions of their squared
    difference, summed over the blocks.
    """

    def __init__(self, network: Any) -> None:
        """`network` is a trained "convnet3" of `build_network`; it is frozen."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Of images (n, 3, H, W) in [-1, 1]: what each block says before it is pooled, (n, D, h, w)."""
        found, x = [], images
        for layer in self.network.body:
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                break
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(nn.functional.normalize(x.float(), dim=1, eps=1e-3))
        return found

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Mean distance of two batches (n, 3, H, W) in [-1, 1]: a scalar."""
        with torch.no_grad():
            wanted = self.features(others)
        pairs = zip(self.features(images), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()
