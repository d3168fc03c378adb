"""Several coarse images of a place, one fine image of it (SatDiffMoE)."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.data.images import pixel_hash
from terradistill.data.pictures import Picture, open_pictures
from terradistill.enhancing.canvas import padded, shown
from terradistill.enhancing.dates import parse_date, required_date
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.results import Results
from terradistill.enhancing.super_resolve import bicubic
from terradistill.errors import ConfigError, DataError
from terradistill.report.gallery import side_by_side
from terradistill.run import Progress, Reporter, Silent
from terradistill.sampling.fusion import constant, fuse, rising
from terradistill.sampling.guidance import classifier_free, reporting
from terradistill.sampling.sampler import Request, sample
from terradistill.seeding import derive
from terradistill.settings import SamplingSettings, Settings

SHOWN = 8  # places in the picture
MOST = 4  # times the generator's own pixels, that a fused image may have


def fuse_dates(
    source: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    day: str | None = None,
    prompt: str = "",
    reporter: Reporter | None = None,
) -> Path:
    """Draw one fine image a place from its coarse ones of several dates.

    Args:
        source: a folder of images of one place, or one with a folder a place; dates are in their names or metadata.
        out: a folder; the same call goes on with it.
        settings: `generator` (with an enhancer for this task), `sampling`, `seed`.
        day: of what is drawn, such as 2021-07-04; None: the newest of each place.
        prompt: what the images show; may be empty.
        reporter: told of progress.

    Returns:
        The folder: an image a place, `metadata.jsonl`, `before_after.png`.

    Raises:
        ConfigError: the generator has not learned it, or the date is none.
        DataError: an image that cannot be read, says no date, or has not the size of the others of its place.
    """
    settings, reporter = settings or Settings(), reporter or Silent()
    wanted_day = None if day is None else parse_date(day)
    places: dict[str, list[Picture]] = {}
    for picture in open_pictures(source):
        folder = str(PurePosixPath(picture.name).parent)
        places.setdefault(Path(source).name if folder == "." else folder, []).append(picture)
    dates = {name: [required_date(picture) for picture in several] for name, several in places.items()}
    enhancer = open_enhancer(settings, "fuse")
    asked = {
        "task": "fuse",
        "day": day,
        "prompt": prompt,
        "seed": settings.seed,
        "generator": settings.generator,
        "sampling": settings.sampling.model_dump(mode="json"),
    }
    results = Results(Path(out), asked)
    rows: dict[str, list[NDArray[np.uint8]]] = {"one of them": [], "fused": []}
    reporter.start("Fusing dates")
    for number, (name, pictures) in enumerate(places.items()):
        target = wanted_day or max(dates[name])
        images = [picture.pixels for picture in pictures]
        if len({image.shape for image in images}) > 1:
            raise DataError(f"The images of {name} differ in size: expected the same place, cut alike.")
        place = Picture(name, pictures[0].read)
        made = results.made(place)
        if made is None:
            steps = reporter.progress if len(places) == 1 else None
            seed = derive(settings.seed, "fuse", name)
            days = [(when - target).days for when in dates[name]]
            made = fused(enhancer, np.stack(images), days, prompt, seed, settings.sampling, progress=steps)
            told = {"day": target.isoformat(), "made_of": [picture.name for picture in pictures]}
            results.keep(place, made, prompt=prompt, seed=seed, **told)
        if number < SHOWN:
            nearest = min(range(len(images)), key=lambda k: abs((dates[name][k] - target).days))
            rows["one of them"].append(bicubic(images[nearest], enhancer.adapter.scale))
            rows["fused"].append(made)
        if len(places) > 1:
            reporter.progress(number + 1, len(places))
    reporter.end("Fusing dates", 0.0, f"{len(places)} places")
    side_by_side(rows, results.out / "before_after.png")
    return results.out


def fused(
    enhancer: Enhancer,
    images: NDArray[np.uint8],
    days: Sequence[float],
    prompt: str,
    seed: int,
    wanted: SamplingSettings,
    *,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """One image (H, W, 3) of N coarse ones (N, h, w, 3) that were taken so many days from it.

    N trajectories are drawn, each from noise of its image's own, so that their order does not matter; what comes out
    is their mean.
    """
    generator, scale = enhancer.generator, enhancer.adapter.scale
    n, height, width = images.shape[:3]
    coarse = np.stack([padded(image, enhancer.multiple // scale) for image in images])
    step = generator.factor // scale
    size = (coarse.shape[1] // step, coarse.shape[2] // step)
    if size[0] * size[1] > MOST * generator.latent_shape[1] ** 2:
        side = int(MOST**0.5 * generator.resolution / scale)
        raise ConfigError(f"Images of {width} x {height} pixels are more than fit: cut them to at most {side} a side.")
    most = enhancer.adapter.of_frame.days or 0.0
    known = [[{"days": float(np.clip(day, -most, most))}] for day in days]
    frames = enhancer.frames(coarse)[:, None]
    read, text = enhancer.control(frames, known, [{}] * n), generator.embed([prompt, ""])
    request = Request(
        text[:1],
        torch.zeros(n, dtype=torch.long),
        [derive(seed, "trajectory", pixel_hash(image)) for image in images],
        size=size,
        control=lambda rows: read.rows(rows.to(frames.device)),
    )
    weight = rising(wanted.fusion) if wanted.fusion_rises else constant(wanted.fusion)
    together = fuse(
        torch.zeros(n, dtype=torch.long),
        generator.parameterisation,
        weight,
        distance=wanted.fusion_distance,
        subset=wanted.fusion_subset,
        seed=derive(seed, "subset"),
    )
    latents = sample(
        generator,
        request,
        steps=wanted.steps,
        hardware=enhancer.hardware,
        scheduler=wanted.scheduler,
        guidances=[
            classifier_free(wanted.cfg_scale, text[1:], between=wanted.cfg_between, free_maps=not wanted.guide_maps),
            together,
            *([reporting(progress)] if progress else []),
        ],
        batch_size=max(n, wanted.batch_size // n * n),
    )
    made = shown(generator, latents.mean(0), enhancer.hardware)
    return made[: height * scale, : width * scale]
