"""Files that are whole or not there, and of one writer at a time."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from terradistill.errors import RunError


@contextmanager
def replacing(target: Path, *, mark: str = "") -> Iterator[Path]:
    """A temporary path beside `target` that takes its place, whole, or is gone; `mark` tells writers apart."""
    temporary = target.with_name(f".{target.name}{mark}.partial")
    remove(temporary)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
    except BaseException:
        remove(temporary)
        raise
    if target.is_dir():
        remove(target)
    temporary.replace(target)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time make a file that several may want; the next finds it made."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:  # let go of with the process that holds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def taken(path: Path) -> IO[str] | None:
    """The lock file `path`, held until it is closed or the process ends; None where there are no such locks, as on
    Windows.

    Two processes in one folder would write over each other's work.

    Raises:
        RunError: another process holds it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise RunError(f"Another process is at work in {path.parent}: wait for it, or use another --out.") from error
    except OSError:  # a file system without locks
        lock.close()
        return None
    return lock


def require_same(note: Path, asked: Mapping[str, Any], what: str) -> None:
    """Keep in a file what makes images what they are, so that the same call goes on, and no other.

    Args:
        note: the file.
        asked: numbers and texts by name, as JSON holds them.
        what: was made, for the message.

    Raises:
        RunError: another call has made it.
    """
    text = json.dumps(dict(asked), indent=1, sort_keys=True) + "\n"
    if note.is_file() and note.read_text(encoding="utf-8") != text:
        before, now = json.loads(note.read_text(encoding="utf-8")), json.loads(text)
        odd = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise RunError(f"{what} was made with another {', '.join(odd)}: give the same again, or a new folder.")
    write_text(note, text)


def require_apart(out: Path, source: str | Path) -> None:
    """Make sure that what is made is not read with what it is made of.

    Raises:
        RunError: it would be.
    """
    place = Path(source).expanduser()
    if place.is_dir() and out.expanduser().resolve().is_relative_to(place.resolve()):
        raise RunError(f"{out} lies inside {source}, which would be read with it: choose --out elsewhere.")


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a text file whole or not at all; of a long one the parts, one after the other.

    A byte of a file name that is no UTF-8 is written as `\\udcXX`, which JSON reads back as it was.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines([text] if isinstance(text, str) else text)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing happens where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
