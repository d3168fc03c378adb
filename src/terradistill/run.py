"""A run folder: what was asked, what was made, and how the same command goes on after a crash.

A stage writes to a temporary name and renames; `Run.stage` is entered only for work that is not done. Killed at any
moment, the same command resumes and ends with the same images. Nothing outside the folder is written.

Several processes may be at one run (`Team`). The first leads; to the others, who write nothing but pieces and caches,
a stage that is not shared is done as soon as the first has done it. Of a shared one each makes its pieces.
"""

import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from typing import IO, Any, Protocol

from terradistill.config import flatten, to_toml
from terradistill.errors import RunError
from terradistill.files import remove, replacing, taken, write_text
from terradistill.settings import Settings
from terradistill.team import Team, wait_for

Progress = Callable[[int, int], None]

STOPPED = ".stopped"  # where who leads has ended in an error
FAILED = ".failed-"  # and the number of who follows and has ended in one; a kill leaves none, and is waited for
PATIENCE = 3600.0  # seconds that who follows waits for the first to begin: schedulers do not start all at once
# What runs did that know nothing of a setting, where it is not the default.
BEFORE = {
    "sampling.spacing": "even",
    "sampling.refine_rounds": 0,
    "sampling.autoguidance": 1.0,
    "sampling.autoguidance_parallel": 1.0,
}
# Settings that change nothing that was made, only how it is shown or how fast it goes: they may differ next time.
FREE = (
    *("export.hide_real", "export.parquet", "checkpoint_seconds", "evaluation.compile"),
    *("sampling.batch_size", "sampling.low_memory"),
)


class Reporter(Protocol):
    """Who tells the user what is going on; the command line has a colourful one."""

    def start(self, title: str) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def end(self, title: str, seconds: float, note: str) -> None: ...
    def skip(self, title: str) -> None: ...
    def say(self, text: str) -> None: ...


class Silent:
    """Tells nobody."""

    def start(self, title: str) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def end(self, title: str, seconds: float, note: str) -> None: ...
    def skip(self, title: str) -> None: ...
    def say(self, text: str) -> None: ...


