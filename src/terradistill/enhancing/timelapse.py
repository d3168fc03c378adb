"""Other dates of a place: drawn one after the other, each after the frames before it (DiffusionSat)."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.data.pictures import Picture, open_pictures
from terradistill.enhancing.canvas import padded, shown
from terradistill.enhancing.dates import numbers_of, parse_date, required_date
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.results import Results
from terradistill.errors import ConfigError, DataError
from terradistill.report.gallery import side_by_side
from terradistill.run import Reporter, Silent
from terradistill.sampling.guidance import classifier_free
from terradistill.sampling.sampler import Request, sample
from terradistill.seeding import derive
from terradistill.settings import SamplingSettings, Settings

MOST = 4  # times the generator's own pixels, that an image may have


def timelapse(
    source: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    days: Sequence[str],
    prompt: str = "",
    frames: int | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Draw a place at other dates.

    Args:
        source: an image, or a folder of images of one place; dates are in their names or metadata.
        out: a new folder, or that of the same call.
        settings: `generator` (with an enhancer for this task), `sampling`, `seed`.
        days: such as 2021-07-04 or 2021-07, drawn in this order.
        prompt: what the place is; may be empty.
        frames: that each is drawn after, at most, the nearest in time; None: as many as were learned.
        reporter: told of progress.

    Returns:
        The folder: an image a date, `metadata.jsonl`, `timelapse.png`.

    Raises:
        ConfigError: the generator has not learned it, no date is given, or one is none.
        DataError: an image that cannot be read, says no date, or has not the size of the others.
    """
    settings, reporter = settings or Settings(), reporter or Silent()
    targets = [parse_date(day) for day in days]
    if not targets:
        raise ConfigError("No date was asked for: give some, such as 2021-01,2021-04,2021-07.")
    pictures = open_pictures(source)
    known = [(required_date(picture), picture.pixels) for picture in pictures]
    if len({image.shape for _, image in known}) > 1:
        raise DataError(f"The images of {source} differ in size: expected the same place, cut alike.")
    enhancer = open_enhancer(settings, "timelapse")
    most = frames or int(enhancer.adapter.about.get("n_frames", 3))
    asked = {
        "task": "timelapse",
        "days": list(days),
        "prompt": prompt,
        "frames": most,
        "seed": settings.seed,
        "generator": settings.generator,
        "sampling": settings.sampling.model_dump(mode="json"),
    }
    results, given = Results(Path(out), asked), len(known)
    reporter.start("Drawing dates")
    for number, target in enumerate(targets):
        shot = Picture(target.isoformat(), pictures[0].read)
        made = results.made(shot)
        if made is None:
            nearest = sorted(known, key=lambda frame: abs((frame[0] - target).days))[:most]
            seed = derive(settings.seed, "timelapse", target.isoformat())
            made = at_date(enhancer, nearest, target, prompt, seed, settings.sampling)
            after = [day.isoformat() for day, _ in nearest]
            results.keep(shot, made, prompt=prompt, seed=seed, after=after, **numbers_of(target))
        known.append((target, made))
        reporter.progress(number + 1, len(targets))
    reporter.end("Drawing dates", 0.0, f"{len(targets)} dates")
    rows = {f"{day.isoformat()}{', given' if k < given else ''}": [image] for k, (day, image) in enumerate(known)}
    side_by_side(rows, results.out / "timelapse.png")
    return results.out


def at_date(
    enhancer: Enhancer,
    frames: Sequence[tuple[date, NDArray[np.uint8]]],
    target: date,
    prompt: str,
    seed: int,
    wanted: SamplingSettings,
) -> NDArray[np.uint8]:
    """An image (H, W, 3) of a date, after frames of others."""
    generator = enhancer.generator
    height, width = frames[0][1].shape[:2]
    images = np.stack([padded(image, enhancer.multiple) for _, image in frames])
    size = (images.shape[1] // generator.factor, images.shape[2] // generator.factor)
    if size[0] * size[1] > MOST * generator.latent_shape[1] ** 2:
        side = int(MOST**0.5 * generator.resolution)
        raise ConfigError(f"Images of {width} x {height} pixels are more than fit: cut them to at most {side} a side.")
    read = enhancer.control(
        enhancer.frames(images)[None], [[numbers_of(day) for day, _ in frames]], [numbers_of(target)]
    )
    text = generator.embed([prompt, ""])
    latents = sample(
        generator,
        Request(text[:1], torch.zeros(1, dtype=torch.long), [seed], size=size, control=lambda _: read),
        steps=wanted.steps,
        hardware=enhancer.hardware,
        scheduler=wanted.scheduler,
        guidances=[
            classifier_free(wanted.cfg_scale, text[1:], between=wanted.cfg_between, free_maps=not wanted.guide_maps)
        ],
    )
    return shown(generator, latents[0], enhancer.hardware)[:height, :width]
