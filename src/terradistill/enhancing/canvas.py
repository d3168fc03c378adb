"""Images of any size through a generator that draws small ones: in tiles that agree while they are drawn."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from terradistill.data.images import to_float, to_uint8
from terradistill.errors import DataError
from terradistill.hardware import Hardware
from terradistill.models.control import Control
from terradistill.models.generator import Generator
from terradistill.run import Progress
from terradistill.sampling.guidance import chunked, classifier_free, reporting
from terradistill.sampling.sampler import Guidance, Request, decoded, sample
from terradistill.sampling.tiling import Corner, corners, in_tiles, tiled
from terradistill.settings import SamplingSettings

Kind = TypeVar("Kind", bound=np.generic)
MOST = 4  # times the generator's own pixels, that is drawn in one piece [ours]
OVERLAP = 8  # latents that neighbouring tiles share, at least, where they have twice as many: fewer leave grain [ours]


def padded(image: NDArray[Kind], multiple: int) -> NDArray[Kind]:
    """An image (H, W, ...) mirrored beyond its lower and right edges until both sides are multiples."""
    more = [(0, -side % multiple) for side in image.shape[:2]]
    # "symmetric" repeats itself where an image is smaller than what is added.
    return np.pad(image, [*more, *[(0, 0)] * (image.ndim - 2)], mode="symmetric")


def multiple_of(generator: Generator) -> int:
    """Both sides of what is drawn are multiples of it, pixels: every level of the denoiser halves whole."""
    return int(generator.factor * 2 ** (len(generator.unet.config.block_out_channels) - 1))


def require_small(generator: Generator, name: str, height: int, width: int, scale: int = 1) -> None:
    """Make sure that an image that is drawn in one piece is not too large for that.

    Raises:
        DataError: it is.
    """
    most = int(MOST**0.5 * generator.resolution / scale)
    if height * width > most**2:
        raise DataError(f"{name} has {width} x {height} pixels, more than is drawn at once: cut it to {most} a side.")


def tiles_of(generator: Generator, size: tuple[int, int]) -> list[Corner]:
    """Corners of the tiles that latents of a size are drawn in; one where it is no larger than the generator's own."""
    side = generator.latent_shape[1]
    return corners(*size, side, overlap(side))


def in_one_piece(generator: Generator, size: tuple[int, int]) -> bool:
    """Whether an image of a size (height, width), pixels, is no larger than the generator's own: one tile."""
    multiple = multiple_of(generator)
    return all(-(-length // multiple) * multiple <= generator.resolution for length in size)


def overlap(side: int) -> int:
    """Of tiles of a side, latents."""
    return min(OVERLAP, side // 2)


@torch.no_grad()
def encoded(generator: Generator, image: NDArray[np.uint8], hardware: Hardware) -> Tensor:
    """Scaled latents (1, C, h, w) of an image (H, W, 3) whose sides are multiples of the generator's factor."""

    def work(tiles: Tensor) -> Tensor:
        with hardware.autocast():
            return generator.encode(tiles.to(hardware.device))[0]

    side = generator.latent_shape[1]
    return in_tiles(work, to_float(image[None])[0], side, overlap(side), give=generator.factor)[None]


@torch.no_grad()
def shown(generator: Generator, latents: Tensor, hardware: Hardware) -> NDArray[np.uint8]:
    """The images uint8 (n, H, W, 3) of scaled latents (n, C, h, w)."""
    if len(tiles_of(generator, (latents.shape[2], latents.shape[3]))) == 1:
        return decoded(generator, latents, hardware)

    def work(tiles: Tensor) -> Tensor:
        with hardware.autocast():
            return generator.decode(tiles.to(hardware.device))

    side = generator.latent_shape[1]
    images = [in_tiles(work, each, side, overlap(side), take=generator.factor) for each in latents]
    return np.asarray(to_uint8(torch.stack(images)))


def classifier_freely(wanted: SamplingSettings, empty: Tensor, *, told: bool) -> Guidance:
    """Classifier-free guidance as asked for; none where nothing is told that a free half would not be told too."""
    scale = wanted.cfg() if told or wanted.guide_maps else 1.0
    return classifier_free(scale, empty, between=wanted.cfg_between, free_maps=not wanted.guide_maps)


def draw_large(
    generator: Generator,
    prompt: str,
    seeds: Sequence[int],
    size: tuple[int, int],
    wanted: SamplingSettings,
    hardware: Hardware,
    *,
    metadata: Tensor | None = None,
    control: Callable[[Tensor], Control] | None = None,
    places: list[Corner] | None = None,
    start: Tensor | None = None,
    strength: float = 1.0,
    guidances: Sequence[Guidance] = (),
    progress: Progress | None = None,
) -> Tensor:
    """Scaled latents (n, C, h, w) of one image in tiles, or of several that are one tile each.

    Args:
        generator: what draws.
        prompt: of all; may be empty.
        seeds: of each image's noise; one, where it takes several tiles.
        size: h and w.
        wanted: of sampling; `batch_size` tiles are predicted at a time.
        hardware: device and precision.
        metadata: a row of `MetadataEncoder.table`, (1, fields), or None.
        control: from tile numbers, as `places` counts them, or from image numbers, to what an adapter has read off
            their conditions.
        places: of the tiles; None: all that `tiles_of` gives.
        start: latents to begin from instead of noise, see `Request`; a strength of 1 begins from noise.
        strength: likewise.
        guidances: of whole images; they come last.
        progress: called with denoising steps done and steps in all.
    """
    n, every, side = len(seeds), tiles_of(generator, size), generator.latent_shape[1]
    text, whole = generator.embed([prompt, ""]), len(every) == 1
    numbers = None if metadata is None else metadata.expand(n, -1)
    read = control if whole else None
    request = Request(
        text[:1],
        torch.zeros(n, dtype=torch.long),
        seeds,
        metadata=numbers,
        control=read,
        size=size,
        start=start if strength < 1 else None,
        strength=strength,
    )
    tiles = tiled(places or every, side, overlap(side), control=control, batch_size=wanted.batch_size)
    return sample(
        generator,
        request,
        wanted,
        hardware=hardware,
        guidances=[
            chunked(2 * wanted.batch_size),  # less where memory does not suffice
            classifier_freely(wanted, text[1:], told=bool(prompt) or metadata is not None),
            *([] if whole else [tiles]),
            *guidances,
            *([reporting(progress)] if progress else []),
        ],
        batch_size=n,
    )


def filled(image: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Hidden pixels (H, W) of an image (H, W, 3) guessed from those around them: something for the encoder to see."""
    x, seen = torch.tensor(image).permute(2, 0, 1)[None].float(), torch.from_numpy(~hidden)[None, None].float()
    guess, weight = x * seen, seen
    levels = []
    while min(guess.shape[2:]) > 1:
        levels.append((guess, weight))
        guess, weight = F.avg_pool2d(guess, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True)
    found = guess / weight.clamp_min(1e-6)
    for guess, weight in reversed(levels):
        wide = F.interpolate(found, guess.shape[2:], mode="bilinear", align_corners=False)
        share = weight.clamp(max=1)
        found = share * guess / weight.clamp_min(1e-6) + (1 - share) * wide
    made = found[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return np.where(hidden[..., None], made, image)
