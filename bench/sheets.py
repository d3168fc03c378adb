"""A sheet of a scene folder, a row a class, small enough for a page; or a column a class, without its name.

    terradistill generate --like DATA --n 30 --out drawn
    python bench/sheets.py drawn SHEET.jpg [--n 30] [--side 64] [--classes airplane freeway] [--columns]

The first of each class by name: nobody has chosen. How near they come to real ones is what
`terradistill audit drawn --against DATA` says.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from terradistill.data.images import load_pixels
from terradistill.data.sources import open_scenes
from terradistill.report.gallery import contact_sheet


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenes")
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--side", type=int, default=64, help="pixels of a scene")
    parser.add_argument("--n", type=int, default=30, help="scenes of each class")
    parser.add_argument("--classes", nargs="+", help="these alone")
    parser.add_argument("--columns", action="store_true", help="a column a class, without names")
    asked = parser.parse_args()

    scenes = open_scenes(asked.scenes)
    if odd := sorted(set(asked.classes or ()) - set(scenes.classes)):
        raise SystemExit(f"{asked.scenes} has no class {odd[0]}: it has {', '.join(scenes.classes)}.")
    classes = [name for name in scenes.classes if name in (asked.classes or scenes.classes)]  # as subsets are ordered
    rows = [np.flatnonzero(scenes.labels == scenes.classes.index(name))[: asked.n] for name in classes]
    rows = [row[: min(map(len, rows))] for row in rows]  # as many of each class
    scenes = scenes.subset(np.concatenate(rows).tolist())
    with TemporaryDirectory() as made:
        pixels = np.array(load_pixels(scenes, asked.side, Path(made) / "pixels.npy"))
    if asked.columns:
        pixels = pixels.reshape(len(classes), -1, *pixels.shape[1:]).swapaxes(0, 1).reshape(pixels.shape)
    across = len(classes) if asked.columns else len(rows[0])
    names = None if asked.columns else [scenes.readable(name) for name in classes]
    contact_sheet(pixels, across, labels=names).save(asked.sheet, quality=88)


if __name__ == "__main__":
    main()
