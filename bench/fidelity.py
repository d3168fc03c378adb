"""KID and contrast of drawn scenes against real ones that their generator has not learned from, with the floor beside.

    terradistill generate --like DATA --n 100 --out drawn
    python bench/fidelity.py DATA drawn [ANOTHER ...] [--per-class 50]

The floor is that of as many scenes that it has learned from. KID in Inception's features; needs the extra `metrics`.
Contrast: deviation of the brightness in details of 2, 4, 8 and 16 pixels, as shares of that of the unseen ones.
`terradistill bench fidelity` says more of one set.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from held_out import require, seen_and_unseen
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from terradistill.data.images import load_pixels, to_float
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation.coresets import random_subset
from terradistill.distillation.scoreboard import learned_by
from terradistill.evaluation.fidelity import Inception, features, kid
from terradistill.hardware import find_hardware

SIDE = 128  # pixels at which scenes are compared


def contrast(pixels: NDArray[np.uint8]) -> Tensor:
    """Root mean square of the brightness of images (N, H, W, 3) that each of four halvings takes away: (4,)."""
    levels, found = to_float(np.asarray(pixels)).mean(1, keepdim=True), []
    for _ in range(4):
        halved = avg_pool2d(levels, 2)
        found.append((levels - interpolate(halved, scale_factor=2, mode="bilinear")).square().mean().sqrt())
        levels = halved
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("scenes", nargs="+")
    parser.add_argument("--per-class", type=int, default=50)
    asked = parser.parse_args()

    device, network = find_hardware().device, Inception()
    sets = {}
    for name in asked.scenes:
        scenes = open_scenes(name)
        sets[name] = scenes.subset(random_subset(scenes.labels, asked.per_class, seed=0))
    learned = frozenset[str]().union(*(learned_by(Path(name)) for name in sets))
    seen, unseen = seen_and_unseen(learned, asked.data, asked.per_class)
    require(seen, asked.data, learned=True)
    require(unseen, asked.data, learned=False)
    with TemporaryDirectory() as made:

        def of(number: int, scenes: SceneFolder) -> tuple[Tensor, Tensor]:
            pixels = load_pixels(scenes, SIDE, Path(made) / f"{number}.npy")
            return features(network, pixels, device), contrast(pixels)

        real, details = of(0, unseen)
        print(f"{len(real)} unseen scenes of {asked.data}; KID x 1000 against them, and contrast from fine to coarse:")
        for i, (name, scenes) in enumerate({"those learned from": seen, **sets}.items(), 1):
            looks, own = of(i, scenes)
            shares = " ".join(f"{share:.2f}" for share in own / details)
            print(f"  {len(scenes)} scenes of {name}: {1000 * kid(looks, real):.2f}, {shares}", flush=True)


if __name__ == "__main__":
    main()
