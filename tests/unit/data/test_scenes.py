import json
from pathlib import Path

import numpy as np
import pytest

from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder, readable_name
from terradistill.data.sources import open_scenes
from terradistill.data.writing import write_scene_folder
from terradistill.errors import DataError, RunError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AnnualCrop", "annual crop"),
        ("sea_ice", "sea ice"),
        ("storage-tank", "storage tank"),
        ("railwayStation", "railway station"),
        ("UCMerced", "uc merced"),
        ("area51", "area 51"),
        ("2021_River", "2021 river"),
        ("river", "river"),
        ("Grünfläche2", "grünfläche 2"),
        ("___", "___"),
    ],
)
def test_readable_name(name: str, words: str) -> None:
    assert readable_name(name) == words


def folder_of(names: list[str]) -> SceneFolder:
    scenes = tuple(Scene(name, "ab".index(name[0])) for name in sorted(names))
    return SceneFolder(("a", "b"), scenes, DatasetInfo("x", readable={"a": "anything"}), str.encode)


def test_a_folder_counts_reads_and_names_its_scenes() -> None:
    folder = folder_of(["b/1.png", "a/2.png", "a/1.png"])
    assert len(folder) == 3
    assert folder.read(2) == b"b/1.png"
    assert folder.labels.dtype == np.int64
    assert folder.labels.tolist() == [0, 0, 1]
    assert folder.counts == {"a": 2, "b": 1}
    assert (folder.readable("a"), folder.readable("b")) == ("anything", "b")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("01_Forest", "02_SeaLake"), ["forest", "sea lake"]),
        (("1_river", "2_river"), ["1 river", "2 river"]),
        (("1", "2"), ["1", "2"]),
        (("3d-city", "forest"), ["3 d city", "forest"]),
    ],
)
def test_a_number_that_only_orders_folders_is_not_read(classes: tuple[str, ...], words: list[str]) -> None:
    folder = SceneFolder(classes, (), DatasetInfo(name="x"), bytes)  # type: ignore[arg-type]
    assert [folder.readable(name) for name in classes] == words


def test_a_subset_is_sorted_whatever_the_order_and_keeps_all_classes() -> None:
    folder = folder_of(["b/1.png", "a/2.png", "a/1.png"])
    part = folder.subset([1, 0, 1])
    assert [scene.name for scene in part.scenes] == ["a/1.png", "a/2.png"]
    assert part.counts == {"a": 2, "b": 0}
    assert part.fingerprint == folder.subset(np.array([0, 1])).fingerprint != folder.fingerprint


def write(out: Path, n: int = 3) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * n, 8, 8, 3), dtype=np.uint8)
    metadata = [{"caption": f"scene {i}", "month": i % 12 + 1} | ({"lon": 1.5} if i == 0 else {}) for i in range(2 * n)]
    write_scene_folder(out, ["river", "SeaIce"], images, [0, 1] * n, metadata, {"licence": "MIT", "gsd_m": 2.0})


def test_a_written_folder_reads_back(tmp_path: Path) -> None:
    write(tmp_path / "made")
    folder = open_scenes(tmp_path / "made")
    assert folder.classes == ("SeaIce", "river")
    assert [scene.name for scene in folder.scenes][:2] == ["SeaIce/SeaIce_0000.png", "SeaIce/SeaIce_0001.png"]
    river = next(scene for scene in folder.scenes if scene.name == "river/river_0000.png")
    assert river.captions == ("scene 0",)
    assert river.metadata == {"lon": 1.5, "month": 1.0}
    assert (folder.info.licence, folder.info.gsd_m, folder.n_ignored) == ("MIT", 2.0, 0)
    card = json.loads((tmp_path / "made" / "dataset.json").read_text())
    assert card["classes"] == ["river", "SeaIce"]
    assert card["readable"] == {"river": "river", "SeaIce": "sea ice"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_a_written_folder_opens_as_a_hugging_face_imagefolder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "made")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "made"), cache_dir=str(tmp_path / "cache"))
    rows = loaded["train"]
    assert set(rows.column_names) == {"image", "label", "caption", "month", "lon"}
    assert len(rows) == 6
    assert sorted({str(label) for label in rows["label"]}) == ["SeaIce", "river"]
    assert sorted(rows["caption"]) == [f"scene {i}" for i in range(6)]


def test_only_class_folders_hold_images(tmp_path: Path) -> None:
    write(tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "SeaIce",
        "dataset.json",
        "metadata.jsonl",
        "river",
    ]
    assert all(path.suffix == ".png" for path in (tmp_path / "made" / "river").iterdir())


def test_two_classes_of_one_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="would be one folder"):
        write_scene_folder(
            tmp_path / "made", ["a", "a"], np.zeros((2, 8, 8, 3), np.uint8), [0, 1], [{}, {}], {"name": "two"}
        )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "made")
    with pytest.raises(RunError, match="is not empty"):
        write(tmp_path / "made")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".git", "a\\b", "a:b"])
def test_a_class_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="folder name"):
        write_scene_folder(tmp_path / "x", [name], np.zeros((0, 4, 4, 3), np.uint8), [], [], {})


def test_lengths_must_agree(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 images, 2 labels"):
        write_scene_folder(tmp_path / "x", ["a"], np.zeros((1, 4, 4, 3), np.uint8), [0, 0], [{}], {})
