"""How real a set looks and how much of the real scenes it covers, beside what real scenes themselves reach."""

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.captions import class_prompt
from terradistill.distillation.coresets import random_subset
from terradistill.distillation.scoreboard import labelled, open_exam, pick
from terradistill.distillation.teacher import SIDE, teach, teacher_network
from terradistill.distillation.work import Work
from terradistill.evaluation.coverage import frechet, intra_class_coverage, neighbourhoods
from terradistill.evaluation.fidelity import Inception, features, kid
from terradistill.evaluation.harness import Labelled
from terradistill.evaluation.recipe import embed
from terradistill.models.clip import Clip
from terradistill.run import Reporter, write_text
from terradistill.seeding import derive
from terradistill.settings import Settings

Network = Literal["own", "inception"]


def fidelity(
    scenes: str | Path,
    against: str | Path,
    out: str | Path,
    settings: Settings,
    *,
    network: Network = "own",
    clip: str | None = None,
    captions: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compare a scene folder with the real scenes that it was not made from, in the features of a network.

    Args:
        scenes: the folder to judge, as for `evaluate`.
        against: DATA, as everywhere, split as for `evaluate`.
        out: run folder; `fidelity.json` in it holds what is returned.
        settings: as for `evaluate`.
        network: whose features: "own", trained on the train split (as DPD does, with a small network for its
            Inception-v3), or "inception", that of FID (needs the extra `metrics`).
        clip: hub id or folder of a CLIP, for the fit of images and class prompts; None: not asked.
        captions: as for `evaluate`.
        reporter: told of progress.

    Returns:
        `made` and `floor`, the latter for as many random real scenes a class that may be learned from. Each holds
        `kid`, `fid`, `precision`, `recall`, `density` and `coverage` against the test split, and
        `intra_class_coverage` of the train split. With `clip`, `clip_score` (100 · mean cosine with the own class's
        prompt) and `zero_shot_oa` too.

    Raises:
        DataError: see `evaluate`.
        EvaluationError: the network's weights are not installed, or there is no such CLIP.
    """
    judged, work = open_exam(scenes, against, out, settings, captions=captions, reporter=reporter)
    with closing(work.run):
        cache, words = work.run / "cache", Clip.load(clip, work.hardware.device) if clip else None
        side = SIDE if network == "own" else max(scene.height for scene in judged.scenes)
        made = labelled(judged, side, cache, "judged")
        train, test = (
            labelled(side_, side, cache, name) for side_, name in ((work.train, "train"), (work.test, "test"))
        )
        ipc = int(np.bincount(made.labels).max())
        floor = pick(train, random_subset(train.labels, ipc, derive(work.settings.seed, "floor")))
        see = _eye(work, network)
        real, known = see(test.images), see(train.images)
        result: dict[str, Any] = {"network": network, "clip": clip, "n_test": len(test.labels)}
        for name, each in (("made", made), ("floor", floor)):
            row = _distances(see(each.images), each, real, known, train)
            result[name] = row | (_fit(words, each, work) if words else {})
        write_text(work.run / "fidelity.json", json.dumps(result, indent=1) + "\n")
    return result


def _eye(work: Work, network: Network) -> Callable[[NDArray[np.uint8]], Tensor]:
    device = work.hardware.device
    if network == "inception":
        return partial(features, Inception(), device=device)
    teach(work)
    return partial(embed, teacher_network(work), resolution=SIDE, device=device, bf16=work.hardware.bf16)


def _distances(seen: Tensor, each: Labelled, real: Tensor, known: Tensor, train: Labelled) -> dict[str, float]:
    row = {"kid": kid(seen, real), "fid": frechet(seen, real), **neighbourhoods(seen, real)}
    row["intra_class_coverage"] = intra_class_coverage(
        seen, torch.as_tensor(each.labels), known, torch.as_tensor(train.labels)
    )
    return {"n": len(seen), **{name: round(value, 6) for name, value in row.items()}}


def _fit(clip: Clip, each: Labelled, work: Work) -> dict[str, float]:
    prompts = [class_prompt(work.train, name, work.settings.data.caption_template) for name in work.train.classes]
    cosines = clip.similarities(each.images, prompts).numpy()
    own = cosines[np.arange(len(each.labels)), each.labels]
    right = cosines.argmax(1) == each.labels
    return {"clip_score": round(float(100 * own.mean()), 4), "zero_shot_oa": round(float(right.mean()), 4)}
