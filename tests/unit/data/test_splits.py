import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder
from terradistill.data.splits import (
    assert_disjoint,
    divide,
    limit_scenes,
    load_split,
    places_of,
    save_split,
    split_places,
    split_scenes,
)
from terradistill.errors import DataError
from terradistill.settings import DataSettings


def folder_of(counts: dict[str, int], salt: str = "") -> SceneFolder:
    classes = tuple(sorted(counts))
    scenes = [
        Scene(f"{name}/{i:03d}.png", label, sha256=f"{salt}{name}{i}", width=8, height=6)
        for label, name in enumerate(classes)
        for i in range(counts[name])
    ]
    return SceneFolder(classes, tuple(sorted(scenes, key=lambda s: s.name)), DatasetInfo("x"), str.encode)


def names(folder: SceneFolder) -> list[str]:
    return [scene.name for scene in folder.scenes]


def test_a_split_is_stratified_disjoint_and_complete() -> None:
    folder = folder_of({"a": 10, "b": 7, "c": 2})
    train, test = split_scenes(folder, 0.5, 0)
    assert train.counts == {"a": 5, "b": 4, "c": 1}
    assert test.counts == {"a": 5, "b": 3, "c": 1}
    assert sorted(names(train) + names(test)) == names(folder)
    assert train.classes == test.classes == folder.classes


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_each_side_keeps_at_least_one(fraction: float) -> None:
    train, test = split_scenes(folder_of({"a": 5, "b": 2}), fraction, 0)
    assert min(*train.counts.values(), *test.counts.values()) == 1


def test_a_split_depends_on_seed_and_names_alone() -> None:
    folder = folder_of({"a": 40, "b": 40})
    shuffled = replace(folder, scenes=tuple(reversed(folder.scenes)))
    assert names(split_scenes(shuffled, 0.3, 1)[0]) == names(split_scenes(folder, 0.3, 1)[0])
    assert names(split_scenes(folder, 0.3, 1)[0]) != names(split_scenes(folder, 0.3, 2)[0])


def test_a_new_image_hardly_moves_others() -> None:
    before = set(names(split_scenes(folder_of({"a": 40, "b": 2}), 0.5, 0)[0]))
    after = set(names(split_scenes(folder_of({"a": 41, "b": 2}), 0.5, 0)[0]))
    assert len(before ^ after) <= 2


def test_a_class_of_one_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="Class 'b' has 1 images"):
        split_scenes(folder_of({"a": 5, "b": 1}), 0.5, 0)


def test_a_limit_is_stratified_and_nested() -> None:
    folder = folder_of({"a": 30, "b": 4})
    few, more = (
        limit_scenes(folder, DataSettings(limit=3)),
        limit_scenes(folder, DataSettings(limit=6)),
    )
    assert few.counts == {"a": 3, "b": 3}
    assert more.counts == {"a": 6, "b": 4}
    assert set(names(few)) < set(names(more))
    assert names(limit_scenes(folder, DataSettings(limit=3, split_seed=1))) != names(few)


def test_a_saved_split_loads(tmp_path: Path) -> None:
    folder = folder_of({"a": 6, "b": 6})
    train, test = split_scenes(folder, 0.5, 3)
    save_split(tmp_path / "split.json", train, test, seed=3, train_fraction=0.5)
    content = json.loads((tmp_path / "split.json").read_text())
    assert (content["seed"], content["train_fraction"]) == (3, 0.5)
    first = train.scenes[0]
    assert content["train"][0] == {"name": first.name, "sha256": first.sha256, "width": 8, "height": 6}
    again = load_split(tmp_path / "split.json", folder)
    assert [names(side) for side in again] == [names(train), names(test)]
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]
    listed = folder.with_scenes(replace(scene, sha256="", width=0, height=0) for scene in folder.scenes)
    assert load_split(tmp_path / "split.json", listed) == again


def test_an_image_that_changed_since_is_refused(tmp_path: Path) -> None:
    save_split(tmp_path / "split.json", *split_scenes(folder_of({"a": 4, "b": 4}), 0.5, 0))
    with pytest.raises(DataError, match="has changed"):
        load_split(tmp_path / "split.json", folder_of({"a": 4, "b": 4}, salt="other"))


def test_scenes_that_a_generator_has_seen_do_not_judge() -> None:
    folder = folder_of({"a": 10, "b": 6})
    seen = {f"a{i}" for i in range(7)} | {"b0"}
    train, test = split_scenes(folder, 0.5, 0, seen)
    hashes = [{scene.sha256 for scene in side.scenes} for side in (train, test)]
    assert train.counts == {"a": 5, "b": 3}
    assert {h for h in hashes[0] if h.startswith("a")} <= seen
    assert "b0" in hashes[0]
    assert hashes[1] == {"a7", "a8", "a9"} | ({f"b{i}" for i in range(6)} - hashes[0])
    with pytest.raises(DataError, match="learned from every image of class 'b'"):
        split_scenes(folder, 0.5, 0, seen | {f"b{i}" for i in range(6)})


