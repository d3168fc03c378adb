"""Encode once, train many times: the cache of latents."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from terradistill.data.images import to_float
from terradistill.data.views import view
from terradistill.errors import DataError
from terradistill.hardware import Hardware
from terradistill.models.generator import Generator
from terradistill.training.progress import Unwatched, Watch


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

    def means(self, index: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """Posterior means of scenes as they are, of all or of those asked for: float32 (n, C, h, w)."""
        return self.mean[0][index].float()

    def draw_views(self, n: int, rng: torch.Generator) -> Tensor:
        """A view for each of n scenes: int64 (n,)."""
        return torch.randint(0, self.n_views, (n,), generator=rng)

    def draw(self, index: NDArray[np.int64], rng: torch.Generator, views: Tensor | None = None) -> Tensor:
        """Posterior samples of scenes in views that are given or drawn for them: float32 (B, C, h, w)."""
        if views is None:
            views = self.draw_views(len(index), rng)
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
    look: Callable[[Tensor, int], Tensor] = view,
    batch_size: int = 64,
    watch: Watch | None = None,
) -> LatentCache:
    """Encode scenes (N, H, W, 3) in their first `n_views` views, batch by batch; `look` gives a view by its number."""
    watch = watch or Unwatched()
    cache: LatentCache | None = None
    for start in range(0, len(pixels), batch_size):
        rows = slice(start, min(start + batch_size, len(pixels)))
        x = to_float(pixels[rows]).to(hardware.device)
        with hardware.autocast():
            encoded = [generator.encode(look(x, number)) for number in range(n_views)]
        if cache is None:
            shape = (n_views, len(pixels), *encoded[0][0].shape[1:])
            cache = LatentCache(torch.empty(shape, dtype=torch.float16), torch.empty(shape, dtype=torch.float16))
        for number, (mean, std) in enumerate(encoded):
            cache.mean[number, rows], cache.std[number, rows] = mean, std
        watch.progress(rows.stop, len(pixels))
    if cache is None:
        raise DataError("There are no scenes to encode.")
    return cache
