"""A coarser sensor over a scene, and a place in another season: simulated, and labelled so wherever it is used."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MIDSUMMER = 7.0  # the month that looks as the scene does


@dataclass(frozen=True)
class Sensor:
    """Blur, decimation, radiometry and noise, in this order. [ours]

    Attributes:
        scale: pixels of the scene per pixel of the sensor, along a side.
        blur: deviation of its point spread, in its own pixels.
        gain: deviation of a scene's contrast around 1.
        offset: deviation of a scene's brightness, of the range -1 … 1.
        noise: deviation of a pixel, likewise.
    """

    scale: int = 4
    blur: float = 0.4
    gain: float = 0.03
    offset: float = 0.02
    noise: float = 0.01

    def see(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Scenes (B, C, H, W) in [-1, 1] as it sees them: (B, C, H / scale, W / scale)."""
        n = len(images)
        x = F.avg_pool2d(blurred(images, self.blur * self.scale), self.scale) if self.scale > 1 else images
        gain, offset = (torch.randn(2, n, 1, 1, 1, generator=rng)).unbind()
        x = (1 + self.gain * gain) * x + self.offset * offset
        return (x + self.noise * torch.randn(x.shape, generator=rng)).clamp(-1, 1)


def blurred(images: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur of (B, C, H, W), mirrored at the edges."""
    if deviation <= 0:
        return images
    reach = min(math.ceil(3 * deviation), min(images.shape[2:]) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    kernel = (weights / weights.sum()).to(images)
    channels = images.shape[1]
    x = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(x, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def shifted(images: Tensor, pixels: Tensor) -> Tensor:
    """Each image of (B, C, H, W) moved by fractions of pixels, (B, 2) down and right; mirrored at the edges."""
    height, width = images.shape[2:]
    move = -2 * pixels.flip(1) / torch.tensor([width, height])
    turn = torch.eye(2).expand(len(images), 2, 2)
    grid = F.affine_grid(torch.cat([turn, move[:, :, None]], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images), padding_mode="reflection", align_corners=False)


def in_month(images: Tensor, months: Tensor) -> Tensor:
    """Scenes (B, 3, H, W) in [-1, 1], taken for midsummer ones, as they might look in months (B,), 1 … 13.

    What is green dries and browns towards the winter, and the light fades: northern mid-latitudes. [ours]
    """
    x = (images + 1) / 2
    red, green, blue = x.unbind(1)
    leaves = torch.sigmoid(30 * (green - (red + blue) / 2 - 0.01))[:, None]
    summer = (0.5 + 0.5 * torch.cos(2 * math.pi * (months - MIDSUMMER) / 12)).view(-1, 1, 1, 1).to(x)
    dry = x.mean(1, keepdim=True) * torch.tensor([1.18, 1.0, 0.72]).view(1, 3, 1, 1).to(x)
    share = 0.85 * leaves * (1 - summer)
    return ((x + share * (dry - x)) * (0.8 + 0.2 * summer)).clamp(0, 1) * 2 - 1
