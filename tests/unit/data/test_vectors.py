"""Roads of a GeoJSON file on georeferenced scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from terradistill.data.maps import annotate
from terradistill.data.vectors import road_rasters
from terradistill.errors import DataError, RunError
from tests.unit.data.test_geotiff import written

# 60 x 40 pixels of 10 m about 15° east on the equator, where UTM zone 33 has its origin.
PLACE = (10.0, 0.0, 500_000.0 - 300, 0.0, -10.0, 200.0)
DEGREE = 111_320.0  # metres, near enough


def roads(tmp: Path, *lines: list[tuple[float, float]], more: dict[str, Any] | None = None) -> Path:
    """A file of lines, each given in metres from the middle of the scene."""
    features: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "properties": {},
            "geometry": {"type": "LineString", "coordinates": [[15 + x / DEGREE, y / DEGREE] for x, y in line]},
        }
        for line in lines
    ]
    file = tmp / "roads.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features + ([more] if more else [])}))
    return file


def test_a_road_lies_where_it_should_and_is_as_wide(tmp_path: Path) -> None:
    scene = written(tmp_path / "a.tif", crs="EPSG:32633", transform=PLACE).read_bytes()
    across = roads(tmp_path, [(-1000, 5), (1000, 5)])
    drawn = road_rasters(across, width_m=30)(scene)
    assert drawn.shape == (40, 60)
    assert set(np.unique(drawn)) == {0, 255}
    assert (drawn > 0).any(1).nonzero()[0].tolist() == [18, 19, 20]
    assert (drawn[18:21] > 0).all(), "from edge to edge"
    thin = road_rasters(across, width_m=1)(scene)
    assert (thin > 0).any(1).nonzero()[0].tolist() == [19], "never thinner than a pixel"


def test_roads_beside_the_scene_reach_in_and_far_ones_do_not(tmp_path: Path) -> None:
    scene = written(tmp_path / "a.tif", crs="EPSG:32633", transform=PLACE).read_bytes()
    beside = road_rasters(roads(tmp_path, [(-1000, 215), (1000, 215)]), width_m=70)(scene)
    assert (beside > 0).any(1).nonzero()[0].tolist() == [0, 1]
    assert not road_rasters(roads(tmp_path, [(-1000, 900), (1000, 900)]), width_m=70)(scene).any()
    corner = roads(tmp_path, [(-2000, 0), (0, 2000)])
    assert not road_rasters(corner, width_m=10)(scene).any(), "its box holds the scene, the road passes by"


def test_points_and_polygons_are_no_roads(tmp_path: Path) -> None:
    scene = written(tmp_path / "a.tif", crs="EPSG:32633", transform=PLACE).read_bytes()
    point = {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [15, 0]}}
    drawn = road_rasters(roads(tmp_path, [(0, -1000), (0, 1000)], more=point), width_m=10)(scene)
    assert (drawn > 0).any(0).sum() == 1
    file = tmp_path / "none.geojson"
    for broken in (
        '{"type": "LineString"}',
        '{"type": "X", "features": 3}',
        '{"type": "LineString", "coordinates": [null]}',
        '{"type": "GeometryCollection", "geometries": [' * 900 + "]}" * 900,
    ):
        file.write_text(broken)
        with pytest.raises(DataError, match=r"GeoJSON|no lines"):
            road_rasters(file)
    for text, says in (('{"type": "FeatureCollection", "features": []}', "no lines"), ("[1]", "type"), ("{", "read")):
        file.write_text(text)
        with pytest.raises(DataError, match=says):
            road_rasters(file)


def test_annotate_draws_them_for_a_folder_and_says_which_scene_has_no_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / "scenes" / "river" / f"{name}.tif", crs="EPSG:32633", transform=PLACE)
    file = roads(tmp_path, [(-1000, 5), (1000, 5)])
    made = annotate(tmp_path / "scenes", [f"road={file}", "edges"], tmp_path / "maps", road_width_m=30)
    drawn = np.asarray(Image.open(made["road"] / "river" / "a.png"))
    assert (drawn > 0).sum() == 3 * 60
    assert (made["edges"] / "river" / "b.png").is_file()
    with pytest.raises(RunError, match="another width_m"):
        annotate(tmp_path / "scenes", [f"road={file}"], tmp_path / "maps", road_width_m=10)
    capital = file.with_suffix(".GEOJSON")
    capital.write_text(file.read_text(), encoding="utf-8-sig")
    again = annotate(tmp_path / "scenes", [f"road={capital}"], tmp_path / "again", road_width_m=30)
    assert np.array_equal(np.asarray(Image.open(again["road"] / "river" / "a.png")), drawn)
    written(tmp_path / "scenes" / "river" / "c.tif", crs=None, transform=(1, 0, 0, 0, 1, 0))
    with pytest.raises(DataError, match=r"c\.tif: it is no GeoTIFF that says its place"):
        annotate(tmp_path / "scenes", [f"road={file}"], tmp_path / "maps", road_width_m=30)


def test_metres_are_no_longitudes(tmp_path: Path) -> None:
    file = tmp_path / "utm.geojson"
    file.write_text(json.dumps({"type": "LineString", "coordinates": [[500_000, 0], [500_100, 50]]}))
    with pytest.raises(DataError, match="EPSG:4326"):
        road_rasters(file)
