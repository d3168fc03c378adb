"""What JSON lines say of scenes: captions and numeric metadata, found by file name."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from terradistill.data.scenes import Scene
from terradistill.errors import DataError

CAPTION_COLUMNS = ("captions", "caption", "text")
METADATA_FIELDS = ("lon", "lat", "gsd_m", "cloud_fraction", "year", "month", "day")


@dataclass(frozen=True)
class Note:
    """Captions and metadata of one scene."""

    captions: tuple[str, ...] = ()
    metadata: dict[str, float] = field(default_factory=dict)


def note_of(row: Mapping[str, Any], where: str) -> Note:
    """Reads the columns that we know and passes over all others.

    Args:
        row: `caption`, `text` or `captions` (a string, or a list of strings), and any of `METADATA_FIELDS`.
        where: what an error message calls this row.

    Raises:
        DataError: a caption is no text, or a metadata field is no finite number.
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
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"{where}: {name!r} is {_short(value)}; expected a number, or null where it is unknown.")
        metadata[name] = float(value)
    return Note(tuple(dict.fromkeys(captions)), metadata)


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
        notes[_normal(row["file_name"])] = note_of(row, where)
    return notes


def written(scenes: Iterable[Scene]) -> str:
    """JSON lines of the scenes' captions and metadata, as `parse_notes` reads them; those with neither left out."""
    rows = [
        {"file_name": scene.name, "captions": scene.captions, **scene.metadata}
        for scene in scenes
        if scene.captions or scene.metadata
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def annotate(scenes: Iterable[Scene], notes: Mapping[str, Note], folder: str = "") -> tuple[list[Scene], int]:
    """Joins notes to scenes: by the name relative to `folder`, else to the root, else by a bare file name if unique.

    Captions replace those that a scene has; metadata fields are added one by one.

    Args:
        scenes: the scenes to annotate.
        notes: file name -> note, see `parse_notes`.
        folder: where the notes lie, relative to the root of the scenes.

    Returns:
        The scenes in their order, and how many notes found one.
    """
    annotated = list(scenes)
    position = {scene.name: i for i, scene in enumerate(annotated)}
    bare: dict[str, int | None] = {}
    for i, scene in enumerate(annotated):
        file_name = scene.name.rsplit("/", 1)[-1]
        bare[file_name] = None if file_name in bare else i
    n_matched = 0
    for name, note in notes.items():
        local = _normal(f"{folder}/{name}")
        found = position.get(local, position.get(name, bare.get(name.rsplit("/", 1)[-1])))
        if found is None:
            continue
        n_matched += 1
        scene = annotated[found]
        captions, metadata = note.captions or scene.captions, scene.metadata | note.metadata
        annotated[found] = replace(scene, captions=captions, metadata=metadata)
    return annotated, n_matched


def _normal(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
