"""How to choose ten of fifty: drawn scenes chosen by each rule, judged by networks that learn from them.

    terradistill generate --like DATA --n 150 --out drawn
    python bench/selection.py drawn DATA [--ipc 10] [--pool 50] [--rules none margin herding coverage] [--set A.B=C]

The drawn scenes of each class are dealt into pools that share none, and each rule chooses one set from every pool; the
spread is that of sets, one training each. Latent classifier and class features come from scenes that the generator has
learned from, and others of these judge: what is chosen here leaves the unseen ones an exam.
"""

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from held_out import require, seen_and_unseen
from torch import Tensor

from terradistill.config import load_settings
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation.scoreboard import learned_by
from terradistill.evaluation.harness import Labelled, train_and_score
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator
from terradistill.sampling.selection import best_of, covering, herding, margins
from terradistill.seeding import derive
from terradistill.training.classifier import embed, predict, train_latent_classifier
from terradistill.training.latents import LatentCache, encode_scenes

RULES = ("none", "margin", "herding", "coverage")


def choose(rule: str, features: Tensor, margin: Tensor, real: list[Tensor], ipc: int, weight: float) -> Tensor:
    """Places of the chosen in pools of G classes: int64 (G, ipc).

    Args:
        rule: one of `RULES`; none takes the first.
        features: (G, N, D), rows of length 1, of what was drawn.
        margin: (G, N), how surely each is of its class.
        real: G tensors (M, D), rows of length 1, of real scenes.
        ipc: how many of each class.
        weight: of being sure, for coverage.
    """
    groups, n = margin.shape
    if rule == "margin":
        each = n // ipc
        return best_of(margin[:, : each * ipc].reshape(-1), each).view(groups, ipc) - torch.arange(groups)[:, None] * n
    if rule == "herding":
        return herding(features, torch.stack([scenes.mean(0) for scenes in real]), ipc)
    if rule == "coverage":
        return covering(features, real, margin.sigmoid(), ipc, weight=weight)
    return torch.arange(ipc).expand(groups, -1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenes", help="drawn by `generate --like DATA`")
    parser.add_argument("data")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--pool", type=int, default=50, help="drawn scenes of a class to choose from")
    parser.add_argument("--pools", type=int, help="none: as many as there are")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--generator", default="base-128", help="whose latents are looked at")
    parser.add_argument("--learn-per-class", type=int, default=50)
    parser.add_argument("--test-per-class", type=int, default=35)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()
    if asked.pool % asked.ipc:
        raise SystemExit(f"--pool is {asked.pool}: give a multiple of --ipc, {asked.ipc}.")

    settings, (drawn, _) = load_settings(None, None, asked.set), check_scenes(open_scenes(asked.scenes))
    hardware, generator = find_hardware(settings.precision), Generator.load(asked.generator)
    generator.ready(hardware.device)
    seen, _ = seen_and_unseen(learned_by(Path(asked.scenes)), asked.data, asked.learn_per_class + asked.test_per_class)
    require(seen, asked.data, learned=True)
    places = [np.flatnonzero(seen.labels == label) for label in range(len(seen.classes))]
    learn = seen.subset(np.sort(np.concatenate([place[asked.test_per_class :] for place in places])))
    test = seen.subset(np.sort(np.concatenate([place[: asked.test_per_class] for place in places])))
    pools = int(np.bincount(drawn.labels).min()) // asked.pool
    pools = min(pools, asked.pools or pools)
    if pools < 1 or drawn.classes != seen.classes:
        raise SystemExit(f"{asked.scenes} has not {asked.pool} scenes of each class of {asked.data}: draw more.")
    of_class = np.stack([np.flatnonzero(drawn.labels == label)[: pools * asked.pool] for label in range(len(places))])
    with TemporaryDirectory() as made:
        side, judged = generator.resolution, settings.evaluation.resolution or generator.resolution

        def latents(scenes: SceneFolder, name: str) -> LatentCache:
            pixels = load_pixels(scenes, side, Path(made) / name)
            return encode_scenes(generator, pixels, n_views=1, hardware=hardware)

        known = latents(learn, "learn.npy")
        model, accuracy = train_latent_classifier(
            known, learn.labels, len(places), settings.classifier, seed=settings.seed, hardware=hardware
        )
        found = latents(drawn.subset(of_class.ravel()), "drawn.npy")
        features = embed(model, found, hardware).view(len(places), pools, asked.pool, -1)
        labels = torch.arange(len(places)).repeat_interleave(pools * asked.pool)
        margin = margins(predict(model, found.means(), hardware), labels).view(len(places), pools, asked.pool)
        own = embed(model, known, hardware)
        real = [own[torch.from_numpy(learn.labels) == label] for label in range(len(places))]
        exam = Labelled(load_pixels(test, judged, Path(made) / "test.npy"), test.labels)
        images = load_pixels(drawn, judged, Path(made) / "judged.npy")
        kind = f"{asked.ipc} of {asked.pool} a class, {pools} pools, {len(test)} learned scenes judge"
        print(f"{asked.data}: {kind}", flush=True)
        right = float((margin > 0).float().mean())
        print(f"  the latent classifier: {accuracy:.1%} of its validation scenes, {right:.1%} of the drawn", flush=True)
        for rule in asked.rules:
            oa = []
            for pool in range(pools):
                picks = choose(
                    rule, features[:, pool], margin[:, pool], real, asked.ipc, settings.sampling.sureness
                ).numpy()
                index = np.take_along_axis(of_class[:, pool * asked.pool : (pool + 1) * asked.pool], picks, 1).ravel()
                score = train_and_score(
                    Labelled(np.asarray(images[index]), drawn.labels[index]),
                    exam,
                    len(places),
                    "convnet3",
                    settings.evaluation,
                    seed=derive(settings.seed, "evaluation", pool),
                    hardware=hardware,
                )
                oa.append(100 * score.agreement.oa)
            spread = f" ± {statistics.stdev(oa):.1f}" if pools > 1 else ""
            each = ", ".join(f"{value:.1f}" for value in oa)
            print(f"  {rule:9} {statistics.fmean(oa):.1f}{spread} % ({each})", flush=True)


if __name__ == "__main__":
    main()
