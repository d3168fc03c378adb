"""The folder that enhanced images go to, and the work of filling it."""

import json
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from terradistill.data.geotiff import is_placed
from terradistill.data.images import TIFF_MAGIC, decode, pixel_hash
from terradistill.data.pictures import Picture, Pixels
from terradistill.data.sources import open_scenes
from terradistill.data.writing import LOCK, NOTE
from terradistill.distillation.scoreboard import learned_by
from terradistill.errors import DataError, RunError
from terradistill.files import replacing, require_same, taken, write_text
from terradistill.generation import asked as drawing
from terradistill.models.generator import Generator
from terradistill.models.places import write_learned_from
from terradistill.report.gallery import side_by_side
from terradistill.run import Reporter
from terradistill.settings import Settings

SHOWN = 8  # columns of the picture
MOST_SHOWN = 256  # pixels of an image in it
AT_ONCE = 16  # small images that are drawn at once: always the same, so that images are too
Made = tuple[Pixels, dict[str, Any]]


@dataclass(frozen=True)
class Piece:
    """One image that is made.

    Attributes:
        name: of its file, without an ending.
        made_of: give the bytes of the files that it is made of; the first says where it lies.
        taken: the date that it shows; None: that of the first file.
        dates: of the files, where they matter.
    """

    name: str
    made_of: Sequence[Callable[[], bytes]]
    taken: date | None = None
    dates: Sequence[date] = ()

    @cached_property
    def key(self) -> str:
        """A hash of what it is made of."""
        digest = sha256()
        for read in self.made_of:
            digest.update(sha256(read()).digest())
        for day in (*self.dates, *filter(None, [self.taken])):
            digest.update(day.isoformat().encode())
        return digest.hexdigest()[:16]


def asked_for(task: str, settings: Settings, generator: Generator, **more: Any) -> dict[str, Any]:
    """All that makes images what they are, beside what they are made of."""
    return drawing.asked_for(task, settings, generator, "sampling", "enhance", **more)


def say_unheeded(generator: Generator, prompt: str, given: Iterable[Picture], reporter: Reporter) -> None:
    """Say what of a task will be left out: the end of a long prompt, the places of GeoTIFFs without `rasterio`."""
    if cut := generator.unheard([prompt]):
        reporter.say(cut)
    if find_spec("rasterio") is None and (placed := [picture.name for picture in given if is_placed(picture.read())]):
        reporter.say(f"Without rasterio (pip install '.[geo]') the place of {placed[0]} is lost: what is made is PNG.")


