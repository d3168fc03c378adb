"""Train on generated, test on real: what a generator's scenes are worth beside as many real ones, by number.

    python bench/worth.py GENERATOR DATA [--per-class 10 50 100]

Networks are trained by the one recipe of the scoreboard and tested on scenes that the generator has not learned from.
The real scenes are among those that it has.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from held_out import seen_and_unseen

from terradistill.config import load_settings
from terradistill.data.images import load_pixels
from terradistill.distillation.coresets import random_subset
from terradistill.evaluation.harness import Labelled, Row, score_method
from terradistill.generation.draw import generate
from terradistill.generation.orders import orders_like
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator


def draw(scenes: Labelled, n: int) -> Labelled:
    """n random ones of each class."""
    index = random_subset(scenes.labels, n, seed=0)
    return Labelled(np.asarray(scenes.images[index]), scenes.labels[index])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator")
    parser.add_argument("data")
    parser.add_argument("--per-class", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--test-per-class", type=int, default=200)
    parser.add_argument("--network", default="convnet3")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    generator, hardware = Generator.load(asked.generator), find_hardware()
    settings = load_settings(None, None, asked.set)
    side = settings.evaluation.resolution or generator.resolution
    most = max(asked.per_class)
    seen, unseen = seen_and_unseen(asked.generator, asked.data, max(most, asked.test_per_class))
    with TemporaryDirectory() as made:
        folder = Path(made)
        orders = orders_like(unseen, settings.data.caption_template, generator)
        drawn = generate(orders, folder / "drawn", generator, n=most, settings=settings)
        sets = {
            name: Labelled(load_pixels(scenes, side, folder / f"{name}.npy"), scenes.labels)
            for name, scenes in (("real", seen), ("generated", drawn), ("test", unseen))
        }
        test = sets.pop("test")
        print(f"{asked.data}: OA on {len(test.labels)} unseen scenes at {side} pixels, {asked.network}", flush=True)
        enough = min(int(np.bincount(scenes.labels).min()) for scenes in sets.values())
        for n in sorted({min(n, enough) for n in asked.per_class}):
            rows: dict[str, Row] = {
                name: score_method(
                    name,
                    [draw(sets[name], n)],
                    test,
                    seen.classes,
                    asked.network,
                    settings.evaluation,
                    dataset=seen.info.name,
                    ipc=n,
                    base_seed=settings.seed,
                    device=hardware.device,
                    bf16=hardware.bf16,
                )
                for name in ("real", "generated")
            }
            line = ", ".join(
                f"{k} {100 * r['oa_mean']:.1f} ± {100 * (r['oa_std'] or 0):.1f} %" for k, r in rows.items()
            )
            ratio = rows["generated"]["oa_mean"] / rows["real"]["oa_mean"]
            print(f"  {n:4} a class: {line}, ratio {ratio:.1%}", flush=True)


if __name__ == "__main__":
    main()
