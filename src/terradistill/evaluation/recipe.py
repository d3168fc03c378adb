"""The one recipe by which every downstream network is trained and tested."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from terradistill.data.arrays import Rows
from terradistill.errors import EvaluationError
from terradistill.hardware import Hardware
from terradistill.run import Progress
from terradistill.sections import ClassifySettings
from terradistill.seeding import batch_indices, derive, generator
from terradistill.settings import EvaluationSettings

PREDICT_BATCH = 128


def training_steps(n_images: int, settings: EvaluationSettings) -> int:
    """Optimiser steps for a training set of ``n_images``: its epochs, within the bounds; the upper bound wins."""
    return min(max(math.ceil(settings.epochs * n_images / settings.batch_size), settings.min_steps), settings.max_steps)


def learning_share(step: int, steps: int, rate: str) -> float:
    """What share of the rate of learning a step takes.

    cosine: a linear warm-up over 5 % of the steps, and a cosine to zero [ours]; steps: a tenth from two thirds of them
    on, and a hundredth from five sixths on (DPD).
    """
    if rate == "steps":
        return 0.1 ** ((3 * step >= 2 * steps) + (6 * step >= 5 * steps))
    return min((step + 1) / max(1, steps // 20), 0.5 * (1 + math.cos(math.pi * step / steps)))


def to_input(images: NDArray[np.uint8], resolution: int, device: torch.device) -> Tensor:
    """uint8 (n, height, width, 3) to float32 (n, 3, resolution, resolution) in [-1, 1]; resized if need be."""
    x = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[2:] == (resolution, resolution):
        return x.contiguous()
    return F.interpolate(x, (resolution, resolution), mode="bilinear", antialias=True)


def augment(x: Tensor, settings: EvaluationSettings | ClassifySettings, stream: torch.Generator) -> Tensor:
    """Random resized crop and flips, drawn for each image: one affine resampling of the whole batch.

    Args:
        x: images (n, 3, side, side).
        settings: ``crop_area``, ``crop_aspect`` (drawn uniformly in its logarithm) and ``flips``.
        stream: a CPU generator, so that every device crops alike.

    Returns:
        Images of the same shape.
    """
    area, aspect, left, top, mirror, turn = torch.rand(6, len(x), generator=stream)
    low, high = settings.crop_area
    area = low + (high - low) * area
    low, high = (math.log(bound) for bound in settings.crop_aspect)
    aspect = torch.exp(low + (high - low) * aspect)
    width = (area * aspect).sqrt().clamp(max=1)
    height = (area / aspect).sqrt().clamp(max=1)
    flip = float(settings.flips)
    across = _crop(x.shape[3], width, left, mirror < 0.5 * flip).to(x)
    down = _crop(x.shape[2], height, top, turn < 0.5 * flip).to(x)
    return down[:, None] @ x @ across[:, None].mT


def _crop(side: int, share: Tensor, place: Tensor, flipped: Tensor) -> Tensor:
    """Bilinear weights of n crops along one axis, which fill it again: (n, side, side).

    Products with them are what `grid_sample` gives, and their gradient, unlike its, is the same in each run on GPUs.

    Args:
        side: pixels.
        share: of the side that is kept, (n,).
        place: of what is left out, the share that lies before, (n,).
        flipped: bool (n,).
    """
    centres = (torch.arange(side) + 0.5) / side - 0.5  # from -1/2 to 1/2
    centres = centres * torch.where(flipped, -share, share)[:, None] + ((place - 0.5) * (1 - share))[:, None]
    at = ((centres + 0.5) * side - 0.5).clamp(0, side - 1)
    return (1 - (at[..., None] - torch.arange(side)).abs()).clamp(min=0)


@contextmanager
def repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Global random state and cuDNN fixed inside, as they were outside: initial weights and dropout draw from it."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
        torch.manual_seed(seed)
        yield


def fit(
    network: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | NDArray[np.float32],
    resolution: int,
    settings: EvaluationSettings,
    *,
    seed: int,
    hardware: Hardware,
    progress: Progress | None = None,
) -> int:
    """Trains in place: cross-entropy, gradient clip, and a rate of learning that falls as `learning_share` says.

    Args:
        network: on the device of `hardware`.
        images: uint8, (n, height, width, 3).
        labels: int64 (n,), or probabilities, float32 (n, n_classes).
        resolution: side of the images that the network sees, pixels.
        settings: the recipe.
        seed: decides the order of the images and the crops.
        hardware: where and in which precision to compute.
        progress: called as ``progress(done, total)`` after every step.

    Returns:
        The number of optimiser steps.

    Raises:
        EvaluationError: the loss of the last step is not finite, or steps cannot be compiled here.
    """
    steps, device, hardware = training_steps(len(labels), settings), hardware.device, hardware.learning
    weights, rate, decay = network.parameters(), settings.learning_rate, settings.weight_decay
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(weights, rate, weight_decay=decay, fused=True)
    else:
        optimizer = torch.optim.SGD(weights, rate, momentum=settings.momentum, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_share(step, steps, settings.rate))
    crops = generator(seed, "augment")
    loss_of = _loss_of(network, compiled=settings.compile)
    loss = torch.zeros((), device=device)
    network.train()
    order = derive(seed, "batches")
    for step in range(steps):
        index = batch_indices(len(labels), settings.batch_size, step, order)
        x = augment(to_input(images[index], resolution, device), settings, crops)
        y = torch.from_numpy(labels[index]).to(device)
        with hardware.autocast():
            loss = loss_of(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
        optimizer.step()
        schedule.step()
        if progress:
            progress(step + 1, steps)
    require_finite(loss, "evaluation", settings.learning_rate)
    return steps


def require_finite(loss: Tensor, section: str, rate: float) -> None:
    """Make sure that what judges has not diverged.

    Raises:
        EvaluationError: the last loss is not a finite number.
    """
    if not loss.isfinite():
        raise EvaluationError(f"The training diverged (loss {loss.item()}): lower {section}.learning_rate from {rate}.")


def _loss_of(network: nn.Module, *, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of a network's logits for images and labels."""

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(network(x), y)

    if not compiled:
        return loss_of
    from torch._dynamo.exc import BackendCompilerFailed  # seconds to import

    fast = torch.compile(loss_of)

    def tried(x: Tensor, y: Tensor) -> Tensor:
        try:
            return torch.as_tensor(fast(x, y))
        except BackendCompilerFailed as error:
            raise EvaluationError(
                f"Steps cannot be compiled here ({(str(error).splitlines() or [''])[0]}): install a C++ "
                "compiler, such as g++, or leave out evaluation.compile."
            ) from error

    return tried


