"""One loop that trains the autoencoder, read from top to bottom."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from terradistill.data.arrays import evenly
from terradistill.data.images import to_float
from terradistill.data.views import random_views
from terradistill.hardware import Hardware
from terradistill.models.autoencoder import fold_statistics
from terradistill.seeding import batch_indices, derive, generator
from terradistill.settings import AutoencoderSettings
from terradistill.training.progress import (
    Checkpoint,
    Ema,
    Unwatched,
    Watch,
    learning_rate,
    require_finite,
    set_learning_rate,
)


def train_autoencoder(
    vae: Any,
    pixels: NDArray[np.uint8],
    settings: AutoencoderSettings,
    *,
    perceptual: nn.Module | None = None,
    seed: int,
    hardware: Hardware,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60,
    watch: Watch | None = None,
) -> None:
    """Train a KL autoencoder in place, take its averaged weights, and scale its latents (see `scaling`).

    Loss: mean squared error of pixels in [-1, 1] + `kl_weight` · KL [ours] + `scale_weight` · the same error at half
    the size, of halved latents: fine detail then keeps out of what is coarse, and the latents are easier to learn
    (scale equivariance, Skorokhodov et al. 2025).

    Args:
        vae: diffusers `AutoencoderKL`, on the hardware's device.
        pixels: uint8 (N, H, W, 3), may be a memory map; read a batch at a time.
        settings: steps, batch size, rates and weights.
        perceptual: two distances of two batches of images, of what is seen where and of textures. With it, the decoder
            alone is trained, on the latents as they are; loss: squared error, half of it at half the size, +
            `perceptual_weight` · the first + `texture_weight` · the second, in units of how strongly the others pull.
        seed: of the order, the views and the noise.
        hardware: device and precision.
        checkpoint: file to resume from and to write to.
        checkpoint_seconds: time between two checkpoints.
        watch: told of progress and metrics.
    """
    watch, hardware = watch or Unwatched(), hardware.learning
    vae.train().requires_grad_(True)
    if perceptual is not None:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.95), fused=True)
    ema = Ema(vae, settings.ema_decay)
    keeper = Checkpoint(checkpoint, vae, optimizer, ema, checkpoint_seconds)
    start = keeper.resume()
    watch.forget_after(start)

    for step in range(start, settings.steps):
        rng = generator(seed, "autoencoder", step)
        index = batch_indices(len(pixels), settings.batch_size, step, seed)
        x = random_views(to_float(_crops(pixels, np.sort(index), settings.crop, rng)), rng).to(hardware.device)
        with hardware.autocast():
            posterior = vae.encode(x).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=rng).to(mean)
            y = vae.decode(z).sample.float()
        pixel_loss = loss = (y - x).square().mean()
        if perceptual is not None:
            with hardware.autocast():
                place, texture = perceptual(y, x)
            halved = (avg_pool2d(y, 2) - avg_pool2d(x, 2)).square().mean()
            loss = 0.5 * (pixel_loss + halved) + settings.perceptual_weight * place
            if settings.texture_weight:
                loss = loss + settings.texture_weight * _balanced(loss, texture, y)
            told = {"perceptual": place, "texture": texture}
        else:
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
            loss = loss + settings.kl_weight * kl
            told = {"kl": kl}
            if settings.scale_weight:
                with hardware.autocast():
                    small = vae.decode(avg_pool2d(z, 2)).sample.float()
                loss = loss + settings.scale_weight * (small - avg_pool2d(x, 2)).square().mean()

        set_learning_rate(
            optimizer,
            learning_rate(step, peak=settings.learning_rate, warmup=settings.warmup_steps, total=settings.steps),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        ema.update(step)

        if step % 20 == 0 or step + 1 == settings.steps:
            require_finite(loss.item(), "autoencoder", settings.learning_rate)
            psnr = -10 * float(np.log10(max(pixel_loss.item() / 4, 1e-12)))  # [-1, 1] spans 2
            watch.log(step + 1, loss=loss.item(), psnr=psnr, **{name: value.item() for name, value in told.items()})
        watch.progress(step + 1, settings.steps)
        keeper.maybe_save(step + 1)

    ema.copy_to_module()
    vae.eval().requires_grad_(False)
    if perceptual is None:
        _scale_latents(vae, pixels, settings, hardware, seed)


def _balanced(loss: Tensor, other: Tensor, images: Tensor) -> Tensor:
    """`other`, scaled so that both pull at the images with equal strength (Esser et al. 2021: at the last layer)."""
    pulls: list[Tensor] = [torch.autograd.grad(term, images, retain_graph=True)[0].norm() for term in (loss, other)]
    return other * (pulls[0] / pulls[1].clamp_min(1e-8)).detach()


def _scale_latents(
    vae: Any, pixels: NDArray[np.uint8], settings: AutoencoderSettings, hardware: Hardware, seed: int
) -> None:
    mean_C, std_C = latent_statistics(vae, pixels, hardware, seed=derive(seed, "whiten"))
    if settings.scaling == "importance":
        std_C = std_C / channel_importance(vae, std_C, pixels, hardware, seed=derive(seed, "importance"))
    fold_statistics(vae, mean_C, std_C)


def _crops(
    pixels: NDArray[np.uint8], index: NDArray[np.int64], side: int | None, rng: torch.Generator
) -> NDArray[np.uint8]:
    """Scenes (N, H, W, 3) by index, whole or a random square of each: more steps in the same time."""
    height, width = pixels.shape[1:3]
    if side is None or side >= min(height, width):
        return pixels[index]
    top = torch.randint(0, height - side + 1, (len(index), 1, 1), generator=rng).numpy()
    left = torch.randint(0, width - side + 1, (len(index), 1, 1), generator=rng).numpy()
    across = np.arange(side)
    return pixels[index[:, None, None], top + across[:, None], left + across]


def latent_statistics(
    vae: Any, pixels: NDArray[np.uint8], hardware: Hardware, *, seed: int, images: int = 1024, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Per-channel mean and standard deviation of the raw posterior means, over a seeded sample of the images."""
    index = np.sort(batch_indices(len(pixels), min(images, len(pixels)), 0, seed))
    batches = [index[i : i + batch_size] for i in range(0, len(index), batch_size)]
    with torch.no_grad(), hardware.autocast():
        means = [vae.encode(to_float(pixels[batch]).to(hardware.device)).latent_dist.mean.float() for batch in batches]
    values = torch.cat(means).transpose(0, 1).flatten(1)
    return values.mean(1), values.std(1)


