"""WebDataset shards: scenes in tar files, read in place and written.

A sample is the files of a tar that share their name up to its first dot: an image, and beside it what is known of it:
`.cls` (a class, or its number), `.txt` (a caption), `.json` (label, captions, numbers). Without a class there, the
folder in the name is one. To what opens scenes a set of shards looks like a folder of class folders.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

from terradistill.data.archive import MAX_MEMBER_BYTES, MAX_MEMBERS
from terradistill.data.images import is_scene_file
from terradistill.data.scenes import SceneFolder
from terradistill.errors import DataError, RunError
from terradistill.run import Progress, replacing

CARD, NOTES = "dataset.json", "metadata.jsonl"
LABELS = ("label", "class", "class_name")  # of a sample's `.json`
Place = tuple[Path, int, int]  # shard, where it begins in it, bytes


class ShardSource:
    """The scenes of tar files by name, `class/file.ext`, with a `metadata.jsonl` of what stands beside them.

    Args:
        paths: the shards.
        card: `dataset.json`, where one lies beside them; its `classes` name those that are numbers in the shards.

    Raises:
        DataError: no tar, a compressed one, one that is larger than is accepted, or a sample of no class.
    """

    def __init__(self, paths: Sequence[Path], card: bytes | None = None) -> None:
        self._made: dict[str, bytes] = {} if card is None else {CARD: card}
        self._places: dict[str, Place] = {}
        samples: dict[tuple[Path, str], dict[str, Place]] = {}
        for path in paths:
            for name, place in _members(path):
                folder, slash, file = name.rpartition("/")
                stem, _, ending = file.partition(".")
                if name == CARD:
                    self._made.setdefault(CARD, _read(place))
                else:
                    samples.setdefault((path, f"{folder}{slash}{stem}"), {})[ending] = place
            if len(samples) > MAX_MEMBERS:
                raise DataError(f"{path.parent} has more than {MAX_MEMBERS} samples, which is all that are accepted.")
        classes = _classes(self._made.get(CARD))
        notes = []
        stems = Counter(key.rsplit("/", 1)[-1] for _, key in samples)
        for (path, key), parts in samples.items():
            image = next((ending for ending in parts if is_scene_file(f"x.{ending}")), None)
            if image is None:
                continue
            row = _row(path, key, parts)
            label = _label(path, key, parts, row, classes)
            stem = key.rsplit("/", 1)[-1]
            if stems[stem] > 1:
                stem = f"{path.stem}-{key}".replace("/", "-")
            name = f"{label}/{stem}.{image}"
            self._places[name] = parts[image]
            notes.append({**row, "file_name": name})
        self._made[NOTES] = "".join(json.dumps(row) + "\n" for row in notes).encode()

    @property
    def names(self) -> list[str]:
        return [*self._places, *self._made]

    def __call__(self, name: str) -> bytes:
        """The bytes of one file; safe to call from several threads.

        Raises:
            DataError: it is missing, or the shard is gone or cut off.
        """
        if name in self._made:
            return self._made[name]
        if name not in self._places:
            raise DataError(f"There is no {name!r} in the shards.")
        return _read(self._places[name])


def _members(path: Path) -> list[tuple[str, Place]]:
    found = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isdir():
                    continue
                if not member.isreg():
                    raise DataError(f"{path} has a member {name!r} that is no plain file; pack the files themselves.")
                if member.size > MAX_MEMBER_BYTES:
                    raise DataError(
                        f"{name!r} in {path} is {member.size / 2**20:.0f} MiB; "
                        f"at most {MAX_MEMBER_BYTES // 2**20} MiB a file are accepted."
                    )
                found.append((name, (path, member.offset_data, member.size)))
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path} is not a readable tar; shards are plain .tar files, not compressed ones.") from error
    return found


def _read(place: Place) -> bytes:
    path, start, size = place
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    if len(data) < size:
        raise DataError(f"{path} is cut off.")
    return data


def _classes(card: bytes | None) -> list[str]:
    try:
        found = json.loads(card.decode("utf-8-sig")).get("classes") if card else None
    except (ValueError, AttributeError):
        return []  # what is wrong with it is said where it is read as a whole
    return [str(name) for name in found] if isinstance(found, list) else []


def _row(path: Path, key: str, parts: Mapping[str, Place]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if "json" in parts:
        try:
            row = json.loads(_read(parts["json"]))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{key}.json in {path} is not valid JSON; mend or remove it.") from error
        if not isinstance(row, dict):
            raise DataError(f"{key}.json in {path} holds a {type(row).__name__}; expected an object.")
    if "txt" in parts:
        row.setdefault("caption", _read(parts["txt"]).decode("utf-8", "replace"))
    return row


def _label(path: Path, key: str, parts: Mapping[str, Place], row: Mapping[str, Any], classes: Sequence[str]) -> str:
    said: Any = next((row[name] for name in LABELS if row.get(name) is not None), None)
    if said is None and "cls" in parts:
        said = _read(parts["cls"]).decode("utf-8", "replace").strip()
    if said is None and "/" in key:
        said = key.split("/")[-2]
    text = str(said)
    if text.isdecimal() and int(text) < len(classes):
        text = classes[int(text)]
    if said is None or not text or "/" in text or text.startswith("."):
        raise DataError(
            f"{key} in {path} is of the class {text!r}: expected a .cls or .json beside it, or a folder in its name, "
            "that says one."
        )
    return text


def write_shards(scenes: SceneFolder, out: Path, *, per_shard: int = 1000, progress: Progress | None = None) -> int:
    """Write scenes as shards, the files as they are: `out/scenes-000000.tar`, …, and `out/dataset.json`.

    The same scenes give the same bytes. Each sample has its image, `.cls` (the class's number) and `.json`.

    Returns:
        How many shards there are.

    Raises:
        RunError: `out` is not empty.
        DataError: a scene cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty: give a new folder for --out.")
    count = -(-len(scenes) // per_shard)
    with replacing(out) as part:
        part.mkdir()
        for shard in range(count):
            with tarfile.open(part / f"scenes-{shard:06d}.tar", "w") as archive:
                for i in range(shard * per_shard, min((shard + 1) * per_shard, len(scenes))):
                    scene = scenes.scenes[i]
                    label = scenes.classes[scene.label]
                    stem, ending = scene.name.removeprefix(f"{label}/").replace("/", "-").rsplit(".", 1)
                    key = f"{label}/{stem.replace('.', '-')}"
                    row = {"label": label, **({"captions": scene.captions} if scene.captions else {}), **scene.metadata}
                    _add(archive, f"{key}.{ending.lower()}", scenes.read(i))
                    _add(archive, f"{key}.cls", str(scene.label).encode())
                    _add(archive, f"{key}.json", json.dumps(row, ensure_ascii=False).encode())
            if progress:
                progress(min((shard + 1) * per_shard, len(scenes)), len(scenes))
        card = asdict(scenes.info) | {"classes": list(scenes.classes)}
        (part / CARD).write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return count


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)  # of no date and no owner: the same scenes, the same bytes
    about.size = len(data)
    archive.addfile(about, BytesIO(data))
