from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terradistill.report.gallery import PAPER, contact_sheet, write_gallery


def test_images_stand_in_their_rows() -> None:
    images = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(1, 6)])
    sheet = np.asarray(contact_sheet(images, 3, scale=2))
    margin, step = 16, 18
    for i in range(5):
        y, x = margin + step * (i // 3), margin + step * (i % 3)
        assert (sheet[y : y + 16, x : x + 16] == 10 * (i + 1)).all()
    assert tuple(sheet[margin + step, margin + 2 * step]) == PAPER, "the last row is shorter"


def test_labels_make_room_at_the_left_and_are_cut() -> None:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    plain, labelled = contact_sheet(images, 1), contact_sheet(images, 1, labels=["river", "x" * 500])
    assert plain.width < labelled.width < plain.width + 200
    assert plain.height == labelled.height


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        contact_sheet(images, 2)


def test_labels_must_count_the_rows() -> None:
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        contact_sheet(np.zeros((4, 8, 8, 3), np.uint8), 2, labels=["one"])


def test_gallery_of_files_leaves_empty_classes_out(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (300, 200), (1, 2, 3)).save(path)
    write_gallery({"full": [path] * 30, "one": [path], "empty": []}, tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as sheet:
        assert 2 * 128 < sheet.height < 2 * 128 + 100, "tiles are bounded, and two rows are drawn"
        assert sheet.width > 20 * 128
    write_gallery({"empty": []}, tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()


def test_a_single_class_fills_rows_of_eight(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (128, 128), (1, 2, 3)).save(path)
    write_gallery({"river": [path] * 12, "empty": []}, tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as sheet:
        assert 8 * 128 < sheet.width < 9 * 128 + 200
        assert 2 * 128 < sheet.height < 3 * 128
