"""The table of many methods, as text, as a spreadsheet and as a page."""

import csv
import html
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from terradistill.evaluation.method import SOFT, Method
from terradistill.files import replacing, write_text
from terradistill.report import plots, words
from terradistill.report.overview import write_overview
from terradistill.report.words import Row

FIRST = (
    *(
        "dataset",
        "network",
        "pretrained",
        "resolution",
        "method",
        "ipc",
        "labels",
        "n_train",
        "n_real",
        "copies",
        "bytes",
        "label_bytes",
    ),
    *("n_seeds", "n_sets", "oa_mean", "oa_std", "oa_std_sets", "oa_std_trainings", "aa_mean", "kappa_mean"),
    *("hlr", "ior", "ior_std", "seconds"),
)  # columns of the spreadsheet that come before all others
HEADS = (
    "a class",
    "images",
    "MB",
    "made of",
    "copies",
    "OA %",
    "± sets",
    "± trainings",
    "runs",
    "AA %",
    "κ",
    "IOR",
    "HLR",
)
NOTES = (
    "± is the standard deviation over all runs, sets x trainings; methods without chance have one set (those by "
    "features: of one network's), so theirs is of trainings alone. ± sets is what remains between sets beyond the "
    "trainings' (0: nothing can be told apart); with one training a set the two are one, and neither is given.",
    "IOR: percentage points above as many random real images, ± the root of the sum of both rows' variances; HLR: "
    "below all real images that may be learned from (fewer where --limit leaves scenes out); each of the same recipe.",
    "made of: the real scenes that images were chosen from, or that their generator has learned from; where --limit "
    "leaves scenes out, those that a given generator knows beyond it are not among them (its card names all).",
    "copies: near-copies of these among the images of all sets; `terradistill audit` of a set looks at all of DATA, "
    "and finds what it looks for.",
    "MB: PNG files at the size that the network sees, and soft labels as `metadata.jsonl` holds them.",
)


def write_table(rows: Sequence[Row], out: Path) -> None:
    """Write `scoreboard.md`, `scoreboard.png`, `scoreboard.csv` and `scoreboard.html` into a folder.

    Where methods stand at three numbers of images or more, a plot of them too, such as `eurosat-convnet3-64-px.svg`.

    What `notes.md` there says comes first in `scoreboard.md`: what somebody has to say of a table stays when it grows.

    Args:
        rows: as in `scores.json`; rows of one dataset, network and resolution stand together.
        out: the folder.
    """
    notes = [*NOTES, *_named(rows)]
    commands = list(dict.fromkeys(str(row["command"]) for row in rows if row.get("command")))
    boards = [(board, words.board_title(board[0]), _beside(board), _cells(board)) for _, board in words.boards(rows)]
    said = out / "notes.md"
    parts = ["# Scoreboard\n\n", said.read_text(encoding="utf-8").strip() + "\n\n" if said.exists() else ""]
    if write_overview(rows, out / "scoreboard.png"):
        parts += ["![Overall accuracy by method, dataset and network](scoreboard.png)\n\n"]
    parts += ["```\n", "\n".join(commands), "\n```\n\n", *(f"- {note}\n" for note in notes)]
    for board, title, beside, cells in boards:
        lines = [["method", *HEADS], ["---"] * (len(HEADS) + 1), *cells]
        parts += [f"\n## {title}\n\n{beside}\n\n"]
        if several := _at_several(board):
            name = re.sub(r"[^\w.]+", "-", title) + ".svg"
            write_text(out / name, plots.budget_plot(several, "ipc"))
            parts += [f"![Overall accuracy against images a class]({name})\n\n"]
        parts += ["| " + " | ".join(line) + " |\n" for line in lines]
    write_text(out / "scoreboard.md", "".join(parts))
    columns = [*FIRST, *sorted({key for row in rows for key in row} - set(FIRST))]
    with replacing(out / "scoreboard.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: _flat(value) for key, value in row.items()} for row in rows)
    told = [re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(note)) for note in notes]
    body = [f"<ul>{''.join(f'<li>{note}</li>' for note in told)}</ul>"]
    for board, title, beside, cells in boards:
        body += [f"<h2>{html.escape(title)}</h2><p>{html.escape(beside)}</p>", _html(cells), _plots(board)]
    page = _PAGE.format(body="".join(body), commands=html.escape("\n".join(commands)))
    write_text(out / "scoreboard.html", page)


