"""The data room on real downloads; skipped where they are not at hand."""

from pathlib import Path

import pytest

from terradistill.data.captions import captions_of
from terradistill.data.check import check_scenes, require_enough
from terradistill.data.images import load_pixels
from terradistill.data.sources import open_scenes
from terradistill.data.splits import assert_disjoint, limit_scenes, load_split, save_split, split_scenes

DATA = Path(__file__).parents[2].parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA.parent.name}/{DATA.name}")
pytestmark = needs_data

EXPECTED = {
    "eurosat": (27_000, 10, "MIT"),
    "ucmerced": (2_100, 21, "public domain (USGS)"),
    "aid128": (10_000, 30, None),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_zip_goes_through_the_whole_room(name: str, tmp_path: Path) -> None:
    path = DATA / f"{name}.zip"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    n_images, n_classes, licence = EXPECTED[name]
    listed = open_scenes(path)
    assert (len(listed), len(listed.classes), listed.n_ignored) == (n_images, n_classes, 0)
    assert licence is None or listed.info.licence == licence

    folder, report = check_scenes(limit_scenes(listed, 40, seed=0))
    assert not report.unreadable
    assert not report.conflicting
    train, test = split_scenes(folder, 0.5, seed=0)
    require_enough(train, ipc=10)
    assert_disjoint(train, test)
    save_split(tmp_path / "split.json", train, test)
    assert load_split(tmp_path / "split.json", folder) == (train, test)
    assert load_pixels(train, 32, tmp_path / "pixels.npy").shape == (len(train), 32, 32, 3)


@pytest.mark.parametrize("name", ["ucmerced", "aid128"])
def test_captions_beside_a_zip_are_found_for_every_scene(name: str) -> None:
    if not (DATA / f"{name}_captions.jsonl").is_file():
        pytest.skip(f"{name}_captions.jsonl is absent")
    folder = open_scenes(DATA / f"{name}.zip")
    assert all(scene.captions for scene in folder.scenes)
    assert sum(map(len, captions_of(folder, "{class}"))) > len(folder)