@torch.no_grad()
def channel_importance(
    vae: Any, std_C: Tensor, pixels: NDArray[np.uint8], hardware: Hardware, *, seed: int, images: int = 64
) -> Tensor:
    """How far each channel's own deviation moves the pixels (RMS), relative to the foremost: (C,) in [0.05, 1].

    With white latents most of a denoiser's loss goes to channels of fine detail, which nothing predicts. Scaled by
    this, equal noise on the channels is equal noise on the pixels, and what is coarse is decided first [ours].
    """
    index = np.sort(batch_indices(len(pixels), min(images, len(pixels)), 0, seed))
    with hardware.autocast():
        z = vae.encode(to_float(pixels[index]).to(hardware.device)).latent_dist.mean
        plain = vae.decode(z).sample.float()
        moved = []
        for channel, std in enumerate(std_C):
            change = torch.zeros_like(z)
            noise = torch.randn(z[:, channel].shape, generator=generator(seed, channel))
            change[:, channel] = std * noise.to(z)
            moved.append((vae.decode(z + change).sample.float() - plain).square().mean().sqrt())
    rms_C = torch.stack(moved)
    return (rms_C / rms_C.max()).clamp_min(0.05)


def reconstruction_psnr(
    vae: Any, pixels: NDArray[np.uint8], hardware: Hardware, *, images: int = 512, batch_size: int = 64
) -> float:
    """Mean PSNR in dB of decoded posterior means, over images spread evenly: scenes lie sorted by class."""
    spread = evenly(images, len(pixels))
    values = []
    for start in range(0, len(spread), batch_size):
        x = to_float(pixels[spread[start : start + batch_size]]).to(hardware.device)
        with torch.no_grad(), hardware.autocast():
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.float().clamp(-1, 1)
        values.append(-10 * torch.log10((y - x).square().mean((1, 2, 3)) / 4))
    return float(torch.cat(values).mean())
