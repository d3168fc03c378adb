import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from terradistill.distillation.card import dataset_card, hub_licence, write_parquet
from terradistill.errors import DataError
from terradistill.settings import Settings

SETTINGS: dict[str, Any] = json.loads(Settings().model_dump_json())
DATA: dict[str, Any] = {
    "name": "toy",
    "title": "Toy: scenes",
    "classes": ["a|b", "<i>c</i>", "sea_lake"],
    "n_train": 90,
}
SCORE = {"method": "distilled", "network": "convnet3", "n_train": 30, "oa_mean": 0.583, "oa_std": 0.009, "n_seeds": 3}


def card(scores: list[dict[str, Any]], **data: Any) -> Any:
    """The card as the hub's own library reads it: no network needed for that."""
    from huggingface_hub import DatasetCard

    manifest = {"terradistill": "0.1.0", "git_sha": None, "command": "terradistill distill toy", "data": DATA | data}
    return DatasetCard(dataset_card(manifest, SETTINGS, scores))


@pytest.mark.parametrize(
    ("stated", "hub"),
    [
        ("MIT", "mit"),
        ("The MIT License", "mit"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("CC-BY-NC-4.0", "cc-by-nc-4.0"),
        ("CC BY 4.0 (Copernicus)", "cc-by-4.0"),
        ("Creative Commons Attribution 4.0 International", "cc-by-4.0"),
        ("CC0", "cc0-1.0"),
        (None, "unknown"),
    ],
)
def test_known_licences(stated: str | None, hub: str) -> None:
    assert hub_licence(stated) == {"license": hub}


def test_other_licences_keep_their_name() -> None:
    assert hub_licence("research use, unspecified") == {"license": "other", "license_name": "research-use-unspecified"}
    metadata = card([], licence="public domain (USGS)", url="https://example.org/data").data.to_dict()
    assert metadata["license"] == "other"
    assert metadata["license_name"] == "public-domain-usgs"
    assert metadata["license_link"] == "https://example.org/data"


def test_what_the_generator_knew_before_is_said_with_its_terms() -> None:
    manifest = {"command": "terradistill distill toy", "data": DATA, "generator_sources": {"AID": "research use"}}
    assert "The generator had learned before from AID (research use)" in dataset_card(manifest, SETTINGS, [])
    assert "had learned before" not in dataset_card({**manifest, "generator_sources": {}}, SETTINGS, [])


def test_header_parses_whatever_the_title_holds() -> None:
    metadata = card([], title='Toy: "scenes" #1\n---\nlicense: mit', licence="CC-BY-4.0").data.to_dict()
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["pretty_name"].startswith('Toy: "scenes" #1 --- license: mit, distilled to')
    assert metadata["task_categories"] == ["image-classification"]
    assert metadata["size_categories"] == ["n<1K"]


def test_body_says_what_matters() -> None:
    text = card([SCORE], citation="Nobody, 2020", url="javascript:alert(1)").text
    for needed in ("58.3 ± 0.9", "Nobody, 2020", "Not private", "Not a replacement", "imagefolder", "ImageFolder"):
        assert needed in text
    assert "javascript:" not in text
    assert r"a\|b, \<i\>c\</i\>, sea\_lake" in text


def test_unscored_sets_say_so() -> None:
    assert "Not evaluated" in card([]).text


def test_parquet_opens_as_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for i, name in enumerate(("river", "<b>", "river")):
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "set" / name / f"{i}.png")
    write_parquet(tmp_path / "set", tmp_path / "set.parquet")
    files = str(tmp_path / "set.parquet")
    scenes = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert scenes.features["label"].names == ["<b>", "river"]
    assert [scene["label"] for scene in scenes] == [0, 1, 1]
    assert [scene["image"].getpixel((0, 0)) for scene in scenes] == [(1, 0, 0), (0, 0, 0), (2, 0, 0)]


def test_parquet_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no"):
        write_parquet(tmp_path, tmp_path / "set.parquet")
