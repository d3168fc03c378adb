import json
from pathlib import Path

import pytest

from terradistill.config import load_settings
from terradistill.errors import RunError
from terradistill.files import replacing, write_text
from terradistill.run import Run
from terradistill.settings import Settings


def test_a_stage_counts_as_done_only_when_it_ends(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Settings())
    with pytest.raises(ZeroDivisionError), run.stage("one", "One") as stage:
        (stage.work / "half").write_text("half")
        raise ZeroDivisionError
    assert not run.done("one")
    with run.stage("one", "One") as stage:
        assert (stage.work / "half").read_text() == "half"
        stage.note = "well"
    with pytest.raises(RunError, match="Another process"):
        Run(tmp_path / "run", Settings())
    run.close()
    again = Run(tmp_path / "run", Settings())
    assert again.done("one")
    assert again.manifest["stages"][0]["note"] == "well"
    assert not (tmp_path / "run" / "work" / "one").exists()
    assert "one: done" in (tmp_path / "run" / "log.txt").read_text()


def test_other_settings_are_named_and_how_it_is_shown_is_free(tmp_path: Path) -> None:
    Run(tmp_path / "run", load_settings(ipc=3)).close()
    with pytest.raises(RunError, match=r"ipc \(3 → 4\), seed \(0 → 1\)"):
        Run(tmp_path / "run", load_settings(ipc=4, seed=1))
    Run(tmp_path / "run", load_settings(ipc=3, export__hide_real=True, evaluation__n_seeds=5)).close()
    assert json.loads((tmp_path / "run" / "resolved.json").read_text())["export"]["hide_real"] is True


def test_a_run_from_before_there_was_a_setting_goes_on_as_it_was(tmp_path: Path) -> None:
    Run(tmp_path / "run", Settings()).close()
    resolved = tmp_path / "run" / "resolved.json"
    stored = json.loads(resolved.read_text())
    del stored["sampling"]["spacing"]
    resolved.write_text(json.dumps(stored))
    with pytest.raises(RunError, match=r"sampling.spacing \(even → karras\)"):
        Run(tmp_path / "run", Settings())
    Run(tmp_path / "run", load_settings(sampling__spacing="even")).close()


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="holds no run"):
        Run(tmp_path / "file", Settings())
    with pytest.raises(RunError, match="holds no run"):
        Run(tmp_path, Settings())


def test_files_and_folders_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as part:
        part.write_text("ne")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"
    for content in ("one", "two"):
        with replacing(tmp_path / "folder") as part:
            part.mkdir()
            (part / content).write_text(content)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["two"]


def test_metrics_past_a_checkpoint_are_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Settings())
    with run.stage("a", "A") as stage:
        for step in (1, 2, 3):
            stage.log(step, loss=step / 3)
    with run.stage("b", "B") as stage:
        stage.log(1, loss=1)
        stage.log(5, loss=1)
        stage.forget_after(1)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]


def test_a_folder_with_the_users_own_settings_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("seed = 7\n")
    with pytest.raises(RunError, match="holds no run"):
        Run(tmp_path, load_settings(config=tmp_path / "config.toml"))
    assert (tmp_path / "config.toml").read_text() == "seed = 7\n"


def test_settings_files_lost_to_a_kill_come_back(tmp_path: Path) -> None:
    Run(tmp_path / "run", load_settings(ipc=3)).close()
    (tmp_path / "run" / "config.toml").unlink()
    Run(tmp_path / "run", load_settings(ipc=3)).close()
    assert (tmp_path / "run" / "config.toml").read_text() == "ipc = 3\n"


def test_names_that_are_not_utf8_come_back_as_they_were(tmp_path: Path) -> None:
    name = b"river\xff.png".decode(errors="surrogateescape")
    run = Run(tmp_path / "run", Settings())
    run.describe(name=name)
    run.say(name)
    assert run.read_json("manifest.json")["name"] == name
    assert r"river\udcff.png" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
