"""How much better than linear is a run's denoiser? Decibels over the Wiener filter of each class, by noise level.

    python bench/denoising.py RUN DATA

RUN trained a generator on DATA alone, from nothing: up to 512 of the train scenes that only watched its loss are
noised; squared error of the clean latents. The Wiener filter knows the class's mean colour and the spectra of its
latents; what it cannot know is shape: edges, roads, roofs.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from terradistill.data.captions import class_prompt
from terradistill.data.scenes import resized_metadata
from terradistill.data.sources import open_scenes
from terradistill.data.splits import load_split
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator, denoise
from terradistill.seeding import derive
from terradistill.settings import Settings
from terradistill.training.diffusion import held_out_split
from terradistill.training.latents import LatentCache

VARIANCES = (0.02, 0.05, 0.13, 0.36, 0.77, 2.2, 6.8, 29.5)  # of the noise, beside scaled latents


def wiener(learned: Tensor, noisy: Tensor, variance: float) -> Tensor:
    """The best linear, translation-invariant estimate of clean latents (n, C, h, w) from noisy ones."""
    mean = learned.mean((0, 2, 3))[:, None, None]
    f = torch.fft.fft2(learned - mean, norm="ortho")
    power = torch.einsum("nahw,nbhw->hwab", f, f.conj()) / len(f)
    gain = power @ torch.linalg.inv(power + variance * torch.eye(power.shape[-1]))
    g = torch.fft.fft2(noisy - mean, norm="ortho")
    clean: Tensor = torch.fft.ifft2(torch.einsum("hwab,nbhw->nahw", gain, g), norm="ortho").real + mean
    return clean


@torch.no_grad()
def main(run: Path, data: str) -> None:
    settings = Settings.model_validate(json.loads((run / "resolved.json").read_text()))
    if settings.generator is not None:
        raise SystemExit(f"{run} adapted a given generator, which may have learned from every scene.")
    generator, hardware = Generator.load(run).frozen(), find_hardware()
    generator.to(hardware.device)
    train, _ = load_split(run / "split.json", open_scenes(data))
    latents = LatentCache.load(run / "latents" / "train.npy")
    kept_back, learned = held_out_split(len(latents), settings.diffusion.held_out, derive(settings.seed, "diffusion"))
    if not len(kept_back):
        raise SystemExit(f"{run} kept no train scene back: train with a larger diffusion.held_out.")
    text = generator.embed([class_prompt(train, name, settings.data.caption_template) for name in train.classes])
    numbers = generator.metadata_encoder
    known = None
    if numbers is not None:
        rows = [resized_metadata(scene, train.info, generator.resolution) for scene in train.scenes]
        known = numbers.table([numbers.sayable(row) for row in rows])
    schedule = generator.parameterisation
    ratio = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()
    found = []
    for variance in VARIANCES:
        t = (ratio.square() - variance).abs().argmin()
        linear, ours = 0.0, 0.0
        for label in range(len(train.classes)):
            tested, known_ones = (rows[train.labels[rows] == label] for rows in (kept_back[:512], learned))
            if not len(tested):
                continue
            z0 = latents.means(tested)
            e = torch.randn(z0.shape, generator=torch.Generator().manual_seed(label))
            z = schedule.add_noise(z0, e, t)
            estimate = wiener(latents.means(known_ones), z0 + ratio[t] * e, float(ratio[t]) ** 2)
            linear += float((estimate - z0).square().sum())
            prompt = text[label].expand(len(z0), -1, -1)
            told = None if known is None else known[torch.as_tensor(tested)].to(hardware.device)
            with hardware.autocast():
                output = denoise(generator, z.to(hardware.device), t.to(hardware.device), prompt, told).float().cpu()
            ours += float((schedule.z0(z, output, t) - z0).square().sum())
        found.append(10 * np.log10(linear / ours))
    print("variance of the noise  " + " ".join(f"{value:6.2f}" for value in VARIANCES))
    print("dB over Wiener         " + " ".join(f"{value:+6.2f}" for value in found) + f"   mean {np.mean(found):+.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
