"""What scenes show, by a trained classifier: `terradistill classify predict`."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from terradistill.data.bands import TIFF
from terradistill.data.geotiff import metadata_of, places_in
from terradistill.data.images import is_scene_file, resize
from terradistill.data.pictures import Picture, open_pictures
from terradistill.errors import ConfigError, DataError
from terradistill.evaluation.recipe import logits
from terradistill.files import replacing
from terradistill.hardware import find_hardware
from terradistill.models.scene_classifier import SceneClassifier
from terradistill.run import Progress

BATCH = 128


def predict_scenes(
    model: str | Path,
    source: str | Path | Sequence[str | Path],
    out: Path,
    *,
    window: int | None = None,
    progress: Progress | None = None,
    unreadable: Callable[[str], None] | None = None,
) -> int:
    """Write a row for each image, or for each window of large ones.

    Args:
        model: folder of a classifier.
        source: an image file (a GeoTIFF too), a folder of them, or DATA; of several, `file` says where they are too.
        out: `.csv`, or `.jsonl`; rows hold `file`, `class`, `confidence` and the calibrated probability of each class.
        window: cut images into squares of so many pixels, side by side (the last ones flush with the edges), and say
            of each what it shows (`row`, `column` of its upper left corner); None: an image is one scene, its central
            square. Where a GeoTIFF says where it lies, rows have `lon` and `lat` of the middle too.
        progress: called with images done and images in all.
        unreadable: told of each image that cannot be read, which has no row.

    Returns:
        How many rows.

    Raises:
        ConfigError: `out` has another ending, or the window is larger than an image.
        EvaluationError: the model is none.
        DataError: no image can be read.
    """
    if out.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"{out} should end in .csv or .jsonl.")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: give a file for --out.")
    classifier, pictures, hardware = SceneClassifier.load(model), _opened(source), find_hardware()
    failed: list[str] = []

    def passed_over(why: str) -> None:
        failed.append(why)
        if unreadable:
            unreadable(why)

    if window is not None:
        for picture in pictures:
            try:
                height, width = _size(picture)
            except DataError:
                continue  # told when its turn comes
            if window > min(height, width):
                raise ConfigError(
                    f"Windows of {window} pixels do not fit {picture.file}, which has {width} x {height}: give a "
                    "smaller --window."
                )
    classifier.network.to(hardware.device)
    out.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(out) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file)
        for rows in _batches(_squares(pictures, classifier.resolution, window, progress, passed_over)):
            said = logits(
                classifier.network,
                np.stack([square for _, square in rows]),
                classifier.resolution,
                hardware=hardware,
            )
            shares = (said / classifier.temperature).softmax(1)
            for (where, _), share in zip(rows, shares, strict=True):
                row = where | _told(classifier, share)
                if out.suffix == ".jsonl":
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                else:
                    plain = {key: value for key, value in row.items() if key != "probabilities"}
                    if not count:
                        table.writerow([*plain, *row["probabilities"]])  # a class may be named as a column is
                    table.writerow([*plain.values(), *row["probabilities"].values()])
                count += 1
        if not count:
            raise DataError(f"None of the {len(pictures)} images can be read ({'; '.join(failed[:1])}): replace them.")
    return count


def _opened(source: str | Path | Sequence[str | Path]) -> list[Picture]:
    sources = [*dict.fromkeys([str(source)] if isinstance(source, str | Path) else map(str, source))]
    if len(sources) == 1:
        return open_pictures(sources[0], distinct=False)
    found = []
    for each in sources:
        pictures, alone = open_pictures(each, distinct=False), is_scene_file(each)
        found += [replace(picture, file=each if alone else f"{each}/{picture.file}") for picture in pictures]
    return found


def _told(classifier: SceneClassifier, shares: torch.Tensor) -> dict[str, Any]:
    best = int(shares.argmax())
    probabilities = {name: round(float(share), 6) for name, share in zip(classifier.classes, shares, strict=True)}
    return {
        "class": classifier.classes[best],
        "confidence": round(float(shares[best]), 6),
        "probabilities": probabilities,
    }


Square = tuple[dict[str, Any], Any]


def _squares(
    pictures: list[Picture],
    resolution: int,
    window: int | None,
    progress: Progress | None,
    passed_over: Callable[[str], None],
) -> Iterator[Square]:
    placed = any(_middle(picture, window) is not None for picture in pictures)  # then all rows have the two columns
    for number, picture in enumerate(pictures):
        try:
            image = picture.pixels()
        except DataError as error:
            passed_over(str(error))
            continue
        if window is None:
            lon, lat = _middle(picture, None) or (None, None)
            where = {"lon": lon, "lat": lat} if placed else {}
            yield {"file": picture.file} | where, resize(image, resolution)
        else:
            rows, columns = ([*range(0, side - window, window), side - window] for side in image.shape[:2])
            corners = [(row, column) for row in rows for column in columns]
            middles = [(column + window / 2, row + window / 2) for row, column in corners]
            places = places_in(picture.read(), middles) if placed else None
            for k, (row, column) in enumerate(corners):
                cut = image[row : row + window, column : column + window]
                lon, lat = places[k] if places else (None, None)
                where = {"lon": lon, "lat": lat} if placed else {}
                yield {"file": picture.file, "row": row, "column": column} | where, resize(cut, resolution)
        if progress:
            progress(number + 1, len(pictures))


def _middle(picture: Picture, window: int | None) -> tuple[float, float] | None:
    """Longitude and latitude of the middle: of the file itself, or of its metadata where it is one scene."""
    known = picture.metadata
    if window is None and {"lon", "lat"} <= known.keys():
        return known["lon"], known["lat"]
    if not picture.file.lower().endswith(TIFF):
        return None
    known = metadata_of(picture.read())
    return (known["lon"], known["lat"]) if {"lon", "lat"} <= known.keys() else None


def _size(picture: Picture) -> tuple[int, int]:
    """Height and width, of what the header says where it can be read."""
    try:
        return picture.size()
    except DataError:  # 16 bits, or more bands: what decodes is looked at all the same
        height, width = picture.pixels().shape[:2]
        return height, width


def _batches(squares: Iterator[Square]) -> Iterator[list[Square]]:
    batch: list[Square] = []
    for square in squares:
        batch.append(square)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
