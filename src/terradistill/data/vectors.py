"""Roads out of a vector file, drawn onto georeferenced scenes."""

import json
import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terradistill.data.geotiff import metadata_of
from terradistill.errors import ConfigError, DataError

WIDTH_M = 8.0  # of a road, metres: two lanes [ours]
VECTOR_FILES = (".geojson", ".json")
LINES = ("LineString", "MultiLineString")


def road_rasters(file: Path, width_m: float = WIDTH_M) -> Callable[[bytes], NDArray[np.uint8]]:
    """A function from the bytes of a GeoTIFF to the roads in it: uint8 (H, W), 255 on a road.

    Args:
        file: GeoJSON (RFC 7946: longitudes and latitudes), such as an export of OpenStreetMap; its lines are the roads.
        width_m: of a road, metres; never drawn thinner than a pixel.

    Raises:
        ConfigError: `rasterio` is not installed.
        DataError: the file is no GeoJSON, or has no lines. The function: a scene says no place.
    """
    if find_spec("rasterio") is None:
        raise ConfigError("Drawing roads of a GeoJSON file needs rasterio: pip install '.[geo]'.")
    try:
        roads = list(_lines(_read(file)))
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise DataError(f"{file} is no GeoJSON ({error}): expected lines of longitudes and latitudes.") from error
    if not roads:
        raise DataError(f"{file} has no lines: expected roads as LineString or MultiLineString.")
    bounds = np.array([_bounds(road) for road in roads])
    if (abs(bounds) > (180, 90, 180, 90)).any():
        raise DataError(f"{file} holds no longitudes and latitudes but metres, say: reproject it to EPSG:4326.")

    def draw(data: bytes) -> NDArray[np.uint8]:
        from rasterio.io import MemoryFile

        known = metadata_of(data)
        if "gsd_m" not in known:
            raise DataError("it is no GeoTIFF that says its place, so nobody knows which roads cross it.")
        try:
            with MemoryFile(data) as memory, memory.open() as image:
                return _drawn(image, roads, bounds, max(width_m / known["gsd_m"], 1.0))
        except Exception as error:  # GDAL's own errors are not those of rasterio
            raise DataError(f"its place cannot be brought together with the roads ({str(error)[:100]}).") from error

    return draw


def _drawn(image: Any, roads: list[dict[str, Any]], bounds: NDArray[np.float64], width: float) -> NDArray[np.uint8]:
    """Roads of a width in pixels, at least 1."""
    from rasterio.features import rasterize
    from rasterio.transform import array_bounds
    from rasterio.warp import transform_bounds, transform_geom
    from rasterio.windows import Window
    from scipy.ndimage import distance_transform_edt

    edge = math.ceil(width / 2)  # a road beside the scene reaches into it
    shape = (image.height + 2 * edge, image.width + 2 * edge)
    place = image.window_transform(Window(-edge, -edge, shape[1], shape[0]))
    west, south, east, north = transform_bounds(image.crs, "EPSG:4326", *array_bounds(*shape, place))
    near = (bounds[:, 0] <= east) & (bounds[:, 2] >= west) & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)
    crossing = [transform_geom("EPSG:4326", image.crs, roads[i]) for i in np.flatnonzero(near)]
    if not crossing:
        return np.zeros((image.height, image.width), np.uint8)
    middle = rasterize(crossing, shape, transform=place, fill=1, default_value=0, dtype="uint8")
    if middle.all():  # their boxes overlap the scene, but no road does
        return np.zeros((image.height, image.width), np.uint8)
    found = distance_transform_edt(middle) <= (width - 1) / 2
    return np.asarray(found[edge:-edge, edge:-edge] * np.uint8(255), np.uint8)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as GeoJSON ({error}): give a file of roads as lines.") from error
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise DataError(f"{file} is no GeoJSON: expected an object with a type, such as a FeatureCollection.")
    return found


def _lines(found: Any) -> Iterator[dict[str, Any]]:
    """The lines in any GeoJSON object; what is none is passed over."""
    if not isinstance(found, dict):
        return
    for part in [*(found.get("features") or ()), *(found.get("geometries") or ()), found.get("geometry")]:
        yield from _lines(part)
    if found.get("type") in LINES and _positions(found).size:
        yield {"type": found["type"], "coordinates": found["coordinates"]}


def _positions(line: dict[str, Any]) -> NDArray[np.float64]:
    """Longitudes and latitudes, float64 (n, 2)."""
    parts = [line["coordinates"]] if line["type"] == "LineString" else line["coordinates"]
    return np.array([position[:2] for part in parts for position in part], dtype=np.float64)


def _bounds(line: dict[str, Any]) -> NDArray[np.float64]:
    """West, south, east, north."""
    positions = _positions(line)
    return np.concatenate([positions.min(0), positions.max(0)])
