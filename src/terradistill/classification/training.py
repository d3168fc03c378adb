"""One loop that trains a classifier of scenes, with or without self-distillation, read from top to bottom."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.data.arrays import Rows
from terradistill.data.images import to_float
from terradistill.data.views import random_views
from terradistill.errors import ConfigError
from terradistill.evaluation.recipe import PREDICT_BATCH, augment, logits, repeatable
from terradistill.files import replacing, write_text
from terradistill.hardware import Hardware
from terradistill.models.self_distillation import SelfDistiller, stages_of, watched
from terradistill.sections import ClassifySettings
from terradistill.seeding import batch_indices, derive
from terradistill.seeding import generator as seeded
from terradistill.training.progress import (
    Checkpoint,
    Ema,
    Unwatched,
    Watch,
    learning_rate,
    require_finite,
    set_learning_rate,
)

FEW = 50  # validation scenes: what they say of when to stop, and of a temperature, is chance [ours]
GAIN_OF = 2048  # validation scenes that `refinement_gain` looks at, at most
LINEAR_STEPS = 200
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        epoch: the epoch that was chosen, counted from 1.
        accuracy: its share of right validation scenes.
        temperature: by which logits are divided so that probabilities fit the validation scenes.
        milliseconds: a step.
        extra_parameters: weights of the branches, which are not kept.
        refinement: dsd: see `refinement_gain`.
    """

    epoch: int
    accuracy: float
    temperature: float
    milliseconds: float
    extra_parameters: int
    refinement: dict[str, list[float]] | None


def train_scene_classifier(
    network: nn.Module,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | NDArray[np.float32],
    learned: NDArray[np.int64],
    validation: tuple[NDArray[np.uint8] | Rows, NDArray[np.int64]],
    n_classes: int,
    settings: ClassifySettings,
    *,
    seed: int,
    hardware: Hardware,
    work: Path,
    checkpoint_seconds: float = 120,
    watch: Watch | None = None,
) -> Trained:
    """Train a network in place; it ends with the averaged weights of its best epoch by validation.

    Args:
        network: from images (n, 3, side, side) in [-1, 1] to logits.
        pixels: uint8 (N, side, side, 3); may be memory-mapped.
        labels: int64 (N,), or probabilities, float32 (N, n_classes).
        learned: which of them are learned from, int64.
        validation: scenes that only choose the epoch, and their labels; fewer than `FEW` neither stop the training
            early nor tell a temperature.
        n_classes: how many there are.
        settings: method and recipe.
        seed: of order, augmentation and refinement.
        hardware: device and precision.
        work: folder of the checkpoint and of the best weights so far.
        checkpoint_seconds: time between two checkpoints.
        watch: told of progress and metrics.

    Raises:
        EvaluationError: the network has no stages to attach to.
    """
    watch, hardware = watch or Unwatched(), hardware.learning
    device, side = hardware.device, pixels.shape[1]
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions
    stages = [] if settings.method == "ce" else stages_of(network)
    distiller = _distiller(network, stages, n_classes, settings, pixels.shape[1], seed, device)
    model = nn.ModuleDict({"network": network, "distiller": distiller})
    optimizer = _optimizer(model, network, settings)
    ema = Ema(network, settings.ema_decay)
    keeper = Checkpoint(work / "checkpoint.safetensors", model, optimizer, ema, checkpoint_seconds)
    start = keeper.resume()
    watch.forget_after(start)

    of_epoch = max(settings.least_steps, len(learned) // settings.batch_size)
    total, warmup = settings.epochs * of_epoch, round(settings.warmup_epochs * of_epoch)
    best = _Best(work)
    best.forget_after(start // of_epoch)
    model.train()
    timing = work / "timing.json"  # of earlier attempts too
    spent, steps_taken = json.loads(timing.read_text(encoding="utf-8")) if timing.exists() else (0.0, 0)
    for step in range(start, total):
        began = time.monotonic()
        epoch = step // of_epoch + 1
        if best.epoch and epoch - best.rose > settings.patience and len(validation[1]) >= FEW:
            break
        rng = seeded(seed, "classify", step)
        index = learned[batch_indices(len(learned), settings.batch_size, step, derive(seed, "batches"))]
        x = augmented(to_float(pixels[index]), settings, rng).to(device)
        y = torch.from_numpy(np.asarray(labels[index])).to(device)
        # Dropout draws from torch's own chance: each step has its own.
        with repeatable(derive(seed, "dropout", step), device), hardware.autocast(), watched(stages) as pooled:
            output = network(x)
        losses = distiller(pooled, output, y, rng)
        loss = torch.stack(list(losses.values())).sum()

        set_learning_rate(optimizer, learning_rate(step, peak=settings.learning_rate, warmup=warmup, total=total))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:  # each by itself: branches should not shorten the steps of the network
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        ema.update(step)
        require_finite(loss.item(), "classify", settings.learning_rate)
        spent, steps_taken = spent + time.monotonic() - began, steps_taken + 1

        rose = False
        if (step + 1) % of_epoch == 0 or step + 1 == total:
            ema.swap()
            said = logits(network, validation[0], side, hardware=hardware)
            ema.swap()
            right = float((said.argmax(1).numpy() == validation[1]).mean())
            watch.log(step + 1, accuracy=right, **{name: float(value.detach()) for name, value in losses.items()})
            if rose := right >= best.accuracy:  # few scenes validate alike for long: the later has learned more
                best.keep(network, ema, epoch, right)
            model.train()
            write_text(timing, json.dumps([spent, steps_taken]))
        watch.progress(step + 1, total)
        # At once after a best epoch: run again elsewhere, it might come out otherwise than what was kept of it.
        keeper.save(step + 1) if rose else keeper.maybe_save(step + 1)

    gain = None
    if settings.method == "dsd" and len(validation[0]) > 1:
        held = batch_indices(len(validation[0]), min(GAIN_OF, len(validation[0])), 0, derive(seed, "gain held"))
        gain = refinement_gain(network, distiller, stages, validation[0][held], hardware, seed)
    best.restore(network)
    # The layout that its file has: what is read from there gives the same bits.
    network.to(device).to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    temperature = calibrated(logits(network, validation[0], side, hardware=hardware), torch.from_numpy(validation[1]))
    extra = sum(parameter.numel() for parameter in distiller.parameters())
    return Trained(best.epoch, best.accuracy, temperature, 1000 * spent / max(1, steps_taken), extra, gain)


def _optimizer(model: nn.Module, network: nn.Module, settings: ClassifySettings) -> torch.optim.Optimizer:
    """Of all weights, with a rate of their own for those that no published weights know: last layer and branches."""
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    last = {weight for each in head for weight in each.parameters()}
    backbone, every = {*network.parameters()} - last, {*model.parameters()}
    parts = ((backbone, 1.0), (last, settings.heads_rate), (every - backbone - last, settings.heads_rate))
    groups: list[dict[str, Any]] = [
        {"params": weights, "scale": scale}
        for part, scale in parts
        if (weights := [weight for weight in model.parameters() if weight in part and weight.requires_grad])
    ]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate, weight_decay=decay, fused=True)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, rate, weight_decay=decay)
    return torch.optim.SGD(groups, rate, settings.momentum, weight_decay=decay)


