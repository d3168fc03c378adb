"""Scenes of many bands: named planes of one extent, each at its own resolution."""

import json
import math
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.data.images import MAX_PIXELS
from terradistill.errors import ConfigError, DataError, reason
from terradistill.files import replacing

Plane = NDArray[np.float32]
TRAIN = 0.7  # of the width is learned from
TIFF = (".tif", ".tiff")
NOTE, BANDS = "bands.json", ".bands"  # of a folder of cut scenes: how, and the bands of each


@dataclass(frozen=True)
class BandImage:
    """One scene.

    Attributes:
        planes: band -> float32 (h, w). Sizes differ by whole factors; all show the same ground.
    """

    planes: Mapping[str, Plane]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the finest bands."""
        return max(plane.shape for plane in self.planes.values())

    def stacked(self, names: Sequence[str], height: int, width: int) -> Plane:
        """Some bands in one grid: float32 (C, height, width); finer ones averaged, coarser ones interpolated.

        Raises:
            DataError: a band is missing.
        """
        require_bands(names, self.planes)
        return np.stack([_resampled(self.planes[name], height, width) for name in names])

    def coarser(self, factor: int) -> "BandImage":
        """All bands at 1/factor of their own resolution: of 20 m as of 40, of 60 as of 120.

        What is learned so reads the bands as they are at `factor` times the resolution (Wald et al. 1997).
        """
        sizes = {name: [max(1, round(side / factor)) for side in plane.shape] for name, plane in self.planes.items()}
        return BandImage({name: _averaged(plane, *sizes[name]) for name, plane in self.planes.items()})

    def cut(self, top: int, left: int, side: int) -> "BandImage":
        """A square, in pixels of the finest bands; it begins and ends between pixels of all."""
        full = self.size[0]
        found = {}
        for name, plane in self.planes.items():
            factor = full // plane.shape[0]
            found[name] = plane[top // factor : (top + side) // factor, left // factor : (left + side) // factor]
        return BandImage(found)

    @property
    def step(self) -> int:
        """Finest pixels after which pixels of all bands begin together."""
        return math.lcm(*(self.size[0] // plane.shape[0] for plane in self.planes.values()))


def require_bands(names: Sequence[str], found: Iterable[str], where: str = "") -> None:
    """Make sure that bands are among those found.

    Raises:
        DataError: one is missing.
    """
    if lacking := [name for name in names if name not in (found := list(found))]:
        raise DataError(
            f"The band {lacking[0]} is missing{where and f' in {where}'}: expected {', '.join(names)}, found "
            f"{', '.join(found)} (--bands names those of an array)."
        )


def parse_bands(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names of the bands of arrays, written as ``im10=B4,B3,B2,B8``.

    Raises:
        ConfigError: another form, or two bands of one name.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        array, _, several = (part.strip() for part in text.partition("="))
        names = tuple(name.strip() for name in several.split(","))
        if not (array and all(names)) or array in found:
            raise ConfigError(f"--bands {text!r}: expected all bands of an array, once, such as im10=B4,B3,B2,B8.")
        found[array] = names
    every = [name for names in found.values() for name in names]
    if twice := [name for name in every if every.count(name) > 1]:
        raise ConfigError(f"--bands names {twice[0]} twice: give each band a name of its own.")
    return found


def read_bands(path: Path, named: Mapping[str, Sequence[str]] | None = None) -> BandImage:
    """An `.npz` file with an array (h, w) for each band, by its name, or arrays (bands, h, w); or a GeoTIFF.

    Args:
        path: the file.
        named: array -> its bands, in their order; other arrays are left out. None or empty: all arrays, and bands
            that share one are called ``array-1``, ``array-2``, … A GeoTIFF is one array, ``bands``, unless it
            describes each of its bands by a name.

    Raises:
        DataError: it is none, or its arrays do not show the same ground.
        ConfigError: a GeoTIFF, and `rasterio` is not installed.
    """
    tiff = path.suffix.lower() in TIFF
    if tiff and find_spec("rasterio") is None:
        raise ConfigError(f"Reading the bands of {path} needs rasterio: pip install '.[geo]'.")
    try:
        arrays = _of_geotiff(path, named) if tiff else _of_npz(path, named)
    except DataError:
        raise
    except Exception as error:  # damaged files make the readers raise nearly anything
        kind = "a GeoTIFF" if tiff else "an .npz file"
        raise DataError(f"{path} cannot be read as {kind} of bands ({reason(error)}).") from error
    for name, plane in arrays.items():
        if plane.ndim not in (2, 3) or plane.dtype.kind not in "uif" or not plane.size:
            raise DataError(
                f"{path}: {name} has shape {plane.shape}; expected an array (h, w) of numbers a band, or (bands, h, w)."
            )
    apart = [each for name, array in arrays.items() for each in _apart(path, name, array, named)]
    planes = dict(apart)
    if len(planes) < len(apart):
        raise DataError(f"{path} has two bands of one name among {', '.join(name for name, _ in apart)}.")
    if not planes:
        raise DataError(f"{path} is empty: expected an array (h, w) a band.")
    image = BandImage({name: plane.astype(np.float32) for name, plane in planes.items()})
    height, width = image.size
    for name, plane in image.planes.items():
        if height % plane.shape[0] or width % plane.shape[1] or height // plane.shape[0] != width // plane.shape[1]:
            raise DataError(
                f"{path}: {name} has {plane.shape[1]} x {plane.shape[0]} pixels and the finest band {width} x "
                f"{height}: expected a whole factor between them."
            )
        if not np.isfinite(plane).all():
            raise DataError(f"{path}: {name} holds values that are no numbers: fill them first.")
    return image


@dataclass(frozen=True)
class BandScale:
    """How bands become -1 … 1: their mean, less or more two deviations (DiffusionSat).

    Attributes:
        names: in the order of the two.
        mean: of each band.
        std: likewise.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def noted(cls, names: Sequence[str], note: Mapping[str, Any]) -> "BandScale":
        """As an enhancer has kept it."""
        return cls(tuple(names), tuple(note["mean"]), tuple(note["std"]))

    @classmethod
    def of(cls, names: Sequence[str], stacks: NDArray[np.float32]) -> "BandScale":
        """Of planes (N, C, h, w)."""
        mean, std = (getattr(stacks, kind)((0, 2, 3), dtype=np.float64) for kind in ("mean", "std"))
        return cls(tuple(names), tuple(map(float, mean)), tuple(max(float(value), 1e-9) for value in std))

    def scaled(self, stack: Plane) -> Plane:
        """Planes (C, h, w) or (N, C, h, w) from -1 to 1."""
        shape = (-1, 1, 1)
        mean, std = (np.array(values, np.float32).reshape(shape) for values in (self.mean, self.std))
        return np.asarray(((stack - mean) / (2 * std)).clip(-1, 1), np.float32)


