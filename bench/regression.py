"""A regression network beside an enhancer: of its size, taught for a given time, and told days and months too."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from terradistill.data.images import to_float, to_uint8
from terradistill.data.sensor import in_month
from terradistill.enhancing.enhancer import Enhancer
from terradistill.seeding import generator as seeded
from terradistill.training.frames import Shown

Pixels = NDArray[np.uint8]
RATE = 3e-4  # of learning, at first


def regression(
    enhancer: Enhancer,
    n: int,
    channels: int,
    some: Callable[[NDArray[np.int64], torch.Generator], tuple[Tensor, Tensor, Tensor]],
    seconds: float,
) -> Callable[[Tensor, Tensor], Pixels]:
    """A U-Net that learns to correct bicubic interpolation, of about the adapter's weights, for a time.

    `some` gives what it sees (B, channels, h, w), coarse pictures (B, 3, h, w), which are corrected, and scenes
    (B, 3, H, W) of some of n. What is returned makes images of the first two.
    """
    from diffusers import UNet2DModel

    device, size = enhancer.hardware.device, sum(p.numel() for p in enhancer.adapter.parameters())
    scale = enhancer.adapter.scale
    widths = (32, 64, 128, 128)
    network: Any
    for width in range(16, 257, 16):
        widths = (width, 2 * width, 4 * width, 4 * width)
        network = UNet2DModel(
            in_channels=channels, out_channels=3, block_out_channels=widths, layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D",) * 4, up_block_types=("UpBlock2D",) * 4, add_attention=False,
        )  # fmt: skip
        if sum(p.numel() for p in network.parameters()) >= size:
            break
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), RATE)

    def corrected(x: Tensor, coarse: Tensor) -> Tensor:
        wide, base = (
            F.interpolate(each.to(device), scale_factor=scale, mode="bicubic", align_corners=False)
            for each in (x, coarse)
        )
        with enhancer.hardware.learning.autocast():
            return torch.as_tensor(base + network(wide, 0).sample.float())

    began, step = time.monotonic(), 0
    while (share := (time.monotonic() - began) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = RATE * (1 - share)  # as the adapter's falls
        rng = seeded(0, "regression", step)
        x, coarse, y = some(torch.randint(0, n, (8,), generator=rng).numpy(), rng)
        loss = (corrected(x, coarse) - y.to(device)).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
    network.eval()
    print(f"<!-- regression: {sum(p.numel() for p in network.parameters()):,} weights, {step:,} steps of 8 -->")

    @torch.no_grad()
    def apply(x: Tensor, coarse: Tensor) -> Pixels:
        parts = [to_uint8(corrected(x[k : k + 16], coarse[k : k + 16])) for k in range(0, len(x), 16)]
        return np.concatenate(parts)

    return apply


def planes(values: Tensor, like: Tensor) -> Tensor:
    """Numbers (B, k) as planes (B, k, h, w) beside frames of that size."""
    return values[:, :, None, None].expand(*values.shape, *like.shape[-2:])


def turning(months: Tensor) -> Tensor:
    """Months (B, k) on their circle: (B, 2 k)."""
    return torch.cat([torch.sin(2 * torch.pi * months / 12), torch.cos(2 * torch.pi * months / 12)], 1)


def numbers(shown: Shown, name: str) -> Tensor:
    """What is known of frames by a name: (B, T)."""
    return torch.tensor([[frame[name] for frame in row] for row in shown.known])


def rounded(frames: Tensor) -> Tensor:
    """Frames (B, T, 3, h, w) as files hold them, and enhancers are given them."""
    n, dates = frames.shape[:2]
    return torch.as_tensor(to_float(to_uint8(frames.flatten(0, 1))).unflatten(0, (n, dates)))


def dated(shots: Sequence[Shown], most: float) -> tuple[Tensor, Tensor]:
    """Frames of several dates, their days and the season asked for, nearest first, and the nearest frame alone."""
    frames = rounded(torch.cat([shot.frames for shot in shots], 1))
    days = torch.cat([numbers(shot, "days") for shot in shots], 1)
    order = days.abs().argsort(1)
    frames = frames.gather(1, order[:, :, None, None, None].expand_as(frames))
    month = torch.tensor([[target["month"]] for target in shots[0].target])
    told = torch.cat([days.gather(1, order) / most, turning(month)], 1)
    return torch.cat([frames.flatten(1, 2), planes(told, frames)], 1), frames[:, 0]


def in_season(scenes: Tensor, shown: Shown) -> Tensor:
    """Scenes (B, 3, H, W) in the months that were asked for."""
    return in_month(scenes, 1 + torch.tensor([target["month"] for target in shown.target]))


def several(shown: Shown) -> tuple[Tensor, Tensor]:
    """Frames of several months, these and the one asked for, and the frame of the nearest month alone."""
    months, target = numbers(shown, "month"), torch.tensor([[target["month"]] for target in shown.target])
    gap = (months - target).abs()
    nearest = torch.minimum(gap, 12 - gap).argmin(1)
    told, frames = torch.cat([turning(months), turning(target)], 1), rounded(shown.frames)
    return torch.cat([frames.flatten(1, 2), planes(told, frames)], 1), frames[torch.arange(len(nearest)), nearest]
