"""A network of pixels trained on the train scenes: what it sees serves coresets, perceptual terms and the audit."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from terradistill.data.images import load_pixels
from terradistill.distillation.given import given_teacher
from terradistill.distillation.work import Work
from terradistill.evaluation.recipe import embed, fit, logits, repeatable
from terradistill.files import replacing
from terradistill.hardware import Hardware
from terradistill.models.downstream import build_network
from terradistill.models.scene_classifier import SceneClassifier
from terradistill.run import Progress
from terradistill.seeding import derive
from terradistill.settings import EvaluationSettings

NETWORK = "convnet3"
SIDE = 64  # pixels at which the teacher sees scenes
RECIPE = EvaluationSettings()  # the default and not a run's own, which may change until the exam


def trained_network(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    n_classes: int,
    resolution: int,
    hardware: Hardware,
    *,
    seed: int,
    kept: Path | None = None,
    recipe: EvaluationSettings | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """A classifier of scenes, wanted for its features.

    Args:
        pixels: uint8 (N, H, W, 3).
        labels: int64 (N,).
        n_classes: how many there are.
        resolution: side at which the network sees them, pixels.
        hardware: where it is trained.
        seed: of its weights and training.
        kept: safetensors file; read if it is there, so that a kill costs nothing.
        recipe: of its training; None: `RECIPE`.
        progress: called after every step.
    """
    device = hardware.device
    with repeatable(derive(seed, "features"), device):
        network = build_network(NETWORK, n_classes, resolution).to(device)
        if kept is not None and kept.exists():
            network.load_state_dict(load_file(kept))
            return network
        fit(
            network,
            pixels,
            labels,
            resolution,
            recipe or RECIPE,
            seed=seed,
            hardware=hardware,
            progress=progress,
        )
    if kept is not None:
        with replacing(kept) as part:
            save_file(network.state_dict(), part)
    return network


def teach(work: Work) -> None:
    """What a network that was trained on the train scenes sees in them: `teacher/`."""
    run, settings = work.run, work.settings
    if run.done("teacher"):
        return
    with run.stage("teacher", "Training a network on the train scenes") as stage:
        pixels = load_pixels(work.train, SIDE, run / "cache" / f"train-{SIDE}.npy")
        network = trained_network(
            pixels,
            work.train.labels,
            len(work.train.classes),
            SIDE,
            work.hardware,
            seed=derive(settings.seed, "teacher"),
            kept=stage.work / "model.safetensors",
            progress=stage.progress,
        )
        with stage.writes("teacher") as folder:
            folder.mkdir()
            save_file(network.state_dict(), folder / "model.safetensors")
            save_file({"train": embed(network, pixels, SIDE, hardware=work.hardware)}, folder / "features.safetensors")


def teacher_of(work: Work) -> SceneClassifier:
    """Whose eyes see scenes: the classifier of `evaluation.teacher`, or else the one that `teach` trains."""
    given = given_teacher(work.settings, work.train.classes, work.test)
    if given is None:
        teach(work)
        classes = tuple(work.train.classes)
        given = SceneClassifier(teacher_network(work), NETWORK, classes, {name: name for name in classes}, SIDE)
    given.network.to(work.hardware.device)
    return given


def teacher_network(work: Work) -> nn.Module:
    """The network that `teach` trained."""
    network = build_network(NETWORK, len(work.train.classes), SIDE)
    network.load_state_dict(load_file(work.run / "teacher" / "model.safetensors"))
    return network.to(work.hardware.device).eval()


def taught_features(work: Work) -> NDArray[np.float32]:
    """Features of the train scenes, of length 1: float32 (N, D)."""
    features = load_file(work.run / "teacher" / "features.safetensors")["train"]
    unit: NDArray[np.float32] = nn.functional.normalize(features, dim=1).numpy()
    return unit


def as_column(soft: NDArray[np.float16]) -> list[list[float]]:
    """Soft labels as `metadata.jsonl` holds them: four digits each."""
    rows: list[list[float]] = soft.astype(float).round(4).tolist()
    return rows


def soft_labels(work: Work, images: NDArray[np.uint8]) -> NDArray[np.float16]:
    """What the teacher thinks of images (n, H, W, 3), at its own temperature: float16 (n, n_classes)."""
    teacher = teacher_of(work)
    said = logits(teacher.network, images, teacher.resolution, hardware=work.hardware)
    return np.asarray((said / teacher.temperature).softmax(1).half())
