"""What is enhanced, and what comes of it: images from files or scene folders, with the place that they are of."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.data.geotiff import metadata_of
from terradistill.data.images import TIFF_MAGIC, decode, is_scene_file
from terradistill.data.sources import open_scenes
from terradistill.errors import DataError, RunError
from terradistill.run import replacing, write_text

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One image that is enhanced.

    Attributes:
        name: path without an ending, such as "river/river_0001"; unique.
        read: gives the bytes of its file.
        metadata: what is known of it in numbers.
    """

    name: str
    read: Callable[[], bytes]
    metadata: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 (H, W, 3)."""
        try:
            return decode(self.read())
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error


def open_pictures(source: str | Path) -> list[Picture]:
    """One image file, a plain folder of them, or the scenes of DATA.

    Raises:
        DataError: there is nothing of that.
    """
    path = Path(source)
    if path.is_file() and is_scene_file(path.name):
        return [_of_file(path, path.stem)]
    if path.is_dir():
        plain = [file for file in sorted(path.iterdir()) if file.is_file() and is_scene_file(file.name)]
        if plain and not any(_holds_images(each) for each in path.iterdir() if each.is_dir()):
            return [_of_file(file, file.stem) for file in plain]
    scenes = open_scenes(source)
    return [
        Picture(str(PurePosixPath(scene.name).with_suffix("")), lambda i=i: scenes.read(i), scene.metadata)  # type: ignore[misc]
        for i, scene in enumerate(scenes.scenes)
    ]


def _of_file(path: Path, name: str) -> Picture:
    return Picture(name, path.read_bytes, metadata_of(path.read_bytes()))


def _holds_images(folder: Path) -> bool:
    return any(is_scene_file(file.name) for file in folder.iterdir() if file.is_file())


class Results:
    """The folder that enhanced images go to: files named as those that they were made of, `metadata.jsonl`, a picture.

    The same command goes on where it was left: what is there already is passed over.
    """

    def __init__(self, out: Path, asked: Mapping[str, Any]) -> None:
        """Open or make it.

        Args:
            out: the folder.
            asked: what makes the images what they are; kept in `asked.json`.

        Raises:
            RunError: it holds something else, or was made by another call.
        """
        self.out, note, text = out, out / "asked.json", json.dumps(dict(asked), indent=1, sort_keys=True) + "\n"
        if note.is_file() and note.read_text() != text:
            before = json.loads(note.read_text())
            odd = sorted(key for key in {*before, *asked} if before.get(key) != json.loads(text).get(key))
            raise RunError(f"{out} was made with another {', '.join(odd)}: give the same again, or a new folder.")
        if not note.is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out} is not empty: give a new folder for --out.")
        out.mkdir(parents=True, exist_ok=True)
        write_text(note, text)
        self.rows: dict[str, dict[str, Any]] = {}
        with suppress(OSError):
            for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.rows[row["file_name"]] = row

    def made(self, picture: Picture) -> Pixels | None:
        """What was made of it before, if it was: uint8 (H, W, 3)."""
        for ending in (".png", ".tif"):
            if (path := self.out / f"{picture.name}{ending}").exists():
                return decode(path.read_bytes())
        return None

    def keep(self, picture: Picture, pixels: Pixels, **row: Any) -> Path:
        """Write one, as a GeoTIFF at its place where it came from one and `rasterio` is there, else as PNG."""
        data = picture.read()
        placed = data.startswith(TIFF_MAGIC) and find_spec("rasterio") is not None
        name = f"{picture.name}{'.tif' if placed else '.png'}"
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            if placed:
                _write_geotiff(part, data, pixels)
            else:
                Image.fromarray(pixels).save(part, "PNG")
        self.rows[name] = {"file_name": name, **row}
        lines = [json.dumps(each, ensure_ascii=False) for each in self.rows.values()]
        write_text(self.out / "metadata.jsonl", "\n".join(lines) + "\n")
        return path


def _write_geotiff(path: Path, like: bytes, pixels: Pixels) -> None:
    """RGB at the place of another file, which may have other pixels: its extent is kept."""
    import rasterio
    from rasterio.io import MemoryFile
    from rasterio.transform import Affine

    with MemoryFile(like) as memory, memory.open() as before:
        crs, to, old = before.crs, before.transform, (before.height, before.width)
        tags = {key: value for key, value in before.tags().items() if key == "TIFFTAG_DATETIME"}
    height, width = pixels.shape[:2]
    down, right = old[0] / height, old[1] / width
    place = Affine(to.a * right, to.b * down, to.c, to.d * right, to.e * down, to.f)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8", "crs": crs}
    with rasterio.open(path, "w", **profile, transform=place, photometric="RGB", compress="deflate") as made:
        made.write(pixels.transpose(2, 0, 1))
        made.update_tags(**tags)