def _named(rows: Sequence[Row]) -> list[str]:
    """What the names of methods stand for, where a name alone does not say it."""
    names = {str(row["method"]): words.method_name(row) for row in rows if Method.read(row["method"]).formation == 1}
    said = [f"{method}: {name}" for method, name in names.items() if method != name and not method.endswith(SOFT)]
    return ["; ".join(said) + "."] if said else []


def _beside(board: Sequence[Row]) -> str:
    row, judges = board[0], sorted({str(row["hardware"]) for row in board if row.get("hardware")})
    return (
        f"{row['n_classes']} classes, chance {100 * row['chance']:.1f} %; {row['n_test']:,} test scenes that nothing "
        f"has learned from: so few are uncertain by {100 * (0.25 / row['n_test']) ** 0.5:.1f} points at an OA of 50 %, "
        "for all methods alike." + (f" Judged on {'; '.join(judges)}." if judges else "")
    )


def _cells(board: Sequence[Row]) -> list[list[str]]:
    return [
        [
            str(row["method"]),
            f"{row['ipc'] or 'all'}",
            f"{row['n_train']:,}",
            f"{row['bytes'] / 1e6:.2f}" if row.get("bytes") else "",
            f"{row['n_real']:,}" if row.get("n_real") else "",
            str(row["copies"]) if row.get("copies") is not None else "",
            words.accuracy(row),
            _points(row.get("oa_std_sets")),
            _points(row.get("oa_std_trainings")),
            f"{row['n_sets']} × {row['n_seeds'] // row['n_sets']}",
            f"{100 * row['aa_mean']:.1f}",
            f"{row['kappa_mean']:.3f}",
            _gained(row),
            words.points(row["hlr"]) if row.get("hlr") is not None else "",
        ]
        for row in sorted(board, key=lambda row: (row["ipc"] or 10**9, -row["oa_mean"]))
    ]


def _html(cells: Sequence[Sequence[str]]) -> str:
    def line(values: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    body = "".join(line(values, "td") for values in cells)
    return f"<table><thead>{line(['method', *HEADS], 'th')}</thead><tbody>{body}</tbody></table>"


def _at_several(board: Sequence[Row]) -> list[Row]:
    """The rows of methods that stand at three numbers of images or more, and of all images; or none."""
    times = Counter(row["method"] for row in board if row["ipc"])
    rows = [row for row in board if times[row["method"]] >= 3 or not row["ipc"]]
    return rows if any(row["ipc"] for row in rows) else []


def _plots(board: Sequence[Row]) -> str:
    """Against both budgets; where there is one number of images only, the methods one below the other."""
    if len({row["ipc"] for row in board if row["ipc"]}) > 1:
        first = plots.budget_plot(board, "ipc")
    else:
        first = plots.accuracy_plot(sorted(board, key=lambda row: -row["oa_mean"]), lambda row: str(row["method"]))
    return first + plots.budget_plot(board, "bytes")


def _gained(row: Row) -> str:
    if row.get("ior") is None:
        return ""
    spread = row.get("ior_std")
    return words.points(row["ior"]) + (f" ± {100 * spread:.1f}" if spread is not None else "")


def _points(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _flat(value: object) -> object:
    """What one cell of a spreadsheet holds."""
    return json.dumps(value) if isinstance(value, list | dict) else value


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Scoreboard</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 76rem; margin: 3rem auto; padding: 0 1rem;
color: #1c2529; background: #fbfaf7; }} h1, h2 {{ font-weight: 500; }} svg {{ max-width: 100%;
height: auto; margin-right: 1rem; }} pre {{ white-space: pre-wrap; }}
table {{ border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto; margin-bottom: 1rem; }}
th, td {{ text-align: right; padding: 0.2rem 0.7rem; border-bottom: 1px solid #dbe1e2; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }} th {{ font-weight: 500; color: #5f6d73; }}
</style></head>
<body><h1>Scoreboard</h1><pre>{commands}</pre>{body}</body></html>
"""
