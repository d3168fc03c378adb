"""Whose soft labels teach more? One set of scenes learned with labels of its classes, and with those of each teacher.

    terradistill classify train DATA --method ce  --out runs/ce
    terradistill classify train DATA --method dsd --out runs/dsd
    python bench/teachers.py SCENES DATA --teacher ce=runs/ce --teacher dsd=runs/dsd [--network convnet3]

Networks are trained by the one recipe of the scoreboard (--set evaluation.n_seeds=5: five trainings), the i-th of each
row from the same weights, and tested on scenes of DATA from which neither the scenes nor any teacher were made. Of
several teachers of one kind (--teacher ce=runs/ce-0,runs/ce-1) the trainings of a row have one after the other, so that
its spread is also theirs.
Differences are paired by seed, with 95 % intervals of Student's t. Soft labels are kept as float16: their bytes stand
beside those of the images.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from held_out import unseen_of
from worth import score

from terradistill.config import load_settings
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels
from terradistill.data.sources import open_scenes
from terradistill.distillation.scoreboard import learned_by
from terradistill.evaluation.harness import Labelled
from terradistill.evaluation.metrics import paired
from terradistill.evaluation.recipe import logits
from terradistill.hardware import find_hardware
from terradistill.models.scene_classifier import SceneClassifier


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenes", help="a distilled set, for example")
    parser.add_argument("data")
    parser.add_argument("--teacher", action="append", required=True, metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--network", default="convnet3")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    settings, hardware = load_settings(None, None, asked.set), find_hardware()
    named = [each.partition("=") for each in asked.teacher]
    uneven = [name for name, _, runs in named if settings.evaluation.n_seeds % len(runs.split(","))]
    if uneven:
        parser.error(
            f"{settings.evaluation.n_seeds} trainings are not the same number for each teacher {uneven[0]!r}: "
            "give --set evaluation.n_seeds, a multiple of how many there are"
        )
    teachers = {name: [SceneClassifier.load(run) for run in runs.split(",")] for name, _, runs in named}
    each_one = [(name, teacher) for name, several in teachers.items() for teacher in several]
    scenes, _ = check_scenes(open_scenes(asked.scenes))
    known = learned_by(Path(asked.scenes)) | scenes.hashes
    known = known.union(*(teacher.learned_from for _, teacher in each_one))
    unseen = unseen_of(known, asked.data)
    for name, teacher in each_one:
        if not teacher.classes == tuple(scenes.classes) == tuple(unseen.classes):
            raise SystemExit(f"The teacher {name}, {asked.scenes} and {asked.data} have not the same classes.")
    with TemporaryDirectory() as folder:
        side = settings.evaluation.resolution or scenes.scenes[0].height
        images, test = (load_pixels(part, side, Path(folder) / f"{len(part)}.npy") for part in (scenes, unseen))
        arms = {"classes": [Labelled(images, scenes.labels)]}
        for name, teacher in each_one:
            own = load_pixels(scenes, teacher.resolution, Path(folder) / f"seen-{teacher.resolution}.npy")
            said = logits(teacher.network.to(hardware.device), own, teacher.resolution, hardware=hardware)
            soft = (said / teacher.temperature).softmax(1).half().numpy()
            arms.setdefault(name, []).append(Labelled(images, scenes.labels, soft))
        weight = sum(len(scenes.read(i)) for i in range(len(scenes)))
        print(f"{len(images)} scenes, {weight} bytes; {len(test)} of {asked.data} judge {asked.network}, {side} px")
        print("| labels | OA % | to classes, points | to the first teacher | bytes of labels |")
        print("|---" * 5 + "|", flush=True)
        found: dict[str, np.ndarray] = {}
        n = settings.evaluation.n_seeds
        for name, learned in arms.items():
            row = score(learned, Labelled(test, unseen.labels), unseen, asked.network, settings)
            found[name] = 100 * np.array(row["oa"])
            beside = [""] * 2
            for k, other in enumerate([*arms][:2]):
                if n > 1 and k < len(found) - 1:
                    mean, half = paired(found[name] - found[other])
                    beside[k] = f"{mean:+.2f} ± {half:.2f}"
            spread = found[name].std(ddof=1) if n > 1 else 0.0
            own_soft = learned[0].soft
            kept = own_soft.nbytes if own_soft is not None else len(images)  # a byte a class
            print(f"| {name} | {found[name].mean():.2f} ± {spread:.2f} | {' | '.join(beside)} | {kept} |", flush=True)


if __name__ == "__main__":
    main()
