"""One loop that trains the latent classifier (DPD, revised release)."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.data.views import random_views
from terradistill.hardware import Hardware
from terradistill.models.latent_classifier import LatentClassifier
from terradistill.seeding import batch_indices, derive, generator, numpy_generator
from terradistill.settings import ClassifierSettings
from terradistill.training.latents import LatentCache
from terradistill.training.progress import Checkpoint, Unwatched, Watch, learning_rate, set_learning_rate

JUDGED = 2048  # validation scenes at a time


def train_latent_classifier(
    latents: LatentCache,
    labels: NDArray[np.int64],
    n_classes: int,
    settings: ClassifierSettings,
    *,
    seed: int,
    hardware: Hardware,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60,
    watch: Watch | None = None,
) -> tuple[LatentClassifier, float]:
    """Train on posterior samples, their latents flipped at random; keep the best epoch on an internal validation split.

    Args:
        latents: of the N scenes to learn from.
        labels: their classes, int64 (N,).
        n_classes: how many there are.
        settings: epochs, batch size, rates; how many scenes validate.
        seed: of the weights, the order, the flips, the dropout.
        hardware: device and precision.
        checkpoint: file to resume from and to write to.
        checkpoint_seconds: time between two checkpoints.
        watch: told of progress and metrics.

    Returns:
        The classifier in evaluation mode, and its validation accuracy in [0, 1].
    """
    watch, hardware = watch or Unwatched(), hardware.learning
    learned, validation = stratified(labels, settings.validation_fraction, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "classifier weights"))
        model = LatentClassifier(latents.channels, n_classes, settings.width, settings.dropout)
    model.to(hardware.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    batch_size = min(settings.batch_size, len(learned))
    per_epoch = max(1, len(learned) // batch_size)
    total = min(settings.epochs * per_epoch, settings.max_steps)
    targets = torch.as_tensor(labels)
    kept = nn.ModuleDict({"model": model, "best": deepcopy(model)})
    best = torch.tensor(-1.0)
    kept.register_buffer("accuracy", best)
    keeper = Checkpoint(checkpoint, kept, optimizer, None, checkpoint_seconds)
    start = keeper.resume()
    watch.forget_after(start)

    for step in range(start, total):
        rng = generator(seed, "classifier", step)
        index = learned[batch_indices(len(learned), batch_size, step, seed)]
        z = random_views(latents.draw(index, rng), rng, turns=False).to(hardware.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "dropout", step))
            with hardware.autocast():
                logits = model.train()(z).float()
        loss = F.cross_entropy(logits, targets[index].to(hardware.device))

        set_learning_rate(
            optimizer,
            learning_rate(
                step,
                peak=settings.learning_rate,
                warmup=min(settings.warmup_epochs * per_epoch, total // 10),
                total=total,
                floor=settings.minimum_learning_rate,
            ),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

        last = step + 1 == total
        if (step + 1) % max(per_epoch, 50) == 0 or last:
            parts = np.array_split(validation, -(-len(validation) // JUDGED))
            said = torch.cat([predict(model, latents.means(part), hardware).argmax(1) for part in parts])
            accuracy = (said == targets[validation]).float().mean()
            watch.log(step + 1, loss=loss.item(), accuracy=float(accuracy))
            if accuracy > best:
                best.copy_(accuracy)
                kept["best"].load_state_dict(model.state_dict())
        watch.progress(step + 1, total)
        keeper.maybe_save(step + 1)
    model.load_state_dict(kept["best"].state_dict())
    return model.eval(), float(best)


@torch.no_grad()
def predict(model: LatentClassifier, latents: Tensor, hardware: Hardware, batch_size: int = 512) -> Tensor:
    """Logits, float32 (N, n_classes) on the CPU, of scaled latents (N, C, h, w)."""
    model.eval()
    with hardware.autocast():
        return torch.cat([model(part.to(hardware.device)).float().cpu() for part in latents.split(batch_size)])


@torch.no_grad()
def embed(model: LatentClassifier, latents: Tensor | LatentCache, hardware: Hardware, batch_size: int = 512) -> Tensor:
    """Pooled features of length 1, float32 (N, D) on the CPU, of scaled latents (N, C, h, w), or of cached ones."""
    model.eval()
    batches = latents.batches(batch_size) if isinstance(latents, LatentCache) else latents.split(batch_size)
    with hardware.autocast():
        parts = [model.features(part.to(hardware.device)).float().cpu() for part in batches]
    return F.normalize(torch.cat(parts), dim=1)


def stratified(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # At least one validation scene and one training scene a class.
    rng = numpy_generator(seed, "validation")
    validation = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        validation.append(members[: max(1, min(round(len(members) * share), len(members) - 1))])
    held = np.sort(np.concatenate(validation))
    return np.setdiff1d(np.arange(len(labels)), held), held
