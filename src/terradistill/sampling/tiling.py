"""Scenes larger than the denoiser knows: predicted in tiles that overlap, feathered into one prediction in every step.

So tiles agree while they are drawn, instead of being blended when they no longer do (MultiDiffusion, Bar-Tal et al.
2023).
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from terradistill.models.control import Control
from terradistill.sampling.sampler import Guidance, Predict, Step

Corner = tuple[int, int]


def corners(height: int, width: int, side: int, overlap: int) -> list[Corner]:
    """Upper left corners of square tiles that cover a rectangle, spread evenly, overlapping by `overlap` or more."""

    def along(length: int) -> list[int]:
        if length <= side:
            return [0]
        n = 1 + -(-(length - side) // (side - overlap))
        return [round(k * (length - side) / (n - 1)) for k in range(n)]

    return list(product(along(height), along(width)))


def feather(height: int, width: int, overlap: int) -> Tensor:
    """Weights of a tile, float32 (height, width): 1 inside, falling off towards its edges, never 0.

    They fall as sin²: two tiles add up to 1 where they overlap, and the outermost row, which knows least of what is
    around it, says least.
    """

    def along(length: int) -> Tensor:
        steps = torch.arange(length, dtype=torch.float32)
        edge = torch.minimum(steps, length - 1 - steps) + 0.5
        return torch.sin((edge / overlap).clamp(max=1) * torch.pi / 2).square()

    return along(height)[:, None] * along(width)[None]


def in_tiles(
    work: Callable[[Tensor], Tensor],
    x: Tensor,
    side: int,
    overlap: int,
    *,
    give: int = 1,
    take: int = 1,
    batch_size: int = 8,
) -> Tensor:
    """What a local function makes of a large image, tile by tile, feathered together: float32 (C', H', W') on the CPU.

    Args:
        work: tiles (B, C, side * give, side * give) to (B, C', side * take, side * take).
        x: (C, H, W), both sides multiples of `give`.
        side: of a tile, in units that are whole on both sides of the function; a smaller image is one tile.
        overlap: units over which tiles are feathered.
        give: pixels a unit that go in.
        take: pixels a unit that come out.
        batch_size: tiles at a time, which bounds the memory.
    """
    height, width = x.shape[1] // give, x.shape[2] // give
    places = corners(height, width, side, overlap)
    soft = feather(min(side, height) * take, min(side, width) * take, overlap * take)
    total, weights = torch.empty(0), torch.zeros(height * take, width * take)
    for first in range(0, len(places), batch_size):
        some = places[first : first + batch_size]
        tiles = [x[:, v * give : (v + side) * give, u * give : (u + side) * give] for v, u in some]
        made = work(torch.stack(tiles)).float().cpu()
        if not len(total):
            total = torch.zeros(made.shape[1], *weights.shape)
        for (v, u), tile in zip(some, made, strict=True):
            there = (slice(v * take, v * take + soft.shape[0]), slice(u * take, u * take + soft.shape[1]))
            total[:, *there] += soft * tile
            weights[there] += soft
    return total / weights


def tiled(
    places: list[Corner],
    side: int,
    overlap: int,
    *,
    control: Callable[[Tensor], Control] | None = None,
    batch_size: int = 16,
) -> Guidance:
    """Predict one large image tile by tile: guidances before it in the list see tiles, those after it the image.

    Args:
        places: of the tiles, some of those that `corners` gives, in latents; where there is none, the prediction is 0.
        side: of a tile, latents; a smaller image is one tile.
        overlap: latents over which tiles are feathered.
        control: from tile numbers to what an adapter has read off their conditions; None: it is not used.
        batch_size: tiles at a time, which bounds the memory.
    """

    def guide(predict: Predict) -> Predict:
        def guided(step: Step) -> tuple[Tensor, Tensor]:
            height, width = step.z.shape[2:]
            total, weights = torch.zeros_like(step.z), torch.zeros(height, width, device=step.z.device)
            soft = feather(min(side, height), min(side, width), overlap).to(step.z)
            known = replace(step, z=step.z[:, :, :0, :0])  # the whole image is not copied for every tile
            for numbers in torch.arange(len(places)).split(batch_size):
                some = [places[int(k)] for k in numbers]
                several = torch.zeros(len(some), dtype=torch.long)
                tiles = torch.cat([step.z[:, :, y : y + side, x : x + side] for y, x in some])
                part = replace(
                    known.some(several.to(step.z.device)), z=tiles, control=control(numbers) if control else None
                )
                for (y, x), output in zip(some, predict(part)[1], strict=True):
                    total[0, :, y : y + side, x : x + side] += soft * output
                    weights[y : y + side, x : x + side] += soft
            return step.z, total / weights.clamp_min(torch.finfo(weights.dtype).tiny)

        return guided

    return guide
