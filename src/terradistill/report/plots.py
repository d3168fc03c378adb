"""Plots of a run, as inline SVG that takes its colours and its typeface from the page around it.

Every colour is written as ``var(--name, #hex)``: the page's style sheet turns a plot dark with the rest of the page,
and the hex keeps the SVG whole when it stands alone. Methods differ in marker as well as in hue.
"""

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)
from numpy.typing import ArrayLike, NDArray

from terradistill.evaluation.method import Method
from terradistill.report.words import METHOD_NAMES, accuracy, duration, method_name, shorten, spoken

P = ParamSpec("P")
Row = Mapping[str, Any]

COLOURS = {
    "ink": "#1c2529",
    "muted": "#5f6d73",
    "rule": "#dbe1e2",
    "distilled": "#0b6fa4",
    "random": "#c2560b",
    "medoid": "#87589d",
    "full": "#46545a",
    "on-fill": "#fefefe",
}
SHAPES = "osD^vP*X<>h"  # with ten colours, no two lines of a plot are alike
LINES = ("#0b6fa4", "#2f8f6b", "#b8860b", "#a03a5a", "#5a5ab0", "#7a8a2a", "#3a8fa0", "#8a5a2a", "#c65fa0", "#4a4a4a")
MARKERS = {"distilled": "o", "random": "s", "medoid": "D", "full": "^"}

# One user unit is one CSS pixel: figures are drawn at 72 dots an inch, where a point is a pixel.
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 12,
    "text.parse_math": False,  # a class may be called "$5 < 6$"
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 11,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["rule"],
    "ytick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "figure.facecolor": "none",
    "figure.dpi": 72,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "svg.fonttype": "none",  # text stays text: searchable, read aloud, in the page's typeface
}
_FONT_FAMILY = re.compile(r"font-family: [^;\"]*")


