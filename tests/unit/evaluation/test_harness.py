import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from terradistill.errors import EvaluationError
from terradistill.evaluation import harness
from terradistill.evaluation.harness import Labelled, Score, score_method, train_and_score, with_references
from terradistill.evaluation.metrics import agreement
from terradistill.hardware import Hardware
from terradistill.settings import EvaluationSettings

CPU = Hardware(torch.device("cpu"))
QUICK = EvaluationSettings(
    resolution=None,
    n_seeds=2,
    batch_size=16,
    epochs=1,
    min_steps=25,
    max_steps=25,
    optimizer="adamw",
    learning_rate=2e-3,
)


def scenes(n_per_class: int, seed: int) -> Labelled:
    """Three kinds of 16-pixel scenes that colour tells apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), n_per_class)
    images = rng.integers(0, 120, (len(labels), 16, 16, 3))
    images[np.arange(len(labels)), :, :, labels] += 100
    return Labelled(images.astype(np.uint8), labels)


def train(train_set: Labelled, seed: int = 0, **options: Any) -> Score:
    return train_and_score(train_set, scenes(10, 9), 3, "convnet3", QUICK, seed=seed, hardware=CPU, **options)


def test_learns_what_can_be_told_apart_and_repeats_itself() -> None:
    ticks: list[tuple[int, int]] = []
    before = torch.get_rng_state()
    first = train(scenes(4, 1), progress=lambda done, total: ticks.append((done, total)))
    assert first.agreement.oa > 0.95
    assert first.steps == 25
    assert ticks == [(i, 25) for i in range(1, 26)]
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)  # the score depends on its seed, not on what was drawn before
    again = train(scenes(4, 1))
    assert (again.agreement.confusion == first.agreement.confusion).all()


def test_shuffled_labels_give_chance() -> None:
    tidy = scenes(20, 1)
    mixed = Labelled(tidy.images, np.tile(np.arange(3), 20))
    assert abs(train(mixed).agreement.oa - 1 / 3) < 0.25


def test_bf16_learns_too() -> None:
    score = train_and_score(
        scenes(4, 1), scenes(9, 2), 3, "convnet3", QUICK, seed=0, hardware=replace(CPU, half=torch.bfloat16)
    )
    assert score.agreement.oa > 0.9


def test_sets_of_another_size_are_resized() -> None:
    big = scenes(4, 1)
    big = Labelled(big.images.repeat(2, axis=1).repeat(2, axis=2), big.labels)
    assert train(big).agreement.oa > 0.9


def test_bad_images_and_labels_are_refused() -> None:
    good = scenes(2, 0)
    with pytest.raises(EvaluationError, match="with 5 labels"):
        Labelled(good.images, good.labels[:5])
    with pytest.raises(EvaluationError, match="float64"):
        Labelled(good.images / 255, good.labels)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="n at least 1"):
        Labelled(good.images[:0], good.labels[:0])
    with pytest.raises(EvaluationError, match="training labels run from 0 to 2: expected 0 to 1"):
        train_and_score(good, good, 2, "convnet3", QUICK, seed=0, hardware=CPU)


def test_divergence_is_told() -> None:
    wild = QUICK.model_copy(update={"optimizer": "sgd", "learning_rate": 1e30, "max_steps": 5})
    with pytest.raises(EvaluationError, match=r"diverged.*learning_rate"):
        train_and_score(scenes(2, 0), scenes(2, 0), 3, "convnet3", wild, seed=0, hardware=CPU)


def test_row_sums_up_its_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []  # seed, size of the training set

    def stub(train_set: Labelled, test: Labelled, n_classes: int, *_: Any, seed: int, **__: Any) -> Score:
        seen.append((seed, len(train_set.labels)))
        wrong = len(seen)
        predicted = np.where(np.arange(len(test.labels)) < wrong, (test.labels + 1) % 3, test.labels)
        return Score(agreement(test.labels, predicted, n_classes), 7, 11, 0.5)

    monkeypatch.setattr(harness, "train_and_score", stub)
    settings = QUICK.model_copy(update={"n_seeds": 3})

    def row_of(method: str, sets: list[Labelled]) -> dict[str, Any]:
        return score_method(
            method, sets, scenes(4, 0), ["a", "b", "c"], "convnet3", settings,
            dataset="toy", ipc=2, base_seed=5, hardware=CPU,
        )  # fmt: skip

    row = row_of("distilled", [scenes(2, 1), scenes(3, 2)])
    assert row["oa"] == pytest.approx([11 / 12, 10 / 12, 9 / 12])
    assert row["oa_std"] == pytest.approx(statistics.stdev(row["oa"]))
    assert row["oa_std"] == pytest.approx(np.std(row["oa"], ddof=1))
    assert row["recall"] == pytest.approx([0.5, 1, 1])
    assert np.sum(row["confusion"]) == 36
    assert (row["n_sets"], row["set_index"]) == (2, [0, 1, 0])
    assert (row["steps"], row["parameters"], row["seconds"]) == (7, 11, 1.5)
    assert (row["resolution"], row["chance"], row["labels"]) == (16, pytest.approx(1 / 3), "hard")
    assert [size for _, size in seen] == [6, 9, 6]
    assert json.loads(json.dumps(row, allow_nan=False)) == row

    row_of("random", [scenes(2, 3)])
    assert [seed for seed, _ in seen[:3]] == [seed for seed, _ in seen[3:]]
    assert len({seed for seed, _ in seen}) == 3


def test_one_training_has_no_spread_and_no_set_is_an_error() -> None:
    settings = QUICK.model_copy(update={"n_seeds": 1, "min_steps": 2, "max_steps": 2})
    told: list[tuple[int, int]] = []

    def row_of(sets: list[Labelled]) -> dict[str, Any]:
        return score_method(
            "distilled", sets, scenes(2, 0), ["a", "b", "c"], "convnet3", settings,
            dataset="toy", ipc=2, base_seed=0, hardware=CPU, progress=lambda *step: told.append(step),
        )  # fmt: skip

    assert row_of([scenes(2, 1)])["oa_std"] is None
    assert told == [(1, 2), (2, 2)]
    with pytest.raises(EvaluationError, match="no training set"):
        row_of([])


def test_a_row_goes_on_with_the_trainings_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = QUICK.model_copy(update={"n_seeds": 3, "min_steps": 2, "max_steps": 2})
    test, kept = scenes(2, 0), tmp_path / "made" / "kept.json"
    test = Labelled(test.images, np.where(test.labels == 2, 1, test.labels))  # class 2: recall NaN
    train, trained = harness.train_and_score, list[int]()

    def killed(*args: Any, seed: int, **options: Any) -> Score:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(seed)
        return train(*args, seed=seed, **options)

    def row_of(kept: Path | None) -> dict[str, Any]:
        row = score_method(
            "distilled", [scenes(2, 1)], test, ["a", "b", "c"], "convnet3", settings,
            dataset="toy", ipc=2, base_seed=0, hardware=CPU, kept=kept,
        )  # fmt: skip
        del row["seconds"]
        return row

    whole = row_of(None)
    monkeypatch.setattr(harness, "train_and_score", killed)
    with pytest.raises(KeyboardInterrupt):
        row_of(kept)
    first, trained[:] = list(trained), []
    assert row_of(kept) == whole
    assert len(trained) == 1
    assert trained[0] not in first


def test_progress_counts_all_trainings() -> None:
    told: list[tuple[int, int]] = []
    settings = QUICK.model_copy(update={"min_steps": 2, "max_steps": 2})
    score_method(
        "full", [scenes(2, 1)], scenes(2, 0), ["a", "b", "c"], "convnet3", settings,
        dataset="toy", ipc=None, base_seed=0, hardware=CPU, progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_references_give_recovery_and_improvement() -> None:
    def row(method: str, oa: float, ipc: int | None = 10, network: str = "convnet3") -> dict[str, Any]:
        same = {"dataset": "toy", "pretrained": False, "resolution": 64}
        return {"method": method, "oa_mean": oa, "ipc": ipc, "network": network, **same}

    rows = [row("distilled", 0.7), row("random", 0.6), row("full", 0.9, None), row("medoid", 0.55)]
    rows += [row("distilled", 0.8, 20), row("distilled", 0.5, network="resnet18")]
    rows[0]["oa_std"], rows[1]["oa_std"] = 0.03, 0.04
    distilled, random, full, medoid, more, lonely = with_references(rows)
    assert (distilled["hlr"], distilled["ior"]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert (distilled["ior_std"], medoid["ior_std"]) == (pytest.approx(0.05), None), "one training says no spread"
    assert (medoid["hlr"], medoid["ior"]) == (pytest.approx(0.35), pytest.approx(-0.05))
    assert more["hlr"] == pytest.approx(0.1)
    assert "ior" not in more
    assert not {"ior", "hlr"} & (random.keys() | full.keys() | lonely.keys())
    assert "hlr" not in rows[0]


@pytest.mark.parametrize(
    "other", [{"dataset": "e"}, {"network": "m"}, {"pretrained": True}, {"resolution": 32}], ids=str
)
def test_references_are_of_the_same_board(other: dict[str, Any]) -> None:
    """A row is held against random and all real images of its own dataset, network, start and size alone."""
    here = {"dataset": "d", "network": "n", "pretrained": False, "resolution": 64, "labels": "hard", "ipc": 10}
    rows = [
        {**here, "method": "random", "oa_mean": 0.5},
        {**here, "method": "full", "oa_mean": 0.9, "ipc": None},
        {**here, **other, "method": "random", "oa_mean": 0.1},
        {**here, **other, "method": "full", "oa_mean": 0.2, "ipc": None},
        {**here, "method": "ours", "oa_mean": 0.6},
        {**here, **other, "method": "ours", "oa_mean": 0.15},
    ]
    for order in (rows, rows[::-1]):
        mine, theirs = (row for row in with_references(order) if row["method"] == "ours")
        if order is not rows:
            mine, theirs = theirs, mine
        assert (mine["ior"], mine["hlr"]) == (pytest.approx(0.1), pytest.approx(0.3))
        assert (theirs["ior"], theirs["hlr"]) == (pytest.approx(0.05), pytest.approx(0.05))


def test_packed_scenes_are_held_against_as_many_random_ones() -> None:
    here = {"dataset": "d", "network": "n", "pretrained": False, "resolution": 64, "labels": "hard", "ipc": 10}
    of = {"random": 0.5, "random+2x2": 0.6, "ours": 0.55, "ours+2x2": 0.58, "ours+3x3": 0.7}
    rows = {row["method"]: row for row in with_references({**here, "method": m, "oa_mean": oa} for m, oa in of.items())}
    assert rows["ours"]["ior"] == pytest.approx(0.05)
    assert rows["ours+2x2"]["ior"] == pytest.approx(-0.02)
    assert "ior" not in rows["ours+3x3"].keys() | rows["random+2x2"].keys()


def test_the_spreads_of_sets_and_of_trainings_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    sets = rng.normal(0, 0.03, 400)
    oa = [0.5 + s + e for s in sets for e in rng.normal(0, 0.01, 3)]
    found = harness._spreads(oa, [i for i in range(400) for _ in range(3)])
    assert found["oa_std_trainings"] == pytest.approx(0.01, rel=0.1)
    assert found["oa_std_sets"] == pytest.approx(0.03, rel=0.1)
    # Sets that differ by nothing but the luck of the trainings.
    oa = [0.5 + e for e in rng.normal(0, 0.03, 1200)]
    found = harness._spreads(oa, [i for i in range(400) for _ in range(3)])
    assert found["oa_std_trainings"] == pytest.approx(0.03, rel=0.1)
    assert found["oa_std_sets"] is not None
    assert found["oa_std_sets"] < 0.006
    assert harness._spreads([0.1, 0.2], [0, 1]) == {"oa_std_trainings": None, "oa_std_sets": None}
    assert harness._spreads([0.1, 0.2], [0, 0])["oa_std_sets"] is None


def test_soft_labels_are_held_against_soft_labels_and_have_no_hlr() -> None:
    def row(method: str, oa: float, labels: str = "hard") -> dict[str, Any]:
        same = {"dataset": "d", "network": "n", "pretrained": False, "resolution": 64}
        return {**same, "method": method, "ipc": 10, "labels": labels, "oa_mean": oa}

    rows = {
        (each["method"], each["labels"]): each
        for each in with_references(
            [
                row("random", 0.5),
                row("random+soft", 0.6, "soft"),
                row("ours", 0.55),
                row("ours+soft", 0.62, "soft"),
                {**row("full", 0.9), "ipc": None},
            ]
        )
    }
    assert rows["ours", "hard"]["ior"] == pytest.approx(0.05)
    assert rows["ours+soft", "soft"]["ior"] == pytest.approx(0.02)
    assert rows["ours", "hard"]["hlr"] == pytest.approx(0.35)
    assert "hlr" not in rows["ours+soft", "soft"]
    assert "ior" not in rows["random+soft", "soft"]


def test_steps_are_compiled_where_that_gains_time() -> None:
    asked = QUICK.model_copy(update={"compile": True})
    named = ("convnet3", "resnet18", "efficientnet-lite0", "efficientnet-lite0+pretrained")
    assert [harness.is_compiled(name, asked) for name in named] == [True, True, False, False]
    assert not harness.is_compiled("convnet3", QUICK)
