"""Looks at every image once: what cannot be read, what is there twice, whether there is enough."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from terradistill.data.geotiff import metadata_of
from terradistill.data.images import BATCH, decode, n_threads, pixel_hash
from terradistill.data.scenes import Scene, SceneFolder
from terradistill.errors import DataError
from terradistill.run import Progress


@dataclass(frozen=True)
class CheckReport:
    """What `check_scenes` found.

    Attributes:
        n_listed: images in the folder as it came.
        n_kept: images in the clean folder.
        unreadable: (name, reason) of each image that cannot be decoded.
        duplicates: groups of exact copies in one class; the first of each is kept.
        conflicting: groups of exact copies in different classes; none is kept, for no one knows which label is right.
        n_ignored: files that are no images.
        sizes: "width x height" -> images, the most frequent first.
    """

    n_listed: int
    n_kept: int
    unreadable: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    conflicting: tuple[tuple[str, ...], ...]
    n_ignored: int
    sizes: dict[str, int]

    @property
    def dropped(self) -> frozenset[str]:
        """Names that are in the folder as it came and not in the clean one."""
        copies = [name for group in self.duplicates for name in group[1:]]
        return frozenset(
            [name for name, _ in self.unreadable] + copies + [n for group in self.conflicting for n in group]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and texts, for `json.dump`."""
        return {
            "n_listed": self.n_listed,
            "n_kept": self.n_kept,
            "n_ignored": self.n_ignored,
            "sizes": self.sizes,
            "unreadable": [{"name": name, "reason": reason} for name, reason in self.unreadable],
            "duplicates": [list(group) for group in self.duplicates],
            "conflicting": [list(group) for group in self.conflicting],
        }

    def summary(self) -> list[str]:
        """One short line for each kind of finding; only the first line when all is well."""
        lines = [f"{self.n_kept} of {self.n_listed} images kept, {_sizes(self.sizes)}"]
        if self.unreadable:
            name, reason = self.unreadable[0]
            lines.append(f"{len(self.unreadable)} unreadable, skipped: {name} ({reason}){_more(self.unreadable)}")
        if self.duplicates:
            copies = sum(len(group) - 1 for group in self.duplicates)
            pair = f"{self.duplicates[0][1]} = {self.duplicates[0][0]}"
            lines.append(f"{copies} exact copies within a class, skipped: {pair}{_more(self.duplicates)}")
        if self.conflicting:
            copies = sum(map(len, self.conflicting))
            group = " = ".join(self.conflicting[0])
            lines.append(f"{copies} exact copies in different classes, all skipped: {group}{_more(self.conflicting)}")
        if self.n_ignored:
            lines.append(f"{self.n_ignored} other files ignored")
        return lines


def check_scenes(
    folder: SceneFolder, *, on_corrupt: Literal["skip", "refuse"] = "skip", progress: Progress | None = None
) -> tuple[SceneFolder, CheckReport]:
    """Decodes every image once, and drops what cannot be used.

    Args:
        folder: scenes as opened.
        on_corrupt: "skip" lists unreadable images and goes on; "refuse" stops at the end of the check.
        progress: called with (done, total).

    Returns:
        The clean folder, its scenes with hashes and sizes, and the report.

    Raises:
        DataError: no image can be read, or one cannot and `on_corrupt` is "refuse".
    """
    checked: list[Scene] = []
    unreadable: list[tuple[str, str]] = []
    with ThreadPoolExecutor(n_threads()) as pool:
        for start in range(0, len(folder), BATCH):
            stop = min(start + BATCH, len(folder))
            found = pool.map(partial(_look, folder), range(start, stop))
            for scene, seen in zip(folder.scenes[start:stop], found, strict=True):
                if isinstance(seen, str):
                    unreadable.append((scene.name, seen))
                else:
                    digest, width, height, tags = seen
                    known = tags | scene.metadata  # what stands beside the images goes before their tags
                    checked.append(
                        replace(scene, sha256=digest, width=width, height=height, metadata=known or scene.metadata)
                    )
            if progress:
                progress(stop, len(folder))

    if unreadable and (on_corrupt == "refuse" or not checked):
        count = f"{len(unreadable)} of {len(folder)} images" if checked else f"None of the {len(folder)} images"
        verb, (name, reason) = "cannot" if checked else "can", unreadable[0]
        remedy = "Replace or remove them, or skip them with data.on_corrupt=skip." if checked else "Replace the files."
        raise DataError(f"{count} {verb} be read; the first is {name} ({reason.rstrip('.')}). {remedy}")

    times = Counter(scene.sha256 for scene in checked)
    copies: dict[str, list[Scene]] = {}
    for scene in checked:
        if times[scene.sha256] > 1:
            copies.setdefault(scene.sha256, []).append(scene)
    groups = [*copies.values()]
    conflicting = _names(group for group in groups if len({scene.label for scene in group}) > 1)
    duplicates = _names(group for group in groups if len({scene.label for scene in group}) == 1)
    gone = {name for group in conflicting for name in group} | {name for group in duplicates for name in group[1:]}
    clean = folder.with_scenes(scene for scene in checked if scene.name not in gone)
    sizes = Counter(f"{scene.width} x {scene.height}" for scene in clean.scenes)
    report = CheckReport(
        n_listed=len(folder),
        n_kept=len(clean),
        unreadable=tuple(unreadable),
        duplicates=duplicates,
        conflicting=conflicting,
        n_ignored=folder.n_ignored,
        sizes=dict(sizes.most_common()),
    )
    return clean, report


def require_enough(folder: SceneFolder, ipc: int, *, spare: int = 2, least_classes: int = 2) -> None:
    """Refuses a train share from which nothing can be distilled.

    Args:
        folder: the scenes that may be learned from.
        ipc: images per class that are asked for.
        spare: how many more are needed, so that a choice and a check remain.
        least_classes: 1 where nothing is to be told apart.

    Raises:
        DataError: no images, one class, or a class with fewer than ipc + spare images.
    """
    if not len(folder):
        raise DataError("There are 0 images to learn from; give a folder with readable images in class folders.")
    if len(folder.classes) < least_classes:
        raise DataError(f"There is only one class, {folder.classes[0]!r}; at least 2 are needed, one folder each.")
    poor = {name: count for name, count in folder.counts.items() if count < ipc + spare}
    if poor:
        listed = ", ".join(f"{name!r} ({count})" for name, count in list(poor.items())[:5])
        listed += f" and {len(poor) - 5} more" if len(poor) > 5 else ""
        noun, verb = ("class", "has") if len(poor) == 1 else ("classes", "have")
        needs, lower = (f" that ipc = {ipc} needs", "lower ipc, ") if spare >= 0 else ("", "")
        raise DataError(
            f"The {noun} {listed} {verb} fewer than the {ipc + spare} images to learn from{needs}. "
            f"Add images, raise data.train_fraction, {lower}or remove the class."
        )


def _look(folder: SceneFolder, index: int) -> tuple[str, int, int, dict[str, float]] | str:
    """(hash, width, height, metadata in the file itself), or the reason why there are none."""
    try:
        data = folder.read(index)
        image = decode(data)
    except DataError as error:
        return str(error)
    return pixel_hash(image), image.shape[1], image.shape[0], metadata_of(data)


def _names(groups: Iterable[list[Scene]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(scene.name for scene in group) for group in groups)


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - 1} more" if len(found) > 1 else ""


def _sizes(sizes: dict[str, int]) -> str:
    if not sizes:
        return "no sizes"
    most = next(iter(sizes))
    return f"all {most} pixels" if len(sizes) == 1 else f"{len(sizes)} sizes, most {most} pixels"
