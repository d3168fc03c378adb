"""Multi-formation: k x k scenes at 1/k of their size in the place of one image (IDC, Kim et al. 2022)."""

from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.data.images import decode, resize
from terradistill.data.scenes import Scene, SceneFolder
from terradistill.data.writing import SceneWriter
from terradistill.errors import DataError
from terradistill.run import Progress

MOST = 9  # scenes along a side
OPEN = 8  # images that stay decoded while their scenes are read


def packed(images: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Put every k x k scenes into one image, row by row.

    Args:
        images: uint8, (n * k², side, side, 3).
        k: scenes along a side.

    Returns:
        uint8 (n, k * (side // k), k * (side // k), 3).
    """
    small = images.shape[1] // k
    cells = np.stack([resize(np.asarray(image), small) for image in images])
    grid = cells.reshape(-1, k, k, small, small, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(grid).reshape(-1, k * small, k * small, 3)


def unpacked(images: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """The scenes of `packed`, small as they are: uint8, (n, side, side, 3) to (n * k², side // k, side // k, 3)."""
    n, side = images.shape[:2]
    cells = images.reshape(n, k, side // k, k, side // k, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(cells).reshape(-1, side // k, side // k, 3)


def open_packed(folder: SceneFolder, k: int) -> SceneFolder:
    """A folder of packed images as their scenes: ``forest/a.png`` holds ``forest/a#0.png`` and so on."""
    place = {f"{scene.name.rpartition('.')[0]}#{i}.png": (scene, i) for scene in folder.scenes for i in range(k**2)}

    @lru_cache(OPEN)
    def cells(name: str) -> NDArray[np.uint8]:
        image = decode(folder._reader(name))
        height, width = image.shape[:2]
        if height != width or width % k:
            raise DataError(
                f"{name!r} has {width} x {height} pixels: {k} x {k} scenes in one want a square whose side {k} divides."
            )
        return unpacked(image[None], k)

    def read(name: str) -> bytes:
        stored, i = place[name]
        file = BytesIO()
        Image.fromarray(cells(stored.name)[i]).save(file, "PNG")
        return file.getvalue()

    scenes = [Scene(name, stored.label) for name, (stored, _) in place.items()]
    return replace(folder, _reader=read).with_scenes(scenes)


def pack_scenes(scenes: SceneFolder, out: Path, k: int, progress: Progress | None = None) -> int:
    """Write a scene folder whose images hold k x k scenes of a class each; `open_scenes` finds them again.

    Args:
        scenes: of each class a multiple of k².
        out: a folder that does not exist yet, or is empty.
        k: scenes along a side.
        progress: called as ``progress(done, total)``, in images.

    Returns:
        The number of images.

    Raises:
        DataError: a class has another number of scenes, or a scene cannot be read.
        RunError: `out` is not empty.
    """
    of_class: defaultdict[int, list[int]] = defaultdict(list)
    for i, scene in enumerate(scenes.scenes):
        of_class[scene.label].append(i)
    for label, members in of_class.items():
        if len(members) % k**2:
            raise DataError(
                f"{scenes.classes[label]!r} has {len(members)} scenes: {k} x {k} in one take a multiple of {k**2}."
            )
    groups = [members[n : n + k**2] for _, members in sorted(of_class.items()) for n in range(0, len(members), k**2)]
    writer = SceneWriter(out, scenes.classes, [scenes.scenes[group[0]].label for group in groups])
    try:
        side = min(decode(scenes.read(groups[0][0])).shape[:2])
        for number, group in enumerate(groups):
            writer.keep(number, packed(np.stack([resize(decode(scenes.read(i)), side) for i in group]), k)[0])
            if progress:
                progress(number + 1, len(groups))
        info = scenes.info
        told: dict[str, Any] = {
            "title": f"{info.title or info.name}, {k} x {k} scenes in an image",
            "readable": {name: scenes.readable(name) for name in scenes.classes},
            "gsd_m": None if info.gsd_m is None else info.gsd_m * k,
            "licence": info.licence,
            "citation": info.citation,
            "synthetic": info.synthetic,
            "formation": k,
        }
        writer.finish([{} for _ in groups], told)
    finally:
        writer.close()
    return len(groups)
