"""Scene folders on their way to disk: an image at a time, and whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.data.scenes import readable_name, require_folder_names
from terradistill.errors import DataError, RunError
from terradistill.files import remove, replacing, require_same, taken, write_text

NOTE, LOCK = "asked.json", ".lock"
OWN = {NOTE, "metadata.jsonl", "dataset.json", "learned_from.json", "gallery.png"}  # files beside the class folders


class SceneWriter:
    """A scene folder in the making, in `OUT.part` beside the place that it takes when it is whole.

    Where it says what was asked for, images that a stopped call has left are kept, and the same call goes on.

    Attributes:
        part: where it is made; what else should be in it may be written there.
        names: the images' files, `<class>/<class>_0000.png`, in their order.
    """

    def __init__(
        self,
        out: Path,
        classes: Sequence[str],
        labels: Sequence[int] | NDArray[np.int64],
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin, or go on.

        Args:
            out: a folder that does not exist yet, or is empty.
            classes: class names; they become folder names.
            labels: n indices into `classes`.
            asked: all that makes the images what they are, as JSON holds it; None: begin anew in any case.

        Raises:
            DataError: a class name is no folder name, or two would be one folder here.
            RunError: `out` is not empty, images of something else were left, or another process is making it.
        """
        require_folder_names(classes)
        if odd := sorted(OWN.intersection(name.lower() for name in classes)):
            raise DataError(f"A class cannot be named {odd[0]!r}, which is a file of the folder: rename it.")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out} is not empty: give a new folder for --out.")
        self.out = out.resolve()
        self.part, self.classes = self.out.with_name(self.out.name + ".part"), list(classes)
        self.labels = [int(label) for label in labels]
        counts = [0] * len(classes)
        self.names = []
        for label in self.labels:
            self.names.append(f"{classes[label]}/{classes[label]}_{counts[label]:04d}.png")
            counts[label] += 1
        self.part.mkdir(parents=True, exist_ok=True)
        self._lock = taken(self.part / LOCK)
        try:
            self._begin(asked)
        except BaseException:
            self.close()
            raise

    def _begin(self, asked: Mapping[str, Any] | None) -> None:
        note = self.part / NOTE
        again = asked is not None and note.is_file() and any(self.part.glob("*/*.png"))
        if not again:
            for path in self.part.iterdir():
                if path.name != LOCK:
                    remove(path)
        if asked is not None:
            require_same(note, asked, f"What is in {self.part}")
        for name in self.classes:
            try:
                (self.part / name).mkdir(exist_ok=again)
            except FileExistsError as error:  # one name twice, or capitals that are not told apart here
                raise DataError(f"Two classes would be one folder, {name!r}: rename one of them.") from error

    def lacking(self) -> list[int]:
        """Numbers of the images that are not there yet."""
        return [number for number, name in enumerate(self.names) if not (self.part / name).exists()]

    def keep(self, number: int, image: NDArray[np.uint8]) -> None:
        """Write an image, uint8 (height, width, 3); several threads may."""
        with replacing(self.part / self.names[number]) as path:
            Image.fromarray(np.ascontiguousarray(image)).save(path, "PNG")

    def finish(self, metadata: Sequence[Mapping[str, Any]], info: Mapping[str, Any]) -> None:
        """Write `metadata.jsonl` and `dataset.json`, and put the folder in its place; see `write_scene_folder`.

        Raises:
            DataError: the lengths differ.
        """
        if len(metadata) != len(self.names):
            raise DataError(f"{self.out}: {len(self.names)} images, {len(metadata)} metadata rows; give one of each.")
        # Every row has every column: the JSON reader of `datasets` infers one schema for all of them.
        columns = list(dict.fromkeys(key for row in metadata for key in row if key not in ("file_name", "label")))
        with (self.part / "metadata.jsonl").open("w", encoding="utf-8", errors="backslashreplace") as rows:
            for name, label, extra in zip(self.names, self.labels, metadata, strict=True):
                row = {"file_name": name, "label": self.classes[label]} | {key: extra.get(key) for key in columns}
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        readable = {name: readable_name(name) for name in self.classes} | dict(info.get("readable") or {})
        defaults = {"name": self.out.name, "gsd_m": None, "licence": "unknown", "citation": ""}
        card = defaults | {"made_by": "terradistill"} | dict(info) | {"classes": self.classes, "readable": readable}
        write_text(self.part / "dataset.json", json.dumps(card, ensure_ascii=False, indent=2) + "\n")
        if self.out.exists():
            self.out.rmdir()
        self.part.replace(self.out)
        for name in (NOTE, LOCK):  # last: without the note nothing would be gone on with
            (self.out / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process, or another call in this one, take the place."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def write_scene_folder(
    out: Path,
    classes: Sequence[str],
    images: NDArray[np.uint8],
    labels: Sequence[int] | NDArray[np.int64],
    metadata: Sequence[Mapping[str, Any]],
    info: Mapping[str, Any],
) -> None:
    """Writes `<class>/<class>_0000.png`, `metadata.jsonl` and `dataset.json`, all or nothing.

    The folder opens as a Hugging Face `imagefolder` (columns: image, label and those of the metadata) and as a
    torchvision `ImageFolder`.

    Args:
        out: a folder that does not exist yet, or is empty.
        classes: class names; they become folder names.
        images: uint8, shape (n, height, width, 3).
        labels: n indices into `classes`.
        metadata: one dict an image, empty ones allowed; `file_name` and `label` are filled in here.
        info: name, readable (class -> words), gsd_m, licence, citation, made_by, synthetic and whatever else the card
            should hold.

    Raises:
        DataError: a class name is no folder name, or the lengths differ.
        RunError: `out` is not empty.
    """
    if not len(images) == len(labels) == len(metadata):
        raise DataError(
            f"{out}: {len(images)} images, {len(labels)} labels and {len(metadata)} metadata rows; give one of each."
        )
    with closing(SceneWriter(out, classes, labels)) as writer:
        for number, image in enumerate(images):
            writer.keep(number, image)
        writer.finish(metadata, info)
