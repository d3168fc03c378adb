import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from terradistill.data.catalogue import CATALOGUE, identify
from terradistill.data.images import decode
from terradistill.data.sources import open_scenes, with_captions
from terradistill.errors import DataError


def zipped(folder: Path, inside: str = "") -> Path:
    out = folder.with_suffix(".zip")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{inside}{path.relative_to(folder).as_posix()}")
    return out


def names(folder: Any) -> list[str]:
    return [scene.name for scene in folder.scenes]


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("wrap", ["", "Data/", "UCMerced_LandUse/Images/"])
def test_class_folders_below_any_wrapping(make_folder: Any, wrap: str, as_zip: bool) -> None:
    root = make_folder({f"{wrap}river": 3, f"{wrap}forest": 2})
    folder = open_scenes(zipped(root) if as_zip else root)
    assert folder.classes == ("forest", "river")
    assert names(folder) == ["forest/00.png", "forest/01.png", "river/00.png", "river/01.png", "river/02.png"]
    assert folder.labels.tolist() == [0, 0, 1, 1, 1]
    assert decode(folder.read(4)).shape == (12, 16, 3)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("wrap", ["", "data/"])
def test_split_folders_are_merged_unless_one_is_asked_for(make_folder: Any, wrap: str, as_zip: bool) -> None:
    root = make_folder({f"{wrap}{s}/{c}": 2 for s in ("train", "validation", "test") for c in ("river", "forest")})
    data = zipped(root) if as_zip else root
    folder = open_scenes(data)
    assert len(folder) == 12
    assert folder.classes == ("forest", "river")
    assert names(folder)[0] == "test/forest/00.png"
    assert names(open_scenes(data, split="val"))[0] == "validation/forest/00.png"
    assert len(open_scenes(data, split="train")) == 4
    with pytest.raises(DataError, match="no split 'dev': it has test, train, val"):
        open_scenes(data, split="dev")


def test_a_split_of_a_folder_without_splits_is_refused(make_folder: Any) -> None:
    with pytest.raises(DataError, match="no split folders"):
        open_scenes(make_folder({"a": 1, "b": 1}), split="train")


@pytest.mark.parametrize("as_zip", [False, True])
def test_system_files_are_passed_over_and_others_counted(make_folder: Any, as_zip: bool) -> None:
    root = make_folder({"river": 2, "forest": 2, "__MACOSX/river": 1, ".cache/x": 1, "empty": 0})
    (root / "river" / "._00.png").write_bytes(b"resource fork")
    (root / "river" / "Thumbs.db").write_bytes(b"thumbs")
    (root / "river" / "notes.txt").write_text("two")
    (root / "places.csv").write_text("one")
    (root / "README.md").write_text("of scene folders, as a dataset card")
    folder = open_scenes(zipped(root) if as_zip else root)
    assert len(folder) == 4
    assert folder.classes == ("forest", "river")
    assert folder.n_ignored == 2


def test_folder_and_zip_read_alike(make_folder: Any) -> None:
    root = make_folder({"river": 2, "forest": 2})
    folder, archive = open_scenes(root), open_scenes(zipped(root))
    assert folder.scenes == archive.scenes
    assert [folder.read(i) for i in range(4)] == [archive.read(i) for i in range(4)]


def test_a_zip_is_read_by_many_threads(make_folder: Any) -> None:
    root = make_folder({"river": 40, "forest": 40})
    folder, archive = open_scenes(root), open_scenes(zipped(root))
    expected = [folder.read(i) for i in range(80)] * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(archive.read, list(range(80)) * 5)) == expected


def test_a_damaged_member_is_named(make_folder: Any) -> None:
    path = zipped(make_folder({"river": 1, "forest": 1}))
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("river/00.png").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 80 : offset + 120] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"river/00\.png.*damaged"):
        open_scenes(path).read(1)


def test_links_into_a_circle_end(make_folder: Any) -> None:
    root = make_folder({"river": 2, "forest": 2})
    (root / "river" / "again").symlink_to(root, target_is_directory=True)
    assert len(open_scenes(root)) == 4


@pytest.mark.parametrize("data", ["x" * 5000, "~nobody-here/scenes", "a\0b"])
def test_names_that_can_be_no_path_are_refused(data: str) -> None:
    with pytest.raises(DataError, match="no known name"):
        open_scenes(data)


