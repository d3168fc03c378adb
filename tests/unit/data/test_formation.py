"""k x k scenes in one image."""

import json
from pathlib import Path

import numpy as np
import pytest

from terradistill.data.check import check_scenes
from terradistill.data.drawn import draw_scenes
from terradistill.data.formation import pack_scenes, packed, unpacked
from terradistill.data.images import decode, resize
from terradistill.data.sources import open_scenes
from terradistill.distillation.scoreboard import learned_by
from terradistill.errors import DataError
from terradistill.models.places import write_learned_from
from tests.conftest import terradistill


def test_what_is_packed_comes_out_again_in_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (18, 30, 30, 3), dtype=np.uint8)
    stored = packed(images, 3)
    assert stored.shape == (2, 30, 30, 3)
    assert np.array_equal(unpacked(stored, 3), np.stack([resize(image, 10) for image in images]))
    assert np.array_equal(stored[0, :10, 10:20], resize(images[1], 10)), "row by row"
    assert packed(images[:4, :29, :29], 2).shape == (1, 28, 28, 3)


def test_a_packed_folder_opens_as_its_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_scenes(tmp_path / "scenes", per_class=8, size=32, n_classes=2, seed=0)
    write_learned_from(tmp_path / "scenes", {"0" * 64})
    command = ("data", "pack", str(tmp_path / "scenes"), "--by", "2", "--out", str(tmp_path / "packed"))
    assert terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    scenes, stored = open_scenes(tmp_path / "scenes"), open_scenes(tmp_path / "packed")
    assert len(list((tmp_path / "packed").glob("*/*.png"))) == 4
    assert stored.counts == scenes.counts
    checked, _ = check_scenes(stored)
    assert len(checked) == 16
    assert (checked.scenes[0].width, checked.scenes[0].height) == (16, 16)
    for i in range(16):
        assert np.array_equal(decode(stored.read(i)), resize(decode(scenes.read(i)), 16))
    told, before = (json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("packed", "scenes"))
    assert told["formation"] == 2
    if before["gsd_m"]:
        assert told["gsd_m"] == 2 * before["gsd_m"], "a pixel shows twice as much"
    assert learned_by(tmp_path / "packed") == {"0" * 64}


def test_what_does_not_fill_its_images_is_refused(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "scenes", per_class=6, size=32, n_classes=2, seed=0)
    with pytest.raises(DataError, match=r"has 6 scenes: 2 x 2 in one take a multiple of 4"):
        pack_scenes(open_scenes(tmp_path / "scenes"), tmp_path / "packed", 2)


@pytest.mark.parametrize("formation", [0, 10, "2", True, 1.5])
def test_an_odd_formation_is_refused(formation: object, tmp_path: Path) -> None:
    draw_scenes(tmp_path / "scenes", per_class=4, size=32, n_classes=2, seed=0)
    card = tmp_path / "scenes" / "dataset.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"formation": formation}))
    with pytest.raises(DataError, match="expected 1 to 9 scenes along a side"):
        open_scenes(tmp_path / "scenes")


def test_an_image_that_cannot_be_cut_so_is_said(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "scenes", per_class=4, size=32, n_classes=2, seed=0)
    card = tmp_path / "scenes" / "dataset.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"formation": 3}))
    with pytest.raises(DataError, match="has 32 x 32 pixels: 3 x 3 scenes in one want a square whose side 3 divides"):
        check_scenes(open_scenes(tmp_path / "scenes"), on_corrupt="error")
