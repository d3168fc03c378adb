"""One loop that trains a classifier of scenes, with or without self-distillation, read from top to bottom."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.data.images import to_float
from terradistill.data.views import random_views
from terradistill.hardware import Hardware
from terradistill.models.self_distillation import SelfDistiller, stages_of, watched
from terradistill.run import replacing, write_text
from terradistill.seeding import batch_indices, derive
from terradistill.seeding import generator as seeded
from terradistill.settings import ClassifySettings
from terradistill.training.progress import (
    Checkpoint,
    Ema,
    Unwatched,
    Watch,
    learning_rate,
    require_finite,
    set_learning_rate,
)

PREDICT_BATCH = 256


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        epoch: the epoch that was chosen, counted from 1.
        accuracy: its share of right validation scenes.
        temperature: by which logits are divided so that probabilities fit the validation scenes.
        seconds: a step, the first ones left out.
        extra_parameters: weights of the branches, which are not kept.
    """

    epoch: int
    accuracy: float
    temperature: float
    extra_parameters: int


def train_scene_classifier(
    network: nn.Module,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | NDArray[np.float32],
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]],
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
        pixels: uint8 (N, side, side, 3).
        labels: int64 (N,), or probabilities, float32 (N, n_classes).
        validation: scenes that only choose the epoch, and their labels.
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
    watch, device = watch or Unwatched(), hardware.device
    network.to(device)
    stages = [] if settings.method == "ce" else stages_of(network)
    distiller = _distiller(network, stages, n_classes, settings, pixels.shape[1], seed, device)
    model = nn.ModuleDict({"network": network, "distiller": distiller})
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(weights, settings.learning_rate, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            weights, settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
        )
    ema = Ema(network, settings.ema_decay)
    keeper = Checkpoint(work / "checkpoint.safetensors", model, optimizer, ema, checkpoint_seconds)
    start = keeper.resume()
    watch.forget_after(start)

    of_epoch = max(1, len(pixels) // settings.batch_size)
    total, warmup = settings.epochs * of_epoch, round(settings.warmup_epochs * of_epoch)
    best = _Best(work)
    best.forget_after(start // of_epoch)
    model.train()
    for step in range(start, total):
        epoch = step // of_epoch + 1
        if best.epoch and epoch - best.epoch > settings.patience:
            break
        rng = seeded(seed, "classify", step)
        index = batch_indices(len(pixels), settings.batch_size, step, derive(seed, "batches"))
        x = augmented(to_float(pixels[index]), settings, rng).to(device)
        y = torch.from_numpy(np.asarray(labels[index])).to(device)
        with hardware.autocast(), watched(stages) as pooled:
            logits = network(x)
        losses = distiller(pooled, logits, y, rng)
        loss = torch.stack(list(losses.values())).sum()

        set_learning_rate(
            optimizer, learning_rate(step, peak=settings.learning_rate, warmup=warmup, total=total)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        ema.update(step)
        require_finite(float(loss), "classify", settings.learning_rate)

        if (step + 1) % of_epoch == 0 or step + 1 == total:
            ema.swap()
            said = logits_of(network, validation[0], hardware)
            ema.swap()
            right = float((said.argmax(1).numpy() == validation[1]).mean())
            watch.log(step + 1, accuracy=right, **{name: float(value) for name, value in losses.items()})
            if right > best.accuracy:
                best.keep(network, ema, epoch, right)
            model.train()
        watch.progress(step + 1, total)
        keeper.maybe_save(step + 1)

    best.restore(network)
    network.to(device).eval()
    temperature = calibrated(logits_of(network, validation[0], hardware), torch.from_numpy(validation[1]))
    extra = sum(parameter.numel() for parameter in distiller.parameters())
    return Trained(best.epoch, best.accuracy, temperature, extra)


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
        terms = ("soft", "entropy", "noise", "hint", "temperature", "smoothing", "shuffled")
        told = {name: getattr(settings, name) for name in terms}
        return SelfDistiller([x.shape[1] for x in pooled], n_classes, settings.method, **told).to(device)


def augmented(x: Tensor, settings: ClassifySettings, rng: torch.Generator) -> Tensor:
    """Crops, flips, turns and a little more or less light, drawn for each image (n, 3, side, side) in [-1, 1]."""
    from terradistill.evaluation.recipe import augment  # one augmentation of scenes, whoever trains

    x = augment(x, settings, rng)  # type: ignore[arg-type]
    if settings.turns:
        x = random_views(x, rng)
    if settings.light:
        gain, shift = (settings.light * (2 * torch.rand(2, len(x), 1, 1, 1, generator=rng) - 1)).unbind()
        x = ((x + shift) * (1 + gain)).clamp(-1, 1)
    return x


@torch.inference_mode()
def logits_of(network: nn.Module, pixels: NDArray[np.uint8], hardware: Hardware) -> Tensor:
    """Logits float32 (n, C) of uint8 images (n, side, side, 3), on the CPU."""
    network.eval()
    parts = []
    for start in range(0, len(pixels), PREDICT_BATCH):
        with hardware.autocast():
            parts.append(network(to_float(pixels[start : start + PREDICT_BATCH]).to(hardware.device)).float().cpu())
    return torch.cat(parts)


def calibrated(logits: Tensor, labels: Tensor) -> float:
    """The temperature under which the labels are likeliest (Guo et al. 2017), from 0.05 to 20."""
    grid = torch.logspace(-1.3, 1.3, 261)
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in grid])
    return float(grid[losses.argmin()])


class _Best:
    """The averaged weights of the best epoch so far, on disk."""

    def __init__(self, folder: Path) -> None:
        self.file, self.note = folder / "best.safetensors", folder / "best.json"
        self.epoch, self.accuracy = 0, -1.0
        if self.note.exists():
            kept = json.loads(self.note.read_text())
            self.epoch, self.accuracy = kept["epoch"], kept["accuracy"]

    def forget_after(self, epoch: int) -> None:
        """A kill may have come between this and the checkpoint: later epochs are run again, and judged again."""
        if self.epoch > epoch:
            self.epoch, self.accuracy = 0, -1.0

    def keep(self, network: nn.Module, ema: Ema, epoch: int, accuracy: float) -> None:
        ema.swap()
        with replacing(self.file) as part:
            save_file({key: value.detach().contiguous() for key, value in network.state_dict().items()}, part)
        ema.swap()
        self.epoch, self.accuracy = epoch, accuracy
        write_text(self.note, json.dumps({"epoch": epoch, "accuracy": accuracy}))

    def restore(self, network: nn.Module) -> None:
        network.load_state_dict(load_file(self.file))