def test_one_captions_file_may_be_of_several_folders(make_folder: Any, tmp_path: Path) -> None:
    root = make_folder({"river": 2, "forest": 1})
    kept = open_scenes(root)
    other = kept.with_scenes(replace(scene, name=f"else/{scene.name}x") for scene in kept.scenes)
    captions = tmp_path / "captions.jsonl"
    captions.write_text(json.dumps({"file_name": "river/01.png", "captions": ["wide"]}))
    first, second = with_captions([kept, other], captions)
    assert {scene.name: scene.captions for scene in first.scenes}["river/01.png"] == ("wide",)
    assert second == other
    with pytest.raises(DataError, match="names none of the"):
        with_captions([other, other], captions)


@pytest.mark.parametrize("as_zip", [False, True])
def test_metadata_and_captions_find_their_scenes(make_folder: Any, as_zip: bool) -> None:
    root = make_folder({"train/river": 2, "train/forest": 1, "test/forest": 1, "test/river": 1})
    rows = [
        {"file_name": "river/00.png", "caption": "a river", "lon": 9.5, "month": 7, "note": [1, {}]},
        {"file_name": "river/01.png", "text": ["one", "two", ""], "cloud_fraction": None},
    ]
    (root / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (root / "captions.jsonl").write_text(json.dumps({"file_name": "./train/river/00.png", "captions": ["better"]}))
    beside = root.with_name("scenes_captions.jsonl")
    beside.write_text(json.dumps({"file_name": "test\\forest\\00.png", "captions": ["beside"]}))
    folder = open_scenes(zipped(root) if as_zip else root)
    found = {scene.name: (scene.captions, scene.metadata) for scene in folder.scenes}
    assert found["train/river/00.png"] == (("better",), {"lon": 9.5, "month": 7.0})
    assert found["train/river/01.png"] == (("one", "two"), {})
    assert found["test/forest/00.png"] == (("beside",), {})
    assert found["test/river/00.png"] == ((), {})
    assert folder.n_ignored == 0


def test_bare_names_match_only_when_unique(make_folder: Any, tmp_path: Path) -> None:
    root = make_folder({"river": 2, "forest": 1})
    captions = tmp_path / "any.jsonl"
    captions.write_text('{"file_name": "00.png", "caption": "which?"}\n{"file_name": "01.png", "caption": "second"}')
    folder = open_scenes(root, captions=captions)
    assert [scene.captions for scene in folder.scenes] == [(), (), ("second",)]


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"file_name": 3}', '{"file_name": "a", "caption": 5}', '{"file_name": "a", "lon": "east"}',
             '{"file_name": "a", "lat": NaN}', '{"file_name": "a", "month": true}']
)  # fmt: skip
def test_a_malformed_line_is_named(make_folder: Any, line: str) -> None:
    root = make_folder({"a": 1, "b": 1})
    (root / "metadata.jsonl").write_text('{"file_name": "a/00.png"}\n' + line)
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2"):
        open_scenes(root)


def test_the_catalogue_lists_what_it_says() -> None:
    sizes = {"eurosat": 10, "ucmerced": 21, "aid": 30, "resisc45": 45, "rsscn7": 7, "whu-rs19": 19}
    sizes |= {"patternnet": 38, "siri-whu": 12, "optimal-31": 31}
    assert {name: len(set(known.classes)) for name, known in CATALOGUE.items()} == sizes
    assert all(
        known.info.name == name and set(known.info.readable) <= set(known.classes) for name, known in CATALOGUE.items()
    )


def test_a_dataset_is_recognised_by_its_whole_set_of_classes_only(make_folder: Any) -> None:
    classes = CATALOGUE["rsscn7"].classes
    info = identify([name.upper() for name in classes])
    assert info is not None
    assert info.name == "rsscn7"
    assert info.readable["DRIVERLAKE"] == "river or lake"
    assert identify(classes[:-1]) is None
    assert identify([*classes, "x"]) is None
    folder = open_scenes(make_folder(dict.fromkeys(classes, 1)))
    assert folder.readable("dRiverLake") == "river or lake"
    assert folder.info.citation


