"""Known answers in closed form."""

import pytest
import torch

from terradistill.evaluation import coverage
from terradistill.evaluation.coverage import frechet, intra_class_coverage, neighbourhoods


def draw(n: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return shift + scale * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_frechet_distance_of_gaussians_is_known() -> None:
    a, b = draw(20_000, 0), draw(20_000, 1, shift=0.5, scale=2.0)
    assert frechet(a, b) == pytest.approx(4 * 0.5**2 + 4 * (2.0 - 1.0) ** 2, rel=0.05)
    assert frechet(a[:500], a[:500]) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_is_that_of_the_covariances() -> None:
    a, b = draw(50, 0), draw(60, 1, shift=0.2, scale=1.5)
    roots = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).real.clamp_min(0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * roots
    assert frechet(a, b) == pytest.approx(float(expected))


def test_intra_class_coverage_looks_at_the_own_class_alone() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    found = intra_class_coverage(a, torch.tensor([0, 1]), b, torch.tensor([0, 0, 0]))
    assert found == pytest.approx((1 + 0.5**0.5 + 0) / 3)
    assert intra_class_coverage(b, torch.zeros(3), b, torch.zeros(3)) == pytest.approx(1)


def test_the_same_distribution_is_precise_and_covered_and_another_is_not() -> None:
    same = neighbourhoods(draw(400, 0), draw(400, 1))
    assert same["precision"] > 0.8
    assert same["recall"] > 0.8
    assert same["density"] == pytest.approx(1, abs=0.15)
    assert same["coverage"] > 0.9
    collapsed = neighbourhoods(draw(400, 0, scale=0.05), draw(400, 1))
    assert collapsed["precision"] > 0.9
    assert collapsed["recall"] < 0.1
    assert collapsed["coverage"] < 0.2
    assert max(neighbourhoods(draw(400, 0, shift=20), draw(400, 1)).values()) == 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = draw(60, 0), draw(70, 1, shift=0.5)
    whole = neighbourhoods(a, b)
    monkeypatch.setattr(coverage, "BLOCK", 16)
    assert neighbourhoods(a, b) == pytest.approx(whole)
