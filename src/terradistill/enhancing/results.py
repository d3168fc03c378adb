"""The folder that enhanced images go to."""

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from terradistill.data.images import TIFF_MAGIC, decode
from terradistill.data.pictures import Picture, Pixels
from terradistill.errors import RunError
from terradistill.run import replacing, write_text


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
