"""What a GeoTIFF says of its place and date."""

import math
import re
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from terradistill.data.images import TIFF_MAGIC

METRES_A_DEGREE = 111_320.0  # along a meridian
DATE, GEO_KEYS = 306, 34735  # tags of TIFF and GeoTIFF
_DATE = re.compile(r"(\d{4})[:\-](\d{2})[:\-](\d{2})")


def is_placed(data: bytes) -> bool:
    """Whether a file is a TIFF that says where it lies; needs no `rasterio`."""
    return data.startswith(TIFF_MAGIC) and GEO_KEYS in _tags(data)


def metadata_of(data: bytes) -> dict[str, float]:
    """Longitude and latitude of the middle, metres a pixel, and the date, as far as the tags of a TIFF say.

    Args:
        data: the file's bytes; of any other format nothing is known.

    Returns:
        Some of lon, lat, gsd_m, year, month, day; without `rasterio` the date alone.
    """
    if not data.startswith(TIFF_MAGIC):
        return {}
    tags = _tags(data)
    known = _date(str(tags.get(DATE, "")))
    if GEO_KEYS not in tags or find_spec("rasterio") is None:
        return known
    from rasterio.io import MemoryFile

    try:
        with MemoryFile(data) as memory, memory.open() as image:
            return known | _place(image)
    except Exception:  # GDAL's own errors, of places that it knows nothing of, are not those of rasterio
        return known


def _tags(data: bytes) -> dict[int, Any]:
    from tifffile import TiffFile

    try:
        with TiffFile(BytesIO(data)) as file:
            return {tag.code: tag.value for tag in file.pages.first.tags}
    except Exception:  # damaged tags raise nearly anything, and the pixels may still be good
        return {}


def places_in(data: bytes, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]] | None:
    """Longitude and latitude of points in a GeoTIFF, (column, row) in pixels; None where nothing is known.

    Args:
        data: the file's bytes.
        points: (0, 0) is the upper left corner of the first pixel.
    """
    if not is_placed(data) or find_spec("rasterio") is None:
        return None
    from rasterio.io import MemoryFile

    try:
        with MemoryFile(data) as memory, memory.open() as image:
            return _lon_lat(image, points)
    except Exception:  # as in `metadata_of`
        return None


def _lon_lat(image: Any, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]] | None:
    if image.crs is None or image.transform.is_identity:
        return None
    from rasterio.warp import transform

    to = image.transform
    xs = [to.a * column + to.b * row + to.c for column, row in points]
    ys = [to.d * column + to.e * row + to.f for column, row in points]
    found = [
        (round(lon, 6), round(lat, 6)) for lon, lat in zip(*transform(image.crs, "EPSG:4326", xs, ys), strict=True)
    ]
    return found if all(-180 <= lon <= 180 and -90 <= lat <= 90 for lon, lat in found) else None


def _place(image: Any) -> dict[str, float]:
    found = _lon_lat(image, [(image.width / 2, image.height / 2)])
    if found is None:
        return {}
    (lon, lat), to = found[0], image.transform
    size = math.sqrt(abs(to.determinant))  # of a pixel, in the units of its reference system
    if image.crs.is_geographic:
        size *= METRES_A_DEGREE * math.sqrt(max(math.cos(math.radians(lat)), 1e-6))
    else:
        size *= image.crs.linear_units_factor[1]
    return {"lon": lon, "lat": lat, "gsd_m": round(size, 6)}


def _date(text: str) -> dict[str, float]:
    found = _DATE.match(text)
    if not found:
        return {}
    year, month, day = map(int, found.groups())
    if not (1980 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= 31):
        return {}
    return {"year": float(year), "month": float(month), "day": float(day)}
