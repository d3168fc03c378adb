"""Encode once, train many times: the cache of latents."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.arrays import mapped, write_array
from terradistill.data.images import to_float
from terradistill.data.views import view
from terradistill.errors import DataError
from terradistill.hardware import Hardware, fitting
from terradistill.models.generator import Generator
from terradistill.training.progress import Unwatched, Watch


class LatentCache:
    """Scaled posterior means and standard deviations of a set of scenes, in several views.

    Attributes:
        data: float16 (N, V, 2, C, h, w), mean and deviation of each scene in each view; view 0 is the scene as it is.
            A map of the file where it was loaded: what is drawn of it alone is read.
    """

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.shape[0]

    @property
    def n_views(self) -> int:
        return self.data.shape[1]

    @property
    def channels(self) -> int:
        return self.data.shape[3]

    def means(self, index: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """Posterior means of scenes as they are, of all or of those asked for: float32 (n, C, h, w)."""
        return self.data[index, 0, 0].float()

    def batches(self, batch_size: int = 512) -> Iterator[Tensor]:
        """The means of all scenes, a batch at a time: float32 (b, C, h, w)."""
        for start in range(0, len(self), batch_size):
            yield self.means(slice(start, start + batch_size))

    def draw_views(self, n: int, rng: torch.Generator) -> Tensor:
        """A view for each of n scenes: int64 (n,)."""
        return torch.randint(0, self.n_views, (n,), generator=rng)

    def draw(self, index: NDArray[np.int64], rng: torch.Generator, views: Tensor | None = None) -> Tensor:
        """Posterior samples of scenes in views that are given or drawn for them: float32 (B, C, h, w)."""
        if views is None:
            views = self.draw_views(len(index), rng)
        mean, std = self.data[torch.as_tensor(index), views].float().unbind(1)
        return mean + std * torch.randn(mean.shape, generator=rng)

    def save(self, path: Path) -> None:
        """Write a `.npy` file."""
        with path.open("wb") as file:
            np.save(file, self.data.numpy())

    @classmethod
    def load(cls, path: Path) -> "LatentCache":
        # Copied where written to, which nothing does: torch wants a map that it might write to.
        return cls(torch.from_numpy(np.load(path, mmap_mode="c")))

    @staticmethod
    def join(paths: Sequence[Path], out: Path) -> None:
        """Write the scenes of several files as one, without holding more than a piece of one."""
        parts = [mapped(path) for path in paths]
        write_array(out, sum(map(len, parts)), parts)


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
    watch, parts, start = watch or Unwatched(), [], 0
    while start < len(pixels):
        x = to_float(pixels[start : start + batch_size]).to(hardware.device)
        encoded, batch_size = fitting(batch_size, partial(_encoded, generator, x, n_views, hardware, look))
        parts.append(encoded)
        start += len(x)
        watch.progress(start, len(pixels))
    if not parts:
        raise DataError("There are no scenes to encode.")
    return LatentCache(torch.cat(parts))


def _encoded(
    generator: Generator, x: Tensor, n_views: int, hardware: Hardware, look: Callable[[Tensor, int], Tensor], size: int
) -> Tensor:
    """Latents float16 (n, V, 2, C, h, w) of scenes (n, 3, H, W), so many at a time."""
    parts = []
    for part in x.split(size):
        with hardware.autocast():
            views = [torch.stack(generator.encode(look(part, number)), 1) for number in range(n_views)]
        parts.append(torch.stack(views, 1).half().cpu())
    return torch.cat(parts)
