"""What went into a folder is read, or it is said that it cannot be."""

import json
from pathlib import Path

import pytest

from terradistill.distillation.scoreboard import learned_by
from terradistill.errors import TerraDistillError
from terradistill.models.places import write_learned_from


def test_what_a_run_learned_from_is_known_to_its_scenes(tmp_path: Path) -> None:
    scenes = tmp_path / "run" / "distilled"
    scenes.mkdir(parents=True)
    write_learned_from(scenes, ["a"])
    (tmp_path / "run" / "split.json").write_text(json.dumps({"train": [{"sha256": "b"}], "test": [{"sha256": "c"}]}))
    (tmp_path / "run" / "resolved.json").write_text('{"generator": null}')
    assert learned_by(scenes) == {"a", "b"}


@pytest.mark.parametrize("name", ["split.json", "resolved.json", "distilled/learned_from.json"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"train": 3}', "null"])
def test_a_damaged_list_is_one_sentence(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "distilled").mkdir()
    (tmp_path / "split.json").write_text('{"train": []}')
    (tmp_path / "resolved.json").write_text('{"generator": null}')
    (tmp_path / name).write_text(text)
    with pytest.raises(TerraDistillError, match=Path(name).name):
        learned_by(tmp_path / "distilled")
