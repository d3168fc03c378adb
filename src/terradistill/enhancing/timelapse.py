"""Other dates of a place: drawn one after the other, each after the frames nearest to it in time (DiffusionSat)."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.data.images import decode
from terradistill.data.pictures import open_pictures, place_of
from terradistill.enhancing.canvas import classifier_freely, padded, require_small, shown
from terradistill.enhancing.dates import parse_date, required_date, season_of
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.results import Piece, Results, asked_for, say_unheeded
from terradistill.errors import ConfigError, DataError
from terradistill.files import require_apart
from terradistill.report.gallery import side_by_side
from terradistill.run import Reporter, Silent
from terradistill.sampling.sampler import Request, sample
from terradistill.seeding import derive
from terradistill.settings import SamplingSettings, Settings


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
    targets = list(dict.fromkeys(parse_date(day) for day in days))
    if not targets:
        raise ConfigError("No date was asked for: give some, such as 2021-01,2021-04,2021-07.")
    require_apart(Path(out), source)
    pictures = open_pictures(source)
    places = {str(PurePosixPath(picture.name).parent) for picture in pictures}
    if len(places) > 1:
        raise DataError(f"{source} holds {len(places)} places: give the images of one.")
    dates, sizes = [required_date(picture) for picture in pictures], {picture.size() for picture in pictures}
    if len(sizes) > 1:
        raise DataError(f"The images of {source} differ in size: expected the same place, cut alike.")
    enhancer = open_enhancer(settings, "timelapse")
    require_small(enhancer.generator, str(source), *next(iter(sizes)))
    learned = int(enhancer.adapter.about.get("n_frames", 3))
    most = learned if frames is None else frames
    if not 1 <= most <= learned:
        raise ConfigError(f"Drawn after {most} frames: this enhancer has learned from 1 to {learned}.")
    place = place_of(pictures)
    about = {name: value for name, value in place.items() if value is not None}
    given = [{**about, **picture.metadata, **dated(day)} for day, picture in zip(dates, pictures, strict=True)]
    asked = asked_for(
        "timelapse", settings, enhancer.generator, days=list(days), prompt=prompt, frames=most,
        made_of=Piece("", [picture.read for picture in pictures], dates=dates).key,
    )  # fmt: skip
    heard = sorted({*enhancer.adapter.of_frame.learned} - {"month"})  # which the dates say
    if heard:
        asked["told"] = [[row.get(name) for name in heard] for row in given]
    if "month" not in enhancer.adapter.of_target.learned:
        reporter.say("this enhancer has learned no months: what it draws does not depend on the date")
    say_unheeded(enhancer.generator, prompt, pictures, reporter)
    with closing(Results(Path(out), asked, enhancer.generator, source, pictures)) as results:
        shown_of = list(dates)
        known = [Frame(row, picture.pixels()) for row, picture in zip(given, pictures, strict=True)]
        reporter.start("Drawing dates")
        began = time.monotonic()
        for number, target in enumerate(targets):
            piece = Piece(target.isoformat(), [pictures[0].read], target)
            path = results.made(piece)
            if path is not None:
                made = decode(path.read_bytes())
            else:
                nearest = sorted(range(len(known)), key=lambda k: abs((shown_of[k] - target).days))[:most]
                seed = derive(settings.seed, "timelapse", target.isoformat())
                frames_of = [known[k] for k in nearest]
                made = at_date(enhancer, frames_of, about | dated(target), prompt, seed, settings.sampling)
                told = {**place, "year": target.year, "month": target.month, "day": target.day}
                after = [shown_of[k].isoformat() for k in nearest]
                results.keep(piece, made, prompt=prompt, seed=seed, after=after, **told)
            shown_of.append(target)
            known.append(Frame(about | dated(target), made))
            reporter.progress(number + 1, len(targets))
        reporter.end("Drawing dates", time.monotonic() - began, f"{len(targets)} dates")
        rows: dict[str, list[NDArray[np.uint8]]] = {}
        for k, (day, frame) in enumerate(zip(shown_of, known, strict=True)):
            label = f"{day.isoformat()}{', given' if k < len(dates) else ''}"
            rows[f"{label} ({k + 1})" if label in rows else label] = [frame.image]  # several images may be of one day
        side_by_side(rows, results.out / "timelapse.png")
    return results.out


@dataclass(frozen=True)
class Frame:
    """An image of a place, uint8 (H, W, 3), and what is known of it in numbers, of its date as `dated` says it."""

    known: Mapping[str, float]
    image: NDArray[np.uint8]


def dated(day: date) -> dict[str, float]:
    """A date in numbers."""
    return {"year": float(day.year), **season_of(day)}


def at_date(
    enhancer: Enhancer,
    frames: Sequence[Frame],
    target: Mapping[str, float],
    prompt: str,
    seed: int,
    wanted: SamplingSettings,
) -> NDArray[np.uint8]:
    """An image (H, W, 3) after frames of other dates; `target` is what is known of it, and empty where nothing is."""
    generator = enhancer.generator
    height, width = frames[0].image.shape[:2]
    images = np.stack([padded(frame.image, enhancer.multiple) for frame in frames])
    size = (images.shape[1] // generator.factor, images.shape[2] // generator.factor)
    read = enhancer.control(enhancer.frames(images)[None], [[frame.known for frame in frames]], [target])
    text = generator.embed([prompt, ""])
    latents = sample(
        generator,
        Request(text[:1], torch.zeros(1, dtype=torch.long), [seed], size=size, control=lambda _: read),
        wanted,
        hardware=enhancer.hardware,
        guidances=[
            classifier_freely(wanted, text[1:], told=bool(prompt)),
        ],
    )
    return shown(generator, latents, enhancer.hardware)[0, :height, :width]
