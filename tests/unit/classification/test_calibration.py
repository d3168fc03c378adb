"""Whether probabilities mean what they say."""

import pytest
import torch
from sklearn.calibration import calibration_curve

from terradistill.classification.calibration import expected_error, reliability
from terradistill.classification.training import calibrated


def test_bins_are_those_of_scikit_learn() -> None:
    rng = torch.Generator().manual_seed(0)
    sure = torch.rand(500, generator=rng) * 0.5 + 0.5
    shares = torch.stack([sure, 1 - sure], 1)
    labels = (torch.rand(500, generator=rng) > 0.7).long()
    rows = reliability(shares, labels, bins=10)
    right = (labels == 0).numpy()
    accuracy, confidence = calibration_curve(right, sure.numpy(), n_bins=10)
    assert [row["accuracy"] for row in rows] == pytest.approx(accuracy.tolist())
    assert [row["confidence"] for row in rows] == pytest.approx(confidence.tolist())
    assert sum(row["count"] for row in rows) == 500


def test_the_error_is_the_mean_gap() -> None:
    rows = [{"count": 3, "confidence": 0.9, "accuracy": 0.5}, {"count": 1, "confidence": 0.6, "accuracy": 0.8}]
    assert expected_error(rows) == pytest.approx((3 * 0.4 + 0.2) / 4)


def test_the_temperature_is_that_by_which_logits_were_too_sure() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=rng)
    labels = torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]
    assert calibrated(3 * logits, labels) == pytest.approx(3, rel=0.1)
    assert calibrated(logits, labels) == pytest.approx(1, rel=0.1)


def test_perfect_validation_sharpens_nothing() -> None:
    logits = torch.eye(3).repeat(20, 1) * 2
    assert calibrated(logits, torch.arange(3).repeat(20)) == pytest.approx(1, rel=0.02)


def test_a_handful_of_scenes_tells_no_temperature() -> None:
    assert calibrated(9 * torch.eye(3).repeat(4, 1), (torch.arange(12) + 1) % 3) == 1
