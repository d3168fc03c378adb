"""The benches that judge drawn scenes run from end to end, with a tiny generator."""

import json
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import terradistill as td
from terradistill.classification.learn import train_classifier
from terradistill.data.drawn import draw_scenes
from terradistill.data.images import pixel_hash
from terradistill.generation.orders import orders_like
from terradistill.models.downstream import build_network
from terradistill.models.places import learned_from
from tests.conftest import TINY, tiny_settings

BENCH = Path(__file__).parents[2] / "bench"
FEW = ["--set", "evaluation.n_seeds=2", "--set", "sampling.steps=2"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run one with a command line, and give what it prints."""

    def run(name: str, *arguments: str, few: Sequence[str] = FEW) -> str:
        monkeypatch.syspath_prepend(BENCH)
        monkeypatch.setattr(sys, "argv", [name, *arguments, *few])
        runpy.run_path(str(BENCH / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_matrix_has_every_cell_and_one_budget(
    finished: td.Distilled, drawn: Path, bench: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from terradistill.evaluation import harness, recipe

    learned: list[tuple[Any, int]] = []
    fit = recipe.fit

    def spied(network: Any, images: Any, *rest: Any, **more: Any) -> int:
        steps = fit(network, images, *rest, **more)
        learned.append((images, steps))
        return steps

    def watched(network: Any, images: Any, *rest: Any, **more: Any) -> Any:
        judged.append(images)
        return predict(network, images, *rest, **more)

    judged, predict = list[Any](), recipe.predict
    monkeypatch.setattr(harness, "fit", spied)
    monkeypatch.setattr(recipe, "predict", watched)
    asked = ["--per-class", "2", "--ratios", "0.5", "2", "--steps", "3", "--network", "convnet3"]
    asked += ["--set", "evaluation.resolution=32"]  # as they are
    head, *table = bench("matrix", str(finished.run), str(drawn), *asked).strip().splitlines()
    assert "3 classes, chance 33.3 %, 2 images a class" in head
    cells = [_cells(line) for line in table if "±" in line]
    assert [row[0] for row in cells] == ["real", "drawn", "real and 0.5 × drawn", "real and 2 × drawn"]
    assert all("±" in cell for row in cells[:2] for cell in row[1:])
    assert all("±" in row[1] for row in cells[2:])
    assert {steps for _, steps in learned} == {3}
    assert [len(images) for images, _ in learned] == [6] * 4 + [9] * 2 + [18] * 2, "both tests judge each"
    for (first, _), (second, _) in zip(learned[::2], learned[1::2], strict=True):
        assert not np.array_equal(first, second), "each seed has a set of its own"
    known = learned_from(finished.run)
    assert {pixel_hash(image) for images, _ in learned[:2] for image in images} <= known, "real ones are of those"
    exams = [{pixel_hash(image) for image in images} for images in judged]
    for real, synthetic in zip(exams[:4:2], exams[1:4:2], strict=True):
        assert not real & known, "no scene that the generator has learned from judges"
        assert not real & synthetic
        assert len(real) == 18


def test_maps_are_found_again_at_every_strength(
    adapted: Path, drawn: Path, bench: Callable[..., str], tmp_path: Path
) -> None:
    brief = ["--per-class", "2", "--set", "sampling.steps=2", "--sheet", str(tmp_path / "sheet.jpg")]
    head, *rows = bench("adherence", str(adapted), str(drawn), few=brief).strip().splitlines()
    assert head.startswith("6 maps of unseen scenes")
    assert [row.split(":")[0].strip() for row in rows] == ["strength 0.0", "strength 0.5", "strength 1.0"]
    numbers = r"\d\.\d{3}, shuffled \d\.\d{3}, ratio \d+\.\d\d; of its class \d\.\d{3}"
    assert all(re.search(numbers, row) for row in rows)
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.height > 4 * 32


def test_content_images_are_compared_by_their_colours(adapted: Path, drawn: Path, bench: Callable[..., str]) -> None:
    brief = ["--map", "content", "--per-class", "2", "--set", "sampling.steps=2"]
    head, *rows = bench("adherence", str(adapted), str(drawn), few=brief).strip().splitlines()
    assert head.startswith("6 content images of unseen scenes")
    assert all(
        re.search(r"shuffled [\d.]+, ratio \d\.\d\d; of its class [\d.]+; its own is the nearest in \d+ %", row)
        for row in rows
    )
    assert len({row.split(": ")[1] for row in rows}) > 1, "a strength counts"


def test_numbers_are_told_right_shuffled_and_not_at_all(
    finished: td.Distilled, drawn: Path, bench: Callable[..., str]
) -> None:
    for template in ("a view of {class}[ in month {month}]", "a view of {class}"):
        few = ["--per-class", "2", "--seeds", "2", "--template", template]
        head, *rows = bench("metadata", str(finished.run), str(drawn), few=few).strip().splitlines()
        assert re.fullmatch(r"\d+ unseen scenes, 2 seeds", head)
        assert [row.split()[0] for row in rows] == ["right", "shuffled", "none"]
        gaps = [float(row.split()[4]) for row in rows[1:]]
        assert any(gaps) == ("month" in template), "words without the number are the same, whatever it is"


def test_captions_are_told_right_and_of_other_scenes(
    finished: td.Distilled, drawn: Path, bench: Callable[..., str]
) -> None:
    few = ["--per-class", "2", "--seeds", "2", "--captions"]
    head, *rows = bench("metadata", str(finished.run), str(drawn), few=few).strip().splitlines()
    assert re.fullmatch(r"6 unseen scenes, 2 seeds", head)
    assert [row.split()[0] for row in rows] == ["right", "shuffled", "another", "class", "none"]
    assert len({row.split()[1] for row in rows}) == 5, "each is told something else"


def test_a_sheet_has_a_row_a_class(drawn: Path, bench: Callable[..., str], tmp_path: Path) -> None:
    bench("sheets", str(drawn), str(tmp_path / "sheet.jpg"), "--n", "3", few=["--side", "32"])
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.height > 3 * 32
        assert sheet.width > 3 * 32


def test_worth_is_told_beside_as_many_real_ones(
    finished: td.Distilled, drawn: Path, bench: Callable[..., str], tmp_path: Path
) -> None:
    generator = td.Generator.load(finished.run)
    orders = orders_like(td.open_scenes(drawn), "a satellite image of {class}", generator)
    td.generate(orders, tmp_path / "drawn", generator, n=8, settings=tiny_settings())
    plot, brief = tmp_path / "a.svg", ["--set", "evaluation.min_steps=3", "--set", "evaluation.max_steps=3"]
    asked = [str(tmp_path / "drawn"), str(drawn), "--per-class", "2", "8", "--plot", str(plot)]
    said = bench("worth", *asked, *brief)
    head, two, eight = said.strip().splitlines()
    assert "OA on 18 unseen scenes" in head
    assert "2 a class: real" in two
    assert "ratio" in two
    assert "real (6)" in eight, "all that it has learned from, where there are fewer"
    assert plot.read_text().lstrip().startswith("<")


def test_sampling_is_timed_row_by_row_and_judged(drawn: Path, bench: Callable[..., str], tmp_path: Path) -> None:
    few = [part for name in TINY[4:] if name != "--set" for part in ("--set", name)]
    few += ["--preset", "tiny", "--ipc", "1", "--sets", "2", "--set", "sampling.prune=[0.5]", "--set"]
    few += ["sampling.candidates=4", "--set", "precision=fp32"]
    said = bench("sampling", str(drawn), "--out", str(tmp_path / "out"), few=few)
    *table, _, verdict = said.strip().splitlines()
    rows = [_cells(line) for line in table if line.startswith("|")][2:]
    assert [row[0] for row in rows] == [
        "release",
        *("in full batches", "with our solver and steps", "guided as ours, where ours is"),
        *("with our prototypes' pull and selection", "halved on the way", "refined", "near-copies passed over"),
    ]
    evaluations = [int(row[4]) for row in rows]
    images = [int(row[1]) for row in rows]
    assert len(set(images[:4])) == len(set(images[4:])) == 1
    assert images[4] > images[0], "what a class's images share is timed for as many as a set has"
    assert evaluations[0] == evaluations[1] == 2 * 5 * 50, "as the release is told to ask"
    assert evaluations[2] < 2 * 5 * 50 / 10
    assert evaluations[5] < evaluations[4] == evaluations[3] * 4 / 5
    assert evaluations[6] == evaluations[5] <= evaluations[7]
    assert re.fullmatch(r"\d+\.\d× faster at (equal|higher|lower) OA \(\d.* ± .* against \d.* ± .*\)", verdict)
    assert verdict in (tmp_path / "out" / "sampling.md").read_text()
    assert len(list((tmp_path / "out").glob("*-?/distilled"))) == 2 * 2 + len(rows)

    for begun in ("timed-2", "ours-1"):  # as if it had been killed meanwhile
        (tmp_path / "out" / begun / "count.json").unlink()
    *again, _, verdict_again = (
        bench("sampling", str(drawn), "--out", str(tmp_path / "out"), few=few).strip().splitlines()
    )
    first, second = ([_cells(line) for line in lines if line.startswith("|")] for lines in (table, again))
    assert second[2][2] == first[2][2], "a time that was taken is not taken again"
    assert [row[4] for row in second] == [row[4] for row in first]
    assert verdict_again.split("×")[1] == verdict.split("×")[1], "the same images, so the same accuracies"


def test_steps_of_training_are_timed_and_what_they_wait_for(
    finished: td.Distilled, drawn: Path, bench: Callable[..., str], tmp_path: Path
) -> None:
    few = ["--generator", str(finished.run), "--limit", "8", "--preset", "tiny", "--set", "finetune.batch_size=4"]
    said = bench("training", str(drawn), "--out", str(tmp_path / "out"), "--steps", "5", few=few)
    assert "Steps of 4 scenes on " in said
    rows = [_cells(line) for line in said.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows] == ["all weights", "low-rank adapters of rank 4"]
    for row in rows:
        assert float(row[2]) > 0
        assert 0 < float(row[3].rstrip("%")) < 100, "reading takes a part of a step"
        assert all(cell.endswith("%") for cell in row[4:])
    assert (tmp_path / "out" / "training.md").read_text().strip() in said


def test_classifiers_are_compared_and_the_table_grows(drawn: Path, bench: Callable[..., str], tmp_path: Path) -> None:
    brief = ["epochs=1", "resolution=32", "batch_size=16", "warmup_epochs=0.5", "least_steps=1"]
    few = [part for each in brief for part in ("--set", f"classify.{each}")]
    few += ["--limit", "12", "--seeds", "2", "--out", str(tmp_path)]

    def rows(said: str) -> dict[str, list[str]]:
        lines = [line for line in said.splitlines() if line.startswith("| ")]
        return {f"{row[2]} {row[3]}" if "to" in row[3] else row[2]: row[3:] for row in map(_cells, lines)}

    first = rows(bench("classification", str(drawn), "--methods", "ce", "dsd", few=few))
    assert {"ce", "dsd", "dsd 1 to 2", "dsd 2 to 3", "dsd 3 to 4"} <= set(first)
    assert first["ce"][1] == ""
    assert "±" in first["dsd"][1]
    assert all("±" in first[f"dsd {pair}"][-1] for pair in ("1 to 2", "2 to 3", "3 to 4"))
    more = rows(bench("classification", str(drawn), "--methods", "byot", "--base", "dsd", few=few))
    assert more["ce"][0] == first["ce"][0]
    assert (more["dsd"][1], "±" in more["byot"][1], "±" in more["ce"][1]) == ("", True, True)
    kept = json.loads((tmp_path / "classification.json").read_text())
    assert [len(row["seeds"]) for row in kept.values()] == [2, 2, 2]
    with pytest.raises(SystemExit, match="2"):
        bench("classification", str(drawn), "--methods", "ce", "--set", "classify.smoothing=0.2", few=few)
    with pytest.raises(SystemExit, match="2"):
        bench("classification", str(drawn), "--methods", "ce", "--variant", "dsd:classify.noise=0", few=few)
    fewer = rows(bench("classification", str(drawn), "--methods", "ce", "--seeds", "1", few=few[:-4] + few[-2:]))
    assert fewer["ce"][0] == first["ce"][0], "what was measured stays"
    assert fewer["ce"][-1] == "1", "the machine"


def test_classifiers_are_compared_on_small_sets_and_without_parts(
    drawn: Path, bench: Callable[..., str], tmp_path: Path
) -> None:
    brief = ["epochs=1", "resolution=32", "batch_size=16", "warmup_epochs=0.5", "least_steps=1"]
    few = [part for each in brief for part in ("--set", f"classify.{each}")]
    few += ["--seeds", "1", "--out", str(tmp_path / "out")]
    small = draw_scenes(tmp_path / "small", per_class=4, size=32, n_classes=len(td.open_scenes(drawn).classes), seed=9)
    variants = ["--methods", "ce", "--variant", "silent:classify.noise=0,classify.entropy=0"]
    said = bench("classification", str(drawn), "--learn", str(small), *variants, few=few)
    assert [_cells(line)[2] for line in said.splitlines() if line.startswith("| ")][1:3] == ["ce", "silent"]
    (run,) = (tmp_path / "out").glob("*/*/silent-0")
    assert json.loads((run / "resolved.json").read_text())["classify"]["noise"] == 0
    assert json.loads((run / "model" / "config.json").read_text())["about"]["method"] == "dsd"


def test_teachers_are_held_against_each_other(
    finished: td.Distilled, drawn: Path, bench: Callable[..., str], tmp_path: Path
) -> None:
    for method in ("ce", "dsd"):
        brief = {"epochs": 1, "resolution": 32, "batch_size": 16, "least_steps": 1, "method": method}
        train_classifier(drawn, tmp_path / method, tiny_settings(**{f"classify__{k}": v for k, v in brief.items()}))
    given = ["--teacher", f"ce={tmp_path / 'ce'}", "--teacher", f"dsd={tmp_path / 'dsd'},{tmp_path / 'ce'}"]
    few = ["--set", "evaluation.min_steps=1", "--set", "evaluation.max_steps=2", "--set", "evaluation.n_seeds=2"]
    said = bench("teachers", str(finished.run / "distilled"), str(drawn), *given, few=few)
    table = [_cells(line) for line in said.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in table] == ["classes", "ce", "dsd"]
    assert [["±" in cell for cell in row[1:4]] for row in table] == [
        [True, False, False], [True, True, False], [True, True, True],
    ]  # fmt: skip
    made = td.open_scenes(finished.run / "distilled")
    assert [int(row[4]) for row in table] == [len(made), *[2 * len(made) * len(made.classes)] * 2]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_planted_copies_are_found(tmp_path: Path, bench: Callable[..., str]) -> None:
    scenes = draw_scenes(tmp_path / "scenes", per_class=60, size=64, n_classes=3)
    said = bench(
        "planted",
        str(scenes),
        "--limit",
        "60",
        few=["--set", "evaluation.min_steps=1", "--set", "evaluation.max_steps=20"],
    )
    for kind in ("exact", "flipped", "turned", "recompressed", "noised by 2 of 255"):
        assert f"{kind} 10 of 10" in said, said
    assert re.search(r"flagged of held-out scenes \d+ of \d+", said)


def test_memory_and_time_are_told_for_two_sizes(tmp_path: Path, bench: Callable[..., str]) -> None:
    brief = ["ipc=2", "autoencoder.steps=4", "diffusion.steps=4", "classifier.max_steps=10", "sampling.steps=2"]
    few = [part for each in brief for part in ("--set", each)]
    said = bench("scale", "--scenes", "60", "120", "40", "--out", str(tmp_path / "out"), few=few)
    assert re.search(r"peak memory: × \d\.\d\d from 60 to 120 scenes\n", said), said
    assert re.search(r"a further scene, from 40 to 60: -?\d+\.\d\d ms\n", said), said
    assert re.search(r"time of a further scene: × -?\d+\.\d\d\n", said), said
    assert re.search(r"the list of scenes: -?\d+ bytes a scene\n", said), said
    assert re.search(r"1e\+08 scenes, .*: -?[\d.,]+ h of one such machine, -?[\d.,]+ GB", said), said


def test_operators_of_the_denoiser_share_its_time(finished: td.Distilled, bench: Callable[..., str]) -> None:
    said = bench("operators", str(finished.run), "--batch", "2", "--times", "1", few=())
    assert re.search(r"\d+% of the fastest convolution", said), said
    shares = dict(re.findall(r"^\| ([a-z ]+) \| ([\d.]+)% \|$", said, re.MULTILINE))
    assert {"convolutions", "attention", "norms"} <= set(shares)
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=1)
    each = [float(share) for share in re.findall(r"\d \| ([\d.]+)% \| \d+% \|$", said, re.MULTILINE)]
    assert 0 < sum(each) <= float(shares["convolutions"]) + 1, "one by one they take no more than together"


def test_steps_of_judging_are_timed_beside_the_same_network_of_torch(
    bench: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bench("judging", "--rounds", "1", few=())
    assert re.search(r"ours: \d+\.\d× faster than plain", said), said
    monkeypatch.syspath_prepend(BENCH)
    from judging import plain

    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for name in ("convnet3", "efficientnet-lite0"):
        network = build_network(name, 5, 64).eval()
        with torch.no_grad():
            ours = network(images)
            assert torch.allclose(plain(network)(images), ours, atol=1e-4), name


def test_a_denoiser_is_held_against_the_wiener_filter(drawn: Path, bench: Callable[..., str], tmp_path: Path) -> None:
    for share, run in ((0.3, tmp_path / "some"), (0.0, tmp_path / "none")):
        td.train(drawn, run, tiny_settings(diffusion__held_out=share))
    said = bench("denoising", str(tmp_path / "some"), str(drawn), few=())
    assert len(re.findall(r"[+-]\d+\.\d\d", said.split("dB over Wiener")[1])) == 9, said
    with pytest.raises(SystemExit, match="kept no train scene back"):
        bench("denoising", str(tmp_path / "none"), str(drawn), few=())


def test_edges_are_found_again_within_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from adherence import SLACK, f1

    assert SLACK == 1
    given = np.zeros((2, 32, 32), bool)
    given[:, :, 10] = True
    assert f1(given, given) == pytest.approx(1)
    assert f1(np.roll(given, 15, 2), given) == 0
    for shift in (-1, 1):
        assert f1(np.roll(given, shift, 2), given) == pytest.approx(1)
    assert f1(np.roll(given, 2, 2), given) == 0
    one = np.stack([given[0], np.roll(given[1], 2, 1)])
    assert f1(one, given) == pytest.approx(0.5), "all maps together"
    upper = given.copy()
    upper[:, 16:] = False
    half = 2 * 1 * (17 / 32) / (1 + 17 / 32)  # precision 1; recall of 16 rows and the one beside them
    assert f1(upper, given) == f1(given, upper) == pytest.approx(half)
    assert f1(np.zeros_like(given), given) == 0


def test_a_content_image_is_found_by_its_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from adherence import colours, likeness, peers_of

    given = np.zeros((3, 32, 32, 3), np.uint8)
    given[1], given[2, :16] = 100, 200
    assert colours(given).shape == (3, 48)
    assert colours(given)[2].mean() == pytest.approx(100), "half of it"
    other = np.array([1, 2, 0])
    assert likeness(given, given, other, other).startswith("0.0 of 255")
    assert likeness(given, given, other, other).endswith("nearest in 100 %")
    assert likeness(given[other], given, other, other).endswith("nearest in 0 %")
    checkered = np.kron(np.indices((32, 32)).sum(0) % 2, np.ones((1, 1)))[None, ..., None] * np.full(3, 200)
    assert likeness(checkered.astype(np.uint8), given[1:2], np.array([0]), np.array([0])).startswith("0.0"), (
        "texture does not count"
    )
    assert peers_of(np.array([0, 1, 0, 0, 2])).tolist() == [2, 1, 3, 0, 4]
