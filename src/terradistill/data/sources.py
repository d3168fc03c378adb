"""Opens whatever DATA names: a folder, a zip, a saved or hub dataset, a known name. Reads the listing, no pixels."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from terradistill.data.annotations import annotate, is_finite, parse_notes
from terradistill.data.archive import ZipSource
from terradistill.data.catalogue import CATALOGUE, identify
from terradistill.data.formation import MOST, open_packed
from terradistill.data.hub import is_hub_id, is_saved_dataset, open_hub, open_saved
from terradistill.data.images import is_scene_file
from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder
from terradistill.data.shards import CARD, ShardSource
from terradistill.errors import DataError
from terradistill.shipped import SCENES

ACCEPTED = (
    "a folder of class folders, a .zip of one, WebDataset shards (a .tar or a folder of them), a folder saved by "
    f"`datasets`, a Hugging Face id owner/name, or one of {', '.join([*SCENES, *CATALOGUE])}"
)
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx")


STRAYS = 0.05  # share of images that may lie beside the wrapping folder, as samples and figures do [ours]
Data = str | Path | SceneFolder


def open_scenes(data: Data, *, split: str | None = None, captions: Path | None = None) -> SceneFolder:
    """Lists the scenes that DATA names.

    A folder (or zip) has class folders, below any number of single wrapping folders; one more level of train, val
    and test folders may stand above the classes. `metadata.jsonl`, `captions.jsonl`, `dataset.json` inside and
    `<stem>_captions.jsonl` beside it are read when they are there.

    Args:
        data: see `ACCEPTED`; something on disk goes before a name. What has been opened is taken as it is.
        split: "train", "val" or "test": only that upstream split; None merges all.
        captions: JSON lines with `file_name` and captions, instead of the ones beside DATA.

    Returns:
        The folder; scenes carry names, labels, captions and metadata, not yet hashes or sizes.

    Raises:
        DataError: DATA is nothing of these, holds no scenes, or an annotation file is malformed.
    """
    kind, path = ("", Path()) if isinstance(data, SceneFolder) else _on_disk(data)
    if not kind and str(data) in SCENES:
        kind, path = "file", SCENES[str(data)]
    if isinstance(data, SceneFolder):
        folder = data
    elif kind == "folder":
        folder = open_saved(path) if is_saved_dataset(path) else _from_folder(path)
    elif kind == "file":
        archive = ShardSource([path], path.parent) if path.suffix == ".tar" else ZipSource(path)
        folder = _from_files(path, archive.names, archive)
    else:
        folder = _by_name(str(data))
    if split is not None:
        folder = _only_split(folder, split, str(data))
    if captions is not None:
        folder = with_captions([folder], captions)[0]
    return folder


def _on_disk(data: str | Path) -> tuple[str, Path]:
    """("folder" or "file" or "", path)."""
    path = Path(data)
    try:
        path = path.expanduser()
        kind = "folder" if path.is_dir() else "file" if path.is_file() else ""
    except (OSError, RuntimeError):  # a name that is too long, or ~nobody
        kind = ""
    return (kind if str(data) else ""), path  # Path("") would be the folder that we happen to be in


def _by_name(data: str) -> SceneFolder:
    known = CATALOGUE.get(data.lower())
    if known is not None:
        if known.info.hub_id is None:
            raise DataError(
                f"{data!r} is not on the hub: download it from {known.info.url} and give the folder or zip."
            )
        return open_hub(known.info.hub_id, known.info)
    # A mistyped path such as scenes/merced also has the form owner/name: no hub is asked when its parent is a folder.
    if is_hub_id(data) and not data.endswith(".zip") and not Path(data).parent.is_dir():
        return open_hub(data)
    raise DataError(f"{data!r} is not there and is no known name; expected {ACCEPTED}.")


def _from_folder(path: Path) -> SceneFolder:
    names = _listing(path)
    visible = [name for name in names if not any(_is_hidden(step) for step in name.split("/"))]
    shards = sorted(path / name for name in visible if name.endswith(".tar"))
    if not shards or any(is_scene_file(name) for name in visible):
        return _from_files(path, names, _disk_reader(path))
    source = ShardSource(shards, path, (path / CARD).read_bytes() if CARD in names else None)
    return _from_files(path, source.names, source)


def _listing(root: Path) -> list[str]:
    """Relative posix paths of all files. Links are followed, but no folder is entered twice."""
    names: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}): allow it, or take it out of DATA.")

    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        relative = Path(folder).relative_to(root).as_posix()
        names += [file if relative == "." else f"{relative}/{file}" for file in files]
    return names


def _disk_reader(root: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise DataError(f"{root / name} cannot be read ({error.strerror}).") from error

    return read


OURS = (
    "dataset.json",
    "README.md",
    "learned_from.json",
    "bands.json",
    "split.json",
    "asked.json",
)  # beside the class folders of a scene folder


def _from_files(path: Path, names: Sequence[str], read: Callable[[str], bytes]) -> SceneFolder:
    visible = [name for name in names if not any(_is_hidden(step) for step in name.split("/"))]
    images = [tuple(name.split("/")) for name in visible if is_scene_file(name)]
    root, has_splits = _layout(images)
    class_step = len(root) + has_splits
    placed = [steps for steps in images if steps[: len(root)] == root and len(steps) > class_step + 1]
    if not placed:
        found = f"{len(images)} images but no class folders" if images else f"{len(visible)} files but no images"
        raise DataError(f"{path} holds {found}; expected one folder a class with JPEG, PNG, TIFF or WebP images in it.")
    classes = tuple(sorted({steps[class_step] for steps in placed}))
    label_of = {name: label for label, name in enumerate(classes)}
    prefix = "".join(f"{step}/" for step in root)
    scenes = [Scene("/".join(steps[len(root) :]), label_of[steps[class_step]]) for steps in placed]
    annotation_files = [name for name in visible if name.endswith(".jsonl")]
    n_ours = sum(f"{prefix}{name}" in visible for name in OURS)
    n_ignored = len(visible) - len(placed) - len(annotation_files) - n_ours
    folder = SceneFolder(
        classes,
        tuple(sorted(scenes, key=lambda scene: scene.name)),
        _info(path, classes, read(f"{prefix}dataset.json") if f"{prefix}dataset.json" in visible else None),
        lambda name: read(prefix + name),
        n_ignored,
    )
    folder = _annotated(folder, path, prefix, annotation_files, read)
    return folder if folder.info.formation == 1 else open_packed(folder, folder.info.formation)


def _layout(images: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], bool]:
    """Steps of the wrapping folders above the classes (or splits), and whether there are splits.

    A folder wraps when it alone holds images, but for a few strays, and most of them lie at least two folders deeper
    than its parent.
    """
    root: tuple[str, ...] = ()
    while True:
        depth = len(root)
        foldered = [steps for steps in images if len(steps) >= depth + 2]
        deep = [steps for steps in foldered if len(steps) >= depth + 3]
        few = len(foldered) - len(deep) <= STRAYS * len(foldered)
        tops = {steps[depth] for steps in (deep if few else foldered)}
        nested = 2 * len(deep) > len(images)
        if nested and all(top.lower() in _SPLITS for top in tops):
            return root, True
        if not nested or len(tops) != 1:
            return root, False
        root += tuple(tops)


def _info(path: Path, classes: tuple[str, ...], card: bytes | None) -> DatasetInfo:
    """The folder's own `dataset.json` goes before the catalogue, and that before nothing."""
    known = identify(classes) or DatasetInfo(name=path.stem if path.is_file() else path.resolve().name)
    if card is None:
        return known
    where = f"dataset.json of {path}"
    try:
        given = json.loads(card.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON; mend or remove it.") from error
    if not isinstance(given, dict):
        raise DataError(f"{where} holds a {type(given).__name__}; expected an object with title, licence, gsd_m, ….")
    if "license" in given:
        given.setdefault("licence", given["license"])
    changes: dict[str, Any] = {}
    for key in ("name", "title", "licence", "citation", "url"):
        if given.get(key) is not None:
            changes[key] = str(given[key])
    if given.get("synthetic") is not None:
        if not isinstance(given["synthetic"], bool):
            raise DataError(f"{where}: 'synthetic' is {given['synthetic']!r}; expected true or false.")
        changes["synthetic"] = given["synthetic"]
    if given.get("formation") is not None:
        if type(given["formation"]) is not int or not 1 <= given["formation"] <= MOST:
            raise DataError(
                f"{where}: 'formation' is {given['formation']!r}; expected 1 to {MOST} scenes along a side."
            )
        changes["formation"] = given["formation"]
    if given.get("gsd_m") is not None:
        if not is_finite(given["gsd_m"]) or not given["gsd_m"] > 0:
            raise DataError(f"{where}: 'gsd_m' is {given['gsd_m']!r}; expected metres a pixel, above 0.")
        changes["gsd_m"] = float(given["gsd_m"])
    if given.get("readable") is not None:
        if not isinstance(given["readable"], dict):
            raise DataError(f"{where}: 'readable' is {given['readable']!r}; expected an object, class -> words.")
        changes["readable"] = known.readable | {str(key): str(text) for key, text in given["readable"].items()}
    return replace(known, **changes)


def _annotated(
    folder: SceneFolder, path: Path, prefix: str, files: Sequence[str], read: Callable[[str], bytes]
) -> SceneFolder:
    """Metadata first, captions last, so that a captions file has the last word on captions."""
    scenes = list(folder.scenes)
    for wanted in ("metadata.jsonl", "captions.jsonl"):
        for name in sorted(file for file in files if file.rsplit("/", 1)[-1] == wanted):
            where = name.removeprefix(prefix).rpartition("/")[0]
            scenes, _ = annotate(scenes, parse_notes(read(name), f"{path}/{name}"), where)
    beside = path.resolve().with_name(f"{folder_stem(path)}_captions.jsonl")
    if beside.is_file():
        scenes, _ = annotate(scenes, parse_notes(beside.read_bytes(), str(beside)))
    return folder.with_scenes(scenes)


def folder_stem(path: Path) -> str:
    """The name that a captions file beside DATA starts with: of a zip without its ending."""
    return path.stem if path.is_file() else path.resolve().name


def with_captions(folders: Sequence[SceneFolder], captions: Path) -> list[SceneFolder]:
    """Folders with the captions of one file, instead of their own.

    Raises:
        DataError: it cannot be read, or names none of the scenes of any folder.
    """
    try:
        data = captions.read_bytes()
    except OSError as error:
        raise DataError(f"The captions file {captions} cannot be read ({error.strerror}).") from error
    notes = parse_notes(data, str(captions))
    # A bare file name says which scene it means only if it is unique in all of them together.
    bare = Counter(scene.name.rsplit("/", 1)[-1] for folder in folders for scene in folder.scenes)
    annotated = []
    for folder in folders:
        whole = {scene.name for scene in folder.scenes}
        own = {name: note for name, note in notes.items() if name in whole or bare[name.rsplit("/", 1)[-1]] < 2}
        annotated.append(annotate(folder.scenes, own))
    if not any(n_matched for _, n_matched in annotated):
        raise DataError(
            f"{captions} names none of the {sum(map(len, folders))} scenes; expected file names such as "
            f"{folders[0].scenes[0].name!r}."
        )
    return [folder.with_scenes(scenes) for folder, (scenes, _) in zip(folders, annotated, strict=True)]


def _only_split(folder: SceneFolder, split: str, data: str) -> SceneFolder:
    def split_of(scene: Scene) -> str:
        first = scene.name.split("/")[0]
        return "" if first == folder.classes[scene.label] else _SPLITS.get(first.lower(), first)

    splits = [split_of(scene) for scene in folder.scenes]
    chosen = [i for i, name in enumerate(splits) if name == _SPLITS.get(split.lower(), split)]
    if not chosen:
        there = sorted(set(splits) - {""})
        raise DataError(f"{data} has no split {split!r}: it has {', '.join(there) if there else 'no split folders'}.")
    return folder.subset(chosen)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES
