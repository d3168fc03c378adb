"""Super-resolution: images drawn after coarser ones of any size, tile by tile."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from terradistill.data.images import MAX_PIXELS, to_float, to_uint8
from terradistill.data.pictures import open_pictures
from terradistill.enhancing.canvas import draw_large, padded, shown, tiles_of
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.results import Piece, Results, asked_for, make_all, require_apart
from terradistill.errors import ConfigError, DataError
from terradistill.models.control import Control
from terradistill.run import Progress, Reporter, Silent
from terradistill.seeding import derive
from terradistill.settings import SamplingSettings, Settings


def super_resolve(
    source: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    scale: int | None = None,
    prompt: str = "",
    faithful: bool = True,
    reporter: Reporter | None = None,
) -> Path:
    """Draw images at several times their resolution.

    Args:
        source: an image file, a folder of them, or DATA.
        out: a folder; the same call goes on with it.
        settings: `generator` (with an enhancer for this task), `sampling`, `seed`.
        scale: what the enhancer must have learned; None: whatever it has.
        prompt: what they show; may be empty.
        faithful: what is drawn, made coarse again, is the given image.
        reporter: told of progress.

    Returns:
        The folder: an image for each, `metadata.jsonl`, `before_after.png`.

    Raises:
        ConfigError: the generator has not learned it, or not at this scale.
        DataError: an image cannot be read.
    """
    settings, reporter = settings or Settings(), reporter or Silent()
    require_apart(Path(out), source)
    pictures = {picture.name: picture for picture in open_pictures(source)}
    sizes = {name: picture.size() for name, picture in pictures.items()}
    enhancer = open_enhancer(settings, "super-resolve")
    ratio = enhancer.adapter.scale
    if scale not in (None, ratio):
        raise ConfigError(f"This enhancer draws at {ratio} times the resolution, and not at {scale}.")
    for name, (height, width) in sizes.items():
        if height * width * ratio**2 > MAX_PIXELS:
            raise DataError(
                f"{name} would have {width * ratio} x {height * ratio} pixels: at most {MAX_PIXELS} are drawn; cut it "
                "into tiles."
            )
    asked = asked_for("super-resolve", settings, enhancer.generator, scale=ratio, prompt=prompt, faithful=faithful)
    results, alone = Results(Path(out), asked), len(pictures) == 1

    def make(piece: Piece) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        seed, steps = derive(settings.seed, "super-resolve", piece.name), reporter.progress if alone else None
        image = pictures[piece.name].pixels()
        made = sharpened(enhancer, image, prompt, seed, settings.sampling, faithful=faithful, progress=steps)
        return made, {"prompt": prompt, "seed": seed, "scale": ratio}

    def before(piece: Piece) -> NDArray[np.uint8]:
        return bicubic(pictures[piece.name].pixels(), ratio)

    pieces = [Piece(name, [picture.read]) for name, picture in pictures.items()]
    return make_all(results, pieces, make, before, "Super-resolving", reporter, ("given", "drawn"))


def sharpened(
    enhancer: Enhancer,
    image: NDArray[np.uint8],
    prompt: str,
    seed: int,
    wanted: SamplingSettings,
    *,
    faithful: bool = True,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """An image (H, W, 3) at `scale` times its resolution."""
    generator, scale = enhancer.generator, enhancer.adapter.scale
    height, width = image.shape[:2]
    coarse = enhancer.frames(padded(image, enhancer.multiple // scale)[None])[0]
    step = generator.factor // scale  # coarse pixels per latent
    size = (coarse.shape[1] // step, coarse.shape[2] // step)
    places, side = tiles_of(generator, size), generator.latent_shape[1] * step

    def control(numbers: Tensor) -> Control:
        # Read anew in each step: that is little beside the denoiser, and keeping it would grow with the image.
        corners = [places[int(k)] for k in numbers]
        tiles = [coarse[:, y * step : y * step + side, x * step : x * step + side] for y, x in corners]
        return enhancer.control(torch.stack(tiles)[:, None], [[{}]] * len(tiles), [{}] * len(tiles))

    hardware = enhancer.hardware
    latents = draw_large(generator, prompt, seed, size, wanted, hardware, control=control, progress=progress)
    made = shown(generator, latents, hardware)[: height * scale, : width * scale]
    return agreeing(made, image, scale) if faithful else made


def agreeing(made: NDArray[np.uint8], coarse: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """What was drawn, with the coarse image's means: averaged over `scale` x `scale` pixels it is that image."""
    drawn, given = (to_float(image[None]) for image in (made, coarse))
    for _ in range(3):  # what is cut off at black and white is made up for
        lacking = given - F.avg_pool2d(drawn, scale)
        drawn = (drawn + F.interpolate(lacking, scale_factor=scale, mode="bicubic", align_corners=False)).clamp(-1, 1)
    images = to_uint8(drawn)
    return np.asarray(images[0])


def bicubic(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) enlarged by interpolation alone."""
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.BICUBIC))
