"""Pairs drawn after masks, and what they are worth: the whole way on tiny ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import terradistill as td
from terradistill.distillation.scoreboard import learned_by
from terradistill.engine import _adherence, data_engine, verdict
from terradistill.evaluation.segmentation import Pairs, fit_segmenter, iou
from terradistill.hardware import find_hardware
from terradistill.models.places import learned_from
from terradistill.sections import EngineSettings
from tests.conftest import terradistill, tiny_settings

SETTINGS = [
    *("adapter.steps=6", "adapter.batch_size=8", "adapter.widths=[16,16]", "sampling.steps=2"),
    *(
        "engine.steps=12",
        "engine.batch_size=8",
        "engine.widths=[16,32]",
        "engine.n_seeds=2",
        "engine.drawn_per_real=0.5",
    ),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scenes with a road each."""
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for i in range(5):
        mask = np.zeros((70, 100), np.uint8)
        mask[:, 10 * i + 20 : 10 * i + 26] = 255
        image = rng.integers(40, 90, (70, 100, 3), dtype=np.uint8) + (mask // 2)[..., None]
        Image.fromarray(image).save(root / "images" / f"scene{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"scene{i}.png")
    (root / "dataset.json").write_text(json.dumps({"title": "Five roads", "licence": "CC BY 4.0"}))
    return root


def test_the_engine_says_what_its_pairs_are_worth(
    finished: td.Distilled,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "engine"
    command = ["engine", "roads", str(pairs), "--generator", str(finished.run), "--preset", "tiny", "--out", str(out)]
    for setting in SETTINGS:
        command += ["--set", setting]
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    result = json.loads((out / "engine.json").read_text())
    # 70 x 100 pixels hold 2 x 3 tiles of 32; one scene of five is the test.
    assert [(row["learned_from"], row["pairs"]) for row in result["rows"]] == [
        ("real", 24),
        ("drawn", 12),
        ("real and drawn", 36),
    ]
    assert result["n_test"] == 6
    assert all(len(row["iou"]) == 2 and 0 <= row["iou_mean"] <= 1 for row in result["rows"])
    assert "points of IoU" in (out / "engine.md").read_text()
    told = result["adherence"]
    assert told["scenes"] == 6
    assert len(told["iou"]) == len(told["shuffled"]) == 2
    assert all(0 <= value <= 1 for value in [*told["iou"], *told["shuffled"]])
    # What judges was learned from by nobody.
    tests = {path.name for path in (out / "tiles" / "test" / "road").iterdir()}
    assert all(name.startswith("scene4-") for name in tests)
    assert not tests & {path.name for path in (out / "tiles" / "train" / "road").iterdir()}
    known = learned_from(out / "adapter")
    judges = {scene.sha256 for scene in td.check_scenes(td.open_scenes(out / "tiles" / "test"))[0].scenes}
    assert known
    assert not known & judges
    scenes = out / "synthetic" / "scenes"
    rows = [json.loads(line) for line in (scenes / "metadata.jsonl").read_text().splitlines()]
    assert all((scenes / row["map_road"]).exists() for row in rows)
    assert learned_by(scenes) == known
    with pytest.raises(td.TerraDistillError, match="has learned from scene3"):  # in tiles
        data_engine(pairs, tmp_path / "x", tiny_settings(generator=str(out / "adapter"), engine__test_fraction=0.4))
    with pytest.raises(td.TerraDistillError, match="lies inside"):
        data_engine(pairs, pairs / "out", tiny_settings(generator=str(finished.run)))
    with Image.open(out / "engine.png") as picture:
        assert picture.width > 8 * 32

    licences = {folder: td.open_scenes(folder).info.licence for folder in (out / "tiles" / "train", scenes)}
    assert all("CC BY 4.0" in licence for licence in licences.values()), licences
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["command"].startswith("terradistill engine roads")

    before = (out / "engine.json").read_text()
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    assert (out / "engine.json").read_text() == before

    other = tmp_path / "other"
    shutil.copytree(pairs, other)
    Image.fromarray(np.asarray(Image.open(other / "masks" / "scene0.png"))[:, ::-1]).save(other / "masks/scene0.png")
    code, error = terradistill(
        *("engine", "roads", str(other)), *command[3:], capsys=capsys, monkeypatch=monkeypatch
    )  # fmt: skip
    assert code == 2
    assert "was begun with other pairs" in error


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("lonely", "scene9 is in one of them alone"),
        ("small", "at least 32"),
        ("black", "show no white"),
        ("one", "There is one pair"),
        ("twice", "Two of .* are named scene0"),
        ("alike", "scene4, which is to judge, shows what"),
    ],
)
def test_pairs_that_do_not_fit_are_one_sentence(
    finished: td.Distilled, pairs: Path, tmp_path: Path, kind: str, says: str
) -> None:
    shutil.copytree(pairs, tmp_path / "p")
    if kind == "lonely":
        Image.new("RGB", (70, 100)).save(tmp_path / "p" / "images" / "scene9.png")
    elif kind == "one":
        for file in [*(tmp_path / "p").glob("*/scene[1-9].png")]:
            file.unlink()
    elif kind == "twice":
        for part in ("train", "test"):
            shutil.copytree(pairs, tmp_path / "both" / part)
        (tmp_path / "p").rename(tmp_path / "old")
        (tmp_path / "both").rename(tmp_path / "p")
    elif kind == "alike":
        for folder in ("images", "masks"):
            shutil.copy(tmp_path / "p" / folder / "scene0.png", tmp_path / "p" / folder / "scene4.png")
    elif kind == "black":
        for file in (tmp_path / "p" / "masks").iterdir():
            Image.fromarray(np.asarray(Image.open(file)) // 255).save(file)  # 0 and 1
    else:
        for folder in ("images", "masks"):
            Image.new("RGB", (20, 20)).save(tmp_path / "p" / folder / "scene0.png")
    with pytest.raises(td.TerraDistillError, match=says):
        data_engine(tmp_path / "p", tmp_path / "out", tiny_settings(generator=str(finished.run)))
    assert not (tmp_path / "out").exists()


def test_more_halvings_than_a_tile_allows_are_refused_at_once(
    finished: td.Distilled, pairs: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(generator=str(finished.run), engine__widths=[16] * 7)  # 32 pixels halve five times
    with pytest.raises(td.TerraDistillError, match="cannot be halved 6 times"):
        data_engine(pairs, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_a_segmenter_that_diverges_says_so() -> None:
    pairs = Pairs(np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 32, 32), bool))
    settings = EngineSettings(widths=(8, 8), steps=40, batch_size=4, learning_rate=1e20)
    with pytest.raises(td.TerraDistillError, match=r"diverged .* lower engine.learning_rate"):
        fit_segmenter(pairs, settings, seed=0, hardware=find_hardware("fp32"))


def test_adherence_is_high_where_scenes_show_their_masks_and_not_those_of_others() -> None:
    masks = np.zeros((4, 8, 8), bool)
    for i in range(4):
        masks[i, :, 2 * i] = True
    told = _adherence([masks, np.zeros_like(masks)], masks)
    assert told == {"scenes": 4, "iou": [1.0, 0.0], "shuffled": [0.0, 0.0]}


def test_the_verdict_needs_more_than_the_spread() -> None:
    def rows(real: list[float], both: list[float]) -> list[dict[str, object]]:
        return [{"learned_from": "real", "iou": real}, {"learned_from": "real and drawn", "iou": both}]

    assert verdict(rows([0.5, 0.52, 0.51], [0.56, 0.58, 0.565])).startswith("Drawn pairs beside the real ones help: +5")
    assert verdict(rows([0.5, 0.52, 0.51], [0.46, 0.48, 0.465])).startswith("Drawn pairs beside the real ones harm: −4")
    assert verdict(rows([0.5, 0.6, 0.4], [0.6, 0.5, 0.5])).startswith("No clear difference")
    few = verdict(rows([0.5, 0.52, 0.51], [0.52, 0.55, 0.52]))  # twice the standard error, and three seeds
    assert few.startswith("No clear difference: drawn pairs beside the real ones change +2.0 ± 2.5 points"), few
    assert verdict(rows([0.5], [0.9])).startswith("One training of each cannot tell: +40.0 points")


def test_iou_counts_pixels() -> None:
    a, b = np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), bool)
    assert iou(a, b) == 1.0
    a[0, :2] = True
    b[0, 1:3] = True
    assert iou(a, b) == pytest.approx(4 / 12)
