"""What the filters draw, and how given maps find their scenes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import terradistill as td
from terradistill.data import detectors
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels, resize
from terradistill.data.maps import (
    ANNOTATORS,
    PALETTE,
    annotate,
    edges,
    lines,
    load_maps,
    parse_maps,
    read_map,
    require_given,
    require_maps,
    segmentation,
    sketch,
)
from terradistill.errors import ConfigError, DataError, RunError


@pytest.fixture(scope="module")
def square() -> np.ndarray:
    """A bright roof on dark ground."""
    image = np.full((64, 64, 3), 60, np.uint8)
    image[16:48, 20:44] = 200
    return image + np.random.default_rng(0).integers(0, 8, image.shape, dtype=np.uint8)


def test_edges_and_lines_lie_on_the_outline(square: np.ndarray) -> None:
    outline = np.zeros((64, 64), bool)
    outline[14:18, 18:46] = outline[46:50, 18:46] = outline[14:50, 18:22] = outline[14:50, 42:46] = True
    for drawn, least in ((edges(square), 100), (lines(square), 60)):
        assert set(np.unique(drawn)) == {0, 255}
        assert (drawn[outline] > 0).sum() >= least
        assert (drawn[~outline] > 0).sum() <= 4
    assert np.array_equal(lines(square), lines(square)), "chance has a seed"


def test_a_sketch_is_soft_and_a_segmentation_flat(square: np.ndarray) -> None:
    drawn = sketch(square)
    assert drawn.dtype == np.uint8
    assert drawn[32, 5] < 20
    assert drawn.max() > 60
    regions = segmentation(square)
    colours = {tuple(colour) for colour in regions.reshape(-1, 3).tolist()}
    assert colours <= {tuple(colour) for colour in PALETTE.tolist()}
    assert len(colours) > 1
    assert tuple(regions[32, 32]) != tuple(regions[4, 4])
    assert np.array_equal(regions, segmentation(square))


@pytest.mark.parametrize("name", ANNOTATORS)
def test_a_plain_scene_has_plain_maps(name: str) -> None:
    drawn = ANNOTATORS[name](np.full((32, 32, 3), 90, np.uint8))
    assert drawn.shape[:2] == (32, 32)
    assert len(np.unique(drawn.reshape(32 * 32, -1), axis=0)) == 1


def test_maps_are_asked_for_by_name() -> None:
    assert parse_maps(["road=masks", "edges"]) == {"edges": None, "road": Path("masks")}
    for odd, says in (
        (["roof"], "expected any of"),
        (["edges", "edges"], "each once"),
        (["depth"], "No filter"),
        ([], "No maps"),
    ):
        with pytest.raises(ConfigError, match=says):
            parse_maps(odd)


def test_given_maps_find_their_scenes(tmp_path: Path, square: np.ndarray) -> None:
    td.write_scene_folder(tmp_path / "images", ("a",), np.stack([square, square + 1]), [0, 0], [{}, {}], {"name": "x"})
    scenes, _ = check_scenes(td.open_scenes(tmp_path / "images"))
    (tmp_path / "masks").mkdir()
    for i in range(2):
        mask = np.zeros((128, 128), np.uint8)
        mask[:, : 64 * (i + 1)] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"a_{i:04d}.png")
    wanted = parse_maps(["edges", f"road={tmp_path / 'masks'}"])
    pixels = load_pixels(scenes, 64, tmp_path / "pixels.npy")
    planes = load_maps(scenes, wanted, pixels, tmp_path / "maps.npy")
    assert planes.shape == (2, 2, 64, 64)
    assert np.array_equal(planes[0, 0], edges(square))
    assert (planes[:, 1] > 0).mean((1, 2)).tolist() == [0.5, 1.0]
    before = (tmp_path / "maps.npy").stat().st_mtime_ns
    load_maps(scenes, wanted, pixels, tmp_path / "maps.npy")
    assert (tmp_path / "maps.npy").stat().st_mtime_ns == before
    (tmp_path / "masks" / "a_0001.png").unlink()
    with pytest.raises(DataError, match=r"no map for a/a_0001\.png"):
        load_maps(scenes, wanted, pixels, tmp_path / "other.npy")


def test_given_maps_are_one_a_scene_and_shaped_like_it(tmp_path: Path, square: np.ndarray) -> None:
    td.write_scene_folder(tmp_path / "images", ("a",), np.stack([square]), [0], [{}], {"name": "x"})
    scenes, _ = check_scenes(td.open_scenes(tmp_path / "images"))
    pixels, folder = load_pixels(scenes, 64, tmp_path / "pixels.npy"), tmp_path / "masks"
    wanted = parse_maps([f"road={folder}"])
    folder.mkdir()
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / "a_0000.tif")
    assert load_maps(scenes, wanted, pixels, tmp_path / "maps.npy").all()
    Image.fromarray(np.full((40, 80), 255, np.uint8)).save(folder / "a_0000.tif")
    with pytest.raises(DataError, match=r"a_0000\.tif is 80 x 40 pixels .* the same shape"):
        require_given(scenes, wanted)
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / "a_0000.png")
    with pytest.raises(DataError, match=r"two maps for a_0000"):
        require_given(scenes, wanted)


def test_annotating_leaves_a_folder_a_map_and_goes_on(tmp_path: Path, square: np.ndarray) -> None:
    td.write_scene_folder(tmp_path / "s", ("a", "b"), np.stack([square] * 2), [0, 1], [{}, {}], {"name": "x"})
    made = annotate(tmp_path / "s", ["edges", "segmentation"], tmp_path / "maps")
    assert set(made) == {"edges", "segmentation"}
    file = tmp_path / "maps" / "edges" / "b" / "b_0000.png"
    assert np.array_equal(np.asarray(Image.open(file)), edges(square))
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(file)
    (tmp_path / "maps" / "edges" / "a" / "a_0000.png").unlink()
    annotate(tmp_path / "s", ["edges"], tmp_path / "maps")
    assert (tmp_path / "maps" / "edges" / "a" / "a_0000.png").exists()
    assert not np.asarray(Image.open(file)).any(), "what another program has saved is left"
    td.write_scene_folder(tmp_path / "t", ("a", "b"), np.stack([square[::-1]] * 2), [0, 1], [{}, {}], {"name": "x"})
    annotate(tmp_path / "t", ["edges"], tmp_path / "maps")
    other = np.asarray(Image.open(tmp_path / "maps" / "edges" / "a" / "a_0000.png"))
    assert np.array_equal(other, edges(square[::-1])), "a scene of the same name gets a map of its own"
    with pytest.raises(ConfigError, match="is given"):
        annotate(tmp_path / "s", ["road=x"], tmp_path / "maps")
    with pytest.raises(RunError, match="lies inside"):
        annotate(tmp_path / "s", ["edges"], tmp_path / "s" / "maps")


def test_a_map_is_cropped_as_its_scene_is(tmp_path: Path) -> None:
    wide = np.zeros((40, 60), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    drawn = read_map(tmp_path / "wide.png", "road", 20)
    scene = resize(np.repeat(wide[..., None], 3, 2), 20)[..., 0]
    assert np.array_equal(drawn > 127, scene > 127)
    assert (drawn[:, :5] == 255).all()
    assert not drawn[:, 5:].any()


def test_no_scene_is_given_the_map_of_another(tmp_path: Path, square: np.ndarray) -> None:
    both = np.stack([square, square + 1])
    td.write_scene_folder(tmp_path / "s", ("a", "b"), both, [0, 1], [{}, {}], {"name": "x"})
    (tmp_path / "s" / "b" / "b_0000.png").rename(tmp_path / "s" / "b" / "a_0000.png")
    (tmp_path / "s" / "metadata.jsonl").unlink()
    scenes, _ = check_scenes(td.open_scenes(tmp_path / "s"))
    (tmp_path / "masks" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "masks" / "a" / "a_0000.png")
    pixels = load_pixels(scenes, 64, tmp_path / "pixels.npy")
    with pytest.raises(DataError, match=r"no map for b/a_0000\.png"):
        load_maps(scenes, parse_maps([f"road={tmp_path / 'masks'}"]), pixels, tmp_path / "maps.npy")


def test_maps_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    for array in (np.linspace(0, 65535, 64).astype(np.uint16), np.ones(64, np.float32), np.ones(64, np.int32)):
        Image.fromarray(array.reshape(8, 8)).save(tmp_path / "deep.tif")
        with pytest.raises(DataError, match="more than 8 bits"):
            read_map(tmp_path / "deep.tif", "depth", 8)


def test_a_mask_of_ones_is_refused(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert not read_map(tmp_path / "mask.png", "road", 8).any(), "nothing may be there"
    mask[2:4] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="numbers from 0 to 1,"):
        read_map(tmp_path / "mask.png", "road", 8)
    Image.fromarray(5 * mask).save(tmp_path / "classes.png")
    for name in ("road", "segmentation"):
        with pytest.raises(DataError, match="numbers from 0 to 5,"):
            read_map(tmp_path / "classes.png", name, 8)
    assert read_map(tmp_path / "classes.png", "edges", 8).max() == 5, "faint edges are edges"
    Image.fromarray(mask.astype(bool)).save(tmp_path / "mask.png")
    assert read_map(tmp_path / "mask.png", "road", 8).max() == 255, "one bit a pixel is black and white"


def test_nothing_is_where_a_map_is_transparent(tmp_path: Path) -> None:
    mask = np.full((8, 8, 4), 255, np.uint8)
    mask[4:, :, 3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    drawn = read_map(tmp_path / "mask.png", "road", 8)
    assert (drawn[:4] == 255).all()
    assert not drawn[4:].any()


@pytest.mark.parametrize("error", [ValueError("bad\nand more"), SyntaxError("broken"), IndexError()])
def test_whatever_a_damaged_map_raises_is_one_sentence(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", damaged)
    with pytest.raises(DataError, match=r"mask\.png cannot be read \((bad|broken|IndexError)\)"):
        read_map(tmp_path / "mask.png", "road", 8)


def test_a_detector_that_is_not_installed_is_missed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"\[detectors\]"):
        require_maps(["edges", "depth:midas"])


def test_scenes_that_differ_in_their_ending_have_no_maps(tmp_path: Path, square: np.ndarray) -> None:
    for name in ("a/x.png", "a/x.jpg", "b/y.png"):
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square).save(tmp_path / "s" / name)
    with pytest.raises(DataError, match="2 scenes are named a/x"):
        annotate(tmp_path / "s", ["edges"], tmp_path / "maps")


def test_a_mended_map_is_read_anew(tmp_path: Path, square: np.ndarray) -> None:
    td.write_scene_folder(tmp_path / "s", ("a", "b"), np.stack([square, square[::-1]]), [0, 1], [{}, {}], {"name": "x"})
    scenes, _ = check_scenes(td.open_scenes(tmp_path / "s"))
    annotate(tmp_path / "s", ["edges"], tmp_path / "maps")
    wanted, pixels = {"edges": tmp_path / "maps" / "edges"}, load_pixels(scenes, 64, tmp_path / "pixels.npy")
    before = np.array(load_maps(scenes, wanted, pixels, tmp_path / "maps.npy"))
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(wanted["edges"] / "b" / "b_0000.png")
    after = load_maps(scenes, wanted, pixels, tmp_path / "maps.npy")
    assert np.array_equal(before[0], after[0])
    assert (after[1] == 255).all()
