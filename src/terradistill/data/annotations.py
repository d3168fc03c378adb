"""What JSON lines say of scenes: captions and numeric metadata, found by file name."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from terradistill.data.scenes import Scene
from terradistill.errors import DataError

CAPTION_COLUMNS = ("captions", "caption", "text")
METADATA_FIELDS = ("lon", "lat", "gsd_m", "cloud_fraction", "year", "month", "day")
LEAST = {"gsd_m": 0.001, "month": 1.0, "day": 1.0}
"""What is below is no such number; 0 is how some tables say unknown."""


@dataclass(frozen=True)
class Note:
    """What is said of one scene; as in `Scene`."""

    captions: tuple[str, ...] = ()
    metadata: dict[str, float] = field(default_factory=dict)
    made_from: str = ""
    soft_labels: tuple[float, ...] = ()


def note_of(row: Mapping[str, Any], where: str) -> Note:
    """Reads the columns that we know and passes over all others.

    Args:
        row: `caption`, `text` or `captions` (a string, or a list of strings), any of `METADATA_FIELDS`, `made_from`,
            `soft_labels`.
        where: what an error message calls this row.

    Raises:
        DataError: a caption is no text, a metadata field is no finite number or below `LEAST`, or soft labels are no
            probabilities.
    """
    captions: list[str] = []
    for column in CAPTION_COLUMNS:
        value = row.get(column)
        texts = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: {column!r} is {_short(value)}; expected a text or a list of texts.")
        captions += [text.strip() for text in texts if text.strip()]
    metadata: dict[str, float] = {}
    for name in METADATA_FIELDS:
        value = row.get(name)
        if value is None:
            continue
        if not is_finite(value):
            raise DataError(f"{where}: {name!r} is {_short(value)}; expected a number, or null where it is unknown.")
        if value < (least := LEAST.get(name, -math.inf)):
            raise DataError(
                f"{where}: {name!r} is {_short(value)}; expected at least {least:g}, or null where it is unknown."
            )
        metadata[name] = float(value)
    made_from, soft = row.get("made_from"), row.get("soft_labels")
    if soft is not None and not (
        isinstance(soft, list) and all(map(is_finite, soft)) and min(soft, default=-1) >= 0 and 0.9 < sum(soft) < 1.1
    ):
        raise DataError(f"{where}: 'soft_labels' is {_short(soft)}; expected a probability for each class.")
    return Note(
        tuple(dict.fromkeys(captions)),
        metadata,
        made_from if isinstance(made_from, str) else "",
        tuple(map(float, soft or ())),
    )


def is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # JSON's integers may have any number of digits
        return False


def parse_notes(data: bytes, source: str) -> dict[str, Note]:
    """Reads a JSON-lines file into file name -> note.

    Args:
        data: the file's bytes, UTF-8.
        source: the file's name, for messages.

    Raises:
        DataError: names the file and the line that is malformed.
    """
    notes: dict[str, Note] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: not valid JSON; expected one object a line. Mend the line or remove it."
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise DataError(f'{where}: no \'file_name\'; expected an object such as {{"file_name": "class/file.png"}}.')
        notes[normal_name(row["file_name"])] = note_of(row, where)
    return notes


def written(scenes: Iterable[Scene]) -> Iterator[str]:
    """JSON lines of the scenes' captions and metadata, as `parse_notes` reads them; those with neither left out."""
    for scene in scenes:
        if scene.captions or scene.metadata:
            row = {"file_name": scene.name, "captions": scene.captions, **scene.metadata}
            yield json.dumps(row, ensure_ascii=False) + "\n"


def annotate(scenes: Iterable[Scene], notes: Mapping[str, Note], folder: str = "") -> tuple[list[Scene], int]:
    """Joins notes to scenes: by the name relative to `folder`, else to the root, else by a bare file name.

    A bare file name counts where scenes and notes have it once, no whole name has found that scene, and the note does
    not place it in another class. Captions replace those that a scene has; metadata fields are added one by one.

    Args:
        scenes: the scenes to annotate.
        notes: file name -> note, see `parse_notes`.
        folder: where the notes lie, relative to the root of the scenes.

    Returns:
        The scenes in their order, and how many notes found one.
    """
    annotated = list(scenes)
    position = {scene.name: i for i, scene in enumerate(annotated)}
    found = {name: position.get(normal_name(f"{folder}/{name}"), position.get(name)) for name in notes}
    taken = set(found.values())
    bare, bare_notes = (Counter(map(_bare, names)) for names in (position, notes))
    alone = {_bare(name): i for name, i in position.items() if bare[_bare(name)] == 1 and i not in taken}
    of_class = {_class(name) for name in position}
    n_matched = 0
    for name, note in notes.items():
        place = found[name]
        if place is None and bare_notes[_bare(name)] == 1:
            place = alone.get(_bare(name))
            if place is not None and _class(name) in of_class - {_class(annotated[place].name)}:
                place = None
        if place is None:
            continue
        n_matched += 1
        scene = annotated[place]
        captions, metadata = note.captions or scene.captions, scene.metadata | note.metadata
        annotated[place] = replace(
            scene,
            captions=captions,
            metadata=metadata,
            made_from=note.made_from or scene.made_from,
            soft_labels=note.soft_labels or scene.soft_labels,
        )
    return annotated, n_matched


def _bare(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _class(name: str) -> str:
    """The folder that a file lies in; "" for none."""
    return "/".join(name.rsplit("/", 2)[-2:-1])


def normal_name(name: str) -> str:
    """A file name with plain slashes, and without steps that lead nowhere."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
