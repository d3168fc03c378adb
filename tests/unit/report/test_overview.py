from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from terradistill.report.overview import write_overview
from tests.unit.report.conftest import score

Row = dict[str, Any]


def table(*methods: str, networks: tuple[str, ...] = ("convnet3", "resnet18", "vit-tiny")) -> list[Row]:
    made = {"settings": "abc", "copies": 3}
    return [
        score(method, 0.5, 20, 2, network=network, **(made if method != "random" else {}))
        for network in networks
        for method in ("random", *methods)
    ]


def drawn(rows: list[Row], tmp_path: Path) -> bytes:
    assert write_overview(rows, tmp_path / "o.png")
    return (tmp_path / "o.png").read_bytes()


def test_a_column_a_dataset_and_a_line_a_network(tmp_path: Path) -> None:
    one = table("default", networks=("convnet3",))
    drawn(one, tmp_path)
    width, height = Image.open(tmp_path / "o.png").size
    drawn([*one, *(row | {"dataset": "other"} for row in one)], tmp_path)
    assert Image.open(tmp_path / "o.png").size == pytest.approx((width + 500, height), abs=1)
    drawn(table("default", networks=("convnet3", "resnet18")), tmp_path)
    wide, high = Image.open(tmp_path / "o.png").size
    assert (wide, high > height) == (width, True)


def test_networks_that_judge_some_datasets_share_a_line(tmp_path: Path) -> None:
    one = table("default", networks=("convnet3",))
    both = [*one, *(row | {"dataset": "other"} for row in one)]
    drawn([*both, *table("default", networks=("resnet18",))], tmp_path)
    size = Image.open(tmp_path / "o.png").size
    drawn([*table("default", networks=("resnet18", "vit-tiny")), *both], tmp_path)
    assert Image.open(tmp_path / "o.png").size == pytest.approx(size, abs=1)


def test_what_few_panels_have_is_left_to_the_table(tmp_path: Path) -> None:
    rows = table("default", "dpd")
    plain = drawn(rows, tmp_path)
    ablation = score("led", 0.4, 20, 2, settings="led")
    assert drawn([*rows, ablation], tmp_path) == plain
    assert drawn([*rows, ablation, ablation | {"network": "resnet18"}], tmp_path) != plain


def test_the_commonest_number_of_images_is_shown_and_all_real_images_beside(tmp_path: Path) -> None:
    rows = table("default", "dpd")
    plain = drawn(rows, tmp_path)
    assert drawn([*rows, *(row | {"ipc": 1, "oa_mean": 0.1} for row in rows[:2])], tmp_path) == plain
    assert drawn([*rows, score("full", 0.9, 100, 2, ipc=None)], tmp_path) != plain


def test_a_panel_of_references_alone_is_left_out(tmp_path: Path) -> None:
    rows = table("default")
    plain = drawn(rows, tmp_path)
    assert drawn([*rows, score("random", 0.5, 20, 2, dataset="other")], tmp_path) == plain


def test_near_copies_are_named(tmp_path: Path) -> None:
    rows = table("default")
    assert drawn(rows, tmp_path) != drawn([row | {"copies": None} for row in rows], tmp_path)


def test_a_table_without_methods_has_no_picture(tmp_path: Path) -> None:
    assert not write_overview([], tmp_path / "o.png")
    assert not write_overview(table(), tmp_path / "o.png")
    assert not write_overview([score("full", 0.9, 100, 2, ipc=None)], tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()
