"""One loop that trains a classifier of scenes, with or without self-distillation, read from top to bottom."""

import json
import time
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

from terradistill.data.images import to_float
from terradistill.data.views import random_views
from terradistill.errors import ConfigError
from terradistill.evaluation.recipe import augment, logits
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


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        epoch: the epoch that was chosen, counted from 1.
        accuracy: its share of right validation scenes.
        temperature: by which logits are divided so that probabilities fit the validation scenes.
        milliseconds: a step.
        extra_parameters: weights of the branches, which are not kept.
    """

    epoch: int
    accuracy: float
    temperature: float
    milliseconds: float
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
    watch, device, side = watch or Unwatched(), hardware.device, pixels.shape[1]
    where: dict[str, Any] = {"device": device, "bf16": hardware.bf16}
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
    spent, steps_taken = 0.0, 0
    for step in range(start, total):
        began = time.monotonic()
        epoch = step // of_epoch + 1
        if best.epoch and epoch - best.epoch > settings.patience:
            break
        rng = seeded(seed, "classify", step)
        index = batch_indices(len(pixels), settings.batch_size, step, derive(seed, "batches"))
        x = augmented(to_float(pixels[index]), settings, rng).to(device)
        y = torch.from_numpy(np.asarray(labels[index])).to(device)
        with hardware.autocast(), watched(stages) as pooled:
            output = network(x)
        losses = distiller(pooled, output, y, rng)
        loss = torch.stack(list(losses.values())).sum()

        set_learning_rate(optimizer, learning_rate(step, peak=settings.learning_rate, warmup=warmup, total=total))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        ema.update(step)
        require_finite(float(loss), "classify", settings.learning_rate)
        spent, steps_taken = spent + time.monotonic() - began, steps_taken + 1

        if (step + 1) % of_epoch == 0 or step + 1 == total:
            ema.swap()
            said = logits(network, validation[0], side, **where)
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
    temperature = calibrated(logits(network, validation[0], side, **where), torch.from_numpy(validation[1]))
    extra = sum(parameter.numel() for parameter in distiller.parameters())
    return Trained(best.epoch, best.accuracy, temperature, 1000 * spent / max(1, steps_taken), extra)


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
    x = augment(x, settings, rng)
    if settings.randaugment:
        x = _randaugmented(x, settings.randaugment, rng)
    if settings.turns:
        x = random_views(x, rng)
    if settings.light:
        gain, shift = (settings.light * (2 * torch.rand(2, len(x), 1, 1, 1, generator=rng) - 1)).unbind()
        x = ((x + shift) * (1 + gain)).clamp(-1, 1)
    return x


def _randaugmented(x: Tensor, operations: int, rng: torch.Generator) -> Tensor:
    """So many of RandAugment's operations an image (Cubuk et al. 2020), by kornia, which draws from torch's own chance.

    Raises:
        ConfigError: kornia is not installed.
    """
    if find_spec("kornia") is None:
        raise ConfigError("classify.randaugment needs kornia: pip install '.[classify]', or set it to 0.")
    from kornia.augmentation.auto import RandAugment

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        return torch.as_tensor(RandAugment(operations, 9)((x + 1) / 2)) * 2 - 1


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
