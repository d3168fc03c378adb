import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from terradistill.report import plots

FORTY_FIVE = [f"class {i} <b> & ${i}$" for i in range(45)]
ROW: dict[str, Any] = {"method": "distilled", "oa_mean": 0.5, "oa_std": 0.1, "oa": [0.4, 0.6], "chance": 0.1}


def texts(svg: str) -> list[str]:
    """Every text in an SVG, which parsing proves to be well-formed."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_accuracy_shows_chance_and_ceiling() -> None:
    svg = plots.accuracy_plot([ROW, ROW | {"method": "full", "oa_mean": 0.9}, ROW | {"method": "new", "oa_std": None}])
    assert {"chance", "ceiling", "distilled", "all real", "new", "50.0 ± 10.0"} <= set(texts(svg))


def test_colours_follow_the_page() -> None:
    svg = plots.accuracy_plot([ROW])
    assert "var(--distilled, #0b6fa4)" in svg
    assert not svg.count(": #0b6fa4")
    assert "DejaVu" not in svg


@pytest.mark.parametrize("n", [1, 10, 45])
def test_confusion_and_recall_at_every_size(n: int) -> None:
    classes = FORTY_FIVE[:n]
    confusion = plots.confusion_plot(np.eye(n) * 3, classes)
    assert len([text for text in texts(confusion) if text.startswith("class ")]) == 2 * n
    recall = plots.recall_plot({"distilled": [0.5] * n, "random": [None] * n}, classes)
    assert len([text for text in texts(recall) if text.startswith("class ")]) == n
    assert "$0$" in recall


def test_confusion_of_a_class_without_test_images() -> None:
    assert "0.0 %" in plots.confusion_plot(np.zeros((2, 2)), ["a", "b"])


def test_recall_puts_the_gains_on_top() -> None:
    shown = texts(plots.recall_plot({"distilled": [0.1, 0.9], "random": [0.5, 0.5]}, ["loser", "winner"]))
    assert shown.index("winner") < shown.index("loser")


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [100.0, 1.0, 0.01], [-1.0, 1.0]])
def test_curves_of_any_kind(values: list[float]) -> None:
    svg = plots.curve_plot({"loss": (list(range(len(values))), values), "held_out_loss": ([0], [0.5])})
    assert "held out loss" in texts(svg)
    assert "mathdefault" not in svg


@pytest.mark.parametrize(("budget", "told"), [("ipc", {"1", "10", "1,000"}), ("bytes", {"10 kB", "100 kB"})])
def test_budgets_are_numbers(budget: str, told: set[str]) -> None:
    rows = [ROW | {"ipc": n, "bytes": size} for n, size in ((1, 9_000), (10, 90_000), (1000, 700_000))]
    shown = texts(plots.budget_plot(rows, budget))
    assert told <= set(shown)
    assert not any("mathdefault" in text for text in shown)


def test_stages_without_time() -> None:
    assert {"Reading", "0.0 s"} <= set(texts(plots.stage_plot([{"name": "data", "title": "Reading", "seconds": None}])))


def test_plots_are_the_same_twice() -> None:
    assert plots.accuracy_plot([ROW]) == plots.accuracy_plot([ROW])
