"""Named bands of one extent, each at its own resolution."""

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from terradistill.data.bands import (
    BandImage,
    BandScale,
    bands_note,
    bands_of,
    cut_scenes,
    parse_bands,
    read_bands,
    to_rgb,
)
from terradistill.data.sources import open_scenes
from terradistill.errors import ConfigError, DataError


def saved(path: Path, **planes: np.ndarray) -> Path:
    np.savez(path, **planes)
    return path


def planes() -> dict[str, np.ndarray]:
    fine = np.arange(48 * 72, dtype=np.uint16).reshape(48, 72)
    return {"B4": fine, "B3": fine + 1, "B2": fine + 2, "B5": fine[::2, ::2], "B1": fine[::6, ::6]}


def test_bands_meet_in_one_grid(tmp_path: Path) -> None:
    image = read_bands(saved(tmp_path / "a.npz", **planes()))
    assert (image.size, image.step) == ((48, 72), 6)
    stack = image.stacked(["B5", "B4", "B1"], 24, 36)
    assert stack.shape == (3, 24, 36)
    assert np.array_equal(stack[0], planes()["B5"])
    assert np.allclose(stack[1], planes()["B4"].reshape(24, 2, 36, 2).mean((1, 3)))
    assert abs(float(stack[2].mean()) - float(planes()["B1"].mean())) < 1
    with pytest.raises(DataError, match="band B8 is missing"):
        image.stacked(["B4", "B8"], 24, 36)


