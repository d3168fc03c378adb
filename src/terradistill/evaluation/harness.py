"""What a training set is worth: train a fresh network on it, test it on real scenes. One recipe for every method.

The comparison holds what the field's own re-evaluations ask for: every method gets the same network, epochs within the
same bounds of steps, augmentation and training seeds; the last step is what counts, never the best one on the test set.
Accuracies and their differences are fractions.
"""

import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from terradistill.errors import EvaluationError
from terradistill.evaluation.method import REFERENCES, Method
from terradistill.evaluation.metrics import Agreement, agreement
from terradistill.evaluation.recipe import fit, predict, repeatable
from terradistill.files import write_text
from terradistill.hardware import Hardware
from terradistill.models.downstream import UNCOMPILED, build_network, count_parameters, named_network
from terradistill.run import Progress
from terradistill.seeding import derive
from terradistill.settings import EvaluationSettings

Row = dict[str, Any]


@dataclass(frozen=True)
class Labelled:
    """Images with their classes.

    Attributes:
        images: uint8, shape (n, height, width, 3); may be a read-only memory map.
        labels: int64, shape (n,), classes counted from 0.
        soft: a teacher's probabilities, float16 (n, n_classes), learned from in place of the labels; None: the labels.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    soft: NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.images.shape, self.images.dtype
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or len(self.labels) != shape[0] or shape[0] == 0:
            raise EvaluationError(
                f"Images of shape {shape} and type {dtype} with {len(self.labels)} labels cannot be evaluated: "
                "expected uint8 of shape (n, height, width, 3) with n labels, n at least 1."
            )


@dataclass(frozen=True)
class Score:
    """One training, tested.

    Attributes:
        agreement: scores on the test set after the last step.
        steps: optimiser steps.
        parameters: trainable parameters of the network.
        seconds: wall time of training and testing.
    """

    agreement: Agreement
    steps: int
    parameters: int
    seconds: float


def is_compiled(network: str, settings: EvaluationSettings) -> bool:
    """Whether the steps of a network, by a name that `build_network` takes, are compiled: where that gains time."""
    return settings.compile and named_network(network)[0] not in UNCOMPILED


def train_network(
    train: Labelled,
    n_classes: int,
    network: str,
    resolution: int,
    settings: EvaluationSettings,
    *,
    seed: int,
    hardware: Hardware,
    progress: Progress | None = None,
) -> tuple[nn.Module, int]:
    """One fresh network after its last step, in pixels of ``resolution``, and how many steps that were.

    The other arguments are those of `train_and_score`, which also checks the labels.
    """
    settings = settings.model_copy(update={"compile": is_compiled(network, settings)})
    with repeatable(derive(seed, "network"), hardware.device):
        model = build_network(network, n_classes, resolution, pretrained=settings.pretrained).to(hardware.device)
        labels = train.labels if train.soft is None else train.soft.astype(np.float32)
        steps = fit(model, train.images, labels, resolution, settings, seed=seed, hardware=hardware, progress=progress)
    return model, steps


def train_and_score(
    train: Labelled,
    test: Labelled,
    n_classes: int,
    network: str,
    settings: EvaluationSettings,
    *,
    seed: int,
    hardware: Hardware,
    progress: Progress | None = None,
) -> Score:
    """Trains one fresh network and tests it after its last step. The same seed gives the same score on a machine.

    Args:
        train: what is judged; its images are resized to the resolution of the test set or of the settings.
        test: real scenes.
        n_classes: classes that the network tells apart.
        network: a name that `build_network` takes.
        settings: the recipe.
        seed: decides initial weights, order of the images and crops.
        hardware: where and in which precision networks are trained.
        progress: called as ``progress(done, total)`` after every optimiser step.

    Raises:
        EvaluationError: the network is unknown, a label is out of range, or the training diverges.
    """
    for name, labels in (("training", train.labels), ("test", test.labels)):
        if labels.min() < 0 or labels.max() >= n_classes:
            raise EvaluationError(
                f"The {name} labels run from {labels.min()} to {labels.max()}: expected 0 to {n_classes - 1}."
            )
    started = time.perf_counter()
    resolution = settings.resolution or test.images.shape[1]
    model, steps = train_network(
        train, n_classes, network, resolution, settings, seed=seed, hardware=hardware, progress=progress
    )
    with repeatable(seed, hardware.device):
        predicted = predict(model, test.images, resolution, hardware=hardware)
    return Score(
        agreement=agreement(test.labels, predicted, n_classes),
        steps=steps,
        parameters=count_parameters(model),
        seconds=time.perf_counter() - started,
    )


def score_method(
    method: str,
    sets: Sequence[Labelled],
    test: Labelled,
    classes: Sequence[str],
    network: str,
    settings: EvaluationSettings,
    *,
    dataset: str,
    ipc: int | None,
    base_seed: int,
    hardware: Hardware,
    progress: Progress | None = None,
    kept: Path | None = None,
) -> Row:
    """One row of the scoreboard: ``settings.n_seeds`` trainings of one network on one method's images.

    Training i uses ``sets[i % len(sets)]`` and a seed that depends on ``base_seed`` and i alone: method against method,
    the i-th trainings start from the same weights. With one set, ``oa_std`` is the variation of training alone; with
    several it holds that of the sets too, and ``set_index`` tells them apart.

    Args:
        method: ``random`` and ``full`` are the references of `hlr` and `ior`; any other name is a method.
        sets: the method's training sets, at least one, of equal size.
        test: real scenes that no method has learned from.
        classes: class names; label k is ``classes[k]``.
        network: a name that `build_network` takes.
        settings: the recipe.
        dataset: name to report.
        ipc: images per class; None for the whole train split.
        base_seed: the run's seed.
        hardware: where and in which precision networks are trained.
        progress: called as ``progress(done, total)`` with the optimiser steps of all trainings.
        kept: a JSON file of trainings that are done, which are not done again; grows with each.

    Returns:
        A row that JSON can hold. Means are over trainings, ``oa_std`` is the sample standard deviation (None for one
        training), ``recall`` the mean by class (None for a class that the test set lacks), ``confusion`` the sum,
        ``seconds`` the total.

    Raises:
        EvaluationError: there is no set, or see `train_and_score`.
    """
    if not sets:
        raise EvaluationError(f"Method '{method}' has no training set: give at least one.")
    n = settings.n_seeds
    set_index = [i % len(sets) for i in range(n)]
    scores = _kept(kept)

    def report(done: int, total: int) -> None:
        if progress:
            progress(len(scores) * total + done, n * total)

    for i in range(len(scores), n):
        seed = derive(base_seed, "evaluation", i)
        train = sets[set_index[i]]
        scores.append(
            train_and_score(train, test, len(classes), network, settings, seed=seed, hardware=hardware, progress=report)
        )
        if kept is not None:
            write_text(kept, json.dumps([asdict(each) | {"agreement": each.agreement.as_json()} for each in scores]))
    results = [score.agreement for score in scores]
    plain, pretrained = named_network(network, pretrained=settings.pretrained)
    oa = [result.oa for result in results]
    recall = np.mean([result.recall for result in results], axis=0)
    return {
        "method": method,
        "dataset": dataset,
        "ipc": ipc,
        "network": plain,
        "pretrained": pretrained,
        "labels": "hard" if sets[0].soft is None else "soft",
        "n_seeds": n,
        "n_sets": len(set(set_index)),
        "set_index": set_index,
        "n_train": len(sets[0].labels),
        "n_test": len(test.labels),
        "n_classes": len(classes),
        "chance": 1 / len(classes),
        "resolution": settings.resolution or test.images.shape[1],
        "steps": scores[0].steps,
        "parameters": scores[0].parameters,
        "seconds": sum(score.seconds for score in scores),
        "oa": oa,
        "oa_mean": statistics.fmean(oa),
        "oa_std": statistics.stdev(oa) if n > 1 else None,
        **_spreads(oa, set_index),
        "aa_mean": statistics.fmean(result.aa for result in results),
        "kappa_mean": statistics.fmean(result.kappa for result in results),
        "recall": [None if np.isnan(value) else float(value) for value in recall],
        "confusion": np.sum([result.confusion for result in results], axis=0).tolist(),
    }


def _kept(path: Path | None) -> list[Score]:
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Score(**each | {"agreement": Agreement.from_json(each["agreement"])}) for each in found]


def _spreads(oa: Sequence[float], set_index: Sequence[int]) -> dict[str, float | None]:
    """Standard deviations between trainings on one set, and between sets beyond that (one-way random effects)."""
    groups = [[value for value, k in zip(oa, set_index, strict=True) if k == index] for index in sorted(set(set_index))]
    if min(map(len, groups)) < 2:
        return {"oa_std_trainings": None, "oa_std_sets": None}
    within = statistics.fmean(statistics.variance(group) for group in groups)
    between = None
    if len(groups) > 1:
        means = statistics.variance([statistics.fmean(group) for group in groups])
        between = max(0.0, means - within / statistics.fmean(map(len, groups))) ** 0.5
    return {"oa_std_trainings": within**0.5, "oa_std_sets": between}


def hlr(rows: Iterable[Row]) -> list[Row]:
    """Hard label recovery (DD-Ranking): the share of OA that a method stays below all real images; less is better.

    Returns:
        The rows; each one with hard labels that is not a reference gains ``hlr`` where a ``full`` row of its comparison
        exists.
    """
    rows = list(rows)
    full = {_comparison(row): row["oa_mean"] for row in rows if row["method"] == "full"}
    return [
        {**row, "hlr": full[_comparison(row)] - row["oa_mean"]}
        if not _is_reference(row) and _labels(row) == "hard" and _comparison(row) in full
        else row
        for row in rows
    ]


def ior(rows: Iterable[Row]) -> list[Row]:
    """Improvement over random (DD-Ranking): the share of OA gained on as many random real images; more is better.

    Returns:
        The rows; each one that is not a reference gains ``ior`` where a ``random`` row of its comparison, its number of
        images per class, its formation and its kind of labels exists, and ``ior_std``, the root of the sum of the two
        rows' variances (None where either is unknown).
    """
    rows = list(rows)

    def alike(row: Row) -> tuple[Any, ...]:
        return row["ipc"], Method.read(row["method"]).formation, _labels(row), *_comparison(row)

    random = {alike(row): row for row in rows if Method.read(row["method"]).name == "random"}
    return [
        {**row, **_gain(row, random[alike(row)])} if not _is_reference(row) and alike(row) in random else row
        for row in rows
    ]


def _gain(row: Row, random: Row) -> dict[str, float | None]:
    spreads = [each.get("oa_std") for each in (row, random)]
    known = [spread for spread in spreads if spread is not None]
    return {
        "ior": row["oa_mean"] - random["oa_mean"],
        "ior_std": math.hypot(*known) if len(known) == len(spreads) else None,
    }


def _labels(row: Row) -> str:
    return str(row.get("labels") or "hard")


def _is_reference(row: Row) -> bool:
    return Method.read(row["method"]).name in REFERENCES


def with_references(rows: Iterable[Row]) -> list[Row]:
    """The rows with ``hlr`` and ``ior`` where their references exist."""
    return ior(hlr(rows))


def _comparison(row: Row) -> tuple[Any, ...]:
    """What must be equal for two rows to be comparable."""
    return tuple(row[key] for key in ("dataset", "network", "pretrained", "resolution"))
