"""`--dry-run`: what a run would do, with times measured on a few steps of the real loops on this machine."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from terradistill.data.arrays import evenly
from terradistill.data.check import check_scenes, require_enough
from terradistill.data.sources import open_scenes
from terradistill.data.splits import divide, limit_scenes
from terradistill.distillation.learning import ALL
from terradistill.distillation.refining import REAL, Gap
from terradistill.distillation.scoreboard import needs_teacher
from terradistill.distillation.teacher import NETWORK, RECIPE, SIDE
from terradistill.distillation.work import require_feasible, views_needed
from terradistill.evaluation.copies import likeness
from terradistill.evaluation.method import SOFT
from terradistill.evaluation.neighbours import CALIBRATED_BY
from terradistill.evaluation.recipe import PREDICT_BATCH, fit, predict, training_steps
from terradistill.evaluation.similarity import most_similar
from terradistill.hardware import Hardware, find_hardware
from terradistill.models.autoencoder import build_vae
from terradistill.models.downstream import build_network
from terradistill.models.generator import Generator, build_generator
from terradistill.models.latent_classifier import LatentClassifier
from terradistill.sampling.guidance import guides
from terradistill.sampling.refinement import refine
from terradistill.sampling.sampler import Request, looks, sample
from terradistill.settings import ClassifierSettings, DiffusionSettings, EvaluationSettings, SamplingSettings, Settings
from terradistill.training.autoencoder import train_autoencoder
from terradistill.training.classifier import train_latent_classifier
from terradistill.training.diffusion import Consistency, train_diffusion
from terradistill.training.latents import LatentCache, encode_scenes
from terradistill.training.progress import Unwatched


@dataclass(frozen=True)
class PlannedStage:
    """One line of the plan: what, how much of it, and the estimated time in seconds."""

    title: str
    work: str
    seconds: float


class _Stopwatch(Unwatched):
    """Seconds a step, the first one (allocation, warm-up) left out."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def progress(self, done: int, total: int) -> None:  # noqa: ARG002 - only when, not how far
        self.times.append(time.monotonic())

    @property
    def seconds(self) -> float:
        return (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1)


def plan(
    data: str | Path, settings: Settings, *, captions: Path | None = None, evaluate: bool = True
) -> list[PlannedStage]:
    """The stages of `distill` with estimated times; nothing is written.

    Raises:
        TerraDistillError: what `distill` would refuse without reading the images.
    """
    scenes = limit_scenes(open_scenes(data, captions=captions), settings.data)
    train, test = divide(scenes, settings.data)
    require_enough(train, settings.ipc)
    require_feasible(settings, train)
    n_train = len(train)
    n_classes = len(scenes.classes)
    hardware = find_hardware(settings.precision)
    few = scenes.subset(evenly(64, len(scenes)).tolist())
    began = time.monotonic()
    check_scenes(few)
    each = (time.monotonic() - began) / len(few)
    rows = [PlannedStage("Reading and checking scenes", f"{len(scenes):,} images", len(scenes) * each)]
    if settings.generator is None:
        generator = _probe_training(rows, settings, n_train, hardware)
    else:
        generator = Generator.load(settings.generator).to(hardware.device)
        latents = _probe_encoding(rows, settings, generator, _pixels(8, generator.resolution), n_train, hardware)
        if settings.finetune.steps:
            wanted, how = settings.finetune.of(settings.diffusion, n_train), settings.finetune
            parts = ALL if how.adapts_text else ("unet", "metadata_encoder")
            adapting = {"parts": parts, "lora_rank": how.lora_rank, "lora_layers": how.lora_layers}
            title = "Adapting the generator"
            _probe_denoiser(rows, title, generator, latents, wanted, settings.classifier, hardware, **adapting)
        generator.frozen()
    _probe_sampling(rows, settings, generator, n_train, n_classes, hardware)
    labelled = settings.export.soft_labels and settings.evaluation.teacher is None
    if labelled or (evaluate and needs_teacher(settings)):
        _probe_teacher(rows, n_train, n_classes, hardware)
    if evaluate:
        _probe_evaluation(rows, settings, generator.resolution, n_train, len(test), n_classes, hardware)
        _probe_audit(rows, settings, n_train, n_classes, hardware)
    return rows


def _pixels(n: int, resolution: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (n, resolution, resolution, 3), dtype=np.uint8)