def test_made_coarser_every_band_loses_as_much_of_its_own_detail(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fine, middle, odd = (rng.random(size) for size in ((48, 48), (24, 24), (6, 6)))
    path = saved(tmp_path / "a.npz", B4=fine, B5=middle, B1=odd)
    image = read_bands(path).coarser(4)
    assert {name: plane.shape for name, plane in image.planes.items()} == {"B4": (12, 12), "B5": (6, 6), "B1": (2, 2)}
    assert np.allclose(image.planes["B4"], fine.reshape(12, 4, 12, 4).mean((1, 3)), atol=1e-6)
    assert np.allclose(image.planes["B5"], middle.reshape(6, 4, 6, 4).mean((1, 3)), atol=1e-6)
    # What the frames are, in one grid: a band of half the resolution varies less there than one that was the finest.
    stack = image.stacked(["B4", "B5"], 12, 12)
    bent = [np.abs(np.diff(plane, 2, axis=0)).mean() for plane in stack]
    assert bent[1] < 0.7 * bent[0]
    as_learned_before = read_bands(path).stacked(["B5"], 12, 12)[0]
    assert np.abs(np.diff(as_learned_before, 2, axis=0)).mean() > bent[1]


def test_a_cut_is_the_same_ground_in_all_bands(tmp_path: Path) -> None:
    image = read_bands(saved(tmp_path / "a.npz", **planes()))
    part = image.cut(12, 24, 24)
    assert {name: plane.shape for name, plane in part.planes.items()} == {
        "B4": (24, 24), "B3": (24, 24), "B2": (24, 24), "B5": (12, 12), "B1": (4, 4),
    }  # fmt: skip
    assert part.planes["B1"][0, 0] == planes()["B1"][2, 4]


def test_a_scene_is_cut_into_a_scene_folder_with_its_bands(tmp_path: Path) -> None:
    path = saved(tmp_path / "s.npz", **planes())
    assert cut_scenes(path, tmp_path / "cut", side=24, stride=12, rgb=("B4", "B3", "B2")) == 3 * 4
    scenes = open_scenes(tmp_path / "cut")
    assert (len(scenes), scenes.classes, scenes.n_ignored) == (12, ("s",), 0)
    split = json.loads((tmp_path / "cut" / "split.json").read_text())
    columns = {row["file_name"]: row["column"] for row in map(json.loads, (tmp_path / "cut" / "metadata.jsonl").open())}
    assert max(columns[name] for name in split["train"]) + 24 <= min(columns[name] for name in split["test"])
    assert len(split["train"]) + len(split["test"]) == 12
    again = bands_of(tmp_path / "cut", scenes.scenes[6].name)
    row = json.loads((tmp_path / "cut" / "metadata.jsonl").read_text().splitlines()[6])
    assert np.array_equal(
        again.planes["B4"], planes()["B4"][row["row"] : row["row"] + 24, row["column"] : row["column"] + 24]
    )
    assert bands_note(tmp_path / "cut")["rgb"] == ["B4", "B3", "B2"]
    for side, stride in ((20, 12), (24, 4), (60, 12)):
        with pytest.raises(DataError, match="do not fit"):
            cut_scenes(path, tmp_path / "o", side=side, stride=stride, rgb=("B4", "B3", "B2"))
    with pytest.raises(DataError, match="holds no bands"):
        bands_note(tmp_path)
    for other in ("{}", "[]", "3", '{"rgb": 1, "low": 0, "high": 1, "bands": 5}'):
        (tmp_path / "bands.json").write_text(other)
        with pytest.raises(DataError, match="holds no bands"):
            bands_note(tmp_path)


def test_scaling_is_mean_less_or_more_two_deviations() -> None:
    stacks = (
        np.random.default_rng(0)
        .normal([[[[3.0]], [[900.0]]]], [[[[1.0]], [[50.0]]]], (4, 2, 32, 32))
        .astype(np.float32)
    )
    scale = BandScale.of(["a", "b"], stacks)
    assert scale.mean == pytest.approx((3, 900), rel=0.01)
    assert scale.std == pytest.approx((1, 50), rel=0.05)
    scaled = scale.scaled(stacks)
    assert abs(float(scaled.mean())) < 0.01
    assert float(scaled.std()) == pytest.approx(0.5, rel=0.06)
    assert np.abs(scaled).max() <= 1
    assert scale.scaled(stacks[0]).shape == (2, 32, 32)


def test_pictures_are_stretched_as_asked() -> None:
    image = BandImage(
        {"r": np.full((4, 4), 10, np.float32), "g": np.full((2, 2), 5, np.float32), "b": np.zeros((4, 4), np.float32)}
    )
    assert to_rgb(image, ["r", "g", "b"], 0, 10)[0, 0].tolist() == [255, 128, 0]


def test_arrays_of_several_bands_are_taken_apart_by_name(tmp_path: Path) -> None:
    fine, coarse = np.arange(4 * 48 * 72).reshape(4, 48, 72), np.arange(2 * 24 * 36).reshape(2, 24, 36)
    path = saved(tmp_path / "a.npz", im10=fine, im20=coarse, other=np.array([{}]))  # pickled, and not looked at
    image = read_bands(path, parse_bands(["im10=B4,B3, B2,B8", "im20=B5,B6"]))
    assert list(image.planes) == ["B4", "B3", "B2", "B8", "B5", "B6"], "others are left out"
    assert np.array_equal(image.planes["B2"], fine[2])
    assert np.array_equal(image.planes["B6"], coarse[1])
    assert cut_scenes(path, tmp_path / "cut", side=24, stride=24, rgb=("a", "b", "c"), named={"im10": "abcd"}) == 6
    assert bands_note(tmp_path / "cut")["bands"] == ["a", "b", "c", "d"]
    alone = saved(tmp_path / "b.npz", im10=fine)
    assert list(read_bands(alone).planes) == ["im10-1", "im10-2", "im10-3", "im10-4"]
    for named, says in (({"im10": "abc"}, "holds 4 bands, and 3 were named"), ({"im60": "a"}, "no array 'im60'")):
        with pytest.raises(DataError, match=says):
            read_bands(path, named)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(DataError, match="not an empty folder"):
        cut_scenes(path, tmp_path / "full", side=24, stride=24, rgb=("a", "b", "c"), named={"im10": "abcd"})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(np, "savez", Mock(side_effect=OSError("the disk is full")))
        cut_scenes(path, tmp_path / "half", side=24, stride=24, rgb=("a", "b", "c"), named={"im10": "abcd"})
    assert not [each.name for each in tmp_path.iterdir() if "half" in each.name]
    for wrong in (["B4,B3"], ["im10=B4,,B3"], ["=B4"], ["im10=B4,B4"], ["im10=B4", "im10=B3"]):
        with pytest.raises(ConfigError, match="--bands"):
            parse_bands(wrong)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"B4": np.zeros((4, 4)), "B5": np.zeros((3, 3))}, "whole factor"),
        ({"B4": np.zeros((4, 4)), "B5": np.zeros((2, 4))}, "whole factor"),
        ({"B4": np.zeros((1, 3, 4, 4))}, "shape"),
        ({"B4": np.array([["a"]])}, "shape"),
        ({"B4": np.full((4, 4), np.nan)}, "no numbers"),
        ({"a": np.zeros((8, 8, 3))}, "bands first"),
        ({"a": np.zeros((2, 4, 4)), "a-1": np.zeros((4, 4))}, "two bands of one name"),
        ({}, "empty"),
    ],
)
def test_what_is_no_scene_of_bands_is_one_sentence(arrays: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        read_bands(saved(tmp_path / "a.npz", **arrays))
    whole = saved(tmp_path / "c.npz", B4=np.zeros((40, 40))).read_bytes()
    (tmp_path / "c.npz").write_bytes(whole.replace(b"40, 40", b"99999, 99999".ljust(6)[:6]))
    with pytest.raises(DataError):
        read_bands(tmp_path / "c.npz")
    (tmp_path / "b.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read"):
        read_bands(tmp_path / "b.npz")