def to_rgb(image: BandImage, names: Sequence[str], low: float, high: float) -> NDArray[np.uint8]:
    """Three bands as a picture, uint8 (H, W, 3); values from `low` to `high`."""
    planes = image.stacked(names, *image.size)
    return np.asarray(((planes - low) / (high - low) * 255).clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))


def cut_scenes(
    path: Path,
    out: Path,
    *,
    side: int,
    stride: int,
    rgb: Sequence[str],
    named: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Cut a scene of bands into squares: a scene folder of pictures, `.bands/` beside the class, `bands.json`.

    `split.json` has the squares on the left to learn from and those on the right to judge; what lies across is left
    out, so that squares that overlap are never on both sides.

    Args:
        path: the `.npz` file or GeoTIFF.
        out: a new or empty folder.
        side: of the squares, pixels of the finest bands.
        stride: from one to the next.
        rgb: three bands that the pictures show, stretched alike from their 2nd to their 98th percentile.
        named: bands of the arrays; see `read_bands`.

    Returns:
        How many.

    Raises:
        DataError: a band is missing, or squares would cut through pixels of the coarsest bands, or fit nowhere.
    """
    from terradistill.data.writing import write_scene_folder

    out = out.expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder; choose another place or remove it.")
    image = read_bands(path, named)
    height, width = image.size
    step = image.step
    if side % step or stride % step or 2 * side > width or side > height:
        raise DataError(
            f"Squares of {side} pixels every {stride} do not fit {path.name} ({width} x {height}): give multiples of "
            f"{step}, so that pixels of all bands stay whole, and at most half of the width."
        )
    shown = image.stacked(rgb, height, width)
    low, high = (float(value) for value in np.percentile(shown, (2, 98)))
    high = high if high > low else low + 1
    # The first square of the right begins where none of the left ends later.
    edge = max(side, round(TRAIN * width / stride) * stride)
    edge = min(edge, (width - side) // step * step)
    columns = [*range(0, edge - side + 1, stride), *range(edge, width - side + 1, stride)]
    corners = [(y, x) for y in range(0, height - side + 1, stride) for x in columns]
    cuts = [image.cut(y, x, side) for y, x in corners]
    pictures = np.stack([to_rgb(cut, rgb, low, high) for cut in cuts])
    name = path.stem
    rows = [{"row": y, "column": x} for y, x in corners]
    sides: dict[str, list[str]] = {"train": [], "test": []}
    note = {"rgb": list(rgb), "low": low, "high": high, "bands": list(image.planes)}
    with replacing(out) as made:
        write_scene_folder(made, (name,), pictures, [0] * len(cuts), rows, {"name": name, "title": name})
        (made / BANDS / name).mkdir(parents=True)
        for k, (cut, (_, x)) in enumerate(zip(cuts, corners, strict=True)):
            planes: dict[str, Any] = dict(cut.planes)
            np.savez(made / BANDS / name / f"{name}_{k:04d}.npz", **planes)
            sides["train" if x < edge else "test"].append(f"{name}/{name}_{k:04d}.png")
        (made / NOTE).write_text(json.dumps(note) + "\n")
        (made / "split.json").write_text(json.dumps(sides) + "\n")
    return len(cuts)


def bands_note(folder: Path) -> dict[str, Any]:
    """What `cut_scenes` has noted: `rgb`, `low`, `high`, `bands`.

    Raises:
        DataError: nothing was cut there.
    """
    try:
        found: dict[str, Any] = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if not {"rgb", "low", "high", "bands"} <= set(found) or not all(isinstance(b, str) for b in found["bands"]):
            raise ValueError(f"its {NOTE} is of something else")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder} holds no bands ({error}): cut some with terradistill data cut SCENE.npz --out DIR, and give DIR."
        ) from error
    return found


def bands_of(folder: Path, name: str) -> BandImage:
    """The bands of a scene of a cut folder, by its name."""
    return read_bands(bands_file(folder, name))


def bands_file(folder: Path, name: str) -> Path:
    """Where they lie."""
    return (folder / BANDS / name).with_suffix(".npz")


def _of_npz(path: Path, named: Mapping[str, Sequence[str]] | None) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        _require_room(path, sum(entry.file_size for entry in archive.infolist()))
    with np.load(path, allow_pickle=False) as arrays:
        _require_arrays(path, named, arrays.files)
        found = {name: np.asarray(arrays[name]) for name in named or arrays.files}
    if odd := [name for name, array in found.items() if array.ndim == 3 and len(array) > min(array.shape[1:])]:
        raise DataError(f"{path}: {odd[0]} has shape {found[odd[0]].shape}; expected (bands, h, w), bands first.")
    return found


def _of_geotiff(path: Path, named: Mapping[str, Sequence[str]] | None) -> dict[str, NDArray[Any]]:
    """All bands as one array, or each by the name that the file gives it."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # then what is made has no place either
        with rasterio.open(path, driver="GTiff") as image:  # of other kinds some read further files
            _require_room(path, image.count * image.height * image.width * np.dtype(image.dtypes[0]).itemsize)
            if not image.read_masks().all():
                raise DataError(f"{path} has pixels without data: fill them first, or cut it.")
            bands, names = image.read(), image.descriptions
    if named or not all(names) or len(set(names)) < len(names):
        _require_arrays(path, named, ["bands"])
        return {"bands": bands}
    return dict(zip(names, bands, strict=True))


def _require_arrays(path: Path, named: Mapping[str, Sequence[str]] | None, found: Sequence[str]) -> None:
    if lacking := [name for name in named or () if name not in found]:
        raise DataError(f"{path} has no array {lacking[0]!r}: expected one of {', '.join(found)}.")


def _require_room(path: Path, n_bytes: int) -> None:
    if n_bytes > 16 * MAX_PIXELS:
        raise DataError(f"{path} unpacks to {n_bytes / 2**20:.0f} MiB: cut it into tiles.")


def _apart(
    path: Path, name: str, array: NDArray[Any], named: Mapping[str, Sequence[str]] | None
) -> list[tuple[str, NDArray[Any]]]:
    """The bands of an array, by name."""
    several = list(array) if array.ndim == 3 else [array]
    names = (named or {}).get(name) or ([name] if array.ndim == 2 else [f"{name}-{k + 1}" for k in range(len(several))])
    if len(names) != len(several):
        raise DataError(f"{path}: {name} holds {len(several)} bands, and {len(names)} were named: name all of them.")
    return list(zip(names, several, strict=True))


def _resampled(plane: Plane, height: int, width: int) -> Plane:
    if plane.shape[0] % height == 0 and plane.shape[1] % width == 0:
        return _averaged(plane, height, width)
    resized = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


def _averaged(plane: Plane, height: int, width: int) -> Plane:
    """Each pixel the mean of those that it covers; of one that it covers in part, all or nothing."""
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BOX), np.float32)
