"""Encode once, train many times: the cache of latents."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from terradistill.data.images import to_float
from terradistill.hardware import Hardware
from terradistill.models.generator import Generator
from terradistill.training.progress import Unwatched, Watch
from terradistill.training.views import view


class LatentCache:
    """Scaled posterior means and standard deviations of a set of scenes, in several views.

    Attributes:
        mean: float16 (V, N, C, h, w); view 0 is the scene as it is.
        std: float16, same shape.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return self.mean.shape[1]

    @property
    def n_views(self) -> int:
        return self.mean.shape[0]

    def means(self) -> Tensor:
        """Posterior means of the scenes as they are: float32 (N, C, h, w)."""
        return self.mean[0].float()

    def draw(self, index: NDArray[np.int64], rng: torch.Generator) -> Tensor:
        """Posterior samples of scenes in views drawn for them: float32 (B, C, h, w)."""
        views = torch.randint(0, self.n_views, (len(index),), generator=rng)
        chosen = torch.as_tensor(index)
        mean, std = self.mean[views, chosen].float(), self.std[views, chosen].float()
        return mean + std * torch.randn(mean.shape, generator=rng)

    def save(self, path: Path) -> None:
        save_file({"mean": self.mean, "std": self.std}, path)

    @classmethod
    def load(cls, path: Path) -> "LatentCache":
        tensors = load_file(path)  # memory-mapped
        return cls(tensors["mean"], tensors["std"])


def encode_scenes(
    generator: Generator,
    pixels: NDArray[np.uint8],
    *,
    n_views: int,
    hardware: Hardware,
    batch_size: int = 64,
    watch: Watch | None = None,
) -> LatentCache:
    """Encode scenes (N, H, W, 3) in their first `n_views` views, batch by batch."""
    watch = watch or Unwatched()
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(n_views)]
    for start in range(0, len(pixels), batch_size):
        x = to_float(pixels[start : start + batch_size]).to(hardware.device)
        with hardware.autocast():
            for number, part in enumerate(parts):
                mean, std = generator.encode(view(x, number))
                part.append((mean.half().cpu(), std.half().cpu()))
        watch.progress(min(start + batch_size, len(pixels)), len(pixels))
    means = [torch.cat([mean for mean, _ in part]) for part in parts]
    stds = [torch.cat([std for _, std in part]) for part in parts]
    return LatentCache(torch.stack(means).contiguous(), torch.stack(stds).contiguous())
