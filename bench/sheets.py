"""Uncurated samples of every class of DATA, as a sheet; and how near they are to the scenes that were learned from.

    python bench/sheets.py GENERATOR DATA --sheet SHEET.jpg [--pairs PAIRS.png] [--per-class 30]

The sheet holds generated scenes alone, a row a class, at half their size. PAIRS, which holds real scenes too, shows the
generated scenes that are most like a learned one, each left of it. Distances as in `nearest.py`, at 64 pixels.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from held_out import seen_and_unseen
from nearest import nearest, table

from terradistill.config import load_settings
from terradistill.data.images import load_pixels
from terradistill.generation.draw import generate
from terradistill.generation.orders import orders_like
from terradistill.models.generator import Generator
from terradistill.report.gallery import contact_sheet

SIDE = 64
N_PAIRS = 24


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator")
    parser.add_argument("data")
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--per-class", type=int, default=30)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    generator, settings = Generator.load(asked.generator), load_settings(None, None, asked.set)
    seen, unseen = seen_and_unseen(asked.generator, asked.data)
    with TemporaryDirectory() as made:
        folder = Path(made)
        orders = orders_like(unseen, settings.data.caption_template, generator)
        drawn = generate(orders, folder / "drawn", generator, n=asked.per_class, settings=settings)
        sides = {"drawn": drawn, "unseen": unseen, "learned": seen}
        pixels = {name: np.array(load_pixels(side, SIDE, folder / f"{name}.npy")) for name, side in sides.items()}
    names = [drawn.readable(name) for name in drawn.classes]
    contact_sheet(pixels["drawn"], asked.per_class, labels=names).save(asked.sheet, quality=88)

    rows: dict[str, list[float]] = {"drawn": [], "unseen": []}
    twins: list[int] = []
    for label in range(len(drawn.classes)):
        (of_class,) = np.nonzero(seen.labels == label)
        learned = _tensor(pixels["learned"][of_class])
        distance, twin = nearest(_tensor(pixels["drawn"][drawn.labels == label]), learned)
        rows["drawn"] += distance.tolist()
        twins += of_class[twin.numpy()].tolist()
        rows["unseen"] += nearest(_tensor(pixels["unseen"][unseen.labels == label][:50]), learned)[0].tolist()
    table(rows, "learned scene")
    if asked.pairs is not None:
        # Relative to how plain a scene is: two empty seas are near each other and no copies.
        contrast = pixels["drawn"].astype(float).std((1, 2, 3))
        first = np.argsort(np.array(rows["drawn"]) / (contrast + 5))[:N_PAIRS]
        both = np.stack([pixels["drawn"][first], pixels["learned"][np.array(twins)[first]]], axis=1)
        contact_sheet(both.reshape(-1, SIDE, SIDE, 3), 8, scale=2).save(asked.pairs)


def _tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
