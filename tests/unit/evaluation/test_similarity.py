"""SSIM against its definition, window by window."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from terradistill.evaluation.similarity import most_similar, ssim


def images(n: int, side: int = 24, seed: int = 0) -> NDArray[np.uint8]:
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=(n, side, side, 3)), (0, 1, 1, 0))
    return (127.5 + 400 * smooth).clip(0, 255).astype(np.uint8)


def to_tensor(x: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).double() / 127.5 - 1


def reference(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> float:
    """Wang et al.'s formula with scipy's Gaussian, cut to 11 x 11, where the window lies inside."""
    a, b = x.astype(float) / 255, y.astype(float) / 255

    def mean(z: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(z, (1.5, 1.5, 0), truncate=3.5))[5:-5, 5:-5]

    va, vb, cov = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2, mean(a * b) - mean(a) * mean(b)
    up = (2 * mean(a) * mean(b) + 1e-4) * (2 * cov + 9e-4)
    return float((up / ((mean(a) ** 2 + mean(b) ** 2 + 1e-4) * (va + vb + 9e-4))).mean())


def test_ssim_is_as_published() -> None:
    x, y = images(3), images(3, seed=1)
    found = ssim(to_tensor(x), to_tensor(y))
    assert found.tolist() == pytest.approx([reference(a, b) for a, b in zip(x, y, strict=True)], abs=1e-6)
    assert ssim(to_tensor(x), to_tensor(x)).tolist() == pytest.approx([1, 1, 1])


def test_the_most_similar_is_found_whatever_the_batch() -> None:
    others = images(20)
    made = (others[[7, 3]].astype(int) + 9).clip(0, 255).astype(np.uint8)
    values, index = most_similar(made, others, k=5, batch_size=6)
    assert index[:, 0].tolist() == [7, 3]
    assert values.shape == (2, 5)
    assert (values.diff(dim=1) <= 0).all()
    assert most_similar(made, others[:2], k=5)[0].shape == (2, 2)
    torch.testing.assert_close(most_similar(made, others)[0], values)
