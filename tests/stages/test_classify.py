"""Classifiers of scenes from the command line to ONNX, on tiny ones."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import terradistill as td
from terradistill.classification.explain import _gives_planes, heatmaps
from terradistill.classification.learn import scores_of, train_classifier
from terradistill.classification.predict import predict_scenes
from terradistill.classification.training import _divergence
from terradistill.data.check import check_scenes
from terradistill.data.images import to_float
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation.scoreboard import learned_by
from terradistill.distillation.teacher import soft_labels
from terradistill.distillation.work import weights_hash
from terradistill.generation.orders import Order
from terradistill.hardware import Hardware
from terradistill.models.downstream import build_network, count_parameters
from terradistill.models.scene_classifier import SceneClassifier
from tests.conftest import terradistill, tiny_settings

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
SHORT = (
    "classify.network=resnet18",
    "classify.epochs=2",
    "classify.batch_size=16",
    "classify.resolution=32",
    "classify.warmup_epochs=0.5",
    "classify.least_steps=1",
)


def trained(drawn: Path, out: Path, capsys: Capture, monkeypatch: Patch, *more: str) -> tuple[int, str]:
    command = ["classify", "train", str(drawn), "--preset", "tiny", "--out", str(out)]
    for setting in SHORT:
        command += ["--set", setting]
    return terradistill(*command, *more, capsys=capsys, monkeypatch=monkeypatch)


@pytest.fixture(scope="module")
def run(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet18 that distils itself."""
    out = tmp_path_factory.mktemp("classify") / "run"
    overrides = [*SHORT, "classify.method=dsd"]
    from terradistill.config import load_settings

    train_classifier(drawn, out, load_settings(["tiny"], overrides=overrides, ipc=2))
    return out


