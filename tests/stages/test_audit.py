"""The audit finds planted copies in a folder, names their neighbours, and leaves the rest alone."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import terradistill as td
from terradistill.data.drawn import draw_scenes
from terradistill.distillation.audit import _picture
from tests.conftest import terradistill, tiny_settings


def _recompressed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    kept = io.BytesIO()
    Image.fromarray(image).save(kept, "JPEG", quality=80)
    return np.asarray(Image.open(kept))


COPIES: list[Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = [
    lambda image: image,
    lambda image: image[:, ::-1],
    lambda image: image[::-1],
    lambda image: np.rot90(image),
    _recompressed,
    lambda image: _recompressed(image[:, ::-1]),
    lambda image: (image + np.random.default_rng(0).normal(scale=2, size=image.shape)).clip(0, 255).astype(np.uint8),
    lambda image: (image.astype(int) + 8).clip(0, 255).astype(np.uint8),
    lambda image: np.rot90(image, 2),
    lambda image: _recompressed(np.rot90(image, 3)),
]


def _briefly(**more: Any) -> td.Settings:
    """The network of the audit is trained in a moment."""
    return td.load_settings(evaluation__min_steps=30, evaluation__max_steps=30, **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Real scenes, and a split file of them."""
    root = tmp_path_factory.mktemp("world")
    real = draw_scenes(root / "real", per_class=60, size=64, n_classes=3)
    names = sorted(str(path.relative_to(real)) for path in real.rglob("*.png"))
    (root / "split.json").write_text(json.dumps({"train": names[::2], "test": names[1::2]}))
    return real, root / "split.json"


def test_ten_of_ten_planted_copies_are_found(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, split = world
    fresh = draw_scenes(tmp_path / "made", per_class=12, size=64, n_classes=3, seed=7)
    train, planted = json.loads(split.read_text())["train"], {}
    for k, change in enumerate(COPIES):
        source = train[k * len(train) // len(COPIES)]
        target = fresh / source.split("/")[0] / f"planted{k}.png"
        Image.fromarray(np.ascontiguousarray(change(np.asarray(Image.open(real / source).convert("RGB"))))).save(target)
        planted[str(target.relative_to(fresh))] = source
    where = ["--against", str(real), "--split-file", str(split), "--out", str(tmp_path / "a")]
    command = ["audit", str(fresh), *where, "--set", "evaluation.max_steps=30", "--set", "evaluation.min_steps=30"]
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    found = json.loads((tmp_path / "a" / "audit.json").read_text())
    flagged = set(found["flagged"])
    assert set(planted) <= flagged
    assert len(flagged - set(planted)) <= 1, "36 fresh scenes"
    for row in found["images"]:
        if row["file_name"] in planted:
            assert row["neighbour"] == planted[row["file_name"]]
    exact = next(row for row in found["images"] if row["file_name"].endswith("planted0.png"))
    assert exact["pixels"] == {"neighbour": exact["neighbour"], "ssim": 1.0}
    assert exact["features"]["neighbour"] == exact["neighbour"]
    assert exact["features"]["cosine"] > 0.999
    assert 0 < found["nn_ssim"]["unseen"] < found["nn_ssim"]["made"] < 1, "copies are among them"
    with Image.open(tmp_path / "a" / "audit.png") as picture:
        assert picture.width > 8 * 64


def test_membership_is_chance_for_scenes_that_were_never_learned_from(world: tuple[Path, Path], tmp_path: Path) -> None:
    real, split = world
    fresh = draw_scenes(tmp_path / "made", per_class=12, size=64, n_classes=3, seed=7)
    settings = _briefly(data__split_file=split)
    told = td.audit(fresh, real, tmp_path / "fresh", settings)["membership"]
    low, high = told["fine"]["interval"]
    assert low < 0.5 < high
    copied = tmp_path / "copied"
    for name in json.loads(split.read_text())["train"]:
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real / name, copied / name)
    assert td.audit(copied, real, tmp_path / "copies", settings)["membership"]["fine"]["auc"] > 0.95


def test_a_run_is_audited_against_what_it_learned_from(finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    found = td.audit(finished.run / "distilled", drawn, tmp_path / "audit", _briefly())
    assert found["scenes"] == len(finished.scenes)
    assert found["calibrated_by"] == "learned scenes, each without itself, and unseen ones"
    train = {scene["name"] for scene in json.loads((finished.run / "split.json").read_text())["train"]}
    assert {row["neighbour"] for row in found["images"]} <= train


def test_a_run_says_what_it_may_leak_and_hides_what_it_should(finished: td.Distilled) -> None:
    found = json.loads((finished.run / "audit.json").read_text())
    assert found["scenes"] == len(finished.scenes)
    assert (finished.run / "audit.png").exists()
    assert "What it may leak" in finished.report.read_text("utf-8")
    assert "The audit for near-copies flagged" in (finished.run / "distilled" / "README.md").read_text()


def test_hidden_scenes_are_neither_shown_nor_named(world: tuple[Path, Path], tmp_path: Path) -> None:
    real, split = world
    fresh = draw_scenes(tmp_path / "made", per_class=12, size=64, n_classes=3, seed=7)
    found = td.audit(fresh, real, tmp_path / "a", _briefly(data__split_file=split, export__hide_real=True))
    assert not (tmp_path / "a" / "audit.png").exists()
    named = [each["neighbour"] for row in found["images"] for each in (row, row["pixels"], row["features"])]
    assert len(named) == 3 * 36
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in named)


def test_what_was_seen_may_be_hidden_later(finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.run, tmp_path / "run")
    td.distill(drawn, tmp_path / "run", tiny_settings(export__hide_real=True))
    found = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert not (tmp_path / "run" / "audit.png").exists()
    named = [each["neighbour"] for row in found["images"] for each in (row, row["pixels"], row["features"])]
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in named)


def test_another_dataset_is_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    two = tmp_path / "two"
    td.write_scene_folder(two, ("a", "b"), np.zeros((2, 8, 8, 3), np.uint8), [0, 1], [{}, {}], {"name": "two"})
    with pytest.raises(td.TerraDistillError, match="has no class"):
        td.audit(two, world[0], tmp_path / "none")


@pytest.mark.parametrize(("flagged", "shown", "side"), [(0, 24, 128), (24, 24, 128), (25, 25, 64), (50, 50, 64)])
def test_all_that_is_flagged_is_shown(flagged: int, shown: int, side: int, tmp_path: Path) -> None:
    pixels = np.full((60, 64, 64, 3), 200, np.uint8)
    rows = [{"flagged": i < flagged, "excess": 1 - i / 60} for i in range(60)]
    _picture(rows, pixels, pixels, np.arange(60), tmp_path / "audit.png")
    with Image.open(tmp_path / "audit.png") as picture:
        seen = np.asarray(picture.convert("RGB"))
    assert (seen == 200).all(2).sum() == 2 * shown * side**2
