"""Place, resolution and date out of GeoTIFF tags."""

from pathlib import Path

import numpy as np
import pytest

import terradistill as td
from terradistill.data.check import check_scenes
from terradistill.data.geotiff import metadata_of


def written(path: Path, *, crs: str | None, transform: tuple[float, ...], tags: dict[str, str] | None = None) -> Path:
    import rasterio
    from rasterio.transform import Affine

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(map(ord, path.name))).integers(0, 255, (3, 40, 60), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=60, height=40, count=3, dtype="uint8", crs=crs, transform=Affine(*transform)
    ) as image:
        image.write(pixels)
        image.update_tags(**(tags or {}))
    return path


def test_a_projected_scene_knows_its_place_and_metres(tmp_path: Path) -> None:
    # The false easting of UTM zone 33 is on 15° east; the equator's northing is 0.
    place = (10.0, 0.0, 500_000.0 - 300, 0.0, -10.0, 200.0)
    file = written(
        tmp_path / "a.tif", crs="EPSG:32633", transform=place, tags={"TIFFTAG_DATETIME": "2021:07:04 10:00:00"}
    )
    known = metadata_of(file.read_bytes())
    assert known["lon"] == pytest.approx(15, abs=1e-4)
    assert known["lat"] == pytest.approx(0, abs=1e-4)
    assert known["gsd_m"] == pytest.approx(10)
    assert (known["year"], known["month"], known["day"]) == (2021, 7, 4)


def test_degrees_become_metres_and_feet_too(tmp_path: Path) -> None:
    half = written(tmp_path / "b.tif", crs="EPSG:4326", transform=(1e-4, 0, 10.0, 0, -1e-4, 60.0))
    assert metadata_of(half.read_bytes())["gsd_m"] == pytest.approx(11.132 * 0.5**0.5, rel=1e-3)
    feet = written(tmp_path / "c.tif", crs="EPSG:2263", transform=(2.0, 0, 980_000, 0, -2.0, 200_000))
    assert metadata_of(feet.read_bytes())["gsd_m"] == pytest.approx(2 * 0.3048006, rel=1e-5)


def test_a_plain_or_broken_file_says_nothing(tmp_path: Path) -> None:
    plain = written(tmp_path / "d.tif", crs=None, transform=(1, 0, 0, 0, 1, 0))
    assert metadata_of(plain.read_bytes()) == {}
    assert metadata_of(b"\x89PNG") == {}
    assert metadata_of(plain.read_bytes()[:60]) == {}
    odd = written(tmp_path / "e.tif", crs=None, transform=(1, 0, 0, 0, 1, 0), tags={"TIFFTAG_DATETIME": "2021:77:04 x"})
    assert metadata_of(odd.read_bytes()) == {}


def test_a_scene_folder_takes_the_tags_and_its_notes_go_first(tmp_path: Path) -> None:
    for i in range(2):
        written(
            tmp_path / "s" / "river" / f"{i}.tif", crs="EPSG:32633", transform=(10.0, 0, 500_000, 0, -10.0, 0.0 + i)
        )
    (tmp_path / "s" / "metadata.jsonl").write_text('{"file_name": "river/1.tif", "gsd_m": 20, "month": 3}\n')
    scenes, _ = check_scenes(td.open_scenes(tmp_path / "s"))
    first, second = (scene.metadata for scene in scenes.scenes)
    assert first["gsd_m"] == pytest.approx(10)
    assert (second["gsd_m"], second["month"]) == (20, 3)
    assert "lon" in second


def test_a_place_that_is_none_does_not_stop_the_check(tmp_path: Path) -> None:
    """Drone mosaics are often in a local system; others lie outside their projection."""
    local = written(tmp_path / "f.tif", crs='LOCAL_CS["local",UNIT["metre",1]]', transform=(1, 0, 7, 0, -1, 9))
    far = written(tmp_path / "g.tif", crs="EPSG:32633", transform=(1e9, 0, 1e12, 0, -1e9, 1e12))
    for file in (local, far):
        assert "lon" not in metadata_of(file.read_bytes())
