"""Does a generator follow what it is shown? That found again in what it drew, against what it was given.

    python bench/adherence.py GENERATOR DATA --map edges [--sheet SHEET.jpg]
    python bench/adherence.py GENERATOR DATA --map content

Maps of scenes that the generator has not learned from are drawn by a filter; a scene is drawn after each, in the words
of its class, and the filter applied to it. F1 of all pixels that are not black, a hit being one within a pixel, beside
that with the map of a scene of another class, and of another scene of the class, at strengths 0, 0.5 and 1. Of content
images it is the distance of their colours on a coarse grid, and how often the own one is the nearest of all. The sheet
holds what was given and drawn scenes alone.
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
GRID = 4  # cells a side on which a content image and what was drawn are compared


def f1(found: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    """Of bool maps (n, H, W), all pixels together; a pixel counts where the other map has one within `SLACK`."""

    def near(x: NDArray[np.bool_]) -> NDArray[np.bool_]:
        wide = F.max_pool2d(torch.from_numpy(x)[:, None].float(), 2 * SLACK + 1, 1, SLACK)
        return np.asarray(wide[:, 0] > 0)

    precision = (found & near(given)).sum() / max(found.sum(), 1)
    recall = (given & near(found)).sum() / max(given.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def colours(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colours of the cells of scenes (n, H, W, 3): (n, 3 * GRID^2), 0 to 255."""
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    return np.asarray(F.adaptive_avg_pool2d(planes, GRID).flatten(1))


def peers_of(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each scene the next of its class, int64 (n,): itself where there is no other."""
    found = np.arange(len(labels))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        found[own] = np.roll(own, -1)
    return found


def likeness(
    made: NDArray[np.uint8], given: NDArray[np.uint8], other: NDArray[np.int64], peer: NDArray[np.int64]
) -> str:
    """How like the content images what was drawn after each of them is; `other` and `peer` name other ones for each."""
    apart = np.sqrt(((colours(made)[:, None] - colours(given)[None]) ** 2).mean(-1))
    own, another, alike = (apart[np.arange(len(made)), of].mean() for of in (np.arange(len(made)), other, peer))
    first = 100 * (apart.argmin(1) == np.arange(len(made))).mean()
    ratio = another / max(own, 1e-9)
    of_255 = f"{own:.1f} of 255, shuffled {another:.1f}, ratio {ratio:.2f}; of its class {alike:.1f}"
    return f"{of_255}; its own is the nearest in {first:.0f} %"


def order(prompt: str, name: str, shown: Shown) -> Order:
    """A scene in words, after a map or a content image."""
    return Order(prompt, content=shown) if name == "content" else Order(prompt, maps={name: shown})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator")
    parser.add_argument("data")
    parser.add_argument("--map", default="edges", choices=("edges", "lines", "sketch", "content"))
    parser.add_argument("--per-class", type=int, default=5)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    # One guidance for all strengths: by default images without maps have another.
    settings, hardware = load_settings(None, None, ["sampling.autoguidance=1", *asked.set]), find_hardware()
    generator = Generator.load(asked.generator).to(hardware.device).frozen()
    unseen = unseen_of(learned_from(asked.generator), asked.data, asked.per_class)
    scenes = np.stack([resize(decode(unseen.read(i)), generator.resolution) for i in range(len(unseen))])
    find = ANNOTATORS.get(asked.map)
    given = scenes if find is None else np.stack([find(scene) for scene in scenes])
    # Scenes come class after class: half-way round is another class.
    other, peer = np.roll(np.arange(len(given)), len(given) // 2), peers_of(unseen.labels)
    prompts = [class_prompt(unseen, unseen.classes[s.label], settings.data.caption_template) for s in unseen.scenes]
    seeds = [derive(0, "adherence", i) for i in range(len(unseen))]
    made: list[NDArray[np.uint8]] = []
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(len(given))]
        for file, shown in zip(files, given, strict=True):
            Image.fromarray(shown).save(file)
        what, measure = (
            ("content images", "colours apart") if find is None else ("maps", f"F1 of {asked.map} found again")
        )
        print(f"{len(given)} {what} of unseen scenes of {asked.data}: {measure}")
        for strength in STRENGTHS:
            orders = [
                order(prompt, asked.map, Shown(file, strength)) for prompt, file in zip(prompts, files, strict=True)
            ]
            images = draw(generator, orders, seeds, [1] * len(orders), settings.sampling, hardware)
            made.append(images)
            if find is None:
                print(f"  strength {strength:3}: {likeness(images, given, other, peer)}", flush=True)
                continue
            again = np.stack([find(image) for image in images]) > 0
            right, wrong, alike = (f1(again, each > 0) for each in (given, given[other], given[peer]))
            ratio = f"ratio {right / max(wrong, 1e-9):.2f}; of its class {alike:.3f}"
            print(f"  strength {strength:3}: {right:.3f}, shuffled {wrong:.3f}, {ratio}", flush=True)
    if asked.sheet is not None:
        some = np.linspace(0, len(given) - 1, min(SHOWN, len(given))).astype(int)
        top = given[some] if find is None else np.repeat(given[some][..., None], 3, 3)
        rows = np.concatenate([top, *(images[some] for images in made)])
        labels = [asked.map, *(f"strength {strength:g}" for strength in STRENGTHS)]
        contact_sheet(rows, len(some), labels=labels).save(asked.sheet, quality=88)


if __name__ == "__main__":
    main()
