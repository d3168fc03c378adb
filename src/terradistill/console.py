"""What the command line prints: progress with time left, tables, and where things are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from terradistill.report.words import accuracy, audited, board_name, duration, points
from terradistill.team import Team

if TYPE_CHECKING:
    from terradistill.data.check import CheckReport
    from terradistill.data.scenes import SceneFolder
    from terradistill.distillation.plan import PlannedStage

console = Console(highlight=False)


def heard(team: Team) -> Team:
    """Of several processes at one run the first speaks."""
    if not team.leads:
        console.print(
            f"Process {team.rank} of {team.size}: it shares the work that process 0 leads, which tells of it."
        )
    console.quiet = not team.leads
    return team


class Rich:
    """A `terradistill.run.Reporter` that draws progress bars; lines of finished stages stay on the screen."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Rich":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, title: str) -> None:
        self._clear()
        self._task = self._bars.add_task(title, total=None)
        if not console.is_terminal:
            console.print(f"  … {title}")

    def progress(self, done: int, total: int) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def end(self, title: str, seconds: float, note: str) -> None:
        self._clear()
        console.print(f"  [green]✓[/] {title} [dim]({duration(seconds)})[/] {escape(note)}", soft_wrap=True)

    def skip(self, title: str) -> None:
        console.print(f"  [dim]✓ {title} (done before)[/]")

    def say(self, text: str) -> None:
        console.print(f"    {text}", markup=False, soft_wrap=True)

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


def print_audit(found: Mapping[str, Any]) -> None:
    console.print(audited(found), markup=False, soft_wrap=True)
    for row in found["images"]:
        if row["flagged"]:
            console.print(f"  {row['file_name']} of {row['neighbour']}", markup=False, soft_wrap=True)


def print_fidelity(found: Mapping[str, Any]) -> None:
    made, floor = found["made"], found["floor"]
    table = Table("", "this set", "real scenes", box=None, padding=(0, 2))
    for name in made:
        table.add_row(name.replace("_", " "), f"{made[name]:,.4g}", f"{floor[name]:,.4g}")
    console.print(table)
    console.print(f"against {found['n_test']:,} unseen real scenes, in the features of: {found['network']}")


def print_engine(found: Mapping[str, Any]) -> None:
    table = Table("learned from", "pairs", "IoU %", box=None, padding=(0, 2))
    for row in found["rows"]:
        spread = "" if row["iou_std"] is None else f" ± {100 * row['iou_std']:.1f}"
        table.add_row(row["learned_from"], f"{row['pairs']:,}", f"{100 * row['iou_mean']:.1f}{spread}")
    console.print(table)
    console.print(found["verdict"], markup=False, soft_wrap=True)


def print_plan(rows: Sequence["PlannedStage"], out: Path) -> None:
    table = Table("stage", "work", "about", box=None, padding=(0, 2))
    for row in rows:
        table.add_row(escape(row.title), escape(row.work), duration(row.seconds))
    table.add_row("[bold]in all", "", f"[bold]{duration(sum(row.seconds for row in rows))}")
    console.print(table)
    text = f"Times are measured on a few steps of each loop here. Nothing was written; {out} is not touched."
    console.print(text, markup=False, soft_wrap=True)


def print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    several = len({row["dataset"] for row in rows}) > 1
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in [*["dataset"] * several, "network"]:
        table.add_column(head, overflow="fold")
    for head in ("method", "IPC", "OA %", "IOR", "HLR", "AA %", "κ"):
        table.add_column(head, no_wrap=True)  # on 80 columns only names break
    for row in rows:
        table.add_row(
            *[escape(row["dataset"])] * several,
            escape(board_name(row)),
            escape(row["method"]),
            str(row["ipc"] or "all"),
            accuracy(row),
            *(points(row[key]) if row.get(key) is not None else "" for key in ("ior", "hlr")),
            f"{100 * row['aa_mean']:.1f}",
            f"{row['kappa_mean']:.2f}",
        )
    console.print(table)


def print_check(scenes: "SceneFolder", report: "CheckReport") -> None:
    for line in report.summary():
        console.print(line, markup=False, soft_wrap=True)
    table = Table("class", "read as", "images", box=None, padding=(0, 2))
    for name, count in scenes.counts.items():
        table.add_row(escape(name), escape(scenes.readable(name)), str(count))
    console.print(table)


def print_findings(findings: Sequence[tuple[str, str]]) -> None:
    table = Table("", "", box=None, padding=(0, 2), show_header=False)
    for name, finding in findings:
        table.add_row(f"[bold]{escape(name)}", escape(finding))
    console.print(table)


def print_settings(rows: Sequence[tuple[str, Any, Any, str]]) -> None:
    """Values that are not the defaults stand out."""
    table = Table("setting", "value", "what it is", box=None, padding=(0, 2), row_styles=["", "dim"])
    for name, value, default, said in rows:
        text = escape(json.dumps(value, ensure_ascii=False) if value is not None else "none")
        table.add_row(name, text if value == default else f"[bold]{text}[/]", escape(said))
    console.print(table)


def print_address(address: str) -> None:
    console.print(f"The studio is open until Ctrl+C: [bold]{escape(address)}[/]", soft_wrap=True)


def print_made(paths: Mapping[str, Path]) -> None:
    for name, path in paths.items():
        console.print(f"  {name}: [bold]{escape(str(path))}[/]", soft_wrap=True)
