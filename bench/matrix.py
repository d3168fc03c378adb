"""A generator as a source of data (Remote Diffusion's experiment): train and test on real and on drawn scenes.

    python bench/matrix.py GENERATOR DATA [--per-class 50] [--ratios 0.5 1 2]

Drawn scenes come from class prompts alone. The 2 x 2 matrix of train and test sets, with as many images of either kind;
then real scenes with drawn ones beside them, by their ratio. All trainings take the same number of optimiser steps
under the same augmentation, so that "real" alone is the arm of an equal budget. Real test scenes are those that the
generator has not learned from; the real train scenes are among those that it has. Each seed has train sets of its own.
Chance is printed beside.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from held_out import require, seen_and_unseen
from worth import draw

from terradistill.config import load_settings
from terradistill.data.images import load_pixels
from terradistill.evaluation.harness import Labelled, train_network
from terradistill.evaluation.recipe import predict
from terradistill.generation.draw import generate
from terradistill.generation.orders import orders_like
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator
from terradistill.models.places import learned_from
from terradistill.seeding import derive
from terradistill.settings import EvaluationSettings


def joined(a: Labelled, b: Labelled) -> Labelled:
    """Both sets as one."""
    return Labelled(np.concatenate([a.images, b.images]), np.concatenate([a.labels, b.labels]))


def accuracies(
    sets: list[Labelled],
    tests: list[Labelled],
    n_classes: int,
    network: str,
    settings: EvaluationSettings,
    base_seed: int,
) -> list[str]:
    """Of networks that learn from a set each, the overall accuracy on each of the tests: mean ± deviation."""
    hardware, found = find_hardware(), []
    side = settings.resolution or tests[0].images.shape[1]
    for i, train in enumerate(sets):
        seed = derive(base_seed, "evaluation", i)
        model, _ = train_network(train, n_classes, network, side, settings, seed=seed, hardware=hardware)
        found.append([np.mean(predict(model, each.images, side, hardware=hardware) == each.labels) for each in tests])
    oa = 100 * np.asarray(found)
    return [f"{own.mean():.1f} ± {own.std(ddof=1) if len(own) > 1 else 0:.1f}" for own in oa.T]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator")
    parser.add_argument("data")
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    generator = Generator.load(asked.generator)
    budget = [f"evaluation.min_steps={asked.steps}", f"evaluation.max_steps={asked.steps}"]
    settings = load_settings(None, None, [*budget, *asked.set])
    side = settings.evaluation.resolution or generator.resolution
    seen, unseen = seen_and_unseen(learned_from(asked.generator), asked.data)
    require(seen, asked.data, learned=True)
    require(unseen, asked.data, learned=False)
    with TemporaryDirectory() as made:
        folder = Path(made)
        orders = orders_like(unseen, settings.data.caption_template, generator)

        def drawn(name: str, n: int, seed: int) -> Labelled:
            scenes = generate(orders, folder / name, generator, n=n, seed=seed, settings=settings)
            return Labelled(load_pixels(scenes, side, folder / f"{name}.npy"), scenes.labels)

        real_all = Labelled(load_pixels(seen, side, folder / "seen.npy"), seen.labels)
        n = min(asked.per_class, int(np.bincount(real_all.labels).min()))
        pool, sets = drawn("pool", round(n * max(1, *asked.ratios)), 0), settings.evaluation.n_seeds
        real = draw(real_all, n, sets)
        tests = {
            "real": Labelled(load_pixels(unseen, side, folder / "unseen.npy"), unseen.labels),
            "drawn": drawn("exam", n, 1),
        }

        def oa(train: list[Labelled], *on: str) -> str:
            judges = [tests[name] for name in on]
            cells = accuracies(train, judges, classes, asked.network, settings.evaluation, settings.seed)
            return " | ".join([*cells, *[""] * (len(tests) - len(on))])

        classes = len(unseen.classes)
        print(
            f"{asked.data}: {classes} classes, chance {100 / classes:.1f} %, {n} images a class, {asked.network}, "
            f"{asked.steps} steps each, {sets} seeds"
        )
        print("| learned from | tested on real | tested on drawn |\n|---|---|---|")
        for name, train in (("real", real), ("drawn", draw(pool, n, sets))):
            print(f"| {name} | {oa(train, 'real', 'drawn')} |", flush=True)
        for ratio in asked.ratios:
            both = [joined(*pair) for pair in zip(real, draw(pool, round(n * ratio), sets), strict=True)]
            print(f"| real and {ratio:g} × drawn | {oa(both, 'real')} |", flush=True)


if __name__ == "__main__":
    main()
