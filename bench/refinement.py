"""What refining a set is worth: drawn scenes as they are, taken through the autoencoder, and refined.

    terradistill generate --like DATA --n 30 --out drawn
    python bench/refinement.py drawn DATA --set sampling.refine_rounds=2 [--networks convnet3 resnet18] [--sheet S.png]

The drawn scenes of each class are dealt into sets that share none; the spread is that of sets, one training each. What
they are refined towards, and what judges, are scenes that the generator has learned from, apart from each other: the
unseen ones stay an exam. `generate` keeps no latents, so drawn scenes are encoded anew; `through` says what that costs.
"""

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from held_out import require, seen_and_unseen

from terradistill.config import load_settings
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels, to_float
from terradistill.data.sources import open_scenes
from terradistill.distillation.refining import Gap
from terradistill.distillation.scoreboard import learned_by
from terradistill.evaluation.harness import Labelled, train_and_score
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator
from terradistill.report.gallery import contact_sheet
from terradistill.sampling.refinement import refine
from terradistill.sampling.sampler import decoded
from terradistill.seeding import derive


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenes", help="drawn by `generate --like DATA`")
    parser.add_argument("data")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--sets", type=int, help="none: as many as there are")
    parser.add_argument("--networks", nargs="+", default=["convnet3"])
    parser.add_argument("--generator", default="base-128", help="whose autoencoder it is")
    parser.add_argument("--learn-per-class", type=int, default=50)
    parser.add_argument("--test-per-class", type=int, default=35)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--sheet", type=Path, help="picture: five of a class, drawn and refined")
    asked = parser.parse_args()

    settings, (drawn, _) = load_settings(None, None, asked.set), check_scenes(open_scenes(asked.scenes))
    wanted, recipe = settings.sampling, settings.evaluation
    hardware, generator = find_hardware(settings.precision), Generator.load(asked.generator)
    generator.ready(hardware.device)
    seen, _ = seen_and_unseen(learned_by(Path(asked.scenes)), asked.data, asked.learn_per_class + asked.test_per_class)
    require(seen, asked.data, learned=True)
    classes = range(len(seen.classes))
    places = [np.flatnonzero(seen.labels == label) for label in classes]
    sets = int(np.bincount(drawn.labels).min()) // asked.ipc
    sets = min(sets, asked.sets or sets)
    if sets < 1 or drawn.classes != seen.classes:
        raise SystemExit(f"{asked.scenes} has not {asked.ipc} scenes of each class of {asked.data}: draw more.")
    test = seen.subset(np.sort(np.concatenate([place[: asked.test_per_class] for place in places])))
    side, labels = recipe.resolution or generator.resolution, np.repeat(np.arange(len(places)), asked.ipc)
    with TemporaryDirectory() as made:
        exam = Labelled(load_pixels(test, side, Path(made) / "test.npy"), test.labels)
        real = load_pixels(seen, generator.resolution, Path(made) / "seen.npy")
        pixels = load_pixels(drawn, generator.resolution, Path(made) / "drawn.npy")
        kind = f"{sets} sets of {asked.ipc} a class, {len(test)} learned scenes judge"
        print(f"{asked.data}: {kind}; {wanted.refine_rounds} rounds of {wanted.refine_steps} steps", flush=True)
        oa: dict[tuple[str, str], list[float]] = {}
        for number in range(sets):
            first = number * asked.ipc
            some = np.stack([np.flatnonzero(drawn.labels == label)[first : first + asked.ipc] for label in classes])
            through, refined = [], []
            for label in classes:
                with hardware.autocast():
                    z = generator.encode(to_float(pixels[some[label]]).to(hardware.device))[0]
                gap = Gap(
                    np.asarray(real[places[label][asked.test_per_class :]]),
                    wanted.refine_side,
                    derive(settings.seed, "refine", seen.classes[label], number),
                    hardware,
                )
                moved = refine(
                    z,
                    generator,
                    gap,
                    rounds=wanted.refine_rounds,
                    steps=wanted.refine_steps,
                    rate=wanted.refine_rate,
                    hardware=hardware,
                )
                through.append(decoded(generator, z, hardware))
                refined.append(decoded(generator, moved, hardware))
            arms = {
                "drawn": np.asarray(pixels[some.ravel()]),
                "through": np.concatenate(through),
                "refined": np.concatenate(refined),
            }
            if asked.sheet and not number:
                sheet(arms["drawn"], arms["refined"], asked.ipc, asked.sheet, list(seen.classes))
            for network in asked.networks:
                for arm, images in arms.items():
                    score = train_and_score(
                        Labelled(images, labels),
                        exam,
                        len(places),
                        network,
                        recipe,
                        seed=derive(settings.seed, "evaluation", number),
                        hardware=hardware,
                    )
                    oa.setdefault((network, arm), []).append(100 * score.agreement.oa)
        for (network, arm), found in oa.items():
            spread = f" ± {statistics.stdev(found):.1f}" if sets > 1 else ""
            each = ", ".join(f"{value:.1f}" for value in found)
            print(f"  {network:12} {arm:8} {statistics.fmean(found):.1f}{spread} % ({each})", flush=True)


def sheet(drawn: np.ndarray, refined: np.ndarray, ipc: int, out: Path, names: list[str]) -> None:
    """Five of each class as drawn, and beside them refined."""
    few = min(5, ipc)
    rows = [images.reshape(len(names), ipc, *images.shape[1:])[:, :few] for images in (drawn, refined)]
    both = np.concatenate(rows, axis=1)
    contact_sheet(both.reshape(-1, *both.shape[2:]), 2 * few, labels=names).save(out)


if __name__ == "__main__":
    main()
