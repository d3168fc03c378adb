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
from terradistill.distillation.teacher import teacher_of
from terradistill.distillation.work import Work
from terradistill.errors import EvaluationError
from terradistill.evaluation.coverage import frechet, intra_class_coverage, neighbourhoods
from terradistill.evaluation.fidelity import Inception, features, kid
from terradistill.evaluation.harness import Labelled
from terradistill.evaluation.recipe import embed
from terradistill.files import write_text
from terradistill.models.clip import Clip
from terradistill.models.scene_classifier import SceneClassifier
from terradistill.run import Reporter
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
        network: whose features: "own", a small network trained on the train split (DPD: a ResNet-18 from ImageNet), or
            "inception", that of FID (needs the extra `metrics`).
        clip: hub id or folder of a CLIP, for the fit of images and class prompts; None: not asked.
        captions: as for `evaluate`.
        reporter: told of progress.

    Returns:
        `made` and `floor`, the latter for as many random test scenes a class (half of a class's at most). Each holds
        `kid`, `fid`, `precision`, `recall`, `density` and `coverage` against the other test scenes, and
        `intra_class_coverage` of the train split. With `clip`, `clip_score` (100 · mean cosine with the own class's
        prompt) and `zero_shot_oa` too.

    Raises:
        DataError: see `evaluate`.
        EvaluationError: the network's weights are not installed, or there is no such CLIP.
    """
    judged, work = open_exam(scenes, against, out, settings, captions=captions, reporter=reporter)
    with closing(work.run):
        if min(work.test.counts.values()) < 2:
            raise EvaluationError(
                "Fidelity wants two test scenes of each class, one to measure and one for the floor: add some, or "
                "lower --train-fraction."
            )
        cache, words = work.run / "cache", Clip.load(clip, work.hardware.device) if clip else None
        teacher = teacher_of(work) if network == "own" else None
        side = teacher.resolution if teacher else max(scene.height for scene in judged.scenes)
        made, test, train = (
            labelled(scenes_, side, cache, name)
            for scenes_, name in ((judged, "judged"), (work.test, "test"), (work.train, "train"))
        )
        # The floor comes from scenes that nothing has learned from, the network of these features included.
        ipc = int(np.bincount(made.labels).max())
        index = random_subset(test.labels, _floor_of(test.labels, ipc), derive(work.settings.seed, "floor"))
        rest = np.setdiff1d(np.arange(len(test.labels)), index)
        sets = {"made": made, "floor": pick(test, index)}
        see = _eye(work, teacher)
        real, known = see(test.images[rest]), see(train.images)
        result: dict[str, Any] = {"network": network, "clip": clip, "n_test": len(rest)}
        for name, each in sets.items():
            result[name] = _distances(see(each.images), each, real, known, train)
        if words:
            native = max(scene.height for scene in judged.scenes)
            for name, scenes_ in (("made", judged), ("floor", work.test.subset(index))):
                result[name] |= _fit(words, labelled(scenes_, native, cache, f"{name}-for-clip"), work)
        write_text(work.run / "fidelity.json", json.dumps(result, indent=1) + "\n")
    return result


def _floor_of(labels: NDArray[np.int64], ipc: int) -> int:
    """How many test scenes of each class are the floor: as many as the set has, but half of them stay the measure."""
    return max(1, min(ipc, int(np.bincount(labels).min()) // 2))


def _eye(work: Work, teacher: SceneClassifier | None) -> Callable[[NDArray[np.uint8]], Tensor]:
    if teacher is None:
        return partial(features, Inception(), device=work.hardware.device)
    return partial(embed, teacher.network, resolution=teacher.resolution, hardware=work.hardware)


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