class Results:
    """Files named as those that they were made of, `metadata.jsonl`, a picture.

    The same command goes on where it was left: what is there already, made of the same, is passed over.
    """

    def __init__(
        self,
        out: Path,
        asked: Mapping[str, Any],
        generator: Generator,
        source: str | Path,
        given: Iterable[Picture],
        *,
        of_classes: bool = False,
        scale: float = 1,
    ) -> None:
        """Open or make it, and say which scenes go into the images and, where classes are folders, what they show.

        Args:
            out: the folder.
            asked: what makes the images what they are; kept in `asked.json`.
            generator: what draws.
            source: what is enhanced.
            given: the images of `source`.
            of_classes: `source` is DATA, and so is what is made of it.
            scale: pixels drawn per pixel given.

        Raises:
            RunError: it holds something else, or was made by another call.
        """
        self.out, self.task, note = out, asked["task"], out / NOTE
        if not note.is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out} is not empty: give a new folder for --out.")
        out.mkdir(parents=True, exist_ok=True)
        self._lock = taken(out / LOCK)
        try:
            require_same(note, asked, str(out))
            self.keys = self._kept()
            self._describe(generator, source, given, of_classes, scale)
        except BaseException:
            self.close()
            raise

    def _kept(self) -> dict[str, str]:
        """What each image that is there was made of; rows that a kill has cut are dropped."""
        table, whole, keys = self.out / "metadata.jsonl", [], dict[str, str]()
        lines = _lines(table) if table.is_file() else []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):  # a kill may have left half a line
                row = json.loads(line)
                keys[row["file_name"]] = row["key"]
                whole.append(line)
        if whole != lines:
            write_text(table, "".join(f"{line}\n" for line in whole))
        return keys

    def close(self) -> None:
        """Let another process, or another call in this one, take the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _describe(
        self, generator: Generator, source: str | Path, given: Iterable[Picture], of_classes: bool, scale: float
    ) -> None:
        known = set(generator.learned_from | learned_by(Path(source)) | learned_by(self.out))  # of an earlier call too
        for picture in given:
            known |= {picture.made_from} - {""}
            with suppress(DataError):  # bands are no picture
                known.add(pixel_hash(picture.pixels()))
        write_learned_from(self.out, known)
        if of_classes:
            scenes = open_scenes(source)
            left = ("hub_id", "url", "formation")  # what is made of a packed scene is one scene
            card = {key: value for key, value in asdict(scenes.info).items() if key not in left}
            card |= {"name": self.out.name, "title": f"{scenes.info.title or scenes.info.name}, enhanced"}
            card |= {"made_by": f"terradistill enhance {self.task}", "synthetic": True, "classes": scenes.classes}
            if scenes.info.gsd_m is not None:
                card["gsd_m"] = scenes.info.gsd_m / scale
            write_text(self.out / "dataset.json", json.dumps(card, ensure_ascii=False, indent=2) + "\n")

    def made(self, piece: Piece) -> Path | None:
        """The file that was made before of the same, if it was."""
        for ending in (".png", ".tif"):
            path = self.out / f"{piece.name}{ending}"
            if path.exists() and self.keys.get(f"{piece.name}{ending}") == piece.key:
                return path
        return None

    def keep(self, piece: Piece, pixels: Pixels, **row: Any) -> None:
        """Write one, as a GeoTIFF at its place where it came from one and `rasterio` is there, else as PNG."""
        data = piece.made_of[0]()
        placed = data.startswith(TIFF_MAGIC) and find_spec("rasterio") is not None and _has_place(data)
        name = f"{piece.name}{'.tif' if placed else '.png'}"
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            if placed:
                _write_geotiff(part, data, pixels, piece.taken)
            else:
                Image.fromarray(pixels).save(part, "PNG")
        line = json.dumps({"file_name": name, "key": piece.key, **row}, ensure_ascii=False)
        if name in self.keys:  # made of something else before
            kept = [each for each in _lines(self.out / "metadata.jsonl") if json.loads(each)["file_name"] != name]
            write_text(self.out / "metadata.jsonl", "".join(f"{each}\n" for each in [*kept, line]))
        else:
            with (self.out / "metadata.jsonl").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        self.keys[name] = piece.key


def _lines(table: Path) -> list[str]:
    # splitlines would cut a prompt at U+2028 too
    return [line for line in table.read_text(encoding="utf-8").split("\n") if line]


def together(pieces: Sequence[Piece], kinds: Sequence[Hashable | None]) -> list[list[Piece]]:
    """Pieces in blocks that are made at once: neighbours of one kind, `AT_ONCE` at most; those of none each alone."""
    blocks: list[list[Piece]] = []
    last = None
    for piece, kind in zip(pieces, kinds, strict=True):
        if kind is not None and kind == last and len(blocks[-1]) < AT_ONCE:
            blocks[-1].append(piece)
        else:
            blocks.append([piece])
        last = kind
    return blocks


def make_all(
    results: Results,
    blocks: Sequence[Sequence[Piece]],
    make: Callable[[Sequence[Piece]], Sequence[Made]],
    before: Callable[[Piece], Pixels],
    title: str,
    reporter: Reporter,
    labels: tuple[str, str] = ("before", "after"),
) -> Path:
    """Make what is not there yet, and a picture of the first ones.

    Args:
        results: where to.
        blocks: what, and what of it together. A block of which a kill left a part is made whole again, so that images
            do not depend on it.
        make: gives each image of a block, and its row of `metadata.jsonl`.
        before: what to show beside it.
        title: of the work.
        reporter: told of it.
        labels: of the two rows of the picture.

    Returns:
        The folder.
    """
    rows: dict[str, list[Pixels]] = {label: [] for label in labels}
    reporter.start(title)
    began = time.monotonic()
    with closing(results):
        pieces, done = [piece for block in blocks for piece in block], 0
        for block in blocks:
            lacking = [piece for piece in block if results.made(piece) is None]
            if lacking:
                for piece, (pixels, row) in zip(block, make(block), strict=True):
                    if piece in lacking:
                        results.keep(piece, pixels, **row)
            done += len(block)
            if len(blocks) > 1:
                reporter.progress(done, len(pieces))
        for piece in pieces[:SHOWN]:
            path = results.made(piece)
            assert path is not None, "it has just been made"
            for label, image in zip(labels, (before(piece), decode(path.read_bytes())), strict=True):
                rows[label].append(shrunk(image))
        reporter.end(title, time.monotonic() - began, f"{len(pieces)} image{'s' * (len(pieces) != 1)}")
        side_by_side(rows, results.out / "before_after.png", MOST_SHOWN)
    return results.out


def shrunk(image: Pixels) -> Pixels:
    """An image no larger than the picture shows it."""
    ratio = MOST_SHOWN / max(image.shape[:2])
    if ratio >= 1:
        return image
    height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _has_place(data: bytes) -> bool:
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    try:
        with MemoryFile(data) as memory, memory.open() as image:
            return image.crs is not None and not image.transform.is_identity
    except RasterioError:
        return False


def _write_geotiff(path: Path, like: bytes, pixels: Pixels, taken: date | None) -> None:
    """RGB at the place of another file, which may have other pixels: its extent is kept."""
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile
    from rasterio.transform import Affine

    with MemoryFile(like) as memory, memory.open() as before:
        crs, to, old = before.crs, before.transform, (before.height, before.width)
        tags = {key: value for key, value in before.tags().items() if key == "TIFFTAG_DATETIME"}
    if taken is not None:
        tags = {"TIFFTAG_DATETIME": taken.strftime("%Y:%m:%d 12:00:00")}
    height, width = pixels.shape[:2]
    down, right = old[0] / height, old[1] / width
    place = Affine(to.a * right, to.b * down, to.c, to.d * right, to.e * down, to.f)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8", "crs": crs}
    try:
        with rasterio.open(path, "w", **profile, transform=place, photometric="RGB", compress="deflate") as made:
            made.write(pixels.transpose(2, 0, 1))
            made.update_tags(**tags)
    except RasterioError as error:
        raise DataError(f"{path} cannot be written as a GeoTIFF ({error}).") from error
