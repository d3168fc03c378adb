"""Who may be learned from and who judges: subsets that depend on the set of names, never on the order of a listing."""

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from terradistill.data.annotations import normal_name
from terradistill.data.scenes import SceneFolder
from terradistill.errors import DataError
from terradistill.files import write_text
from terradistill.seeding import derive
from terradistill.settings import DataSettings


def limit_scenes(folder: SceneFolder, settings: DataSettings, *, places: bool = False) -> SceneFolder:
    """At most `settings.limit` images a class, drawn by `split_seed` before anything is decoded; None keeps all.

    With `places` so many places, see `places_of`, and all images of each.
    """
    if settings.limit is None:
        return folder
    if places:
        found = places_of(folder)
        kept = {*sorted(set(found), key=lambda place: derive(settings.split_seed, "limit", place))[: settings.limit]}
        return folder.subset([i for i, place in enumerate(found) if place in kept])
    chosen = [i for indices in _ranked(folder, settings.split_seed, "limit") for i in indices[: settings.limit]]
    return folder.subset(chosen)


def divide(
    folder: SceneFolder,
    settings: DataSettings,
    *,
    dropped: Collection[str] = (),
    seen: Collection[str] = (),
    places: bool = False,
) -> tuple[SceneFolder, SceneFolder]:
    """(train, test) by `settings.split_file` if there is one (see `load_split`), else by fraction and seed.

    Args:
        folder: scenes.
        settings: how.
        dropped: see `load_split`.
        seen: hashes of scenes that a generator has learned from, see `split_scenes`.
        places: images of one place, see `places_of`, are on one side: see `split_places`.

    Raises:
        DataError: it cannot be divided so.
    """
    if settings.split_file is not None:
        train, test = load_split(settings.split_file, folder, dropped=dropped)
    else:
        split = split_places if places else split_scenes
        train, test = split(folder, settings.train_fraction, settings.split_seed, seen)
        assert_disjoint(train, test)
    if places and (both := {*places_of(train)} & {*places_of(test)}):
        raise DataError(f"Images of the place {min(both)} are in train and in test: keep them on one side.")
    return train, test


def split_scenes(
    folder: SceneFolder, train_fraction: float, seed: int, seen: Collection[str] = ()
) -> tuple[SceneFolder, SceneFolder]:
    """Divides each class alike, with at least one image of a class on either side.

    Args:
        folder: scenes.
        train_fraction: share of each class to learn from, in (0, 1); halves are rounded up.
        seed: another seed, another split.
        seen: hashes of scenes that must not judge. They are the first to be learned from; what is left of them is on
            neither side.

    Returns:
        (train, test).

    Raises:
        DataError: a class has fewer than two images, or none that could judge.
    """
    train: list[int] = []
    test: list[int] = []
    for indices, (name, count) in zip(_ranked(folder, seed, "split"), folder.counts.items(), strict=True):
        if count < 2:
            raise DataError(
                f"Class {name!r} has {count} images; at least 2 are needed to divide it. Add some or remove it."
            )
        n_train = _share(train_fraction, count)
        indices.sort(
            key=lambda i: folder.scenes[i].hashes.isdisjoint(seen)
        )  # stable: the drawn order within either kind
        train += indices[:n_train]
        judges = [i for i in indices[n_train:] if folder.scenes[i].hashes.isdisjoint(seen)]
        if not judges:
            raise DataError(
                f"The generator has learned from every image of class {name!r} that could be tested on: "
                "raise or drop --limit, lower --train-fraction, add images, or learn from DATA alone (--from-scratch)."
            )
        test += judges
    return folder.subset(train), folder.subset(test)


def split_places(
    folder: SceneFolder, train_fraction: float, seed: int, seen: Collection[str] = ()
) -> tuple[SceneFolder, SceneFolder]:
    """Divides places instead of images: all images of one are on one side. As `split_scenes` else.

    Raises:
        DataError: there are fewer than two places, or none that could judge; a class is missing from a side.
    """
    places = places_of(folder)
    known = {place for place, scene in zip(places, folder.scenes, strict=True) if not scene.hashes.isdisjoint(seen)}
    ranked = sorted(set(places), key=lambda place: (place not in known, derive(seed, "places", place)))
    n_train = _share(train_fraction, len(ranked))
    sides = {*ranked[:n_train]}, {*ranked[n_train:]} - known
    train, test = (folder.subset([i for i, place in enumerate(places) if place in side]) for side in sides)
    for side, part in (("learn from", train), ("judge", test)):
        if missing := [name for name, count in part.counts.items() if count == 0]:
            raise DataError(
                f"Of {len(ranked)} places none of class {missing[0]!r} is left to {side}: every class folder needs an "
                "image of each place, by its name."
            )
    return train, test


def places_of(folder: SceneFolder) -> list[str]:
    """Of each scene the place: its path without the folder of its class and the ending, which its other dates share."""
    found = []
    for scene in folder.scenes:
        *folders, file = PurePosixPath(scene.name).with_suffix("").parts
        name = folder.classes[scene.label]
        # Of pooled data a class is called after both: eurosat-River.
        rest = [each for each in folders if each != name and not name.endswith(f"-{each}")]
        found.append("/".join([*rest, file]))
    return found


def _share(fraction: float, count: int) -> int:
    """So many of `count` are learned from: halves are rounded up, and one at least is left on either side."""
    return min(max(math.floor(fraction * count + 0.5), 1), count - 1)


