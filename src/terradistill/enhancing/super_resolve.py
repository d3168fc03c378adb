"""Super-resolution: images drawn after coarser ones of any size, tile by tile."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from terradistill.data.images import to_float, to_uint8
from terradistill.data.pictures import open_pictures
from terradistill.enhancing.canvas import draw_large, padded, shown, tiles_of
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.results import Results
from terradistill.errors import ConfigError
from terradistill.models.control import Control
from terradistill.report.gallery import side_by_side
from terradistill.run import Progress, Reporter, Silent
from terradistill.seeding import derive
from terradistill.settings import SamplingSettings, Settings

SHOWN = 8  # images in the picture


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
    pictures = open_pictures(source)
    enhancer = open_enhancer(settings, "super-resolve")
    if scale not in (None, enhancer.adapter.scale):
        raise ConfigError(f"This enhancer draws at {enhancer.adapter.scale} times the resolution, and not at {scale}.")
    asked = {
        "task": "super-resolve",
        "scale": enhancer.adapter.scale,
        "prompt": prompt,
        "faithful": faithful,
        "seed": settings.seed,
        "generator": settings.generator,
        "sampling": settings.sampling.model_dump(mode="json"),
    }
    results = Results(Path(out), asked)
    rows: dict[str, list[NDArray[np.uint8]]] = {"given": [], "drawn": []}
    reporter.start("Super-resolving")
    for number, picture in enumerate(pictures):
        made = results.made(picture)
        if made is not None and number >= SHOWN:
            continue
        seed = derive(settings.seed, "super-resolve", picture.name)
        if made is None:
            steps = reporter.progress if len(pictures) == 1 else None
            made = sharpened(
                enhancer, picture.pixels, prompt, seed, settings.sampling, faithful=faithful, progress=steps
            )
            results.keep(picture, made, prompt=prompt, seed=seed, scale=enhancer.adapter.scale)
        if number < SHOWN:
            rows["given"].append(bicubic(picture.pixels, enhancer.adapter.scale))
            rows["drawn"].append(made)
        if len(pictures) > 1:
            reporter.progress(number + 1, len(pictures))
    reporter.end("Super-resolving", 0.0, f"{len(pictures)} images")
    side_by_side(rows, results.out / "before_after.png")
    return results.out


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
    read: dict[int, Control] = {}  # every step asks for the same

    def control(numbers: Tensor) -> Control:
        if (first := int(numbers[0])) not in read:
            corners = [places[int(k)] for k in numbers]
            tiles = [coarse[:, y * step : y * step + side, x * step : x * step + side] for y, x in corners]
            frames = torch.stack(tiles)[:, None]
            read[first] = enhancer.control(frames, [[{}]] * len(tiles), [{}] * len(tiles))
        return read[first]

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
