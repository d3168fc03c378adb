"""A teacher's labels, stored beside the images and learned from."""

import json
from pathlib import Path

import numpy as np
import pytest

import terradistill as td
from tests.conftest import tiny_settings


def test_a_teacher_s_labels_are_a_column_that_opens_and_is_learned_from(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    from datasets import load_dataset

    settings = tiny_settings(
        generator=str(finished.run), data__split_file=finished.run / "split.json", finetune__steps=0,
        export__soft_labels=True, evaluation__methods=("distilled",), evaluation__n_seeds=1,
    )  # fmt: skip
    made = td.distill(drawn, tmp_path / "run", settings)
    soft, hard = (next(row for row in made.scores if row["labels"] == kind) for kind in ("soft", "hard"))
    assert (hard["method"], soft["method"]) == ("distilled", "distilled+soft")
    assert soft["oa"] != hard["oa"] or soft["confusion"] != hard["confusion"]

    scenes = made.run / "distilled"
    assert "of soft labels beside them" in (made.run / "report.html").read_text()
    data = load_dataset("imagefolder", data_dir=str(scenes), split="train", cache_dir=str(tmp_path / "cache"))
    labels = np.array(data["soft_labels"])
    assert labels.shape == (6, 3)
    assert np.allclose(labels.sum(1), 1, atol=0.01)
    found = td.open_scenes(scenes)
    assert np.allclose([scene.soft_labels for scene in found.scenes], labels)

    rows = [json.loads(line) for line in (scenes / "metadata.jsonl").read_text().splitlines()]
    td.evaluate(scenes, drawn, tmp_path / "scores", tiny_settings(evaluation__n_seeds=1))
    rows[1]["soft_labels"] = rows[1]["soft_labels"][::-1]
    (scenes / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(td.TerraDistillError, match="scores of other scenes"):
        td.evaluate(scenes, drawn, tmp_path / "scores", tiny_settings(evaluation__n_seeds=1))

    for odd, said in (([0.5, 0.5], "has 2 soft labels"), ([0.5, 0.9, -0.4], "a probability for each class")):
        rows[0]["soft_labels"] = odd
        (scenes / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(td.TerraDistillError, match=said):
            td.evaluate(scenes, drawn, tmp_path / f"scores{len(odd)}", tiny_settings())
