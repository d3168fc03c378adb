from typing import Any

import pytest

from terradistill.report import words


def row(method: str, mean: float, **more: Any) -> dict[str, Any]:
    base = {"method": method, "network": "convnet3", "oa_mean": mean, "oa_std": 0.01, "n_train": 100, "ipc": 10}
    return base | {"oa": [mean, mean]} | more


@pytest.mark.parametrize(
    ("distilled", "meaning"),
    [(0.60, "is worth more"), (0.50, "is worth less"), (0.555, "no clear difference")],
)
def test_verdict_is_honest(distilled: float, meaning: str) -> None:
    sentence, judgement = words.verdict([row("distilled", distilled), row("random", 0.55), row("full", 0.9)])
    assert sentence.endswith("100 random real images to 55.0 ± 1.0 %, the full 100 to 90.0 ± 1.0 %.")
    assert meaning in judgement


def test_verdict_compares_like_with_like() -> None:
    others = [row("random", 0.1, network="resnet18"), row("random", 0.2, ipc=1), row("random", 0.55)]
    assert "IOR +5.0 points" in words.verdict([*others, row("distilled", 0.6)])[1]


def test_hard_labels_speak_for_the_run() -> None:
    lead = words.headline([row("distilled", 0.7, labels="soft"), row("distilled", 0.6, labels="hard")])
    assert lead is not None
    assert lead["oa_mean"] == 0.6


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (41, "41 s"), (750, "12 min 30 s"), (11100, "3 h 05 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1240, "1.2 kB"), (64e6, "64 MB"), (2e15, "2000 TB")]
)
def test_size(n: float, text: str) -> None:
    assert words.size(n) == text


def test_one_run_has_no_spread() -> None:
    assert words.accuracy(row("distilled", 0.5, oa=[0.5], oa_std=0.0)) == "50.0"


def test_points_carry_a_true_minus() -> None:
    assert words.points(-0.018) == "−1.8"
