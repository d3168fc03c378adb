"""Train on generated, test on real: what drawn scenes are worth beside as many real ones, by number.

    terradistill generate --like DATA --n 100 --out drawn
    python bench/worth.py drawn DATA [--per-class 10 50 100]

Networks are trained by the one recipe of the scoreboard and tested on scenes that the generator has not learned from.
The real scenes are among those that it has. `--learned` tests on some of these instead: they choose settings, and the
unseen ones stay an exam.
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
from terradistill.settings import Settings


def draw(scenes: Labelled, n: int) -> Labelled:
    """n random ones of each class."""
    index = random_subset(scenes.labels, n, seed=0)
    return Labelled(np.asarray(scenes.images[index]), scenes.labels[index])


def score(train: Labelled, test: Labelled, scenes: SceneFolder, network: str, settings: Settings) -> Row:
    """A training set, judged by the recipe of the settings; `scenes` says of what dataset and which classes."""
    return score_method(
        "x",
        [train],
        test,
        scenes.classes,
        network,
        settings.evaluation,
        dataset=scenes.info.name,
        ipc=None,
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
        enough = min(int(np.bincount(scenes.labels).min()) for scenes in sets.values())
        for n in sorted({min(n, enough) for n in asked.per_class}):
            rows = {k: score(draw(of_kind, n), test, seen, asked.network, settings) for k, of_kind in sets.items()}
            line = ", ".join(f"{name} {told(row)} %" for name, row in rows.items())
            ratio = rows["generated"]["oa_mean"] / rows["real"]["oa_mean"]
            print(f"  {n:4} a class: {line}, ratio {ratio:.1%}", flush=True)


if __name__ == "__main__":
    main()
