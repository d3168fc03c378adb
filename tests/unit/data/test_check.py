import json
import shutil
from typing import Any

import pytest

from terradistill.data.check import check_scenes, require_enough
from terradistill.data.images import decode, pixel_hash
from terradistill.data.sources import open_scenes
from terradistill.errors import DataError


def test_a_good_folder_is_kept_with_hashes_and_sizes(make_folder: Any) -> None:
    folder = open_scenes(make_folder({"river": 3, "forest": 3}))
    seen: list[tuple[int, int]] = []
    clean, report = check_scenes(folder, progress=lambda *at: seen.append(at))
    assert [scene.name for scene in clean.scenes] == [scene.name for scene in folder.scenes]
    assert all((scene.width, scene.height) == (16, 12) for scene in clean.scenes)
    assert clean.scenes[0].sha256 == pixel_hash(decode(clean.read(0)))
    assert seen == [(6, 6)]
    assert report.dropped == frozenset()
    assert report.summary() == ["6 of 6 images kept, all 16 x 12 pixels"]


def test_what_is_wrong_is_dropped_and_listed(make_folder: Any, encode: Any, noise: Any) -> None:
    root = make_folder({"river": 4, "forest": 4, "lake": 4})
    (root / "river" / "empty.png").write_bytes(b"")
    (root / "river" / "half.png").write_bytes((root / "river" / "00.png").read_bytes()[:200])
    (root / "lake" / "text.jpg").write_text("no image")
    (root / "lake" / "notes.txt").write_text("ignored")
    (root / "forest" / "big.png").write_bytes(encode(noise(99, 30, 30)))
    shutil.copy(root / "river" / "01.png", root / "river" / "copy.png")
    (root / "lake" / "copy.bmp").write_bytes(encode(decode((root / "forest" / "02.png").read_bytes()), "BMP"))

    clean, report = check_scenes(open_scenes(root))
    assert [name for name, _ in report.unreadable] == ["lake/text.jpg", "river/empty.png", "river/half.png"]
    assert report.duplicates == (("river/01.png", "river/copy.png"),)
    assert report.conflicting == (("forest/02.png", "lake/copy.bmp"),)
    assert clean.counts == {"forest": 4, "lake": 4, "river": 4}
    assert report.sizes == {"16 x 12": 11, "30 x 30": 1}
    assert report.n_ignored == 1
    assert (report.n_listed, report.n_kept) == (18, 12)
    assert {s.name for s in open_scenes(root).scenes} - {s.name for s in clean.scenes} == report.dropped
    assert json.loads(json.dumps(report.to_json()))["unreadable"][1]["name"] == "river/empty.png"
    lines = report.summary()
    assert len(lines) == 5
    assert all(len(line) < 160 and "\n" not in line for line in lines)


def test_refuse_names_the_first(make_folder: Any) -> None:
    root = make_folder({"river": 3, "forest": 3})
    (root / "river" / "01.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read; the first is river/01\.png"):
        check_scenes(open_scenes(root), on_corrupt="refuse")


def test_a_folder_of_broken_images_is_refused(make_folder: Any) -> None:
    root = make_folder({"river": 1, "forest": 1})
    for path in root.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="None of the 2 images can be read"):
        check_scenes(open_scenes(root))


def test_enough_is_ipc_and_two_more(make_folder: Any) -> None:
    folder = open_scenes(make_folder({"river": 5, "forest": 4}))
    require_enough(folder, 2)
    with pytest.raises(DataError, match=r"The class 'forest' \(4\) has fewer than the 5 images .* ipc = 3"):
        require_enough(folder, 3)
    with pytest.raises(DataError, match=r"classes 'forest' \(4\), 'river' \(5\) have"):
        require_enough(folder, 10)
    with pytest.raises(DataError, match="0 images"):
        require_enough(folder.subset([]), 1)


def test_one_class_is_not_enough(make_folder: Any) -> None:
    with pytest.raises(DataError, match="only one class, 'river'"):
        require_enough(open_scenes(make_folder({"river": 5})), 1)