def _distiller(
    network: nn.Module,
    stages: list[nn.Module],
    n_classes: int,
    settings: ClassifySettings,
    side: int,
    seed: int,
    device: torch.device,
) -> SelfDistiller:
    network.eval()
    with torch.no_grad(), watched(stages) as pooled:
        network(torch.zeros(1, 3, side, side, device=device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "branches"))
        terms = ("hard", "soft", "entropy", "noise", "hint", "temperature", "smoothing", "refine", "shuffled")
        told = {name: getattr(settings, name) for name in terms}
        return SelfDistiller([x.shape[1] for x in pooled], n_classes, settings.method, **told).to(device)


def augmented(x: Tensor, settings: ClassifySettings, rng: torch.Generator) -> Tensor:
    """Crops, flips, turns and a little more or less light, drawn for each image (n, 3, side, side) in [-1, 1]."""
    x = augment(x, settings, rng)
    if settings.randaugment:
        from kornia.augmentation.auto import RandAugment

        # Its operations are drawn for each batch, how they act for each image (Cubuk et al. 2020).
        x = _by_kornia(RandAugment(settings.randaugment, 9), x, rng)
    if settings.turns and settings.flips:
        x = random_views(x, rng)
    elif settings.turns:
        quarters = torch.randint(0, 4, (len(x),), generator=rng)
        x = torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(x, quarters, strict=True)])
    if settings.light:
        gain, shift = (settings.light * (2 * torch.rand(2, len(x), 1, 1, 1, generator=rng) - 1)).unbind()
        x = ((x + shift) * (1 + gain)).clamp(-1, 1)
    if settings.erasing:
        from kornia.augmentation import RandomErasing

        x = _by_kornia(RandomErasing(p=settings.erasing, value=0.5), x, rng)
    return x


