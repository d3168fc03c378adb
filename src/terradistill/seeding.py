"""Seeds that name what they are for: image *i* depends on ``(seed, i)`` alone, never on the batch it travels in."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Key = int | str


def derive(seed: int, *keys: Key) -> int:
    """A 63-bit seed for one purpose, such as ``derive(0, "candidate", "river", 3, 1)``.

    Hashing (not adding) keeps streams of neighbouring seeds and keys apart, and is the same in every process.
    """
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in (seed, *keys))
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big") >> 1


def generator(seed: int, *keys: Key) -> torch.Generator:
    """A CPU generator for one purpose: noise is always drawn on the CPU, so every device sees the same."""
    return torch.Generator().manual_seed(derive(seed, *keys))


def numpy_generator(seed: int, *keys: Key) -> np.random.Generator:
    """The same for NumPy."""
    return np.random.default_rng(derive(seed, *keys))


def noise(seeds: Iterable[int], shape: Sequence[int]) -> Tensor:
    """Unit Gaussian noise, one independent stream per image.

    Args:
        seeds: one seed an image, as `derive` makes them; n of them.
        shape: shape of one image's noise, for example (C, H, W).

    Returns:
        float32 tensor of shape (n, *shape).
    """
    streams = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(streams) if streams else torch.empty(0, *shape)


@lru_cache(maxsize=4)
def _order(n: int, epoch: int, seed: int) -> NDArray[np.int64]:
    return numpy_generator(seed, "order", epoch).permutation(n)


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """The step's batch from endless seeded permutations of n items: int64 (batch_size,), known without any state.

    Every image is seen equally often, also where the set is smaller than a batch, and no batch is ever short.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.concatenate(
        [_order(n, int(epoch), seed)[places[places // n == epoch] % n] for epoch in np.unique(places // n)]
    )
