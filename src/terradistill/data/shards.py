"""WebDataset shards: scenes in tar files, read in place and written.

A sample is the files of a tar that share their name up to its first dot: an image, and beside it what is known of it:
`.cls` (a class, or its number), `.txt` (a caption), `.json` (label, captions, numbers). Without a class there, the
folder in the name is one. To what opens scenes a set of shards looks like a folder of class folders.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

from terradistill.data.annotations import CAPTION_COLUMNS, METADATA_FIELDS
from terradistill.data.archive import MAX_MEMBER_BYTES, MAX_MEMBERS
from terradistill.data.images import is_scene_file
from terradistill.data.scenes import SceneFolder
from terradistill.errors import DataError, RunError
from terradistill.files import replacing
from terradistill.run import Progress

CARD, NOTES = "dataset.json", "metadata.jsonl"
LABELS = ("label", "class", "class_name")  # of a sample's `.json`
Place = tuple[Path, int, int]  # shard, where it begins in it, bytes


class ShardSource:
    """The scenes of tar files by name, `class/file.ext`, with a `metadata.jsonl` of what stands beside them.

    Args:
        paths: the shards.
        root: the folder that they are told apart in, where two have a scene of one name.
        card: `dataset.json`, where one lies beside them; its `classes` name those that are numbers in the shards.

    Raises:
        DataError: no tar, a compressed one, one that is larger than is accepted, or a sample of no class.
    """

    def __init__(self, paths: Sequence[Path], root: Path, card: bytes | None = None) -> None:
        self._made: dict[str, bytes] = {} if card is None else {CARD: card}
        self._places: dict[str, Place] = {}
        samples: dict[tuple[Path, str], dict[str, Place]] = {}
        for path in paths:
            for count, (name, place) in enumerate(_members(path), 1):
                if count > MAX_MEMBERS:
                    raise DataError(f"{path} has more than {MAX_MEMBERS} files: write shards of fewer.")
                folder, slash, file = name.rpartition("/")
                stem, _, ending = file.partition(".")
                if name == CARD:
                    self._made.setdefault(CARD, _read(place))
                else:
                    samples.setdefault((path, f"{folder}{slash}{stem}"), {})[ending] = place
        classes = _classes(self._made.get(CARD))
        found = []
        for (path, key), parts in samples.items():
            if image := _image(path, key, parts):
                row = _row(path, key, parts)
                found.append((path, key, image, parts[image], _label(path, key, parts, row, classes), _known(row)))
        names = Counter((label, key.rsplit("/", 1)[-1]) for _, key, _, _, label, _ in found)
        notes = []
        for path, key, image, place, label, row in found:
            stem = key.rsplit("/", 1)[-1]
            if names[label, stem] > 1:
                stem = f"{path.relative_to(root).with_suffix('')}-{key}".replace("/", "-")
            name = f"{label}/{stem}.{image}"
            if name in self._places:
                raise DataError(f"{root} has two scenes {name!r}: give its shards names that tell them apart.")
            self._places[name] = place
            notes.append(json.dumps({**row, "file_name": name}))
        self._made[NOTES] = "\n".join(notes).encode()

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


def _members(path: Path) -> Iterator[tuple[str, Place]]:
    """Name and place of each file of a tar, but for hidden ones."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
                name = member.name.removeprefix("./")
                if not 0 <= member.size <= MAX_MEMBER_BYTES:  # one below 0 would send it back for ever
                    raise DataError(
                        f"{name!r} in {path} is {member.size / 2**20:.0f} MiB; "
                        f"at most {MAX_MEMBER_BYTES // 2**20} MiB a file are accepted."
                    )
                if member.isdir() or any(step.startswith(".") for step in name.split("/")):
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(f"{path} has a member {name!r} that is no plain file; pack the files themselves.")
                yield name, (path, member.offset_data, member.size)
            end = archive.offset
        with path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # a bad header ends it without a word
                raise DataError(f"{path} is damaged or cut off after {end} bytes: make it anew.")
    except DataError:
        raise
    except Exception as error:  # hostile headers make tarfile raise much
        raise DataError(f"{path} is not a readable tar; shards are plain .tar files, not compressed ones.") from error


def _image(path: Path, key: str, parts: Mapping[str, Place]) -> str:
    """The ending of a sample's image; "" where it has none."""
    images = [ending for ending in parts if is_scene_file(f"x.{ending}")]
    plain = [ending for ending in images if "." not in ending] or images  # 0.png goes before 0.mask.png
    if len(plain) > 1:
        raise DataError(f"{key} in {path} has several images ({', '.join(plain)}): give each a name of its own.")
    return plain[0] if plain else ""


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in (*CAPTION_COLUMNS, *METADATA_FIELDS, "made_from") if name in row}


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
        text = _read(parts["cls"]).decode("utf-8", "replace").strip()
        said = int(text) if text.isdecimal() and len(text) < 9 else text
    if said is None and "/" in key:
        said = key.split("/")[-2]
    if isinstance(said, int) and 0 <= said < len(classes):
        said = classes[said]
    label = "" if said is None else str(said)
    if not label or len(label) > 200 or "/" in label or label.startswith("."):
        raise DataError(
            f"{key} in {path} is of the class {label[:200]!r}: expected a .cls or .json beside it, or a folder in its "
            "name, that says one."
        )
    return label


def write_shards(scenes: SceneFolder, out: Path, *, per_shard: int = 1000, progress: Progress | None = None) -> int:
    """Write scenes as shards, the files as they are: `out/scenes-000000.tar`, …, and `out/dataset.json`.

    The same scenes give the same bytes. Each sample has its image, `.cls` (the class's number) and `.json`.

    Returns:
        How many shards there are.

    Raises:
        RunError: `out` is not empty.
        DataError: a scene cannot be read.
    """
    out = out.expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty: give a new folder for --out.")
    count = -(-len(scenes) // per_shard)
    with replacing(out) as part:
        part.mkdir()
        taken: set[str] = set()
        for shard in range(count):
            with tarfile.open(part / f"scenes-{shard:06d}.tar", "w") as archive:
                for i in range(shard * per_shard, min((shard + 1) * per_shard, len(scenes))):
                    scene = scenes.scenes[i]
                    label = scenes.classes[scene.label]
                    stem, ending = scene.name.removeprefix(f"{label}/").replace("/", "-").rsplit(".", 1)
                    key = f"{label}/{stem.replace('.', '-')}"
                    if key in taken:  # names that differ in what a key has not
                        key = f"{key}-{i}"
                    taken.add(key)
                    row = {"label": label, **({"captions": scene.captions} if scene.captions else {}), **scene.metadata}
                    row |= {"made_from": scene.made_from} if scene.made_from else {}
                    _add(archive, f"{key}.{ending.lower()}", scenes.read(i))
                    _add(archive, f"{key}.cls", str(scene.label).encode())
                    _add(archive, f"{key}.json", json.dumps(row).encode())
            if progress:
                progress(min((shard + 1) * per_shard, len(scenes)), len(scenes))
        card = asdict(scenes.info) | {"classes": list(scenes.classes)}
        (part / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return count


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)  # of no date and no owner: the same scenes, the same bytes
    about.size = len(data)
    archive.addfile(about, BytesIO(data))