def refinement_gain(
    network: nn.Module,
    distiller: SelfDistiller,
    stages: list[nn.Module],
    validation: NDArray[np.uint8],
    hardware: Hardware,
    seed: int,
) -> dict[str, list[float]]:
    """How far students are from their teachers on the validation scenes: KL(teacher ‖ student) of each pair.

    Returns:
        Shallow pairs first: `raw`, the logits of the branch; `refined`, by diffusion; `linear`, by a linear map of the
        raw ones, fitted on the one half of these scenes, which nothing has learned by heart, for the other, and the
        other way round: what a few weights without diffusion do, at whichever of `RIDGES` does best, in their favour.
        All of the last epoch, whose branches are left.
    """
    model = nn.ModuleDict({"network": network, "distiller": distiller}).eval()
    said = _branches(network, distiller, stages, validation, hardware)
    # As it learned, with the statistics of the scenes at hand: what batch norm remembers is a mixture of five steps
    # and of noise of all strengths, which no step has.
    norms = [module for module in distiller.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
    refined = distiller.refined([each.to(hardware.device) for each in said[:-1]], seeded(seed, "gain"))
    found: dict[str, list[float]] = {"raw": [], "refined": [], "linear": []}
    half = len(validation) // 2
    for raw, r, teacher in zip(said[:-1], refined, said[1:], strict=True):
        halves = [(raw[:half], teacher[:half]), (raw[half:], teacher[half:])]
        linear = [
            torch.cat([fitted(*halves[1], ridge)(halves[0][0]), fitted(*halves[0], ridge)(halves[1][0])])
            for ridge in RIDGES
        ]
        for name, several in (("raw", [raw]), ("refined", [r.cpu()]), ("linear", linear)):
            found[name].append(round(min(float(_divergence(teacher, student.detach())) for student in several), 5))
    model.train()
    return found


def fitted(student: Tensor, teacher: Tensor, ridge: float) -> Callable[[Tensor], Tensor]:
    """The linear map of a student's logits (n, C) that comes nearest to its teacher's, (n, C), whatever their scales.

    `ridge` holds it near the identity, at the teacher's scale: few scenes are learned by heart otherwise.
    """
    n_classes, scale = teacher.shape[1], student.std().clamp_min(1e-6)
    start = teacher.std() * torch.eye(n_classes, n_classes + 1)
    weights = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=LINEAR_STEPS, line_search_fn="strong_wolfe")

    def apply(logits: Tensor) -> Tensor:
        return F.linear(logits / scale, weights[:, :-1], weights[:, -1])

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = _divergence(teacher, apply(student)) + ridge * (weights - start).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return apply


@torch.no_grad()
def _branches(
    network: nn.Module,
    distiller: SelfDistiller,
    stages: list[nn.Module],
    images: NDArray[np.uint8],
    hardware: Hardware,
) -> list[Tensor]:
    """Logits of all stages, shallow first, float32 (n, C) each, on the CPU."""
    parts: list[list[Tensor]] = []
    for start in range(0, len(images), PREDICT_BATCH):
        x = to_float(images[start : start + PREDICT_BATCH]).to(hardware.device)
        with hardware.autocast(), watched(stages) as pooled:
            last = network(x)
        said = [head(features.float()) for head, features in zip(distiller.heads, pooled, strict=False)]
        parts.append([each.float().cpu() for each in (*said, last)])
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher ‖ student) of softmaxes of logits (n, C), the mean over n: a scalar."""
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)


def require_augmentation(settings: ClassifySettings) -> None:
    """Make sure that what augments is there.

    Raises:
        ConfigError: kornia is not installed.
    """
    for name in ("randaugment", "erasing"):
        if getattr(settings, name) and find_spec("kornia") is None:
            raise ConfigError(f"classify.{name} needs kornia: pip install '.[classify]', or set it to 0.")


def _by_kornia(augmentation: nn.Module, x: Tensor, rng: torch.Generator) -> Tensor:
    """Images (n, 3, side, side) in [-1, 1] through an augmentation of kornia, which draws from torch's own chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        return torch.as_tensor(augmentation((x + 1) / 2)) * 2 - 1


def calibrated(logits: Tensor, labels: Tensor) -> float:
    """The temperature under which the labels are likeliest (Guo et al. 2017), from 0.05 to 20.

    Where all are right any sharpening would make them likelier, without end: then it is 1 or more. Fewer than `FEW`
    scenes say nothing of it: 1.
    """
    if len(labels) < FEW:
        return 1.0
    grid = torch.logspace(-1.3, 1.3, 261)
    if bool((logits.argmax(1) == labels).all()):
        grid = grid[grid >= 1]
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in grid])
    return float(grid[losses.argmin()])


class _Best:
    """The averaged weights of the best epoch so far, on disk, and when each best one came."""

    def __init__(self, folder: Path) -> None:
        self.file, self.note = folder / "best.safetensors", folder / "best.json"
        # Epochs, counted from 1, and their accuracies, which never fall.
        self._kept: list[list[float]] = json.loads(self.note.read_text(encoding="utf-8")) if self.note.exists() else []

    @property
    def epoch(self) -> int:
        """The best; 0: none yet."""
        return int(self._kept[-1][0]) if self._kept else 0

    @property
    def accuracy(self) -> float:
        return self._kept[-1][1] if self._kept else -1.0

    @property
    def rose(self) -> int:
        """The first epoch that was as good: patience counts from it."""
        return next((int(epoch) for epoch, accuracy in self._kept if accuracy == self.accuracy), 0)

    def forget_after(self, epoch: int) -> None:
        """A kill may have come between this and the checkpoint: later epochs are run again, and judged again.

        Whose weights they replaced, they will replace again.
        """
        self._kept = [each for each in self._kept if each[0] <= epoch]

    def keep(self, network: nn.Module, ema: Ema, epoch: int, accuracy: float) -> None:
        ema.swap()
        with replacing(self.file) as part:
            save_file({key: value.detach().contiguous() for key, value in network.state_dict().items()}, part)
        ema.swap()
        self._kept.append([epoch, accuracy])
        write_text(self.note, json.dumps(self._kept))

    def restore(self, network: nn.Module) -> None:
        network.load_state_dict(load_file(self.file))
