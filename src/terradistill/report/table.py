"""The table of many methods, as text, as a spreadsheet and as a page."""

import csv
import html
from collections.abc import Sequence
from pathlib import Path

from terradistill.files import replacing, write_text
from terradistill.report import plots, words
from terradistill.report.words import Row

COLUMNS = (
    *("dataset", "network", "pretrained", "resolution", "method", "ipc", "labels", "n_train", "bytes", "n_seeds"),
    *(
        "n_sets",
        "oa_mean",
        "oa_std",
        "oa_std_sets",
        "oa_std_trainings",
        "aa_mean",
        "kappa_mean",
        "hlr",
        "ior",
        "seconds",
    ),
)
HEADS = ("images", "a class", "MB", "OA %", "± sets", "± trainings", "runs", "AA %", "κ", "IOR", "HLR")


def write_table(rows: Sequence[Row], out: Path) -> None:
    """Write `scoreboard.md`, `scoreboard.csv` and `scoreboard.html` into a folder.

    Args:
        rows: as in `scores.json`; rows of one dataset, network and resolution stand together.
        out: the folder.
    """
    command = "\n".join(dict.fromkeys(str(row["command"]) for row in rows if row.get("command")))
    boards = words.boards(rows)
    parts = [f"# Scoreboard\n\n```\n{command}\n```\n"]
    for _, board in boards:
        parts.append(f"\n## {_title(board)}\n\n{_markdown(board)}")
    write_text(out / "scoreboard.md", "".join(parts))
    with replacing(out / "scoreboard.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    pictures = [
        f"<h2>{html.escape(_title(board))}</h2>{plots.budget_plot(board, 'ipc')}{plots.budget_plot(board, 'bytes')}"
        for _, board in boards
    ]
    write_text(out / "scoreboard.html", _PAGE.format(body="".join(pictures), command=html.escape(command)))


def _title(board: Sequence[Row]) -> str:
    return f"{board[0]['dataset']}, {words.boards(board)[0][0]}"


def _markdown(board: Sequence[Row]) -> str:
    lines = ["| | " + " | ".join(HEADS) + " |", "|---" * (len(HEADS) + 1) + "|"]
    for row in sorted(board, key=lambda row: (row["ipc"] or 10**9, -row["oa_mean"])):
        cells = (
            f"{row['n_train']:,}",
            f"{row['ipc'] or 'all'}",
            f"{row['bytes'] / 1e6:.2f}" if row.get("bytes") else "",
            words.accuracy(row),
            _points(row.get("oa_std_sets")),
            _points(row.get("oa_std_trainings")),
            f"{row['n_sets']} × {row['n_seeds'] // row['n_sets']}",
            f"{100 * row['aa_mean']:.1f}",
            f"{row['kappa_mean']:.3f}",
            words.points(row["ior"]) if row.get("ior") is not None else "",
            words.points(row["hlr"]) if row.get("hlr") is not None else "",
        )
        lines.append(f"| {words.method_name(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _points(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Scoreboard</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1rem;
color: #1c2529; background: #fbfaf7; }} h1, h2 {{ font-weight: 500; }} svg {{ max-width: 100%;
height: auto; margin-right: 1rem; }}
pre {{ white-space: pre-wrap; }}</style></head>
<body><h1>Scoreboard</h1><pre>{command}</pre>{body}</body></html>
"""
