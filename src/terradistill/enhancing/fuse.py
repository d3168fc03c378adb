"""Several coarse images of a place, one fine image of it (SatDiffMoE).

There the coarse latents are joined to the noisy ones; here a frame adapter reads each image and its days. [ours]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.data.images import pixel_hash
from terradistill.data.pictures import Picture, open_pictures, place_of
from terradistill.enhancing.canvas import classifier_freely, padded, require_small, shown
from terradistill.enhancing.dates import parse_date, required_date, season_of
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.results import Made, Piece, Results, asked_for, make_all, say_unheeded
from terradistill.enhancing.super_resolve import bicubic
from terradistill.errors import DataError
from terradistill.files import require_apart
from terradistill.run import Progress, Reporter, Silent
from terradistill.sampling.fusion import course, fuse, nearest
from terradistill.sampling.guidance import chunked, reporting
from terradistill.sampling.sampler import Request, sample
from terradistill.seeding import derive
from terradistill.settings import Settings


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
    require_apart(Path(out), source)
    pictures, places = open_pictures(source), dict[str, list[Picture]]()
    for picture in pictures:
        folder = str(PurePosixPath(picture.name).parent)
        places.setdefault(Path(source).resolve().stem if folder == "." else folder, []).append(picture)
    dates = {name: [required_date(picture) for picture in several] for name, several in places.items()}
    sizes = {name: {picture.size() for picture in several} for name, several in places.items()}
    if odd := [name for name, found in sizes.items() if len(found) > 1]:
        raise DataError(f"The images of {odd[0]} differ in size: expected the same place, cut alike.")
    enhancer = open_enhancer(settings, "fuse")
    for name, found in sizes.items():
        require_small(enhancer.generator, name, *next(iter(found)), scale=enhancer.adapter.scale)
    asked = asked_for("fuse", settings, enhancer.generator, day=day, prompt=prompt)
    say_unheeded(enhancer.generator, prompt, pictures, reporter)
    targets = {name: wanted_day or max(found) for name, found in dates.items()}
    alone, learned = len(places) == 1, enhancer.adapter.of_frame.days or 0.0
    if max(abs((when - targets[name]).days) for name, found in dates.items() for when in found) > learned:
        reporter.say(
            f"some images are more than the {learned:g} days away that the enhancer has learned: taken for that"
        )

    def make(block: Sequence[Piece]) -> list[Made]:
        (piece,) = block
        several, target, seed = places[piece.name], targets[piece.name], derive(settings.seed, "fuse", piece.name)
        days = [(when - target).days for when in dates[piece.name]]
        images = np.stack([picture.pixels() for picture in several])
        steps = reporter.progress if alone else None
        made = fused(enhancer, images, days, season_of(target), prompt, seed, settings, progress=steps)
        told = {
            **place_of(several, enhancer.adapter.scale),
            "year": target.year,
            "month": target.month,
            "day": target.day,
        }
        return [(made, {"prompt": prompt, "seed": seed, **told, "made_of": [picture.name for picture in several]})]

    def before(piece: Piece) -> NDArray[np.uint8]:
        days = [abs((when - targets[piece.name]).days) for when in dates[piece.name]]
        return bicubic(places[piece.name][int(np.argmin(days))].pixels(), enhancer.adapter.scale)

    blocks = [
        [Piece(name, [picture.read for picture in several], targets[name], dates[name])]
        for name, several in places.items()
    ]
    results = Results(Path(out), asked, enhancer.generator, source, pictures)
    return make_all(results, blocks, make, before, "Fusing dates", reporter, ("nearest in time", "fused"))


def fused(
    enhancer: Enhancer,
    images: NDArray[np.uint8],
    days: Sequence[float],
    season: Mapping[str, float],
    prompt: str,
    seed: int,
    settings: Settings,
    *,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """One image (H, W, 3) of a season, see `season_of`, of N coarse ones (N, h, w, 3) taken so many days from it.

    N trajectories are drawn, each from noise of its image's own, so that their order does not matter; what comes out
    is the one nearest to their centre, or their mean (`enhance.fusion_result`).
    """
    generator, scale, wanted, how = enhancer.generator, enhancer.adapter.scale, settings.sampling, settings.enhance
    n, height, width = images.shape[:3]
    coarse = np.stack([padded(image, enhancer.multiple // scale) for image in images])
    step = generator.factor // scale
    size = (coarse.shape[1] // step, coarse.shape[2] // step)
    most = enhancer.adapter.of_frame.days or 0.0
    known = [[{"days": float(np.clip(day, -most, most))}] for day in days]
    frames = enhancer.frames(coarse)[:, None]
    read, text = enhancer.control(frames, known, [season] * n), generator.embed([prompt, ""])
    seeds = [derive(seed, "trajectory", pixel_hash(image)) for image in images]
    request = Request(
        text[:1],
        torch.zeros(n, dtype=torch.long),
        seeds,
        size=size,
        control=lambda rows: read.rows(rows.to(frames.device)),
    )
    together = fuse(
        torch.zeros(n, dtype=torch.long),
        generator.parameterisation,
        course(how.fusion_course, how.fusion),
        distance=how.fusion_distance,
        subset=how.fusion_subset,
        seeds=seeds,
    )
    latents = sample(
        generator,
        request,
        wanted,
        hardware=enhancer.hardware,
        guidances=[
            chunked(2 * wanted.batch_size),
            classifier_freely(wanted, text[1:], told=bool(prompt)),
            together,
            *([reporting(progress)] if progress else []),
        ],
        batch_size=n,
    )
    one = how.fusion_result == "nearest"
    result = latents[nearest(latents, days, how.fusion_distance)] if one else latents.mean(0)
    made = shown(generator, result[None], enhancer.hardware)
    return made[0, : height * scale, : width * scale]
