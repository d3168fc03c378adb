"""Does a generator follow its maps? The map found again in what it drew, against the map that it was given.

    python bench/adherence.py GENERATOR DATA --map edges [--sheet SHEET.jpg]

Maps of scenes that the generator has not learned from are drawn by a filter; a scene is drawn after each, in the words
of its class, and the filter applied to it. F1 of pixels, a hit being one within a pixel, beside that of shuffled
pairs (the map of another scene), at strengths 0, 0.5 and 1. The sheet holds maps and drawn scenes alone.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from held_out import unseen_of
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from terradistill.config import load_settings
from terradistill.data.captions import class_prompt
from terradistill.data.images import decode, resize
from terradistill.data.maps import ANNOTATORS
from terradistill.generation.draw import draw
from terradistill.generation.orders import Order, Shown
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator
from terradistill.models.places import learned_from
from terradistill.report.gallery import contact_sheet
from terradistill.seeding import derive

SLACK = 1  # pixels: of two, dense scenes of 128 pixels are all edge
STRENGTHS = (0.0, 0.5, 1.0)
SHOWN = 10


def f1(found: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    """Of bool maps (n, H, W), all pixels together; a pixel counts where the other map has one within `SLACK`."""

    def near(x: NDArray[np.bool_]) -> NDArray[np.bool_]:
        wide = F.max_pool2d(torch.from_numpy(x)[:, None].float(), 2 * SLACK + 1, 1, SLACK)
        return np.asarray(wide[:, 0] > 0)

    precision = (found & near(given)).sum() / max(found.sum(), 1)
    recall = (given & near(found)).sum() / max(given.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator")
    parser.add_argument("data")
    parser.add_argument("--map", default="edges", choices=("edges", "lines", "sketch"))
    parser.add_argument("--per-class", type=int, default=5)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    # One guidance for all strengths: by default images without maps have another.
    settings, hardware = load_settings(None, None, ["sampling.autoguidance=1", *asked.set]), find_hardware()
    generator = Generator.load(asked.generator).to(hardware.device).frozen()
    unseen, find = unseen_of(learned_from(asked.generator), asked.data, asked.per_class), ANNOTATORS[asked.map]
    scenes = [resize(decode(unseen.read(i)), generator.resolution) for i in range(len(unseen))]
    given = np.stack([find(scene) for scene in scenes])
    prompts = [class_prompt(unseen, unseen.classes[s.label], settings.data.caption_template) for s in unseen.scenes]
    seeds = [derive(0, "adherence", i) for i in range(len(unseen))]
    made: list[NDArray[np.uint8]] = []
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(len(given))]
        for file, drawn in zip(files, given, strict=True):
            Image.fromarray(drawn).save(file)
        print(f"{len(given)} maps of unseen scenes of {asked.data}: F1 of {asked.map} found again")
        for strength in STRENGTHS:
            orders = [
                Order(prompt, maps={asked.map: Shown(file, strength)})
                for prompt, file in zip(prompts, files, strict=True)
            ]
            images = draw(generator, orders, seeds, [1] * len(orders), settings.sampling, hardware)
            again = np.stack([find(image) for image in images]) > 0
            # Scenes come class after class: half-way round is another class.
            right, other = f1(again, given > 0), f1(again, np.roll(given, len(given) // 2, axis=0) > 0)
            print(f"  strength {strength:3}: {right:.3f}, shuffled {other:.3f}, ratio {right / max(other, 1e-9):.2f}")
            made.append(images)
    if asked.sheet is not None:
        some = np.linspace(0, len(given) - 1, min(SHOWN, len(given))).astype(int)
        maps = np.repeat(given[some][..., None], 3, 3)
        rows = np.concatenate([maps, *(images[some] for images in made)])
        labels = [asked.map, *(f"strength {strength:g}" for strength in STRENGTHS)]
        contact_sheet(rows, len(some), labels=labels).save(asked.sheet, quality=88)


if __name__ == "__main__":
    main()
