"""Scene folders: images by class, what is known of each image, and how to read its bytes.

Real, distilled, controlled and super-resolved scenes all have this one form, on disk and in memory.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from terradistill.errors import DataError

# Letters meet digits, lower meets upper case, or an acronym ends: UCMerced -> UC Merced.
_ORDINAL = re.compile(r"^\d+[\s_.\-]+(?=.*[^\W\d_])")  # that fixes an order of folders
_WORD_BOUNDARY = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|[\s_.\-]+"
)


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset card needs to know.

    Attributes:
        name: short name, such as "eurosat".
        title: name as its authors write it.
        readable: class name -> words for a caption, only where they are known; see `readable_name`.
        gsd_m: ground sampling distance in metres; None when mixed or unknown.
        licence: as stated upstream.
        citation: the publication to cite.
        hub_id: Hugging Face dataset id, if there is one.
        url: home page.
        synthetic: the scenes were drawn, by a generator or by hand.
        formation: k where each image file holds k x k scenes; see `terradistill.data.formation`.
    """

    name: str
    title: str = ""
    readable: dict[str, str] = field(default_factory=dict)
    gsd_m: float | None = None
    licence: str = "unknown"
    citation: str = ""
    hub_id: str | None = None
    url: str = ""
    synthetic: bool = False
    formation: int = 1


_NO_NUMBERS: dict[str, float] = {}  # of most scenes; one for all of them, since there may be many


@dataclass(frozen=True, slots=True)
class Scene:
    """One image of a folder.

    Attributes:
        name: path inside the folder, "class/file.ext" or "split/class/file.ext"; unique.
        label: index into the folder's classes.
        sha256: hash of the decoded RGB pixels and their shape; empty until checked.
        width: pixels; 0 until checked.
        height: pixels; 0 until checked.
        captions: written for this very image; often none.
        metadata: numeric fields that are known (lon, lat, gsd_m, cloud_fraction, year, month, day).
        made_from: hash of the scene that this one is, at another size, where its folder says so.
        soft_labels: a teacher's probability of each class of the folder, where there are any.
    """

    name: str
    label: int
    sha256: str = ""
    width: int = 0
    height: int = 0
    captions: tuple[str, ...] = ()
    metadata: dict[str, float] = field(default_factory=lambda: _NO_NUMBERS)
    made_from: str = ""
    soft_labels: tuple[float, ...] = ()

    @property
    def hashes(self) -> frozenset[str]:
        """All that it is known by where something may have learned from it."""
        return frozenset((self.sha256, self.made_from)) - {""}


@dataclass(frozen=True)
class SceneFolder:
    """Scenes sorted by name, their sorted classes, and a way to read them.

    Attributes:
        classes: sorted class names. A subset keeps them all, so labels mean the same on both sides of a split.
        scenes: sorted by name.
        info: what is known of the dataset.
        n_ignored: files of the source that are no images of a class.
    """

    classes: tuple[str, ...]
    scenes: tuple[Scene, ...]
    info: DatasetInfo
    _reader: Callable[[str], bytes] = field(repr=False, compare=False)
    n_ignored: int = 0

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, index: int) -> bytes:
        """The encoded bytes of one scene; safe to call from several threads.

        Raises:
            DataError: the file is gone or its archive member is damaged.
        """
        return self._reader(self.scenes[index].name)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices, shape (n,)."""
        return np.fromiter((scene.label for scene in self.scenes), dtype=np.int64, count=len(self.scenes))

    @property
    def counts(self) -> dict[str, int]:
        """Images in each class, in class order; a class that lost all its images has 0."""
        totals = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(total) for name, total in zip(self.classes, totals, strict=True)}

    @property
    def hashes(self) -> frozenset[str]:
        """Those by which any of the scenes is known again."""
        return frozenset(known for scene in self.scenes for known in scene.hashes)

    @property
    def soft_labels(self) -> NDArray[np.float16]:
        """The soft labels that scenes bring along, float16 (n, n_classes).

        Raises:
            DataError: not all of them have one for each class.
        """
        odd = [scene for scene in self.scenes if len(scene.soft_labels) != len(self.classes)]
        if odd:
            raise DataError(
                f"{odd[0].name!r} has {len(odd[0].soft_labels)} soft labels: expected one for each of the "
                f"{len(self.classes)} classes in metadata.jsonl; else leave out all of them, and learn from classes."
            )
        return np.array([scene.soft_labels for scene in self.scenes], dtype=np.float16)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of classes, names, labels and pixel hashes: two folders with the same one hold the same scenes."""
        digest = sha256("\x1f".join(self.classes).encode(errors="surrogateescape"))
        for scene in self.scenes:
            line = f"\x1e{scene.name}\x1f{scene.label}\x1f{scene.sha256}"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def subset(self, indices: Iterable[int]) -> "SceneFolder":
        """The scenes at these indices, in name order whatever the order (or repetition) of the indices."""
        return self.with_scenes(self.scenes[i] for i in {int(i) for i in indices})

    def with_scenes(self, scenes: Iterable[Scene]) -> "SceneFolder":
        """The same folder with other scenes in it, sorted by name."""
        return replace(self, scenes=tuple(sorted(scenes, key=lambda scene: scene.name)))

    def readable(self, class_name: str) -> str:
        """The class in words: as the dataset says, else as its name splits; "01_Forest" is a forest."""
        if said := self.info.readable.get(class_name):
            return said
        bare = [_ORDINAL.sub("", name) for name in self.classes]
        numbered = len({readable_name(name) for name in bare}) < len(bare)  # the number tells classes apart
        return readable_name(class_name if numbered else _ORDINAL.sub("", class_name))


def resized_metadata(scene: Scene, info: DatasetInfo, resolution: int) -> dict[str, float]:
    """What is known of a scene once it is a square of `resolution` pixels: metres a pixel follow the resizing."""
    gsd_m = scene.metadata.get("gsd_m", info.gsd_m)
    resized = {} if gsd_m is None else {"gsd_m": gsd_m * min(scene.width, scene.height) / resolution}
    return scene.metadata | resized


def readable_name(class_name: str) -> str:
    """Splits a folder name into lower-case words: "AnnualCrop" -> "annual crop", "sea_ice2" -> "sea ice 2"."""
    words = _WORD_BOUNDARY.sub(" ", class_name).split()
    return " ".join(words).lower() or class_name


def require_folder_names(classes: Sequence[str]) -> None:
    """Makes sure that classes can be folders, here and on other systems.

    Raises:
        DataError: a name is empty, too long, hidden, not Unicode, or has a character that some file system refuses.
    """
    for name in classes:
        plain = name.isprintable() and not name.startswith(".") and not re.search(r'[/\\:*?"<>|]', name)
        if not name or not plain or len(name.encode(errors="surrogateescape")) > 200:
            raise DataError(f"Class name {name[:80]!r} cannot be a folder name everywhere; rename the class.")