def _probe_training(rows: list[PlannedStage], settings: Settings, n_train: int, hardware: Hardware) -> Generator:
    auto, diffusion = settings.autoencoder, settings.diffusion
    vae = build_vae(auto, settings.data.resolution, 0).to(hardware.device)
    watch = _Stopwatch()
    few = auto.model_copy(update={"steps": 4})
    pixels = _pixels(max(8, auto.batch_size), settings.data.resolution)
    train_autoencoder(vae, pixels, few, seed=0, hardware=hardware, watch=watch)
    work = f"{auto.steps:,} steps of {auto.batch_size}"
    rows.append(PlannedStage("Training the autoencoder", work, auto.steps * watch.seconds))

    captions = [[settings.data.caption_template]] * len(pixels)
    generator = build_generator(diffusion, vae, settings.data.resolution, captions[0], 0).to(hardware.device)
    latents = _probe_encoding(rows, settings, generator, pixels, n_train, hardware)

    _probe_denoiser(rows, "Training the generator", generator, latents, diffusion, settings.classifier, hardware)
    return generator.frozen()


def _probe_denoiser(
    rows: list[PlannedStage],
    title: str,
    generator: Generator,
    latents: LatentCache,
    wanted: DiffusionSettings,
    classify: ClassifierSettings,
    hardware: Hardware,
    **adapting: Any,
) -> None:
    watch = _Stopwatch()
    if wanted.consistency_weight:
        classifier = LatentClassifier(generator.latent_shape[0], 2, classify.width).to(hardware.device)
        labels = torch.zeros(len(latents), dtype=torch.long)
        adapting["consistency"] = Consistency(classifier.eval().requires_grad_(False), labels, wanted)
    few = wanted.model_copy(update={"steps": 4, "held_out": 0.0})
    scenes, numbers = [["a scene"]] * len(latents), generator.metadata_encoder
    known = None if numbers is None else numbers.table([{}] * len(latents))
    train_diffusion(generator, latents, scenes, few, metadata=known, seed=0, hardware=hardware, watch=watch, **adapting)
    rows.append(PlannedStage(title, f"{wanted.steps:,} steps of {wanted.batch_size}", wanted.steps * watch.seconds))


def _probe_encoding(
    rows: list[PlannedStage],
    settings: Settings,
    generator: Generator,
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    n_train: int,
    hardware: Hardware,
) -> LatentCache:
    began = time.monotonic()
    latents = encode_scenes(generator, pixels, n_views=1, hardware=hardware)
    each, views = (time.monotonic() - began) / len(pixels), views_needed(settings, n_train)
    rows.append(PlannedStage("Encoding the train scenes", f"{n_train:,} × {views}", n_train * views * each))
    return latents


