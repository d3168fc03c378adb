"""One command, many methods, one table; interrupted, it goes on."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import terradistill as td
from terradistill.cli.bench import _variants
from terradistill.data.drawn import draw_scenes
from terradistill.distillation import sets as sets_of_the_table
from tests.conftest import TINY, terradistill

METHODS = "default,text,random,random+soft,medoid,margin,herding,k-center,feature-medoid,rded,full"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of one small dataset."""
    return tmp_path_factory.mktemp("table") / "out"


def _arguments(drawn: Path, table: Path, *more: str) -> list[str]:
    few = ["--preset", "tiny", *TINY[4:], "--set", "sampling.steps=2", "--set", "evaluation.n_seeds=1"]
    few += ["--set", "sampling.prototype_scale=0"]
    return ["bench", "scoreboard", "--data", str(drawn), "--out", str(table), "--seeds", "2", *few, *more]


def _results(table: Path) -> list[dict[str, Any]]:
    """The rows, but for the commands that asked for them."""
    rows = json.loads((table / "scores.json").read_text())
    return [{key: value for key, value in row.items() if key != "command"} for row in rows]


def test_every_method_has_its_row_and_none_is_made_twice(
    drawn: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "blended:sampling.prototype_guidance=blend,sampling.prototype_scale=0.3"
    command = _arguments(drawn, table, "--methods", METHODS, "--variant", own, "--ipc", "1,2", "--trainings", "2")
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    rows = json.loads((table / "scores.json").read_text())
    expected = {(method, ipc) for method in ["blended", *METHODS.split(",")[:-1]] for ipc in (1, 2)} | {("full", None)}
    assert {(row["method"], row["ipc"]) for row in rows} == expected
    assert len(rows) == len(expected)
    sets = {row["method"]: row["n_sets"] for row in rows}
    assert (sets["default"], sets["text"], sets["random"], sets["herding"]) == (2, 2, 2, 1)
    drawn_rows = [row for row in rows if row["method"] == "default"]
    assert all(row["oa_std_sets"] is not None and row["ior"] is not None and row["bytes"] > 0 for row in drawn_rows)
    train = next(row for row in rows if row["method"] == "full")["n_train"]
    assert all((row["n_real"], row["copies"], row["flagged"]) == (train, 0, []) for row in drawn_rows)
    assert "copies" not in next(row for row in rows if row["method"] == "random")
    generators = list((table / rows[0]["dataset"] / "generators").iterdir())
    assert len(generators) == 1, "all synthetic methods are drawn by one generator"
    told = {row["method"]: row["settings"] for row in rows}
    assert told["blended"] != told["default"]
    assert told["random"] is None

    assert not any((table / rows[0]["dataset"] / "trainings").iterdir()), "what a row goes on with goes with it"

    # What neither exam nor generator depends on may have had other defaults in an earlier version.
    for resolved in [*table.glob("*/exam/resolved.json"), *table.glob("*/generators/*/resolved.json")]:
        older = json.loads(resolved.read_text())
        older["export"]["keep_names"] = not older["export"]["keep_names"]
        resolved.write_text(json.dumps(older))
    code, _ = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    assert json.loads((table / "scores.json").read_text()) == rows, "times and all"

    # The rows alone are enough to go on with.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(table / "scores.json", elsewhere)
    command[command.index(str(table))] = str(elsewhere)
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    assert _results(elsewhere) == _results(table)
    (by,) = {row["command"] for row in json.loads((elsewhere / "scores.json").read_text())}
    assert str(elsewhere) in by, "the command that was given last names them all"
    made = {path.name for path in (elsewhere / rows[0]["dataset"]).iterdir()}
    assert made == {"exam", "scores.json"}, "nothing is drawn or judged"

    # One more number of images: the rows that are there stay, those that are missing come.
    more = _arguments(drawn, table, "--methods", "text,random", "--ipc", "1,2,3", "--trainings", "2")
    code, error = terradistill(*more, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    longer = json.loads((table / "scores.json").read_text())
    assert [row["oa"] for row in longer[: len(rows)]] == [row["oa"] for row in rows]
    assert {(row["method"], row["ipc"]) for row in longer[len(rows) :]} == {("text", 3), ("random", 3)}

    # What sets have in common is drawn once, and is what it would be if drawn for one of them.
    drawn_for = sorted(len(list(folder.iterdir())) for folder in table.glob("*/generators/*/drawn/*"))
    assert drawn_for[0] == 3 * 2 * 3, "text: three classes, two sets, three a class at most"
    text = next(table.glob("*/sets/text-*-ipc2-1"))
    images = {path.name: path.read_bytes() for path in text.glob("distilled/*/*.png")}
    made = table / rows[0]["dataset"] / "scores.json"
    kept = made.read_bytes()
    rest = [row for row in json.loads(kept) if (row["method"], row["ipc"]) != ("text", 2)]
    made.write_text(json.dumps(rest))
    shutil.rmtree(text)
    shutil.rmtree(next(table.glob("*/generators/*/drawn")))
    code, error = terradistill(*more, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    assert {path.name: path.read_bytes() for path in text.glob("distilled/*/*.png")} == images
    assert len(images) == 6
    made.write_bytes(kept)
    assert terradistill(*more, capsys=capsys, monkeypatch=monkeypatch)[0] == 0

    # A set of the table can be audited by itself.
    made = next(table.glob("*/sets/default-*-ipc2-0/distilled"))
    assert td.audit(made, drawn, table.parent / "audit")["scenes"] == 6

    lines = list(csv.DictReader((table / "scoreboard.csv").open()))
    assert len(lines) == len(longer)
    assert set(lines[0]) == {key for row in longer for key in row}
    assert [json.loads(line["oa"]) for line in lines] == [row["oa"] for row in longer]
    page = (table / "scoreboard.md").read_text()
    assert "terradistill bench scoreboard" in page
    assert page.count("| herding |") == 2
    assert "herding: herded real" in page
    assert "blended: default, with sampling.prototype_scale=0.3" in page
    assert f"; {longer[0]['n_test']} test scenes" in page
    soft, hard = (next(row for row in rows if row["method"] == name) for name in ("random+soft", "random"))
    assert (soft["labels"], hard["labels"]) == ("soft", "hard")
    more = soft["bytes"] - hard["bytes"]
    assert 3 * len("0.0") < more / hard["n_train"] < 3 * len("0.1234, "), "three numbers an image, as JSON"
    assert soft["label_bytes"] == more
    assert "label_bytes" not in hard

    (table / "notes.md").write_text("What we make of it.\n")

    # Four in the place of one, where there are as many.
    in_quarters = _arguments(drawn, table, "--methods", "random,random+2x2,k-center+2x2", "--trainings", "2", "--ipc")
    code, error = terradistill(*in_quarters, "2", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "has 6 train scenes; +2x2 at 2 images a class takes 8" in " ".join(error.split())
    code, error = terradistill(*in_quarters, "1", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    of = {row["method"]: row for row in json.loads((table / "scores.json").read_text()) if row["ipc"] == 1}
    assert of["random+2x2"]["n_train"] == of["k-center+2x2"]["n_train"] == 4 * of["random"]["n_train"]
    assert of["random+2x2"]["bytes"] < 2 * of["random"]["bytes"]
    gained = of["k-center+2x2"]["oa_mean"] - of["random+2x2"]["oa_mean"]
    assert of["k-center+2x2"]["ior"] == pytest.approx(gained), "held against as many random scenes"
    page = (table / "scoreboard.md").read_text()
    assert "| k-center+2x2 |" in page
    assert page.startswith("# Scoreboard\n\nWhat we make of it.\n\n![Overall accuracy")
    assert "(scoreboard.png)\n\n```\nterradistill bench scoreboard" in page
    assert (table / "scoreboard.png").read_bytes().startswith(b"\x89PNG")

    # A method that has become another: its rows go, and no others; what random is does not depend on how one draws.
    changed = _arguments(drawn, table, "--methods", "random", "--ipc", "1", "--trainings", "2", "--variant")
    changed += [own.replace("0.3", "0.5"), "--set", "sampling.candidates=1"]
    kept = _results(table)

    class Wary(sets_of_the_table.Originality):
        def copies(self, images: NDArray[np.uint8], _: NDArray[np.int64]) -> torch.Tensor:
            return torch.arange(len(images)) == 1

    monkeypatch.setattr(sets_of_the_table, "Originality", Wary)
    code, error = terradistill(*changed, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    now = _results(table)
    assert len(now) == len(kept)
    assert [row for row in now if row["method"] != "blended"] == [row for row in kept if row["method"] != "blended"]
    new = next(row for row in now if (row["method"], row["ipc"]) == ("blended", 1))
    assert new["settings"] != told["blended"]
    second = sorted(next(table.glob(f"*/sets/blended-{new['settings']}-ipc1-0/distilled")).glob("*/*.png"))[1]
    name = f"{second.parent.name}/{second.name}"
    assert (new["copies"], new["flagged"]) == (2, [f"0/{name}", f"1/{name}"])

    # Fewer trainings than a row has leave it, more make it anew: the first ones of these are the same.
    kept = (table / "scores.json").read_bytes()
    fewer = _arguments(drawn, table, "--methods", "random", "--ipc", "2", "--trainings", "1")
    assert terradistill(*fewer, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    assert (table / "scores.json").read_bytes() == kept
    more = _arguments(drawn, table, "--methods", "random", "--ipc", "2", "--trainings", "3")
    assert terradistill(*more, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    once, again = (
        next(row for row in rows if (row["method"], row["ipc"]) == ("random", 2))
        for rows in (json.loads(kept), json.loads((table / "scores.json").read_bytes()))
    )
    assert (again["n_seeds"], again["oa"][: once["n_seeds"]]) == (6, once["oa"])
    assert len(_results(table)) == len(json.loads(kept))

    # Under another recipe nothing may come beside what is there, and nothing of it is lost.
    kept = (table / "scores.json").read_bytes()
    other = [*more, "--set", "evaluation.learning_rate=0.5"]
    code, error = terradistill(*other, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "learning_rate" in error, "→ 0.5" in " ".join(error.split())) == (2, True, True), error
    assert (table / "scores.json").read_bytes() == kept
    page = (table / "scoreboard.html").read_text()
    assert page.count("<svg") == 2
    assert "<code>terradistill audit</code>" in page
    assert "`" not in page


def test_a_generator_that_knows_the_exam_is_refused(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = _arguments(drawn, tmp_path / "t", "--methods", "random", "--ipc", "1")
    assert terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    split = json.loads(next((tmp_path / "t").glob("*/exam/split.json")).read_text())
    monkeypatch.setattr(sets_of_the_table, "seen_by", lambda _: {split["test"][0]["sha256"]})
    code, error = terradistill(*command, "--methods", "text", capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "learns from another split than" in " ".join(error.split())) == (2, True), error


def test_a_folder_with_other_scores_is_refused_and_stays(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "t" / "scores.json"
    kept.parent.mkdir()
    command = _arguments(drawn, kept.parent, "--methods", "random", "--ipc", "1")
    for other in ('[{"method": "distilled", "network": "convnet3"}]', '{"rows": []}', "[{", "[1]"):
        kept.write_text(other)
        code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
        assert (code, "does not hold the rows of a scoreboard" in " ".join(error.split())) == (2, True), error
        assert kept.read_text() == other
    kept.unlink()
    assert terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    rows = json.loads(kept.read_text())
    elsewhere = tmp_path / "elsewhere" / "scores.json"
    elsewhere.parent.mkdir()
    elsewhere.write_text(json.dumps([row | {"n_test": row["n_test"] + 1} for row in rows]))
    command[command.index(str(kept.parent))] = str(elsewhere.parent)
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "--train-fraction" in error) == (2, True), error


def test_nothing_asked_for_is_one_sentence(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = _arguments(drawn, tmp_path / "x", "--methods", "")
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "at least one" in " ".join(error.split())) == (2, True), error


def test_a_wrong_list_of_numbers_is_one_sentence(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = _arguments(drawn, tmp_path / "x", "--ipc", "1,many")
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "'1,many'" in error


def test_a_variant_may_be_of_a_preset_and_have_lists() -> None:
    found = _variants(["ten:dpd,sampling.candidates=10,sampling.cfg_between=[0,0.8]", "more:ipc=3"])
    assert found["ten"] == (["dpd"], ["sampling.candidates=10", "sampling.cfg_between=[0,0.8]"])
    assert found["more"] == ([], ["ipc=3"])


WRONG = {"blended": "not of the form", "a b:seed=1": "not of the form", "text:seed=1": "already", "x:seed": "'seed'"}


@pytest.mark.parametrize("variant", WRONG)
def test_a_wrong_variant_is_one_sentence(
    variant: str, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = _arguments(drawn, tmp_path / "t", "--methods", "random", "--variant", variant)
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert WRONG[variant] in error.replace("\n", " ")


def test_a_captions_file_may_be_of_one_of_the_datasets(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_scenes(tmp_path / "other", per_class=6, size=32, n_classes=2, seed=5)
    for note in ("dataset.json", "metadata.jsonl"):
        (tmp_path / "other" / note).unlink()
    # Scenes of the other DATA, and those of the first whose file names others of the other have too, in another class.
    twins, notes = sorted((drawn / "river").glob("*.png")), {}
    for k, path in enumerate(sorted((tmp_path / "other").rglob("*.png"))):
        new = path.with_name(f"mine_{k}.png" if k % 2 else twins[k].name)
        path.rename(new)
        notes |= {f"{path.parent.name}/{new.name}": "a strange place"} if k % 2 else {f"river/{new.name}": "a twin"}
    lines = [json.dumps({"file_name": name, "caption": text}) for name, text in notes.items()]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    command = _arguments(drawn, tmp_path / "t", "--data", str(tmp_path / "other"), "--captions")
    command += [str(tmp_path / "said.jsonl"), "--methods", "random", "--ipc", "1"]
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    assert {row["dataset"] for row in json.loads((tmp_path / "t" / "scores.json").read_text())} == {"other", "drawn"}
    said = {path.parts[-3]: path.read_text() for path in (tmp_path / "t").glob("*/exam/captions.jsonl")}
    assert ("a strange place" in said["other"], "a twin" in said["other"]) == (True, False)
    assert ("a strange place" in said["drawn"], "a twin" in said["drawn"]) == (False, True)
    assert terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    (tmp_path / "said.jsonl").write_text("\n".join(lines).replace("a strange", "another"))
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "begun with other --captions" in " ".join(error.split())) == (2, True), error
    (tmp_path / "said.jsonl").write_text('{"file_name": "nowhere.png", "caption": "nothing"}\n')
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "names none of the" in error.replace("\n", " ")) == (2, True), error
