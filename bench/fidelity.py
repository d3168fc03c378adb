"""KID of drawn scenes against real ones that their generator has not learned from, with the floor beside it.

    terradistill generate --like DATA --n 100 --out drawn
    python bench/fidelity.py DATA drawn [ANOTHER ...] [--per-class 50]

The floor is the KID of as many scenes that it has learned from. In Inception's features; needs the extra `metrics`.
`terradistill bench fidelity` says more of one set.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from held_out import seen_and_unseen
from torch import Tensor

from terradistill.data.images import load_pixels
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation.coresets import random_subset
from terradistill.distillation.scoreboard import learned_by
from terradistill.evaluation.fidelity import Inception, features, kid
from terradistill.hardware import find_hardware

SIDE = 128  # pixels at which scenes are compared


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
    with TemporaryDirectory() as made:

        def of(name: str, scenes: SceneFolder) -> Tensor:
            return features(network, load_pixels(scenes, SIDE, Path(made) / f"{name}.npy"), device)

        real = of("unseen", unseen)
        print(f"{len(real)} unseen scenes of {asked.data}; KID x 1000 against them:")
        print(f"  {len(seen)} scenes learned from: {1000 * kid(of('seen', seen), real):.2f}", flush=True)
        for i, (name, scenes) in enumerate(sets.items()):
            print(f"  {len(scenes)} scenes of {name}: {1000 * kid(of(str(i), scenes), real):.2f}", flush=True)


if __name__ == "__main__":
    main()
