"""Scenes from Hugging Face `datasets`: saved on disk, or from the hub. Remote code is never run."""

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from terradistill.data.annotations import CAPTION_COLUMNS, METADATA_FIELDS, note_of
from terradistill.data.catalogue import CATALOGUE, identify
from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder
from terradistill.errors import DataError

_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "scene")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets` wrote this folder with `save_to_disk`."""
    alone = (path / "state.json").is_file() and any(path.glob("*.arrow"))
    return alone or (path / "dataset_dict.json").is_file()


def is_hub_id(text: str) -> bool:
    """Whether the text has the form owner/name."""
    return _HUB_ID.fullmatch(text) is not None


def open_saved(path: Path) -> SceneFolder:
    """Scenes of a folder that `datasets` saved.

    Raises:
        DataError: the folder cannot be loaded, or has no image and label column.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # pyarrow, fsspec and datasets each raise their own kinds
        raise DataError(
            f"{path} looks like a saved `datasets` folder but cannot be loaded ({_reason(error)})."
        ) from error
    return _scene_folder(loaded, str(path), DatasetInfo(name=path.name))


def open_hub(hub_id: str, info: DatasetInfo | None = None) -> SceneFolder:
    """Scenes of a dataset on the Hugging Face hub, downloaded to its cache.

    Args:
        hub_id: owner/name.
        info: what the catalogue knows; looked up by the id when None.

    Raises:
        DataError: the hub cannot be reached, has no such dataset, or it has no image and label column.
    """
    import datasets

    known = info or next((entry.info for entry in CATALOGUE.values() if entry.info.hub_id == hub_id), None)
    try:
        with _offline_without_network():
            loaded = datasets.load_dataset(hub_id)
    except Exception as error:  # network, hub and parser errors have no common base
        named = f"The dataset {known.name!r} ({hub_id})" if known else f"The Hugging Face dataset {hub_id!r}"
        where = f" download it from {known.url} and" if known and known.url else ""
        raise DataError(
            f"{named} could not be loaded from the hub ({_reason(error)}). "
            f"Check the name and the network, or{where} give a folder or a .zip of class folders."
        ) from error
    return _scene_folder(loaded, hub_id, known or DatasetInfo(name=hub_id.rsplit("/", 1)[-1], hub_id=hub_id))


@contextmanager
def _offline_without_network() -> Iterator[None]:
    """Spares half a minute of retries where the hub's name does not even resolve; its cache is still looked at."""
    import datasets
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    offline = constants.HF_HUB_OFFLINE
    if not offline and not getproxies():
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            offline = True
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _scene_folder(loaded: Any, source: str, info: DatasetInfo) -> SceneFolder:
    import datasets

    parts: dict[str, Any] = dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}
    rows: dict[str, tuple[Any, int]] = {}  # scene name -> table of images, row
    named: list[tuple[str, str, dict[str, Any]]] = []  # name, class, other columns
    image_column, n_unlabelled = "", 0
    for split, part in parts.items():
        image_column, label_column = _columns(part.features, source)
        feature = part.features[label_column]
        wanted = [c for c in (label_column, *CAPTION_COLUMNS, *METADATA_FIELDS) if c in part.column_names]
        images = part.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
        for i, row in enumerate(part.select_columns(wanted)):
            label = row[label_column]
            if isinstance(feature, datasets.ClassLabel):
                label = feature.int2str(label) if label is not None and label >= 0 else None
            if not label:
                n_unlabelled += 1
                continue
            class_name = str(label).replace("/", "-").replace("\\", "-")  # the class is one step of a path
            name = "/".join(step for step in (split, class_name, f"{i:06d}") if step)
            rows[name] = (images, i)
            named.append((name, class_name, row))

    def read(name: str) -> bytes:
        table, i = rows[name]
        value = table[i][image_column]
        try:
            content: bytes = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise DataError(f"Image {name!r} of {source} is missing or cannot be read.") from error
        return content

    if not named:
        raise DataError(f"{source} holds no labelled images; give a dataset with an image and a label column.")
    classes = tuple(sorted({class_name for _, class_name, _ in named}))
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    scenes = []
    for name, class_name, row in named:
        note = note_of(row, f"{source}, {name}")
        scene = Scene(name, label_of[class_name], captions=note.captions, metadata=note.metadata)
        scenes.append(replace(scene, soft_labels=note.soft_labels))
    card = _card(next(iter(parts.values())).info, identify(classes) or info, info.hub_id)
    return SceneFolder(classes, tuple(sorted(scenes, key=lambda s: s.name)), card, read, n_ignored=n_unlabelled)


def _columns(features: Mapping[str, Any], source: str) -> tuple[str, str]:
    """Names of the image and the label column."""
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels += [
        name for name in _LABEL_COLUMNS if getattr(features.get(name), "dtype", None) in ("string", "large_string")
    ]
    if not images or not labels:
        raise DataError(
            f"{source} has the columns {', '.join(features)}; expected an image column and a class label (or a text "
            f"column called {' or '.join(_LABEL_COLUMNS[:3])})."
        )
    return images[0], labels[0]


def _card(upstream: Any, info: DatasetInfo, hub_id: str | None) -> DatasetInfo:
    """What the catalogue doesn't know, the dataset's own card may."""
    return replace(
        info,
        licence=info.licence if info.licence != "unknown" else (upstream.license or "unknown"),
        citation=info.citation or (upstream.citation or "").strip(),
        url=info.url or upstream.homepage or "",
        hub_id=hub_id or info.hub_id,
    )


def _reason(error: BaseException) -> str:
    """First line of an error, short enough to stand inside a sentence."""
    line = (str(error).strip().splitlines() or [""])[0].strip().rstrip(".")
    return f"{type(error).__name__}: {line[:120]}" if line else type(error).__name__
