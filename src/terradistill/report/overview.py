"""The scoreboard at one glance: every dataset and network, methods one below the other, as one picture."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from terradistill.evaluation.method import REFERENCES
from terradistill.files import replacing
from terradistill.report.plots import COLOURS, STYLE
from terradistill.report.words import board_name, board_title, boards

Row = Mapping[str, Any]
WIDTH, LINE = 250, 19  # pixels of a panel, and of a method in it
NOTE = "blue: synthetic; orange: random real images; grey: chosen real ones; dotted: all real images. ± std."


def write_overview(rows: Sequence[Row], path: Path) -> bool:
    """Draw a table as a PNG, datasets beside each other and networks below, at the commonest number of images a class.

    Methods that no more than half of the panels have, such as an ablation's on one dataset, are left to the table. What
    share of a synthetic method's images are near-copies of real scenes stands beside it.

    Args:
        rows: as in `scores.json`.
        path: the picture.

    Returns:
        Whether there was anything to draw.
    """
    sizes = Counter(row["ipc"] for row in rows if row["ipc"])
    ipc = max(sizes, key=lambda each: (sizes[each], -each), default=None)
    of_size = [board for _, board in boards([row for row in rows if row["ipc"] in (ipc, None)])]
    shown = [board for board in of_size if {str(row["method"]) for row in board} - set(REFERENCES)]
    named = Counter(str(row["method"]) for board in shown for row in board if row["ipc"])
    methods = [name for name, n in named.items() if 2 * n > len(shown) and name not in REFERENCES]
    methods.sort(key=lambda name: _gain([row for board in shown for row in board if row["method"] == name]))
    if not methods:
        return False
    columns = len({str(board[0]["dataset"]) for board in shown})
    often = Counter(board_name(board[0]) for board in shown)
    order = list(often)
    # Networks that judge all datasets have a line each; those that judge some share what follows.
    shown.sort(key=lambda board: (often[board_name(board[0])] < columns, order.index(board_name(board[0]))))
    lines = -(-len(shown) // columns)
    with rc_context({**STYLE, "font.size": 10, "figure.facecolor": "white"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a dataset may be called as its people write
        height = 60 + (70 + LINE * len(methods)) * lines
        figure = Figure(figsize=((90 + WIDTH * columns) / 72, height / 72), layout="constrained")
        for place, board in enumerate(shown):
            _panel(figure.add_subplot(lines, columns, place + 1), board, methods, names=place % columns == 0)
        figure.suptitle(f"{ipc} image{'' if ipc == 1 else 's'} a class: overall accuracy on real test scenes")
        figure.supxlabel(fill(NOTE, 66 * columns), fontsize=9, color=COLOURS["muted"])
        with replacing(path) as part:
            figure.savefig(part, format="png", dpi=144, metadata={"Software": None})
    return True


def _panel(axes: Axes, board: Sequence[Row], methods: Sequence[str], *, names: bool) -> None:
    of = {str(row["method"]): row for row in board}
    for y, row in ((y, of[name]) for y, name in enumerate(methods) if name in of):
        colour = COLOURS["distilled"] if row.get("settings") else COLOURS["muted"]
        mark = "o" if row["method"] == "default" else "."
        axes.errorbar(row["oa_mean"], y, xerr=row.get("oa_std") or 0, fmt=mark, color=colour, elinewidth=1.5)
        if row.get("copies"):
            said = f"{row['copies'] / (row['n_train'] * row['n_sets']):.0%} near-copies"
            at = (row["oa_mean"], y)
            axes.annotate(said, at, (0, 3), textcoords="offset points", ha="center", fontsize=8, color=COLOURS["muted"])
    if "random" in of:
        mean, spread = of["random"]["oa_mean"], of["random"].get("oa_std") or 0
        axes.axvspan(mean - spread, mean + spread, color=COLOURS["random"], alpha=0.15, linewidth=0)
        axes.axvline(mean, color=COLOURS["random"], linewidth=1.2, zorder=0)
    if "full" in of:
        axes.axvline(of["full"]["oa_mean"], color=COLOURS["muted"], linewidth=1.2, linestyle=":", zorder=0)
    axes.set_yticks(range(len(methods)), methods if names else [""] * len(methods))
    axes.set_ylim(-0.6, len(methods) - 0.4)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_title(board_title(board[0]), fontsize=10)


def _gain(rows: Sequence[Row]) -> float:
    """By which methods are ordered: how far above random real images they are, on average."""
    return float(sum(row.get("ior") or 0 for row in rows) / len(rows))
