"""Train a classifier of scenes and say how good it is: `terradistill classify train`.

OUT/model/         the plain backbone, with its temperature
OUT/scores.json    of the test scenes, which nothing else has seen
OUT/report.html    confusion, reliability, what it looks at

It learns from the train scenes of DATA, or from any other scene folder, such as a distilled one.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.classification.calibration import expected_error, reliability
from terradistill.classification.explain import looked_at
from terradistill.classification.training import require_augmentation, train_scene_classifier
from terradistill.data.arrays import Rows
from terradistill.data.check import require_enough
from terradistill.data.images import load_pixels
from terradistill.data.scenes import SceneFolder
from terradistill.distillation.scoreboard import learned_by, open_exam
from terradistill.distillation.work import Work, open_work
from terradistill.errors import ConfigError, EvaluationError, TerraDistillError, reason
from terradistill.evaluation.metrics import agreement
from terradistill.evaluation.recipe import logits
from terradistill.models.downstream import build_network, count_parameters, named_network, require_network
from terradistill.models.scene_classifier import SceneClassifier
from terradistill.models.self_distillation import stages_of
from terradistill.report.classifier import write_classifier_report
from terradistill.run import Reporter
from terradistill.sections import ClassifySettings
from terradistill.seeding import derive
from terradistill.settings import Settings
from terradistill.training.classifier import stratified

Pixels = NDArray[np.uint8]
LEAST = 3  # images a class: one of them chooses the epoch


def train_classifier(
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: Settings | None = None,
    *,
    against: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Train on the train scenes, choose the epoch on a part of them, test on the others.

    Args:
        data: as for `distill`; a list is pooled.
        out: run folder; an existing one with the same settings is gone on with.
        settings: `classify`, `data`, `seed`.
        against: real scenes of the same classes. `data` is then a scene folder that all is learned from, the choice of
            the epoch too, and the test scenes of `against` only judge. The split is that of the run which holds `data`,
            unless a split file is given.
        reporter: told of progress.

    Returns:
        The folder of the classifier, inside `out`.

    Raises:
        TerraDistillError: what was asked cannot be done; the message says what would help.
    """
    settings = (settings or Settings()).model_copy(update={"generator": None})
    wanted = settings.classify
    require_network(wanted.network, pretrained=wanted.pretrained)
    require_augmentation(wanted)
    _require_fit(wanted)  # refused now rather than after the reading
    fresh = not (Path(out) / "resolved.json").exists()
    if against is None:
        work = open_work(data, Path(out), settings, reporter=reporter, spare=LEAST - settings.ipc)
        # What was drawn stands for what its generator has learned from.
        drawn = [learned_by(Path(each)) for each in ([data] if isinstance(data, str | Path) else data)]
        learned, known = work.train, work.learned.union(*drawn)
    else:
        if not isinstance(data, str | Path):
            data = only(data)
        learned, work = open_exam(data, against, out, settings, reporter=reporter, least=1)
        known = learned_by(Path(data)) | learned.hashes
    with closing(work.run):
        try:
            if against is not None:
                require_enough(learned, settings.ipc, spare=LEAST - settings.ipc)
            if wanted.soft_labels:
                _ = learned.soft_labels
        except TerraDistillError:
            # As in `open_work`: the mended command should find the folder free.
            if fresh:
                work.run.discard()
            raise
        _train(work, learned, known)
        _test(work)
        write_classifier_report(work.run.root)
        return work.run / "model"


def _require_fit(wanted: ClassifySettings) -> None:
    """Make sure that the network takes images of the side that is asked for, and branches where these are.

    Raises:
        EvaluationError: it does not.
    """
    network, side = build_network(wanted.network, 2, wanted.resolution).eval(), wanted.resolution
    if wanted.method != "ce":
        stages_of(network)
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, side, side))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise EvaluationError(
            f"{wanted.network} does not take images of {side} pixels ({reason(error)}): set classify.resolution."
        ) from error


def only(data: Sequence[str | Path]) -> str | Path:
    """The one folder to learn from.

    Raises:
        ConfigError: there are several.
    """
    if len(data) != 1:
        raise ConfigError(f"{len(data)} scene folders were given to learn from; with --against give one.")
    return data[0]