def test_what_is_kept_gives_the_logits_of_what_was_trained(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terradistill.classification import learn
    from terradistill.config import load_settings

    trained: list[torch.nn.Module] = []
    plain = learn.train_scene_classifier

    def watched(network: torch.nn.Module, *given: object, **named: object) -> object:
        trained.append(network)
        return plain(network, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(learn, "train_scene_classifier", watched)
    settings = load_settings(["tiny"], overrides=[*SHORT, "classify.method=dsd", "data.limit=12"], ipc=2)
    out = train_classifier(drawn, tmp_path / "run", settings)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(SceneClassifier.load(out).network(images), trained[0].eval()(images)), "bit for bit"


def test_a_side_that_the_network_does_not_take_is_one_sentence(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terradistill.classification import learn

    class Picky(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError(f"Input image size ({x.shape[-1]}) doesn't match model (224)")

    monkeypatch.setattr(learn, "build_network", lambda *_, **__: Picky())
    with pytest.raises(td.TerraDistillError, match=r"images of 32 pixels .*: set classify\.resolution"):
        train_classifier(drawn, tmp_path / "run", tiny_settings(classify__method="ce", classify__resolution=32))
    assert not (tmp_path / "run").exists()


def test_test_scenes_are_read_once_the_epoch_is_chosen_and_not_before(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terradistill.classification import learn
    from terradistill.config import load_settings

    opened: list[str] = []
    exam: set[str] = set()
    read, plain_open, plain_train = SceneFolder.read, learn.open_work, learn._train
    fit = learn.train_scene_classifier

    def spy(self: SceneFolder, index: int) -> bytes:
        opened.append(self.scenes[index].name)
        return read(self, index)

    def opening(*given: Any, **named: Any) -> Any:
        work = plain_open(*given, **named)  # which looks into all files, to split the scenes
        exam.update(scene.name for scene in work.test.scenes)
        monkeypatch.setattr(SceneFolder, "read", spy)
        return work

    def learning(*given: Any) -> None:
        plain_train(*given)
        assert opened
        assert exam
        assert not exam & set(opened)

    monkeypatch.setattr(learn, "open_work", opening)
    monkeypatch.setattr(learn, "_train", learning)
    monkeypatch.setattr(learn, "train_scene_classifier", lambda *given, **named: replace(fit(*given, **named), epoch=7))
    few = ("classify.method=ce", "classify.network=convnet3", "data.limit=12")
    settings = load_settings(["tiny"], overrides=[*SHORT, *few], ipc=2)
    out = train_classifier(drawn, tmp_path / "run", settings)
    assert exam <= set(opened)
    assert SceneClassifier.load(out).about["epoch"] == 7, "the one that training has chosen"


def test_what_a_teacher_says_is_learned_instead_of_the_class(drawn: Path, tmp_path: Path) -> None:
    from terradistill.config import load_settings

    scenes, rows = tmp_path / "scenes", []
    shutil.copytree(drawn, scenes)
    classes = open_scenes(drawn).classes
    for path in sorted(scenes.glob("*/*.png")):
        said = np.eye(len(classes))[(classes.index(path.parent.name) + 1) % len(classes)]
        rows.append({"file_name": f"{path.parent.name}/{path.name}", "soft_labels": said.tolist()})
    (scenes / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    longer = ("classify.epochs=8", "classify.network=convnet3", "classify.method=ce", "classify.ema_decay=0")
    asked = [*SHORT, *longer, "classify.soft_labels=true", "classify.patience=100"]
    settings = load_settings(["tiny"], overrides=asked, ipc=2)
    found = scores_of(train_classifier(scenes, tmp_path / "run", settings).parent)
    confusion = np.array(found["confusion"])
    led = sum(confusion[k, (k + 1) % len(classes)] for k in range(len(classes))) / confusion.sum()
    assert led > 0.6 > 0.3 > found["oa"], (led, found["oa"])
    with pytest.raises(td.TerraDistillError, match="has 0 soft labels: expected one for each"):
        train_classifier(drawn, tmp_path / "none", settings)
    assert not (tmp_path / "none").exists(), "the mended command finds it free"
    assert SceneClassifier.load(tmp_path / "run").about["labels"] == "soft"


def test_a_pretrained_scale_of_pixels_is_kept(tmp_path: Path) -> None:
    from terradistill.models.downstream import Network

    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    network = Network(body, ((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))).eval()
    monkey = pytest.MonkeyPatch()
    monkey.setattr("terradistill.models.scene_classifier.build_network", lambda *_: Network(body))
    SceneClassifier(network, "x", ("a", "b"), {"a": "a", "b": "b"}, 16).save(tmp_path / "m")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(SceneClassifier.load(tmp_path / "m").network(images), network(images))
    monkey.undo()


def test_what_is_kept_is_the_plain_backbone(run: Path) -> None:
    model = SceneClassifier.load(run)
    plain = build_network("resnet18", len(model.classes), 32)
    assert count_parameters(model.network) == count_parameters(plain)
    assert set(load_file(run / "model" / "model.safetensors")) == set(plain.state_dict())
    assert model.about["parameters_while_training"] > model.about["parameters"]
    gain = model.about["divergence_from_teachers"]
    assert all(len(gain[name]) == 3 and min(gain[name]) >= 0 for name in ("raw", "refined", "linear"))
    scores = scores_of(run)
    assert scores["n_test"] > 0
    assert np.array(scores["confusion"]).sum() == scores["n_test"]
    assert scores["oa"] > 0.4, "drawn classes are easily told apart"
    page = (run / "report.html").read_text()
    assert "Reliability" in page
    assert "What it looks at" in page


def test_the_gain_is_measured_from_the_teacher_s_side() -> None:
    teacher, student = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    p, q = teacher.softmax(1).numpy(), student.softmax(1).numpy()
    assert float(_divergence(teacher, student)) == pytest.approx(float((p * np.log(p / q)).sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize("method", ["ce", "byot", "logit-sd"])
def test_every_method_trains_under_the_same_recipe(
    method: str, drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    code, error = trained(drawn, tmp_path / "run", capsys, monkeypatch, "--method", method, "--limit", "12")
    assert code == 0, error
    about = SceneClassifier.load(tmp_path / "run").about
    assert about["method"] == method
    assert (about["parameters_while_training"] == about["parameters"]) == (method == "ce")


def test_any_scene_folder_can_be_learned_from_and_real_scenes_judge(
    finished: td.Distilled, drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    made = finished.run / "distilled"
    few = ("--against", str(drawn), "--method", "ce", "--set", "classify.validation_fraction=0.3")
    code, error = trained(made, tmp_path / "two", capsys, monkeypatch, *few)
    assert (code, "fewer than the 3 images" in error) == (2, True), error  # nothing is left to choose the epoch by

    scenes, generator = tmp_path / "scenes", td.Generator.load(finished.run)
    orders = [Order(f"a satellite image of {name}", name) for name in open_scenes(made).classes]
    td.generate(orders, scenes, generator, n=4, settings=tiny_settings())
    code, error = trained(scenes, tmp_path / "run", capsys, monkeypatch, *few)
    assert code == 0, error
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert scores_of(tmp_path / "run")["n_test"] == len(split["test"])
    model = SceneClassifier.load(tmp_path / "run")
    assert {scene.sha256 for scene in check_scenes(open_scenes(scenes))[0].scenes} <= model.learned_from
    assert model.about["data"] == "Scenes made to order"
    seen = learned_by(scenes)
    assert seen
    assert seen <= model.learned_from
    code, error = trained(scenes, tmp_path / "alone", capsys, monkeypatch, *few[2:], "--train-fraction", "0.75")
    assert code == 0, error
    assert seen <= SceneClassifier.load(tmp_path / "alone").learned_from, "of its generator, whoever judges"
    code, error = trained(scenes, scenes / "clf", capsys, monkeypatch, *few)
    assert (code, "lies inside" in error) == (2, True), error
    code, error = terradistill(
        "classify", "train", str(scenes), str(drawn), "--against", str(drawn), "--out", str(tmp_path / "x"),
        capsys=capsys, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert (code, "give one" in error) == (2, True)


@pytest.mark.parametrize("plan", ["network=efficientnet-lite0 method=ce", "network=convnext-atto method=dsd"])
def test_a_killed_training_goes_on_to_the_same_network(
    plan: str, drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    from terradistill.classification import training as scene_classifier

    def weights(run: Path) -> dict[str, torch.Tensor]:
        return SceneClassifier.load(run).network.state_dict()

    own = ("randaugment=2", "erasing=0.5", "optimizer=rmsprop", "epochs=4", *plan.split())
    more = (
        "--limit",
        "12",
        "--set",
        "checkpoint_seconds=0",
        *(part for each in own for part in ("--set", f"classify.{each}")),
    )
    assert trained(drawn, tmp_path / "whole", capsys, monkeypatch, *more)[0] == 0
    plain, calls = scene_classifier.augmented, []

    def interrupted(*given: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(scene_classifier, "augmented", interrupted)
    code, _ = trained(drawn, tmp_path / "killed", capsys, monkeypatch, *more)
    assert code != 0
    monkeypatch.setattr(scene_classifier, "augmented", plain)
    assert trained(drawn, tmp_path / "killed", capsys, monkeypatch, *more)[0] == 0
    about = [SceneClassifier.load(tmp_path / name).about for name in ("whole", "killed")]
    gains = [each.get("divergence_from_teachers") for each in about]
    assert gains[0] == gains[1], "its branches go on too"
    assert (gains[0] is None) == ("method=ce" in plan)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


def test_predictions_are_rows_with_probabilities(
    run: Path, drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    command = ["classify", "predict", str(run), str(drawn), "--out"]
    for name in ("p.csv", "p.jsonl"):
        code, error = terradistill(*command, str(tmp_path / name), capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, error
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    with (tmp_path / "p.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(lines) == len(table) == len(open_scenes(drawn))
    for line, row in zip(lines, table, strict=True):
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert line["class"] == row["class"] == max(line["probabilities"], key=line["probabilities"].__getitem__)
        assert float(row[line["class"]]) == line["confidence"]
    right = np.mean([line["file"].split("/")[0] == line["class"] for line in lines])
    assert right > 0.4
    scenes = open_scenes(drawn)
    alone = []
    for i in range(2):
        alone.append(tmp_path / str(i) / "scene.png")
        alone[i].parent.mkdir()
        alone[i].write_bytes(scenes.read(i))
    several = [*map(str, alone), str(drawn)]
    code, error = terradistill(
        *command[:3], *several, "--out", str(tmp_path / "s.jsonl"), capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 0, error
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [*several[:2], *(f"{drawn}/{scene.name}" for scene in scenes.scenes)]
    assert [row["class"] for row in rows[:2]] == [row["class"] for row in rows[2:4]]
    code, error = terradistill(*command, str(tmp_path / "p.txt"), capsys=capsys, monkeypatch=monkeypatch)
    assert (code, ".csv or .jsonl" in error) == (2, True)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.csv" / "mine").write_text("kept")
    code, error = terradistill(*command, str(tmp_path / "folder.csv"), capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "is a folder" in error, (tmp_path / "folder.csv" / "mine").read_text()) == (2, True, "kept")
    code, error = terradistill(
        "classify",
        "predict",
        str(drawn),
        str(drawn),
        "--out",
        str(tmp_path / "q.csv"),
        capsys=capsys,
        monkeypatch=monkeypatch,
    )
    assert (code, "is no classifier" in error) == (2, True)


@pytest.mark.parametrize("window", [(), ("--window", "32")])
def test_what_cannot_be_read_is_told_and_passed_over(
    window: tuple[str, ...], run: Path, drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    folder, out = tmp_path / "images", tmp_path / "p.csv"
    folder.mkdir()
    (folder / "a.png").write_bytes(open_scenes(drawn).read(0))
    (folder / "b.png").write_bytes(b"no image")
    command = ["classify", "predict", str(run), str(folder), "--out", str(out), *window]
    code, said = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, said
    told: list[str] = []
    assert predict_scenes(run, folder, tmp_path / "q.csv", window=32 if window else None, unreadable=told.append) > 0
    assert [line.split(":")[0] for line in told] == ["b"]
    with out.open() as file:
        assert {row["file"] for row in csv.DictReader(file)} == {"a.png"}
    (folder / "a.png").write_bytes(b"no image either")
    kept = out.read_bytes()
    code, said = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "None of the 2 images can be read" in " ".join(said.split())) == (2, True), said
    assert out.read_bytes() == kept


def test_large_images_are_classified_window_by_window(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    command = ["classify", "predict", str(run), str(tmp_path / "large.png"), "--out", str(tmp_path / "p.jsonl")]
    code, error = terradistill(*command, "--window", "32", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    places = [(row["row"], row["column"]) for row in map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())]
    assert places == [(y, x) for y in (0, 32, 38) for x in (0, 32, 64, 68)]
    # Each window says what it shows alone, in probabilities that the temperature has made milder.
    model = SceneClassifier.load(run)
    mild = shutil.copytree(run / "model", tmp_path / "mild") / "config.json"
    mild.write_text(json.dumps(json.loads(mild.read_text()) | {"temperature": 4.0}))
    command[2] = str(tmp_path / "mild")
    code, error = terradistill(*command, "--window", "32", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    for row in map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines()):
        y, x = row["row"], row["column"]
        with torch.inference_mode():
            said = model.network.eval()(to_float(pixels[None, y : y + 32, x : x + 32]))
        assert list(row["probabilities"].values()) == pytest.approx((said / 4).softmax(1)[0].tolist(), abs=1e-3)
    code, error = terradistill(*command, "--window", "80", capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "do not fit large.png" in error) == (2, True)


@pytest.mark.parametrize("window", [None, 32])
def test_rows_of_a_geotiff_say_where_they_lie(window: int | None, run: Path, tmp_path: Path) -> None:
    import rasterio
    from rasterio.transform import Affine

    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 96), dtype=np.uint8)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=96, height=64, count=3, dtype="uint8", crs="EPSG:4326",
        transform=Affine(0.01, 0, 11, 0, -0.01, 50),
    ) as image:  # fmt: skip
        image.write(pixels)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "nowhere.png")
    n = predict_scenes(run, tmp_path, tmp_path / "p.csv", window=window)
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == n == (2 if window is None else 12)
    placed = [(float(row["lon"]), float(row["lat"])) for row in rows if row["file"] == "a.tif"]
    middles = [(48, 32)] if window is None else [(x, y) for y in (16, 48) for x in (16, 48, 80)]
    assert np.allclose(placed, [(11 + 0.01 * x, 50 - 0.01 * y) for x, y in middles])
    assert {(row["lon"], row["lat"]) for row in rows if row["file"] != "a.tif"} == {("", "")}


def test_a_network_of_the_hub_opens_without_the_hub(tmp_path: Path, monkeypatch: Patch) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    small = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ResNetForImageClassification(small).save_pretrained(tmp_path / "owner" / "net")
    monkeypatch.chdir(tmp_path)
    network = build_network("hub:owner/net", 2, 32, pretrained=True).eval()
    SceneClassifier(network, "hub:owner/net", ("a", "b"), {"a": "a", "b": "b"}, 32).save(tmp_path / "m")
    shutil.rmtree(tmp_path / "owner")  # as if the hub were out of reach
    assert "_name_or_path" not in (tmp_path / "m" / "network" / "config.json").read_text(), "paths of a machine"
    again = SceneClassifier.load(tmp_path / "m")
    assert again.name == "hub:owner/net"
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(again.network(images), network(images))


def test_the_exported_backbone_gives_the_same_logits(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    import onnxruntime

    code, error = terradistill(
        "classify", "export", str(run), "--out", str(tmp_path / "out"), capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 0, error
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    own, again = SceneClassifier.load(run).network, SceneClassifier.load(tmp_path / "out").network
    with torch.inference_mode():
        assert torch.equal(own(images), again(images)), "bit for bit"
        session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
        (found,) = session.run(["logits"], {"images": images.numpy()})
        assert np.abs(found - own(images).numpy()).max() < 1e-3


def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(torch.onnx, "export", refused)
    command = ["classify", "export", str(run), "--out", str(tmp_path / "out")]
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "(no such operator): leave it out" in " ".join(error.split())) == (2, True), error
    assert not list(tmp_path.iterdir())


def test_onnx_that_no_session_opens_is_one_sentence(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    import onnxruntime

    class Refused(Exception):
        """As onnxruntime's own, which have no other base."""

    def refused(*_: object, **__: object) -> None:
        raise Refused("an operator that nobody knows")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refused)
    command = ["classify", "export", str(run), "--out", str(tmp_path / "out")]
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "(an operator that nobody knows)" in " ".join(error.split())) == (2, True), error


def test_real_scenes_are_not_shown_where_they_are_hidden(
    drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    hidden = ("--set", "export.hide_real=true", "--set", "classify.method=ce", "--set", "data.limit=12")
    code, error = trained(drawn, tmp_path / "run", capsys, monkeypatch, *hidden)
    assert code == 0, error
    assert not (tmp_path / "run" / "looked_at.png").exists()
    assert "looks at" not in (tmp_path / "run" / "report.html").read_text()


def test_another_teacher_makes_another_recipe(run: Path, tmp_path: Path) -> None:
    places = [SceneClassifier.located(place) for place in (run, run / "model")]
    assert places == [run / "model"] * 2
    other = SceneClassifier.load(run)
    torch.nn.init.zeros_(next(other.network.parameters()))
    other.save(tmp_path / "model")
    assert weights_hash(places[:1]) != weights_hash([SceneClassifier.located(tmp_path)])


def test_heat_lies_where_the_class_is_seen() -> None:
    bright = torch.nn.Conv2d(3, 2, 3, padding=1)
    with torch.no_grad():
        bright.weight.zero_()
        bright.bias.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[union-attr]
        bright.weight[0] = 1 / 27
    network = torch.nn.Sequential(bright, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    model = SceneClassifier(network, "by hand", ("bright", "any"), {}, 32)
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[0, 4:12, 4:12] = pixels[1, 20:28, 16:24] = 255
    heat = heatmaps(model, pixels, torch.zeros(2, dtype=torch.int64), Hardware(torch.device("cpu")))
    assert heat is not None
    assert heat.shape == (2, 32, 32)
    for each, (y, x) in zip(heat, ((4, 4), (20, 16)), strict=True):
        assert each[y + 1 : y + 7, x + 1 : x + 7].min() > 0.9
        assert each.sum() < 1.5 * each[y - 1 : y + 9, x - 1 : x + 9].sum()


def test_a_layer_whose_channels_are_last_has_no_heat() -> None:
    class Permuted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1)

    class Several(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return x, None

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1), Permuted(), Several())
    found = [_gives_planes(network, layer, torch.zeros(1, 3, 16, 16)) for layer in network]
    assert found == [True, False, False]


def test_a_network_without_stages_is_refused_before_anything_is_read(
    drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    code, error = trained(drawn, tmp_path / "run", capsys, monkeypatch, "--network", "convnet3", "--method", "dsd")
    assert (code, "no four stages" in error) == (2, True)
    assert not (tmp_path / "run").exists()
    code, error = trained(
        drawn, tmp_path / "run", capsys, monkeypatch, "--network", "convnet3", "--method", "ce", "--limit", "12"
    )
    assert code == 0, error


def test_a_trained_classifier_teaches_and_is_asked_by_audit_and_fidelity(
    run: Path, drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    import terradistill as td
    from terradistill.config import load_settings

    split, few = run / "split.json", tmp_path / "few"
    for name in open_scenes(drawn).classes:
        (few / name).mkdir(parents=True)
        for path in sorted((drawn / name).glob("*.png"))[:3]:
            Image.fromarray(255 - np.asarray(Image.open(path))).save(few / name / path.name)
    given = ["--set", f"evaluation.teacher={run}", "--split-file", str(split)]
    command = ["bench", "fidelity", str(few), "--against", str(drawn), "--preset", "tiny", *given]
    code, error = terradistill(*command, "--out", str(tmp_path / "fidelity"), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    assert not (tmp_path / "fidelity" / "teacher").exists(), "none is trained"
    settings = load_settings(["tiny"], overrides=[f"evaluation.teacher={run}"], data__split_file=split)
    work = SimpleNamespace(
        settings=settings, hardware=Hardware(torch.device("cpu")), train=open_scenes(drawn), test=open_scenes(few)
    )
    images, model = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3), SceneClassifier.load(run)
    with torch.inference_mode():
        said = model.network.eval()(to_float(images)) / model.temperature
    assert np.allclose(soft_labels(work, images), said.softmax(1), atol=0.01), "at its own temperature"  # type: ignore
    with monkeypatch.context() as own:
        own.setattr("terradistill.distillation.audit.trained_network", lambda *_, **__: pytest.fail("none is trained"))
        found = td.audit(few, drawn, tmp_path / "audit", settings)
    assert all(0 <= row["features"]["cosine"] <= 1.001 for row in found["images"])
    for other, says in (
        (
            load_settings(["tiny"], overrides=[f"evaluation.teacher={run}", "data.split_seed=5"]),
            "of the scenes that judge",
        ),
        (load_settings(["tiny"], overrides=[f"evaluation.teacher={drawn}"]), "is no classifier"),
    ):
        from terradistill.distillation.fidelity import fidelity

        with pytest.raises(td.TerraDistillError, match=says):
            fidelity(few, drawn, tmp_path / says[:6], other)


def test_a_class_may_be_named_as_a_column_is(tmp_path: Path) -> None:
    from terradistill.classification.predict import predict_scenes

    network = build_network("convnet3", 2, 32)
    SceneClassifier(network, "convnet3", ("class", "file"), {}, 32).save(tmp_path / "model")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "x.png")
    predict_scenes(tmp_path / "model", tmp_path / "x.png", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        head, row = csv.reader(file)
    assert head == ["file", "class", "confidence", "class", "file"]
    assert row[0].startswith("x")
    assert float(row[3]) + float(row[4]) == pytest.approx(1, abs=1e-4)
