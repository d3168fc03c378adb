"""Clouds over scenes, simulated: fractal noise that hides what is under it."""

import torch
from torch import Tensor

OCTAVES = 5
SAMPLE = 100_003  # pixels that the level of clouds is read off


def cloud_cover(n: int, height: int, width: int, cover: float, rng: torch.Generator) -> Tensor:
    """How thick clouds are: float32 (n, 1, height, width) from 0 (none) to 1.

    Args:
        n: how many scenes.
        height: of a scene, pixels.
        width: likewise.
        cover: share of each scene that is hidden at least half, in [0, 1].
        rng: the chance.
    """
    field = torch.zeros(n, 1, height, width)
    for octave in range(OCTAVES):
        cells = 2 ** (octave + 1) + 1
        grid = torch.randn(n, 1, cells, cells, generator=rng)
        field += torch.nn.functional.interpolate(grid, (height, width), mode="bicubic", align_corners=True) / 2**octave
    if cover <= 0:
        return torch.zeros_like(field)
    some = field.flatten(1)[:, :: max(1, height * width // SAMPLE)]  # a quantile of all is refused where they are many
    edge = torch.quantile(some, 1 - min(cover, 1.0), dim=1).view(-1, 1, 1, 1)
    spread = field.flatten(1).std(1, correction=0).clamp_min(1e-6).view(-1, 1, 1, 1)  # 0 of a single pixel
    return ((field - edge) / (0.2 * spread) + 0.5).clamp(0, 1)


def clouded(images: Tensor, thickness: Tensor, white: float = 0.9) -> Tensor:
    """Images (n, C, H, W) in [-1, 1] under clouds of a thickness (n, 1, H, W)."""
    return images + thickness * (white - images)