class Run:
    """One run folder, opened for one set of settings."""

    def __init__(
        self,
        root: Path,
        settings: Settings,
        reporter: Reporter | None = None,
        team: Team | None = None,
        free: tuple[str, ...] = (),
    ) -> None:
        """Open or create the folder; who does not lead waits for it.

        Args:
            root: the folder.
            settings: what is asked.
            reporter: told of progress.
            team: of processes at this run; None: this one alone.
            free: beginnings of settings that say nothing about what is made here, and may differ next time.

        Raises:
            RunError: the folder holds something else, or a run with other settings; the message names the keys.
        """
        self.root = Path(root)
        self.settings = settings
        self.reporter: Reporter = reporter or Silent()
        self.team = team or Team()
        self._free = free
        self._lock: IO[str] | None = None
        self.manifest: dict[str, Any] = {"stages": []}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def _open(self) -> None:
        asked = json.loads(self.settings.model_dump_json())
        resolved = self.root / "resolved.json"

        def begun() -> bool:
            return resolved.exists() and not (self.root / STOPPED).exists()

        if not self.team.leads and not wait_for(begun, PATIENCE):
            raise RunError(f"Nobody has begun {self.root} for an hour: start process 0, then this one again.")
        if resolved.exists():
            if self.team.leads:
                self._take()
                for mark in (self.root / STOPPED, *self.root.glob(f"{FAILED}*")):
                    mark.unlink(missing_ok=True)
            else:
                self._failed.unlink(missing_ok=True)
            self.manifest = self.read_json("manifest.json", default=self.manifest)
            # A setting that the run does not know yet is as it was when there was none: its default, or else `BEFORE`.
            before = (
                flatten(Settings().model_dump(mode="json"))
                | BEFORE
                | flatten(json.loads(resolved.read_text(encoding="utf-8")))
            )
            now = flatten(asked)
            evaluated = any(stage["name"] == "evaluate" for stage in self.manifest["stages"])
            # An exam that was not held may still be changed, by who leads.
            free = (*FREE, *self._free, *(() if evaluated or not self.team.leads else ("evaluation.",)))
            differ = [
                key for key in sorted(before | now) if before.get(key) != now.get(key) and not key.startswith(free)
            ]
            if differ:
                what = ", ".join(f"{key} ({before.get(key)} → {now.get(key)})" for key in differ)
                raise RunError(
                    f"{self.root} holds a run with other settings: {what}. Use another --out, or the same settings."
                )
            if not self.team.leads:
                return
            self._write_settings(asked)
            for stage in self.manifest["stages"]:  # left over where a kill came between a stage's end and its tidying
                shutil.rmtree(self.root / "work" / stage["name"], ignore_errors=True)
            return
        if self.root.is_file() or (self.root.is_dir() and not all(_ours(path.name) for path in self.root.iterdir())):
            raise RunError(f"{self.root} exists and holds no run: choose a new or empty folder for --out.")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise RunError(
                f"{self.root} cannot be made ({error.strerror}): choose a folder you may write to."
            ) from error
        self._write_settings(asked)

    def _write_settings(self, asked: dict[str, Any]) -> None:
        if self.read_json("resolved.json") != asked:
            self.write_json("resolved.json", asked)
        as_asked, path = to_toml(self.settings), self.root / "config.toml"
        if not path.exists() or path.read_text(encoding="utf-8") != as_asked:
            write_text(path, as_asked)

    def _take(self) -> None:
        self._lock = taken(self.root / ".lock")

    def close(self) -> None:
        """Let another process, or another call in this one, take the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def discard(self) -> None:
        """Empty the folder of a run in which nothing was made."""
        self.close()
        if not self.team.leads:
            return
        for path in self.root.iterdir():
            remove(path)
        with suppress(OSError):  # a link, a mounted folder, the one that we are in
            self.root.rmdir()

    # -- stages ---------------------------------------------------------------------------------------------------

    def done(self, name: str, *, shared: bool = False) -> bool:
        """Whether a stage is finished (and says so to the user).

        Who does not lead waits until it is, unless the stage is shared.
        """
        if not self.team.leads:
            self._look()
            if not shared:
                wait_for(lambda: self._ended(name))
        for stage in self.manifest["stages"]:
            if stage["name"] == name:
                self.reporter.skip(stage["title"])
                return True
        return False

    @property
    def _failed(self) -> Path:
        return self.root / f"{FAILED}{self.team.rank}"

    def none_failed(self) -> None:
        """Make sure that all who share the work are still at it, or may be.

        Raises:
            RunError: one has ended in an error.
        """
        if failed := sorted(int(path.name.removeprefix(FAILED)) for path in self.root.glob(f"{FAILED}*")):
            raise RunError(
                f"Process {failed[0]} of {self.team.size} has ended in an error: it says why. Start all of them again."
            )

    def _look(self) -> None:
        self.manifest = self.read_json("manifest.json", default=self.manifest)

    def _ended(self, name: str) -> bool:
        if (self.root / STOPPED).exists() or not (self.root / "resolved.json").exists():
            raise RunError(f"The leading process has given up {self.root}: it says why. Start all of them again.")
        self._look()
        return any(stage["name"] == name for stage in self.manifest["stages"])

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator["Stage"]:
        """Time and weigh a stage; on leaving without an error it counts as done.

        Who does not lead leaves it when it is done.
        """
        if not self.team.leads:
            try:
                yield Stage(self, name)
            except Exception:
                self._failed.touch()  # who leads would wait for ever
                raise
            wait_for(lambda: self._ended(name))
            return
        self.reporter.start(title)
        self._log(f"{name}: started")
        stage = Stage(self, name)
        with _PeakMemory() as memory:
            try:
                yield stage
            except BaseException:
                if self.team.size > 1:
                    (self.root / STOPPED).touch()  # the others would wait for ever
                raise
            finally:
                stage.remember_time()
        seconds = stage.seconds
        row = {"name": name, "title": title, "seconds": seconds, "peak_memory_bytes": memory.peak, "note": stage.note}
        self.manifest["stages"].append(row)
        self.write_json("manifest.json", self.manifest)
        shutil.rmtree(stage.work, ignore_errors=True)
        self._log(f"{name}: done in {seconds:.1f} s. {stage.note}")
        self.reporter.end(title, seconds, stage.note)

    def say(self, text: str) -> None:
        """Tell the user, and the log."""
        if self.team.leads:
            self._log(text)
            self.reporter.say(text)

    def _log(self, text: str) -> None:
        with (self.root / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")

    # -- files ----------------------------------------------------------------------------------------------------

    def read_json(self, name: str, default: Any = None) -> Any:
        path = self.root / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default

    def write_json(self, name: str, value: Any) -> None:
        write_text(self.root / name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def describe(self, **values: Any) -> None:
        """Add to the manifest."""
        self.manifest |= values
        if self.team.leads:
            self.write_json("manifest.json", self.manifest)


class Stage:
    """What a stage may do while it runs: report, log, and keep work in progress in its own folder."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.note = ""
        self.work = run.root / "work" / name  # resumable state; gone when the stage is done
        if run.team.leads:
            self.work.mkdir(parents=True, exist_ok=True)
        self._clock = self.work / "seconds.json"
        before: float = (
            json.loads(self._clock.read_text(encoding="utf-8")) if run.team.leads and self._clock.exists() else 0.0
        )
        self._began = time.monotonic() - before
        self._remembered = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on this stage, that of interrupted tries included."""
        return time.monotonic() - self._began

    def remember_time(self) -> None:
        """So that an interrupted stage's earlier time counts too."""
        if not self.run.team.leads:
            return
        write_text(self._clock, json.dumps(self.seconds))
        self._remembered = time.monotonic()

    def progress(self, done: int, total: int) -> None:
        if time.monotonic() - self._remembered > 10:
            self.remember_time()
        self.run.reporter.progress(done, total)

    def log(self, step: int, **values: float) -> None:
        """One line of `metrics.jsonl`."""
        if not self.run.team.leads:
            return
        line = {"stage": self.name, "step": step} | {key: round(float(value), 6) for key, value in values.items()}
        with (self.run.root / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.remember_time()

    def forget_after(self, step: int) -> None:
        """Drop this stage's metrics past a step: a resumed loop writes them anew."""
        path = self.run.root / "metrics.jsonl"
        if not (self.run.team.leads and path.exists()):
            return
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [row for row in rows if row["stage"] != self.name or row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def pieces(self, names: Sequence[str], make: Callable[[int, Path], None]) -> list[Path] | None:
        """Files of independent pieces of this stage's work, which all processes share.

        Each is kept as soon as it is made, so that a kill costs one.

        Args:
            names: of the files; who has made what may change with the number of processes, these may not.
            make: from a piece's number and the path to write it to.

        Returns:
            All of them; None for a process that does not lead, which has nothing more to do here.
        """
        team, paths = self.run.team, [self.work / "pieces" / name for name in names]
        for number, path in enumerate(paths):
            if team.takes(number) and not path.exists():
                if not team.leads and self.run.done(self.name, shared=True):  # a late one: all is done already
                    return None
                with replacing(path, mark=f"{gethostname()}-{os.getpid()}") as part:
                    make(number, part)
        if not team.leads:
            return None
        if team.size > 1 and not all(path.exists() for path in paths):
            late = sorted({number % team.size for number, path in enumerate(paths) if not path.exists()})
            self.run.say(f"waiting for process {', '.join(map(str, late))} of {team.size}, counted from 0")

            def made() -> bool:
                self.run.none_failed()
                return all(path.exists() for path in paths)

            wait_for(made)
        return paths

    @contextmanager
    def writes(self, name: str) -> Iterator[Path]:
        """A temporary path (file or folder) that becomes `RUN/name` when the block ends without an error."""
        target = self.run.root / name
        with replacing(target) as temporary:
            yield temporary


def provenance() -> dict[str, Any]:
    """Who made this, with what, and how."""
    from terradistill import __version__

    return {
        "terradistill": __version__,
        "git_sha": _git_sha(),
        "command": _command(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
    }


def _command() -> str | None:
    # Only where ours was the program: in a notebook the arguments are another's.
    program = Path(sys.argv[0])
    ours = "terradistill" in (program.stem, program.parent.name)
    return shlex.join(["terradistill", *sys.argv[1:]]) if ours else None


def _git_sha() -> str | None:
    # Read from .git directly: no process is started for a line in a manifest. Only from our own checkout: installed
    # inside somebody's repository, their commit is not ours.
    here = Path(__file__).resolve().parent
    git = here.parents[1] / ".git"
    if git.parent / "src" / "terradistill" != here or not (git / "HEAD").is_file():
        return None
    text = (git / "HEAD").read_text(encoding="utf-8").strip()
    reference = git / text.removeprefix("ref: ")
    if not text.startswith("ref: "):
        return text
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None


def _ours(name: str) -> bool:
    # What a kill in the first moments may leave behind.
    return name in (".lock", ".resolved.json.partial")


class _PeakMemory:
    """Peak memory of this process while the block runs, without mapped files, sampled five times a second."""

    peak = 0

    def __enter__(self) -> "_PeakMemory":
        import psutil

        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while True:
            held = self._process.memory_info()
            # What is read of a mapped file is the kernel's to drop.
            self.peak = max(self.peak, held.rss - getattr(held, "shared", 0))
            if self._stop.wait(0.2):
                return

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
