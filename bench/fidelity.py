"""KID of a generator's scenes against real ones that it has not learned from, with the floor beside it.

    python bench/fidelity.py GENERATOR DATA [--per-class N] [--steps N ...]

The floor is the KID of as many scenes that it has learned from. Needs the extra `metrics`.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from held_out import seen_and_unseen

from terradistill.config import load_settings
from terradistill.data.images import load_pixels
from terradistill.evaluation.fidelity import Inception, features, kid
from terradistill.generation.draw import generate
from terradistill.generation.orders import orders_like
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator")
    parser.add_argument("data")
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 10])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    generator, device, network = Generator.load(asked.generator), find_hardware().device, Inception()
    seen, unseen = seen_and_unseen(asked.generator, asked.data, asked.per_class)
    with TemporaryDirectory() as made:
        folder = Path(made)
        real, floor = (
            features(network, load_pixels(side, generator.resolution, folder / f"{name}.npy"), device)
            for name, side in (("unseen", unseen), ("seen", seen))
        )
        print(f"{len(real)} unseen scenes of {asked.data}; KID x 1000 against them:")
        print(f"  {len(floor)} scenes learned from: {1000 * kid(floor, real):.2f}")
        for steps in asked.steps:
            settings = load_settings(None, None, [*asked.set, f"sampling.steps={steps}"])
            orders = orders_like(unseen, settings.data.caption_template, generator)
            scenes = generate(orders, folder / str(steps), generator, n=asked.per_class, settings=settings)
            drawn = features(network, load_pixels(scenes, generator.resolution, folder / f"{steps}.npy"), device)
            print(f"  {len(drawn)} scenes drawn in {steps} steps: {1000 * kid(drawn, real):.2f}", flush=True)


if __name__ == "__main__":
    main()
