"""Train on generated, test on real: what drawn scenes are worth beside as many real ones, by number.

    terradistill generate --like DATA --n 100 --out drawn
    python bench/worth.py drawn DATA [--per-class 10 50 100] [--plot curve.svg]

Networks are trained by the one recipe of the scoreboard and tested on scenes that the generator has not learned from;
each learns from a random set of its own, so that the spread is that of sets and trainings together.
The real scenes are among those that it has; where there are fewer than asked for, all of them, and the line says how
many. `--learned` tests on some of these instead: they choose settings, and the unseen ones stay an exam.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from held_out import require, seen_and_unseen

from terradistill.config import load_settings
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation.coresets import random_subset
from terradistill.distillation.scoreboard import learned_by
from terradistill.evaluation.harness import Labelled, Row, score_method
from terradistill.hardware import find_hardware
from terradistill.report.plots import budget_plot
from terradistill.settings import Settings


def draw(scenes: Labelled, n: int, sets: int) -> list[Labelled]:
    """Several sets of n random ones of each class."""
    picks = [random_subset(scenes.labels, n, seed=seed) for seed in range(sets)]
    return [Labelled(np.asarray(scenes.images[index]), scenes.labels[index]) for index in picks]


def score(train: list[Labelled], test: Labelled, scenes: SceneFolder, network: str, settings: Settings) -> Row:
    """Training sets, one a seed, judged by the recipe of the settings; `scenes` says of what dataset."""
    return score_method(
        "x",
        train,
        test,
        scenes.classes,
        network,
        settings.evaluation,
        dataset=scenes.info.name,
        ipc=int(np.bincount(train[0].labels).min()),
        base_seed=settings.seed,
        hardware=find_hardware(),
    )


def told(row: Row) -> str:
    return f"{100 * row['oa_mean']:.1f} ± {100 * (row['oa_std'] or 0):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenes", help="drawn by `generate --like DATA`")
    parser.add_argument("data")
    parser.add_argument("--per-class", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--test-per-class", type=int, default=200)
    parser.add_argument("--learned", action="store_true", help="test on scenes that it has learned from")
    parser.add_argument("--network", default="convnet3")
    parser.add_argument("--plot", type=Path, help="SVG of the lines of both")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    settings, (drawn, _) = load_settings(None, None, asked.set), check_scenes(open_scenes(asked.scenes))
    side = settings.evaluation.resolution or drawn.scenes[0].height
    most = max(*asked.per_class, asked.test_per_class) + asked.learned * asked.test_per_class
    seen, unseen = seen_and_unseen(learned_by(Path(asked.scenes)), asked.data, most)
    require(seen, asked.data, learned=True)
    if asked.learned:
        least = int(np.bincount(seen.labels).min())
        if asked.test_per_class >= least:
            raise SystemExit(f"It has learned from {least} scenes of a class: give a smaller --test-per-class.")
        unseen, _ = seen_and_unseen(learned_by(Path(asked.scenes)), asked.data, asked.test_per_class)
        judges = {scene.sha256 for scene in unseen.scenes}
        seen = seen.with_scenes(scene for scene in seen.scenes if scene.sha256 not in judges)
    require(unseen, asked.data, learned=False)
    if drawn.classes != unseen.classes:
        raise SystemExit(f"{asked.scenes} has not the classes of {asked.data}.")
    with TemporaryDirectory() as made:
        folder = Path(made)
        sets = {
            name: Labelled(load_pixels(scenes, side, folder / f"{name}.npy"), scenes.labels)
            for name, scenes in (("real", seen), ("generated", drawn), ("test", unseen))
        }
        test = sets.pop("test")
        kind = "learned" if asked.learned else "unseen"
        print(f"{asked.data}: OA on {len(test.labels)} {kind} scenes at {side} pixels, {asked.network}", flush=True)
        rows: dict[tuple[str, int], Row] = {}
        for n in sorted(asked.per_class):
            told_of = []
            for kind, scenes in sets.items():
                most = min(n, int(np.bincount(scenes.labels).min()))
                if (kind, most) not in rows:
                    judged = score(draw(scenes, most, settings.evaluation.n_seeds), test, seen, asked.network, settings)
                    rows[kind, most] = judged | {"method": kind}
                told_of.append((rows[kind, most], f" ({most})" if most < n else ""))
            line = ", ".join(f"{row['method']}{few} {told(row)} %" for row, few in told_of)
            (real, _), (generated, _) = told_of
            print(f"  {n:4} a class: {line}, ratio {generated['oa_mean'] / real['oa_mean']:.1%}", flush=True)
    if asked.plot:
        asked.plot.write_text(budget_plot(list(rows.values()), "ipc"))


if __name__ == "__main__":
    main()