def _train(work: Work, scenes: SceneFolder, known: frozenset[str]) -> None:
    run, wanted = work.run, work.settings.classify
    if run.done("classify"):
        return
    with run.stage("classify", "Training the classifier") as stage:
        pixels, labels = _pixels(work, scenes, "learned"), scenes.labels
        n_classes = len(scenes.classes)
        told = scenes.soft_labels.astype(np.float32) if wanted.soft_labels else labels
        learned, held = stratified(labels, wanted.validation_fraction, derive(work.settings.seed, "classify"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(work.settings.seed, "classify weights"))
            network = build_network(wanted.network, n_classes, wanted.resolution, pretrained=wanted.pretrained)
        trained = train_scene_classifier(
            network,
            pixels,
            told,
            learned,
            (Rows(pixels, held), labels[held]),
            n_classes,
            wanted,
            seed=derive(work.settings.seed, "classify"),
            hardware=work.hardware,
            work=stage.work,
            checkpoint_seconds=work.settings.checkpoint_seconds,
            watch=stage,
        )
        about = {
            "method": wanted.method,
            "labels": "soft" if wanted.soft_labels else "hard",
            "pretrained": named_network(wanted.network, pretrained=wanted.pretrained)[1],
            "epoch": trained.epoch,
            "validation_accuracy": round(trained.accuracy, 4),
            "parameters": count_parameters(network),
            "parameters_while_training": count_parameters(network) + trained.extra_parameters,
            **({"divergence_from_teachers": trained.refinement} if trained.refinement else {}),
            "milliseconds_a_step": round(trained.milliseconds, 1),
            "seconds": round(stage.seconds, 1),
            "data": scenes.info.title or scenes.info.name,
            "licence": scenes.info.licence,
        }
        readable = {name: scenes.readable(name) for name in scenes.classes}
        classifier = SceneClassifier(
            network,
            named_network(wanted.network)[0],
            tuple(scenes.classes),
            readable,
            wanted.resolution,
            trained.temperature,
            about,
            known,
        )
        with stage.writes("model") as folder:
            classifier.save(folder)
        stage.note = (
            f"epoch {trained.epoch}, {trained.accuracy:.1%} of its validation scenes right, "
            f"{trained.milliseconds:.0f} ms a step"
        )


def _test(work: Work) -> None:
    run = work.run
    if run.done("test"):
        return
    with run.stage("test", "Testing the classifier") as stage:
        classifier = SceneClassifier.load(run / "model")
        network = classifier.network.to(work.hardware.device)
        pixels, labels = _pixels(work, work.test, "test"), work.test.labels
        said = logits(network, pixels, classifier.resolution, hardware=work.hardware)
        shares = (said / classifier.temperature).softmax(1)
        found = agreement(labels, said.argmax(1).numpy(), len(classifier.classes))
        bins = reliability(shares, torch.from_numpy(labels))
        raw = expected_error(reliability(said.softmax(1), torch.from_numpy(labels)))
        scores: dict[str, Any] = {
            "network": classifier.name,
            "method": classifier.about["method"],
            "n_test": len(labels),
            "oa": found.oa,
            "aa": found.aa,
            "kappa": found.kappa,
            "recall": [None if np.isnan(value) else float(value) for value in found.recall],
            "confusion": found.confusion.tolist(),
            "temperature": classifier.temperature,
            "calibration_error": expected_error(bins),
            "calibration_error_before": raw,
            "reliability": bins,
        }
        run.write_json("scores.json", scores)
        looked = run.root / "looked_at.png"
        if not work.settings.export.hide_real and (
            lacking := looked_at(classifier, pixels, labels, looked, work.hardware)
        ):
            run.say(lacking)
        stage.note = f"OA {found.oa:.1%}, κ {found.kappa:.3f}, calibration error {scores['calibration_error']:.3f}"


def _pixels(work: Work, scenes: SceneFolder, name: str) -> Pixels:
    resolution = work.settings.classify.resolution
    return load_pixels(scenes, resolution, work.run / "cache" / f"{name}-{resolution}.npy")


def scores_of(run: Path) -> dict[str, Any]:
    """What `train_classifier` has found of its test scenes."""
    found: dict[str, Any] = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    return found
