"""Whether probabilities mean what they say."""

from typing import Any

from torch import Tensor

BINS = 15


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> list[dict[str, Any]]:
    """Confidence and accuracy of predictions, by confidence: rows of `count`, `confidence` and `accuracy`.

    Args:
        probabilities: float (n, C).
        labels: int64 (n,).
        bins: of equal width, from 0 to 1; empty ones are left out.
    """
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).float()
    place = (confidence * bins).long().clamp(max=bins - 1)
    rows = []
    for k in range(bins):
        here = place == k
        if here.any():
            means = {"confidence": float(confidence[here].mean()), "accuracy": float(right[here].mean())}
            rows.append({"count": int(here.sum()), **means})
    return rows


def expected_error(rows: list[dict[str, Any]]) -> float:
    """Mean distance of confidence and accuracy over predictions (expected calibration error; Guo et al. 2017)."""
    total = sum(row["count"] for row in rows)
    return float(sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / total)
