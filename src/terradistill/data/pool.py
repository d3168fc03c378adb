"""Several scene folders as one, for a generator that learns from all of them."""

from collections.abc import Sequence
from dataclasses import replace

from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder


def pool_scenes(folders: Sequence[SceneFolder]) -> SceneFolder:
    """Every scene of every folder. Classes stay apart ("eurosat-River", "ucmerced-river") and keep their words.

    Scenes are named "eurosat/River/River_1.jpg", and carry their dataset's ground sampling distance where they have
    none of their own. A single folder is returned as it is.
    """
    if len(folders) == 1:
        return folders[0]
    keys = _unique([folder.info.name for folder in folders])
    members = dict(zip(keys, folders, strict=True))
    classes = sorted(f"{key}-{name}" for key, folder in members.items() for name in folder.classes)
    place = {name: label for label, name in enumerate(classes)}
    readers = {key: folder._reader for key, folder in members.items()}
    scenes = [_renamed(scene, key, place, folder) for key, folder in members.items() for scene in folder.scenes]
    infos = [folder.info for folder in folders]

    def read(name: str) -> bytes:
        key, _, inside = name.partition("/")
        return readers[key](inside)

    return SceneFolder(
        classes=tuple(classes),
        scenes=tuple(sorted(scenes, key=lambda scene: scene.name)),
        info=DatasetInfo(
            name="+".join(keys),
            title=" + ".join(info.title or info.name for info in infos),
            readable={
                f"{key}-{name}": folder.readable(name) for key, folder in members.items() for name in folder.classes
            },
            licence="; ".join(f"{info.name}: {info.licence}" for info in infos),
            citation=" ".join(info.citation for info in infos if info.citation),
            synthetic=all(info.synthetic for info in infos),
        ),
        _reader=read,
        n_ignored=sum(folder.n_ignored for folder in folders),
    )


def _renamed(scene: Scene, key: str, place: dict[str, int], folder: SceneFolder) -> Scene:
    known = {} if folder.info.gsd_m is None else {"gsd_m": folder.info.gsd_m}
    label = place[f"{key}-{folder.classes[scene.label]}"]
    return replace(scene, name=f"{key}/{scene.name}", label=label, metadata=known | scene.metadata)


def _unique(names: Sequence[str]) -> list[str]:
    """The names without slashes, numbered where they repeat."""
    plain = [name.replace("/", "-") for name in names]
    return [name if plain.count(name) == 1 else f"{name}.{i}" for i, name in enumerate(plain)]
