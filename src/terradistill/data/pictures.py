"""Images from files or scene folders, with what is known of them."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from terradistill.data.annotations import Note, parse_notes
from terradistill.data.geotiff import metadata_of
from terradistill.data.images import decode, is_rgb_tiff, is_scene_file
from terradistill.data.sources import open_scenes
from terradistill.errors import DataError

Pixels = NDArray[np.uint8]
SHEETS = ("gallery.png", "before_after.png", "timelapse.png")  # that we lay beside images; no images themselves


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
        name: path without an ending, such as "river/river_0001"; unique.
        read: gives the bytes of its file.
        metadata: what is known of it in numbers.
        file: its path with the ending.
        captions: written for it.
        made_from: hash of the scene that it is, at another size, where its folder says so.
    """

    name: str
    read: Callable[[], bytes]
    metadata: Mapping[str, float] = field(default_factory=dict)
    file: str = ""
    captions: Sequence[str] = ()
    made_from: str = ""

    def pixels(self) -> Pixels:
        """uint8 (H, W, 3), decoded anew each time."""
        try:
            return decode(self.read())
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error

    def size(self) -> tuple[int, int]:
        """Height and width, without decoding more than need be.

        Raises:
            DataError: it is not 8-bit, so that what is made of it would be in other colours, or has transparent parts.
        """
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                if image.mode in ("RGB", "L", "P", "1") or _opaque(image):
                    return image.height, image.width
                mode = image.mode
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
            height, width = self.pixels().shape[:2]  # a TIFF of more bands, or a sentence that says what is wrong
            if is_rgb_tiff(self.read()):
                return height, width
            mode = f"more than 8 bits or 3 bands, {width} x {height} pixels"
        raise DataError(
            f"{self.name} is no plain 8-bit image ({mode}): write it as 8-bit RGB first, all images of a place alike."
        )


def _opaque(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[0] == 255


def open_pictures(source: str | Path, *, distinct: bool = True) -> list[Picture]:
    """One image file, a plain folder of them (with `metadata.jsonl`, perhaps), or the scenes of DATA.

    Args:
        source: what to open.
        distinct: refuse two images whose names differ in their endings alone.

    Raises:
        DataError: there is nothing of that, or two images have the same name.
    """
    path = Path(source)
    if path.is_file() and is_scene_file(path.name):
        return [_of_file(path)]
    plain = _plain(path) if path.is_dir() else []
    if plain:
        notes = path / "metadata.jsonl"
        known = parse_notes(notes.read_bytes(), str(notes)) if notes.is_file() else {}
        found = [_of_file(file, known.get(file.name)) for file in plain]
        return _distinct(found) if distinct else found
    scenes = open_scenes(source)

    def reading(index: int) -> Callable[[], bytes]:
        return lambda: scenes.read(index)

    found = [
        Picture(
            str(PurePosixPath(scene.name).with_suffix("")),
            reading(i),
            scene.metadata,
            scene.name,
            scene.captions,
            scene.made_from,
        )
        for i, scene in enumerate(scenes.scenes)
    ]
    return _distinct(found) if distinct else found


def known_of(pictures: Sequence[Picture], scale: float = 1) -> dict[str, dict[str, Any]]:
    """What rows of `metadata.jsonl` say of pictures, by their names, at so many times their resolution.

    Clouds are left out: they may be what goes. All rows have the same columns, null where nothing is known.
    """
    columns = {field for picture in pictures for field in picture.metadata} - {"cloud_fraction"}
    captioned = any(picture.captions for picture in pictures)
    rows: dict[str, dict[str, Any]] = {}
    for picture in pictures:
        row: dict[str, Any] = {field: picture.metadata.get(field) for field in sorted(columns)}
        if row.get("gsd_m") is not None:
            row["gsd_m"] /= scale
        if captioned:
            row["captions"] = list(picture.captions)
        rows[picture.name] = row
    return rows


def place_of(pictures: Sequence[Picture], scale: float = 1) -> dict[str, float | None]:
    """Where a place lies, and metres a pixel at so many times the resolution; the first picture that knows says it."""
    found: dict[str, float | None] = {}
    for name in ("lon", "lat", "gsd_m"):
        found[name] = next((picture.metadata[name] for picture in pictures if name in picture.metadata), None)
    if (gsd_m := found["gsd_m"]) is not None:
        found["gsd_m"] = gsd_m / scale
    return found


def _plain(folder: Path) -> list[Path]:
    """The images right in a folder; none where it has folders of images."""
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    ours = any((folder / name).is_file() for name in ("dataset.json", "asked.json"))
    plain = [entry for entry in entries if entry.is_file() and is_scene_file(entry.name)]
    plain = [entry for entry in plain if not (ours and entry.name in SHEETS)]
    below = [
        entry for entry in entries if entry.is_dir() and any(is_scene_file(file.name) for file in entry.rglob("*"))
    ]
    if below and (folder / "dataset.json").is_file():
        return []  # a scene folder with a gallery in it
    if plain and below:
        raise DataError(
            f"{folder} holds images ({plain[0].name}) and folders of images ({below[0].name}): give one of them."
        )
    return plain


def _of_file(path: Path, note: Note | None = None) -> Picture:
    note = note or Note()
    known = {**metadata_of(path.read_bytes()), **note.metadata}
    return Picture(path.stem, path.read_bytes, known, path.name, note.captions, note.made_from)


def _distinct(pictures: list[Picture]) -> list[Picture]:
    twice = [name for name, count in Counter(picture.name for picture in pictures).items() if count > 1]
    if twice:
        same = [picture.file for picture in pictures if picture.name == twice[0]]
        raise DataError(f"{' and '.join(same)} would make one file: give one of them another name.")
    return pictures