@torch.inference_mode()
def logits(network: nn.Module, images: NDArray[np.uint8] | Rows, resolution: int, *, hardware: Hardware) -> Tensor:
    """What a network says of uint8 images (n, height, width, 3), a batch at a time: float32 (n, n_classes), CPU."""
    network.eval()
    with hardware.autocast():
        said = [
            network(to_input(images[start : start + PREDICT_BATCH], resolution, hardware.device)).float().cpu()
            for start in range(0, len(images), PREDICT_BATCH)
        ]
    return torch.cat(said)


def predict(network: nn.Module, images: NDArray[np.uint8], resolution: int, *, hardware: Hardware) -> NDArray[np.int64]:
    """The most likely class of each of the uint8 images (n, height, width, 3): int64, shape (n,)."""
    return logits(network, images, resolution, hardware=hardware).argmax(1).numpy()


def embed(network: nn.Module, images: NDArray[np.uint8], resolution: int, *, hardware: Hardware) -> Tensor:
    """What the last linear layer of a network is given for uint8 images (n, height, width, 3): float32 (n, D)."""
    with _listening(network) as seen:
        logits(network, images, resolution, hardware=hardware)
    return torch.cat([each.cpu() for each in seen])


@contextmanager
def _listening(network: nn.Module) -> Iterator[list[Tensor]]:
    """What the last linear layer is given inside, batch by batch: float32 (n, D) each."""
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().flatten(1)))
    try:
        yield seen
    finally:
        handle.remove()
