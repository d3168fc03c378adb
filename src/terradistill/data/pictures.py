"""Images from files or scene folders, with what is known of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from terradistill.data.geotiff import metadata_of
from terradistill.data.images import decode, is_scene_file
from terradistill.data.sources import open_scenes
from terradistill.errors import DataError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One image.

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
