"""What a generator's autoencoder keeps of scenes that it has not learned from: mean PSNR in dB, LPIPS.

    python bench/reconstruction.py GENERATOR DATA [DATA ...]

GENERATOR is a generator folder with `learned_from.json`, or a run folder. Up to 500 unseen scenes of each DATA, spread
over its classes. The first PSNR is at the generator's size; the second, for smaller scenes, at their own. LPIPS needs
the extra `metrics`.
"""

import sys

import numpy as np
import torch
from held_out import unseen_of
from torch.nn import functional as F

from terradistill.data.images import decode, resize, to_float
from terradistill.evaluation.fidelity import Lpips
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator
from terradistill.models.places import learned_from


def psnr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of images in [-1, 1], (n, 3, H, W) -> (n,)."""
    return -10 * torch.log10((x - y).square().mean((1, 2, 3)) / 4)


def main(source: str, *data: str) -> None:
    generator, hardware = Generator.load(source).frozen(), find_hardware()
    generator.to(hardware.device)
    lpips = Lpips().to(hardware.device)
    for name in data:
        unseen = unseen_of(learned_from(source), name)
        chosen = np.unique(np.linspace(0, len(unseen) - 1, 500).astype(int))
        images = [decode(unseen.read(int(i))) for i in chosen]
        native = min(images[0].shape[:2])
        large, own, looks = [], [], []
        for start in range(0, len(images), 50):
            part = images[start : start + 50]
            x = to_float(np.stack([resize(image, generator.resolution) for image in part])).to(hardware.device)
            with hardware.autocast():
                y = generator.decode(generator.encode(x)[0])
            large.append(psnr(x, y))
            looks.append(lpips(x, y))
            if native < generator.resolution:
                y = F.interpolate(y, (native, native), mode="bicubic", antialias=True).clamp(-1, 1)
                own.append(psnr(to_float(np.stack([resize(image, native) for image in part])).to(y), y))
        line = f"{name}: {len(images)} unseen scenes, {float(torch.cat(large).mean()):.2f} dB at {generator.resolution}"
        line += f", {float(torch.cat(own).mean()):.2f} dB at {native}" if own else ""
        print(f"{line}, LPIPS {float(torch.cat(looks).mean()):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