def _probe_sampling(
    rows: list[PlannedStage], settings: Settings, generator: Generator, n_train: int, n_classes: int, hardware: Hardware
) -> None:
    wanted, classify = settings.sampling, settings.classifier
    watch = _Stopwatch()
    latents = encode_scenes(
        generator, _pixels(max(16, 2 * n_classes), generator.resolution), n_views=1, hardware=hardware
    )
    batch = min(classify.batch_size, n_train)
    # Enough copies for a full batch: the cost of a step depends on its size alone.
    repeats = -(-2 * batch // len(latents))
    latents = LatentCache(latents.data.repeat(repeats, 1, 1, 1, 1, 1))
    labels = np.arange(len(latents)) % n_classes
    few = classify.model_copy(update={"max_steps": 4, "epochs": 4})
    train_latent_classifier(latents, labels, n_classes, few, seed=0, hardware=hardware, watch=watch)
    steps = min(classify.epochs * max(1, n_train // batch), classify.max_steps)
    rows.append(PlannedStage("Training the latent classifier", f"{steps:,} steps of {batch}", steps * watch.seconds))

    images = n_classes * settings.ipc * wanted.candidates
    batch = min(wanted.batch_size, images)
    request = Request(generator.embed(["a"]), torch.zeros(batch, dtype=torch.long), range(batch))
    began = time.monotonic()
    sample(generator, request, wanted.model_copy(update={"steps": 2}), hardware=hardware, batch_size=batch)
    each = (time.monotonic() - began) / (2 * batch)  # of the denoiser alone: guided steps ask it twice
    work = f"{images:,} candidates × {wanted.steps} steps"
    guided = generator.weaker is not None or (settings.generator is None and settings.diffusion.weaker_at > 0)
    cost = n_classes * settings.ipc * evaluations(wanted, autoguided=guided) * each
    rows.append(PlannedStage("Drawing and selecting candidates", work, cost))
    if wanted.refine_rounds:
        _probe_refining(rows, settings, generator, n_train, n_classes, hardware)


def _probe_refining(
    rows: list[PlannedStage], settings: Settings, generator: Generator, n_train: int, n_classes: int, hardware: Hardware
) -> None:
    wanted, real = settings.sampling, min(REAL, max(1, n_train // n_classes))
    gap = Gap(_pixels(real, generator.resolution), wanted.refine_side, 0, hardware)
    latents = torch.zeros(settings.ipc, *generator.latent_shape)
    began = time.monotonic()  # a whole round: the networks of its steps differ in what they cost
    refine(latents, generator, gap, rounds=1, steps=wanted.refine_steps, rate=wanted.refine_rate, hardware=hardware)
    round_of = time.monotonic() - began
    work = f"{n_classes} classes × {wanted.refine_rounds} rounds × {wanted.refine_steps} steps"
    rows.append(PlannedStage("Refining the chosen scenes", work, n_classes * wanted.refine_rounds * round_of))


def evaluations(wanted: SamplingSettings, *, autoguided: bool = False) -> int:
    """Evaluations of the denoiser, or of a weaker one beside it, for all candidates of one prototype."""
    steps, alive, found = wanted.steps, wanted.candidates, 0
    auto = autoguided and wanted.autoguidance != 1
    first = 0 if wanted.start == "noise" else steps - max(1, round(wanted.strength * steps))
    looked_at = looks(wanted.prune, first, steps)
    for step in range(first, steps):
        free = wanted.cfg(autoguided=auto) != 1 and guides(wanted.cfg_between, step, steps, first)
        found += alive * (1 + free + (auto and guides(wanted.autoguidance_between, step, steps, first)))
        alive = -(-alive // 2) if step in looked_at else alive
    return found


def _probe_network(
    name: str, n_classes: int, side: int, recipe: EvaluationSettings, hardware: Hardware
) -> tuple[float, float]:
    """Seconds a step of training and seconds an image of testing."""
    watch = _Stopwatch()
    model = build_network(name, n_classes, side).to(hardware.device)
    few = recipe.model_copy(update={"epochs": 1, "min_steps": 4, "max_steps": 4, "compile": False})
    pixels, labels = _pixels(recipe.batch_size, side), np.arange(recipe.batch_size) % n_classes
    fit(model, pixels, labels, side, few, seed=0, progress=watch.progress, hardware=hardware)
    began = time.monotonic()
    predict(model, _pixels(PREDICT_BATCH, side), side, hardware=hardware)
    return watch.seconds, (time.monotonic() - began) / PREDICT_BATCH


def _probe_teacher(rows: list[PlannedStage], n_train: int, n_classes: int, hardware: Hardware) -> None:
    steps = training_steps(n_train, RECIPE)
    step, image = _probe_network(NETWORK, n_classes, SIDE, RECIPE, hardware)
    work = f"{steps:,} steps of {RECIPE.batch_size}"
    rows.append(PlannedStage("Training a network on the train scenes", work, steps * step + n_train * image))


def _probe_evaluation(
    rows: list[PlannedStage],
    settings: Settings,
    resolution: int,
    n_train: int,
    n_test: int,
    n_classes: int,
    hardware: Hardware,
) -> None:
    recipe = settings.evaluation
    side = recipe.resolution or resolution
    sizes = {method: n_train if method == "full" else settings.ipc * n_classes for method in recipe.methods}
    if settings.export.soft_labels and "distilled" in sizes:
        sizes[f"distilled{SOFT}"] = sizes["distilled"]
    steps = sum(training_steps(size, recipe) for size in sizes.values()) * recipe.n_seeds
    seconds = 0.0
    for name in recipe.networks:
        step, image = _probe_network(name, n_classes, side, recipe, hardware)
        seconds += steps * step + len(sizes) * recipe.n_seeds * n_test * image
    work = f"{len(recipe.networks)} × {len(sizes)} methods × {recipe.n_seeds} seeds, {steps:,} steps"
    rows.append(PlannedStage("Training downstream networks", work, seconds))


def _probe_audit(
    rows: list[PlannedStage], settings: Settings, n_train: int, n_classes: int, hardware: Hardware
) -> None:
    images, of_class = n_classes * settings.ipc, max(1, n_train // n_classes)
    step, _ = _probe_network(NETWORK, n_classes, SIDE, settings.evaluation, hardware)
    few = _pixels(min(of_class, 64), SIDE)
    began = time.monotonic()
    most_similar(few[:1], few)
    each = (time.monotonic() - began) / len(few)
    began = time.monotonic()
    likeness(few, few)
    alike = (time.monotonic() - began) / len(few) ** 2
    seconds = 0.0 if needs_teacher(settings) else training_steps(n_train, settings.evaluation) * step
    # Distilled images and about as many unseen scenes by SSIM; both and learned ones by bands.
    seconds += 2 * images * of_class * each + 2 * n_classes * min(of_class, CALIBRATED_BY) * of_class * alike
    work = f"{images:,} images beside {of_class:,} scenes of their class"
    rows.append(PlannedStage("Looking for near-copies", work, seconds))
