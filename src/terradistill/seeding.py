"""Seeds that name what they are for: image *i* depends on ``(seed, i)`` alone, never on the batch it travels in."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
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