def test_the_folders_own_card_beats_the_catalogue(make_folder: Any) -> None:
    root = make_folder(dict.fromkeys(CATALOGUE["rsscn7"].classes, 1))
    card = {"license": "CC0", "gsd_m": 0.5, "readable": {"aGrass": "lawn"}, "classes": ["ignored"]}
    (root / "dataset.json").write_text(json.dumps(card))
    folder = open_scenes(root)
    assert (folder.info.licence, folder.info.gsd_m, folder.readable("aGrass")) == ("CC0", 0.5, "lawn")
    assert folder.info.title == "RSSCN7"
    assert folder.readable("bField") == "field"


@pytest.mark.parametrize(
    "card", ["{", "[]", '{"gsd_m": "ten"}', '{"gsd_m": -1}', '{"readable": ["a"]}', '{"synthetic": 1}']
)
def test_a_wrong_card_is_refused(make_folder: Any, card: str) -> None:
    root = make_folder({"a": 1, "b": 1})
    (root / "dataset.json").write_text(card)
    with pytest.raises(DataError, match=r"dataset\.json"):
        open_scenes(root)


def test_a_note_of_another_scene_is_not_taken(make_folder: Any, tmp_path: Path) -> None:
    """DATA is often a part of what a captions file describes, and numbered anew in each class."""
    root = make_folder({"river": 2, "forest": 1})
    (root / "river" / "00.png").unlink()
    rows = [{"file_name": f"{name}/{i:02d}.png", "caption": name} for name in ("forest", "river") for i in range(2)]
    captions = tmp_path / "any.jsonl"
    captions.write_text("\n".join(map(json.dumps, rows)))
    assert [scene.captions for scene in open_scenes(root, captions=captions).scenes] == [("forest",), ("river",)]
    rows = [{"file_name": f"{part}/forest/00.png", "caption": part} for part in ("train", "test")]
    captions.write_text("\n".join(map(json.dumps, [*rows, {"file_name": "lake/01.png", "caption": "flat"}])))
    assert [scene.captions for scene in open_scenes(root, captions=captions).scenes] == [(), ("flat",)]
    captions.write_text(
        json.dumps({"file_name": "any/forest/01.png", "caption": "another class"}) + "\n" + json.dumps(rows[0])
    )
    assert [scene.captions for scene in open_scenes(root, captions=captions).scenes] == [("train",), ()]


def test_a_number_too_long_for_a_float_is_refused(make_folder: Any) -> None:
    root = make_folder({"a": 1, "b": 1})
    (root / "metadata.jsonl").write_text('{"file_name": "a/00.png", "lon": 1' + "0" * 400 + "}")
    with pytest.raises(DataError, match="expected a number"):
        open_scenes(root)


@pytest.mark.parametrize("wrap", ["Images/", "train/"])
def test_a_few_stray_pictures_are_passed_over(make_folder: Any, wrap: str) -> None:
    folder = open_scenes(make_folder({f"{wrap}river": 12, f"{wrap}forest": 12, "docs": 1}))
    assert folder.classes == ("forest", "river")
    assert len(folder) == 24
    assert folder.n_ignored == 1


def test_classes_with_folders_in_them_stay_beside_flat_ones(make_folder: Any) -> None:
    folder = open_scenes(make_folder({"forest/a": 12, "forest/b": 12, "lake": 4}))
    assert folder.classes == ("forest", "lake")


def test_members_of_a_zip_may_begin_with_a_dot(make_folder: Any) -> None:
    root = make_folder({"river": 1, "forest": 1})
    assert names(open_scenes(zipped(root, "./"))) == ["forest/00.png", "river/00.png"]


def test_a_folder_that_cannot_be_read_is_named(make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scandir = make_folder({"river": 1, "forest": 1}), os.scandir

    def closed(path: str) -> Any:
        if str(path).endswith("forest"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"forest cannot be read \(Permission denied\)"):
        open_scenes(root)


def test_a_card_of_hugging_face_does_not_make_a_saved_dataset(make_folder: Any) -> None:
    root = make_folder({"river": 1, "forest": 1})
    (root / "dataset_info.json").write_text("{}")
    assert len(open_scenes(root)) == 2