GOOD: dict[str, Any] = {"train": ["a/000.png", "b/000.png"], "test": ["a/001.png", "b/001.png"]}


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_plain_names_load_and_may_leave_images_out(tmp_path: Path) -> None:
    train, test = load_split(written(tmp_path, GOOD), folder_of({"a": 3, "b": 3}))
    assert [names(train), names(test)] == [GOOD["train"], GOOD["test"]]


def test_names_that_the_check_dropped_are_passed_over(tmp_path: Path) -> None:
    content = GOOD | {"test": [*GOOD["test"], "a/009.png"]}
    _, test = load_split(written(tmp_path, content), folder_of({"a": 3, "b": 3}), dropped={"a/009.png"})
    assert len(test) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (GOOD | {"train": [*GOOD["train"], "a/999.png"]}, "'a/999.png', which is not in the data"),
        (GOOD | {"train": [*GOOD["train"], "b/001.png"]}, "'b/001.png' is in train and in test"),
        (GOOD | {"test": ["a/001.png"]}, "test has no image of class 'b'"),
        (GOOD | {"train": "a/000.png"}, "no list 'train'"),
        (GOOD | {"train": [1]}, "'1'"),
        ({"train": GOOD["train"]}, "no list 'test'"),
        ([], "holds a list"),
        ("{", "not valid JSON"),
    ],
)
def test_wrong_split_files_are_refused(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_split(written(tmp_path, content), folder_of({"a": 3, "b": 3}))


def test_an_exact_copy_on_both_sides_is_refused(tmp_path: Path) -> None:
    folder = folder_of({"a": 3, "b": 3})
    scenes = [replace(s, sha256="same") if s.name in ("a/000.png", "a/001.png") else s for s in folder.scenes]
    with pytest.raises(DataError, match=r"'a/001\.png' of test is an exact copy of 'a/000\.png'"):
        load_split(written(tmp_path, GOOD), folder.with_scenes(scenes))


def test_disjoint_sides_pass_and_unchecked_ones_go_by_name() -> None:
    folder = folder_of({"a": 4, "b": 4})
    assert_disjoint(*split_scenes(folder, 0.5, 0))
    unchecked = folder.with_scenes(replace(scene, sha256="") for scene in folder.scenes)
    assert_disjoint(*split_scenes(unchecked, 0.5, 0))
    with pytest.raises(DataError, match="exact copy"):
        assert_disjoint(unchecked, unchecked)


def test_a_split_file_may_name_scenes_as_windows_does(tmp_path: Path) -> None:
    folder = folder_of({"a": 2, "b": 2})
    names = [scene.name for scene in folder.scenes]
    sides = {"train": [names[0], f"./{names[2]}"], "test": [names[1].replace("/", "\\"), names[3]]}
    (tmp_path / "split.json").write_text(json.dumps(sides))
    train, test = load_split(tmp_path / "split.json", folder)
    assert [scene.name for scene in (*train.scenes, *test.scenes)] == [names[0], names[2], names[1], names[3]]


def dates_of(*names: str) -> SceneFolder:
    classes = ("after", "before")
    scenes = [
        Scene(name, classes.index(next(part for part in name.split("/") if part in classes)), sha256=name)
        for name in names
    ]
    return SceneFolder(classes, tuple(scenes), DatasetInfo("x"), str.encode)


def test_all_images_of_a_place_are_on_one_side() -> None:
    names = [f"{kind}/{town}/{k}.png" for kind in ("after", "before") for town in ("paris", "rome") for k in range(10)]
    folder = dates_of(*names[:-1], "before/rome/x.png")  # one place lacks its other date
    assert places_of(folder)[:2] == ["paris/0", "paris/1"]
    train, test = split_places(folder, 0.7, seed=0)
    assert len(train) + len(test) == 40
    assert not {*places_of(train)} & {*places_of(test)}
    assert 0.6 < len(train) / 40 < 0.8
    again, _ = split_places(folder, 0.7, seed=0)
    assert [scene.name for scene in again.scenes] == [scene.name for scene in train.scenes]
    seen = {"after/paris/3.png"}
    learned, judges = split_places(folder, 0.1, 0, seen)
    assert "paris/3" in places_of(learned), "what a generator knows is the first to be learned from"
    assert "paris/3" not in places_of(judges)
    few = limit_scenes(folder, DataSettings(limit=3), places=True)
    assert len({*places_of(few)}) == 3
    with pytest.raises(DataError, match="none of class 'after' is left to"):
        split_places(dates_of("before/1.png", "before/2.png", "after/1.png"), 0.5, 0)


def test_a_split_file_that_parts_a_place_is_refused(tmp_path: Path) -> None:
    folder = dates_of("before/1.png", "before/2.png", "after/1.png", "after/2.png")
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["before/1.png", "after/2.png"], "test": ["before/2.png", "after/1.png"]}))
    with pytest.raises(DataError, match="place 1 are in train and in test"):
        divide(folder, DataSettings(split_file=file), places=True)
    divide(folder, DataSettings(split_file=file))


def test_places_of_pooled_data_stay_apart() -> None:
    classes = ("A-after", "A-before")
    scenes = (Scene("A/after/7.png", 0), Scene("A/before/7.png", 1), Scene("train/A/before/8.png", 1))
    assert places_of(SceneFolder(classes, scenes, DatasetInfo("x"), str.encode)) == ["A/7", "A/7", "train/A/8"]
