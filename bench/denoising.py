"""How much better than linear is a run's denoiser? Decibels over the Wiener filter of each class, by noise level.

    python bench/denoising.py RUN DATA

Scenes of the train split that only watched the loss, noised; squared error of the clean latents. The Wiener filter
knows the class's mean colour and the spectra of its latents; what it cannot know is shape: edges, roads, roofs.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from terradistill.config import load_settings
from terradistill.data.captions import class_prompt
from terradistill.data.sources import open_scenes
from terradistill.data.splits import load_split
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator, denoise
from terradistill.seeding import derive
from terradistill.training.diffusion import held_out_split
from terradistill.training.latents import LatentCache

NOISE = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # standard deviation, beside latents of about 1


def wiener(learned: Tensor, noisy: Tensor, variance: float) -> Tensor:
    """The best linear, translation-invariant estimate of clean latents (n, C, h, w) from noisy ones."""
    mean = learned.mean((0, 2, 3))[:, None, None]
    f = torch.fft.fft2(learned - mean, norm="ortho")
    power = torch.einsum("nahw,nbhw->hwab", f, f.conj()) / len(f)
    gain = power @ torch.linalg.inv(power + variance * torch.eye(power.shape[-1]))
    g = torch.fft.fft2(noisy - mean, norm="ortho")
    return torch.fft.ifft2(torch.einsum("hwab,nbhw->nahw", gain, g), norm="ortho").real + mean


@torch.no_grad()
def main(run: Path, data: str) -> None:
    generator, hardware = Generator.load(run).frozen(), find_hardware()
    generator.to(hardware.device)
    settings = load_settings([], run / "config.toml")
    train, _ = load_split(run / "split.json", open_scenes(data))
    latents = LatentCache.load(run / "latents" / "train.safetensors")
    kept_back, learned = held_out_split(len(latents), settings.diffusion.held_out, derive(settings.seed, "diffusion"))
    text = generator.embed([class_prompt(train, name, settings.data.caption_template) for name in train.classes])
    schedule = generator.parameterisation
    ratio = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()
    print("noise  dB over Wiener")
    for noise in NOISE:
        t = (ratio - noise).abs().argmin()
        linear, ours = 0.0, 0.0
        for label in range(len(train.classes)):
            z0, known = (latents.means(rows[train.labels[rows] == label]) for rows in (kept_back[:512], learned))
            if not len(z0):
                continue
            e = torch.randn(z0.shape, generator=torch.Generator().manual_seed(label))
            z = schedule.add_noise(z0, e, t)
            linear += float((wiener(known, z0 + ratio[t] * e, float(ratio[t]) ** 2) - z0).square().sum())
            prompt = text[label].expand(len(z0), -1, -1)
            with hardware.autocast():
                output = denoise(generator, z.to(hardware.device), t.to(hardware.device), prompt).float().cpu()
            ours += float((schedule.z0(z, output, t) - z0).square().sum())
        print(f"{noise:5.1f}  {10 * np.log10(linear / ours):+.2f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