def _svg(draw: Callable[P, tuple[Figure, str]]) -> Callable[P, str]:
    """Turns a function that draws (figure, description) into one that returns SVG."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        buffer = io.StringIO()
        # The salt makes ids the same in every run and different between plots on one page.
        with rc_context({**STYLE, "svg.hashsalt": draw.__name__}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the glyph
            figure, description = draw(*args, **kwargs)
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r'width="([\d.]+)pt" height="([\d.]+)pt"', r'width="\1" height="\2"', text, count=1)
        text = _FONT_FAMILY.sub("font-family: var(--sans, sans-serif)", text)
        for name, colour in COLOURS.items():
            text = text.replace(f": {colour}", f": var(--{name}, {colour})")
        return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)

    return drawn


@_svg
def accuracy_plot(rows: Sequence[Row], called: Callable[[Row], str] = method_name) -> tuple[Figure, str]:
    """Overall accuracy of each method: mean, standard deviation, single runs, chance and the full-data ceiling.

    Args:
        rows: score rows of one network; accuracies in [0, 1].
        called: what a row is called.

    Returns:
        SVG.
    """
    figure = Figure(figsize=(460 / 72, (86 + 38 * len(rows)) / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y", visible=False)
    for y, row in enumerate(rows):
        colour, marker = COLOURS.get(row["method"], COLOURS["ink"]), MARKERS.get(row["method"], "o")
        mean, spread, singles = row["oa_mean"], row.get("oa_std") or 0.0, row.get("oa") or []
        axes.plot(singles, [y] * len(singles), "|", color=colour, alpha=0.5, markersize=13)
        axes.errorbar(mean, y, xerr=spread, fmt=marker, color=colour, markersize=6.5, elinewidth=2, capsize=0)
        axes.annotate(accuracy(row), (mean, y), (0, 10), textcoords="offset points", ha="center", fontsize=11)
    lines = [("chance", rows[0].get("chance")), ("ceiling", _oa(rows, "full"))]
    for (name, value), style in zip(lines, ((0, (2, 3)), "-"), strict=True):
        if value is not None:
            axes.axvline(value, color=COLOURS["muted"], linewidth=1, linestyle=style, zorder=0)
            axes.annotate(
                name,
                (value, 1),
                (0, 3),
                textcoords="offset points",
                xycoords=("data", "axes fraction"),
                ha="center",
                color=COLOURS["muted"],
                fontsize=11,
            )
    axes.set_yticks(range(len(rows)), [called(row) for row in rows])
    axes.tick_params(axis="both", length=0, pad=6)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"], labelsize=12)
    axes.set_ylim(len(rows) - 0.55, -0.75)
    best = max(row["oa_mean"] + (row.get("oa_std") or 0.0) for row in rows)
    axes.set_xlim(0, min(1.05, best + 0.12))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("overall accuracy on the real test images")
    return figure, "Overall accuracy: " + "; ".join(f"{called(row)} {accuracy(row)} %" for row in rows)


@_svg
def recall_plot(recalls: Mapping[str, Sequence[float | None]], classes: Sequence[str]) -> tuple[Figure, str]:
    """Recall of each class, one marker a method, sorted by what the first method gains over the second.

    Args:
        recalls: method name to one recall a class, in [0, 1] or None.
        classes: class names, in the same order.

    Returns:
        SVG.
    """
    values = {
        name: np.array([math.nan if value is None else value for value in row], float) for name, row in recalls.items()
    }
    first, *others = values.values()
    order = np.argsort(-np.nan_to_num(first - others[0] if others else first, nan=-2), kind="stable")
    figure = Figure(figsize=(480 / 72, (76 + 20 * len(classes)) / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y", visible=False)
    y = np.arange(len(classes))
    if others:
        axes.hlines(y, first[order], others[0][order], color=COLOURS["muted"], linewidth=1.5, alpha=0.6)
    for name, row in values.items():
        colour, marker, label = COLOURS.get(name, COLOURS["ink"]), MARKERS.get(name, "o"), METHOD_NAMES.get(name, name)
        axes.plot(row[order], y, marker, color=colour, label=label, markersize=6.5)
    axes.set_yticks(y, [shorten(classes[i]) for i in order])
    axes.tick_params(axis="both", length=0, pad=6)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=len(values), handletextpad=0.2, columnspacing=1.2, borderpad=0)
    return figure, f"Recall of {len(classes)} classes: " + " against ".join(
        METHOD_NAMES.get(name, name) for name in values
    )


@_svg
def confusion_plot(confusion: ArrayLike, classes: Sequence[str]) -> tuple[Figure, str]:
    """Confusion matrix with rows (true classes) normalised to one; numbers in per cent where there is room.

    Args:
        confusion: counts or shares of shape (n_classes, n_classes), true class first.
        classes: class names.

    Returns:
        SVG.
    """
    counts: NDArray[np.float64] = np.nan_to_num(np.asarray(confusion, float))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    n = len(classes)
    cell = 34 if n <= 12 else max(13, 400 // n)
    side = cell * n + 150
    figure = Figure(figsize=(side / 72, side / 72), layout="constrained")
    axes = figure.add_subplot()
    # One hue, whose opacity is the share: it reads the same on a light and on a dark page.
    hue = [int(COLOURS["distilled"][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    pixels = np.dstack([*(np.full_like(shares, value) for value in hue), shares**0.8])
    axes.imshow(pixels, interpolation="none", aspect="equal")
    for i, j in np.argwhere(shares >= 0.005) if n <= 12 else ():
        colour = COLOURS["on-fill"] if shares[i, j] > 0.5 else COLOURS["ink"]
        axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=11, color=colour)
    names = [shorten(name, 20) for name in classes]
    font_size = 11 if n <= 30 else 9.5
    axes.set_xticks(range(n), names, rotation=90, fontsize=font_size)
    axes.set_yticks(range(n), names, fontsize=font_size)
    axes.grid(visible=False)
    axes.tick_params(length=0, pad=5)
    axes.spines[:].set_visible(True)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure, f"Confusion matrix; mean of the diagonal {100 * float(np.trace(shares)) / max(n, 1):.1f} %"


@_svg
def reliability_plot(bins: Sequence[Row]) -> tuple[Figure, str]:
    """How often predictions are right, by how sure they are; the dashed line is honest.

    Args:
        bins: rows of `count`, `confidence` and `accuracy`.

    Returns:
        SVG.
    """
    figure = Figure(figsize=(300 / 72, 300 / 72), layout="constrained")
    axes = figure.add_subplot()
    total = sum(row["count"] for row in bins)
    sizes = [20 + 400 * row["count"] / total for row in bins]
    axes.plot([0, 1], [0, 1], "--", color=COLOURS["full"], linewidth=1)
    x, y = ([row[key] for row in bins] for key in ("confidence", "accuracy"))
    axes.plot(x, y, color=COLOURS["distilled"], linewidth=1.2)
    axes.scatter(x, y, sizes, color=COLOURS["distilled"], alpha=0.8, linewidths=0)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", ylabel="share that is right")
    gap = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / max(total, 1)
    return figure, f"Reliability diagram; expected calibration error {gap:.3f}"


@_svg
def cluster_plot(classes: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """The clusters of each class in the two directions in which they differ most, and their prototypes.

    Args:
        classes: of each, "name", "xy" (points), "cluster" (of each; -1: left out) and "prototypes" (which points).

    Returns:
        SVG; the points are one picture in it.
    """
    columns = min(5, len(classes))
    rows = -(-len(classes) // columns)
    figure = Figure(figsize=(columns * 150 / 72, rows * 160 / 72), layout="constrained", dpi=144)
    for place, item in enumerate(classes):
        axes = figure.add_subplot(rows, columns, place + 1)
        xy, cluster = np.asarray(item["xy"], float).reshape(-1, 2), np.asarray(item["cluster"])
        inside, chosen = cluster >= 0, np.asarray(item["prototypes"], int)
        (odd_x, odd_y), (x, y), (at_x, at_y) = xy[~inside].T, xy[inside].T, xy[chosen].T
        axes.scatter(odd_x, odd_y, s=8, color=COLOURS["muted"], marker="x", linewidths=0.8, rasterized=True)
        axes.scatter(x, y, s=7, c=cluster[inside], cmap="tab20", alpha=0.6, linewidths=0, rasterized=True)
        axes.scatter(at_x, at_y, s=26, facecolor="none", edgecolor=COLOURS["ink"], linewidths=1.1, rasterized=True)
        axes.set_title(shorten(str(item["name"]), 20), fontsize=11, color=COLOURS["ink"])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
    return figure, "Clusters of " + ", ".join(str(item["name"]) for item in classes)


@_svg
def budget_plot(rows: Sequence[Row], budget: str) -> tuple[Figure, str]:
    """Overall accuracy against what a set costs: a line a method, with standard deviations.

    Args:
        rows: score rows of one dataset and network; accuracies in [0, 1].
        budget: "ipc" or "bytes".

    Returns:
        SVG.
    """
    figure = Figure(figsize=(560 / 72, 340 / 72), layout="constrained")
    axes = figure.add_subplot()
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if Method.read(row["method"]).name == "full" and not row.get("ipc"):
            axes.axhline(row["oa_mean"], color=COLOURS["muted"], linewidth=1, label=row["method"])
        elif row.get(budget):
            lines.setdefault(row["method"], []).append(row)
    for i, (name, line) in enumerate(lines.items()):
        line.sort(key=lambda row: float(row[budget]))
        colour = COLOURS.get(line[0]["method"], LINES[i % len(LINES)])
        spread = [row.get("oa_std") or 0.0 for row in line]
        means, costs = [row["oa_mean"] for row in line], [row[budget] for row in line]
        dash = "--" if line[0].get("labels") == "soft" else "-"
        marker = SHAPES[i % len(SHAPES)]
        axes.errorbar(
            costs, means, spread, color=colour, marker=marker, linestyle=dash, markersize=5, linewidth=1.4, label=name
        )
    spent = [row[budget] for line in lines.values() for row in line]
    if spent and max(spent) > 2 * min(spent):
        axes.set_xscale("log")
        # Powers of ten are written in TeX, which an SVG whose text stays text shows as it is.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}") if budget == "ipc" else EngFormatter("B"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_xlabel("images a class" if budget == "ipc" else "PNG files as the network sees them, and soft labels")
    axes.set_ylabel("overall accuracy")
    figure.legend(loc="outside right upper", fontsize=9)
    return figure, f"Overall accuracy against {budget} of {', '.join(lines)}"


@_svg
def curve_plot(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> tuple[Figure, str]:
    """One small chart of one quantity over training steps.

    Args:
        curves: name to (steps, values); the first is drawn firm, the others lighter.

    Returns:
        SVG.
    """
    figure = Figure(figsize=(300 / 72, 170 / 72), layout="constrained")
    axes = figure.add_subplot()
    styles = ((COLOURS["distilled"], "-"), (COLOURS["random"], "-"), (COLOURS["medoid"], "--"), (COLOURS["full"], ":"))
    for i, (name, (steps, values)) in enumerate(curves.items()):
        colour, dash = styles[i % len(styles)]
        axes.plot(
            steps,
            values,
            dash,
            color=colour,
            linewidth=1.6,
            label=spoken(name),
            marker="o" if len(steps) < 3 else "",
            markersize=4,
        )
    every = np.concatenate([values for _, values in curves.values()])
    # A loss that falls by more than a decade shows only its first steps on a linear axis.
    if every.min() > 0 and every.max() / every.min() > 12 and any("loss" in name for name in curves):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.02)
    axes.tick_params(which="both", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="x", visible=False)
    axes.spines["left"].set_visible(False)
    if len(curves) > 1:
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.2, columnspacing=1.2, borderpad=0)
    last = "; ".join(f"{spoken(name)} ends at {values[-1]:.4g}" for name, (_, values) in curves.items())
    return figure, last


@_svg
def stage_plot(stages: Sequence[Row]) -> tuple[Figure, str]:
    """Wall time of each stage, as bars.

    Args:
        stages: rows with ``title`` and ``seconds``.

    Returns:
        SVG.
    """
    figure = Figure(figsize=(480 / 72, (16 + 26 * len(stages)) / 72), layout="constrained")
    axes = figure.add_subplot()
    seconds = [float(stage.get("seconds") or 0) for stage in stages]
    bars = axes.barh(range(len(stages)), seconds, height=0.5, color=COLOURS["distilled"])
    axes.bar_label(bars, [duration(value) for value in seconds], padding=6, color=COLOURS["muted"], fontsize=11)
    axes.set_yticks(
        range(len(stages)), [shorten(stage.get("title") or stage.get("name") or "?", 30) for stage in stages]
    )
    axes.tick_params(axis="y", length=0, pad=6, labelcolor=COLOURS["ink"])
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.set_xlim(0, max(1e-9, *seconds, 0) * 1.25)
    axes.xaxis.set_visible(False)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure, f"Wall time: {duration(sum(seconds))} in {len(stages)} stages"


def _oa(rows: Sequence[Row], method: str) -> float | None:
    return next((row["oa_mean"] for row in rows if row["method"] == method), None)