def _ranked(folder: SceneFolder, seed: int, purpose: str) -> list[list[int]]:
    """Indices of each class in an order that a hash of (seed, name) fixes: adding an image moves no other one."""
    order = sorted(range(len(folder)), key=lambda i: derive(seed, purpose, folder.scenes[i].name))
    by_class: list[list[int]] = [[] for _ in folder.classes]
    for i in order:
        by_class[folder.scenes[i].label].append(i)
    return by_class


def save_split(
    path: Path,
    train: SceneFolder,
    test: SceneFolder,
    *,
    seed: int | None = None,
    train_fraction: float | None = None,
) -> None:
    """Writes a split as JSON that `load_split` reads: seed, train_fraction; name, hash and size of every image."""
    write_text(path, _written(train, test, seed, train_fraction))


def _written(train: SceneFolder, test: SceneFolder, seed: int | None, fraction: float | None) -> Iterator[str]:
    # Row by row: whole, the text of many scenes and the rows that it is made of would be the most that a run holds.
    yield f'{{"seed": {json.dumps(seed)}, "train_fraction": {json.dumps(fraction)}'
    for side, folder in (("train", train), ("test", test)):
        yield f',\n"{side}": ['
        for number, scene in enumerate(folder.scenes):
            row = {"name": scene.name, "sha256": scene.sha256, "width": scene.width, "height": scene.height}
            yield f"{',' * (number > 0)}\n {json.dumps(row, ensure_ascii=False)}"
        yield "]"
    yield "}\n"


def load_split(path: Path, folder: SceneFolder, *, dropped: Collection[str] = ()) -> tuple[SceneFolder, SceneFolder]:
    """Divides a folder as a file says.

    Args:
        path: JSON, what `save_split` wrote or a plain {"train": [names], "test": [names]}. Images that it doesn't
            name are on no side.
        folder: scenes.
        dropped: names that the check took out of the data; the file may name them, and they are passed over.

    Returns:
        (train, test).

    Raises:
        DataError: no such file or form; a name that isn't in the data or is on both sides; an exact copy on both sides;
            an image that is not the one of the file any more; a class that is missing from a side.
    """
    position = {scene.name: i for i, scene in enumerate(folder.scenes)}
    scenes = list(folder.scenes)
    sides: dict[str, list[int]] = {}
    content = _content(path)
    for side in ("train", "test"):
        indices = []
        for name, found in _entries(path, side, content.get(side)):
            if name not in position and name not in dropped:
                name = normal_name(name)
            if name in dropped:
                continue
            if name not in position:
                raise DataError(
                    f"{path}: {side} names {name!r}, which is not in the data; give the split file of this dataset."
                )
            scene = folder.scenes[position[name]]
            if found.get("sha256") and scene.sha256 and found["sha256"] != scene.sha256:
                raise DataError(
                    f"{path}: {name!r} is not the image that was split; it has changed. Make the split anew."
                )
            # Scenes that were not decoded in this process are known by what the file says of them.
            if not scene.sha256:
                scenes[position[name]] = replace(scene, **found)
            indices.append(position[name])
        sides[side] = indices
    both = set(sides["train"]) & set(sides["test"])
    if both:
        raise DataError(
            f"{path}: {folder.scenes[min(both)].name!r} is in train and in test ({len(both)} in all); keep one."
        )
    folder = folder.with_scenes(scenes)
    train, test = folder.subset(sides["train"]), folder.subset(sides["test"])
    for side, part in (("train", train), ("test", test)):
        missing = [name for name, count in part.counts.items() if count == 0]
        if missing:
            raise DataError(f"{path}: {side} has no image of class {missing[0]!r}; every class must be on both sides.")
    assert_disjoint(train, test)
    return train, test


def assert_disjoint(train: SceneFolder, test: SceneFolder) -> None:
    """Makes sure that nothing is judged by what it learned from.

    Raises:
        DataError: an image, or an exact copy of it, is on both sides.
    """
    names = {scene.name: scene.name for scene in train.scenes}
    hashes = {scene.sha256: scene.name for scene in train.scenes if scene.sha256}
    for scene in test.scenes:
        twin = names.get(scene.name) or hashes.get(scene.sha256)
        if twin is not None:
            raise DataError(f"{scene.name!r} of test is an exact copy of {twin!r} of train; remove one of them.")


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"The split file {path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'The split file {path} is not valid JSON; expected {{"train": [names], "test": [names]}}.'
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"The split file {path} holds a {type(content).__name__}; expected an object with train and test."
        )
    return content


def _entries(path: Path, side: str, listed: object) -> list[tuple[str, dict[str, Any]]]:
    """Name of each entry, and what is said of it: sha256, width, height."""
    if not isinstance(listed, list):
        raise DataError(f'The split file {path} has no list {side!r}; expected {{"train": [names], "test": [names]}}.')
    entries = []
    for entry in listed:
        name = entry.get("name") if isinstance(entry, dict) else entry
        said = entry if isinstance(entry, dict) else {}
        if not isinstance(name, str):
            raise DataError(f'{path}: {side} has an entry {str(entry)[:60]!r}; expected a name or {{"name": ..}}.')
        kinds = {"sha256": str, "width": int, "height": int}
        entries.append((name, {key: said[key] for key, kind in kinds.items() if isinstance(said.get(key), kind)}))
    return entries
