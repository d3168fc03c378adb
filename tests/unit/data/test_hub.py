import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terradistill.data.images import decode
from terradistill.data.sources import open_scenes
from terradistill.errors import DataError

datasets = pytest.importorskip("datasets")


def table(encode: Any, noise: Any, *, as_text: bool = False, **columns: list[Any]) -> Any:
    names = ["river", "Sea/Lake"]
    features = {
        "image": datasets.Image(),
        "label": datasets.Value("string") if as_text else datasets.ClassLabel(names=names),
    }
    rows: dict[str, list[Any]] = {
        "image": [{"bytes": encode(noise(i)), "path": None} for i in range(4)],
        "label": [names[i % 2] if as_text else i % 2 for i in range(4)],
    }
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made


@pytest.mark.parametrize("as_text", [False, True])
def test_a_saved_dataset_opens(encode: Any, noise: Any, tmp_path: Path, as_text: bool) -> None:
    made = table(encode, noise, as_text=as_text, caption=["one", "two", "three", None], month=[1, 2, 3, 4])
    made.save_to_disk(str(tmp_path / "saved"))
    folder = open_scenes(tmp_path / "saved")
    assert folder.classes == ("Sea-Lake", "river")
    assert folder.scenes[0].name == "Sea-Lake/000001"
    assert np.array_equal(decode(folder.read(0)), noise(1))
    assert folder.scenes[0].captions == ("two",)
    assert folder.scenes[0].metadata == {"month": 2.0}


def test_splits_are_merged_or_chosen_and_unlabelled_rows_counted(encode: Any, noise: Any, tmp_path: Path) -> None:
    hidden = table(encode, noise).map(lambda _: {"label": -1})
    parts = {"train": table(encode, noise), "validation": table(encode, noise), "test": hidden}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    folder = open_scenes(tmp_path / "saved")
    assert len(folder) == 8
    assert folder.n_ignored == 4
    chosen = open_scenes(tmp_path / "saved", split="val")
    assert chosen.scenes[0].name == "validation/Sea-Lake/000001"
    assert np.array_equal(decode(chosen.read(3)), noise(2))


def test_a_dataset_without_labels_is_refused(encode: Any, noise: Any, tmp_path: Path) -> None:
    table(encode, noise).remove_columns("label").save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="columns image; expected an image column and a class label"):
        open_scenes(tmp_path / "saved")


@pytest.fixture
def hub(encode: Any, noise: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for the hub, and notes what it was asked for."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    calls: list[tuple[Any, ...]] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        calls.append((*args, kwargs))
        return datasets.DatasetDict({"train": table(encode, noise)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_hub_ids_and_catalogue_names_load(hub: list[tuple[Any, ...]]) -> None:
    assert open_scenes("someone/scenes").info.name == "scenes"
    folder = open_scenes("EuroSAT")
    assert (folder.info.name, folder.info.licence, len(folder)) == ("eurosat", "MIT", 4)
    assert hub == [("someone/scenes", {}), ("blanchon/EuroSAT_RGB", {})]


def test_without_a_network_the_hub_is_asked_offline(encode: Any, noise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def unknown(*_: Any) -> None:
        raise socket.gaierror("Name or service not known")

    def load_dataset(_: str) -> Any:
        seen.append((constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        return table(encode, noise)

    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("terradistill.data.hub.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(open_scenes("someone/scenes")) == 4
    assert seen == [(True, True)]
    assert constants.HF_HUB_OFFLINE is False


def test_a_folder_goes_before_a_name(
    hub: list[tuple[Any, ...]], make_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_folder({"river": 1, "forest": 1}, name="eurosat").parent)
    assert open_scenes("eurosat").classes == ("forest", "river")
    assert not hub
    with pytest.raises(DataError, match="eurosat/nothing"):
        open_scenes("eurosat/nothing")  # a mistyped path, not a hub id
    assert not hub
