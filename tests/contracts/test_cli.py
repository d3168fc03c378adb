"""The command line: its contract, its speed, and its answers to wrong input."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from terradistill import cli
from terradistill.config import described
from terradistill.settings import Settings
from tests.conftest import terradistill
from tests.wrong_inputs import WRONG_DATA, good_folder

OPTIONS = {
    ("distill",): "--ipc --out --generator --from-scratch --preset --config --set --seed --limit "
    + "--train-fraction --no-eval --dry-run",
    ("train", "autoencoder"): "--out --preset --config --set --seed",
    ("train", "generator"): "--out --generator --from-scratch --preset --config --set --seed",
    ("train", "decoder"): "--out --generator --preset --config --set --seed",
    ("train", "classifier"): "--out --preset --config --set --seed",
    ("evaluate",): "--against --out",
    ("generate",): "--generator --prompt --like --n --set-metadata --map --content --size --requests --seed --out",
    ("studio",): "--generator --port --no-browser",
    ("engine", "roads"): "--generator --out --set --seed",
    ("train", "adapter"): "--maps --content --generator --out --set",
    ("train", "enhancer"): "--task --scale --generator --out --set",
    ("enhance", "super-resolve"): "--scale --bands --free --generator --out --set --seed",
    ("enhance", "fuse"): "--date --generator --out --set --seed",
    ("enhance", "timelapse"): "--dates --prompt --generator --out --set --seed",
    ("enhance", "inpaint"): "--mask --clouds --prompt --set-metadata --generator --out --set --seed",
    ("classify", "train"): "--network --method --against --split-file --out --set --seed",
    ("classify", "predict"): "--out --window",
    ("classify", "export"): "--out --onnx",
    ("data", "cut"): "--side --stride --bands --rgb --out",
    ("data", "shards"): "--out --per-shard",
    ("data", "pack"): "--out --by",
    ("settings",): "--preset --config --set",
    ("data", "annotate"): "--maps --out",
    ("audit",): "--against --out --set --split-file --hide-real",
    (
        "bench",
        "scoreboard",
    ): "--data --ipc --methods --variant --seeds --trainings --captions --split-file --seed --out",
    ("bench", "fidelity"): "--against --features --clip --out",
    ("data", "caption"): "--model --out",
    ("data", "check"): "--ipc --limit",
    ("data", "prepare"): "--out --resolution",
    ("data", "draw"): "--out --per-class",
    ("doctor",): "--help",
}


@pytest.mark.parametrize("command", OPTIONS, ids=" ".join)
def test_the_commands_have_the_promised_options(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli.app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert set(OPTIONS[command].split()) <= set(re.findall(r"--[a-z-]+", shown.output))


def _started(code: str) -> tuple[str, float]:
    """What Python prints, and the least processor time of three starts: others at the machine take none of it."""
    found = []
    for _ in range(3):
        before = os.times()
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return shown, min(found)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = """
import sys
from terradistill import cli
sys.argv = ["terradistill", "--help"]
try:
    cli.main()
except SystemExit:
    print(*sys.modules)
"""
    shown, seconds = _started(code)
    assert not {"torch", "numpy", "diffusers", "transformers", "sklearn", "pydantic"} & set(
        shown.splitlines()[-1].split()
    )
    # On a slow or busy machine what it is made of takes longer too.
    assert seconds < 2 * _started("import typer, typer.rich_utils, rich.markdown")[1], "0.2 to 0.45 s, both"
    assert _started("import terradistill")[1] < 2 * _started("import typing, importlib, pathlib")[1] + 0.02


def test_the_doctor_does_not_keep_one_waiting() -> None:
    code = """
import sys
from terradistill import cli
sys.argv = ["terradistill", "doctor"]
try:
    cli.main()
except SystemExit:
    print(*sys.modules)
"""
    shown, seconds = _started(code)
    assert "shipped generators" in shown
    assert not {"diffusers", "transformers", "sklearn", "scipy"} & set(shown.splitlines()[-1].split())
    assert seconds < 1.5 * _started("import torch")[1] + 0.3, "3.5 s on one core, of which torch takes 3"


WRONG_COMMANDS: dict[str, tuple[list[str], str]] = {
    "unknown preset": (["--preset", "huge"], "'huge'"),
    "unknown setting": (["--set", "sampling.stepz=3"], "sampling.steps"),
    "no equals sign": (["--set", "sampling.steps"], "'sampling.steps'"),
    "out of range": (["--set", "sampling.steps=0"], "sampling.steps"),
    "wrong type": (["--set", "diffusion.block_channels=wide"], "diffusion.block_channels"),
    "negative ipc": (["--ipc", "-3"], "ipc"),
    "fraction of two": (["--train-fraction", "2"], "data.train_fraction"),
    "no settings file": (["--config", "nowhere.toml"], "nowhere.toml"),
    "generator nowhere": (["--generator", "no-such-folder"], "no-such-folder"),
    "two minds": (["--generator", "base-128", "--from-scratch"], "exclude each other"),
    "unknown network": (["--set", "evaluation.networks=['resnet999']"], "resnet999"),
    "resolution of seven": (["--set", "data.resolution=7"], "data.resolution"),
    "template without class": (["--set", "data.caption_template='a picture'"], "{class}"),
}


@pytest.mark.parametrize("kind", WRONG_COMMANDS)
def test_a_wrong_command_is_one_sentence_and_exit_2(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, says = WRONG_COMMANDS[kind]
    data = good_folder(tmp_path / "data")
    out = tmp_path / "run"
    code, error = terradistill(
        "distill", str(data), "--out", str(out), "--preset", "tiny", "--ipc", "2", *arguments,
        capsys=capsys, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert code == 2
    assert says in error
    assert "Traceback" not in error
    assert not out.exists(), "a command that cannot start leaves nothing behind"


def test_settings_files_that_are_no_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.toml").write_text("[sampling\nsteps = 3")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("bad.toml", "binary.toml"):
        code, error = terradistill(
            "distill", "data", "--out", "run", "--config", str(tmp_path / name), capsys=capsys, monkeypatch=monkeypatch
        )
        assert (code, name in error) == (2, True)


def test_a_folder_that_holds_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    data = good_folder(tmp_path / "data")
    code, error = terradistill(
        "distill", str(data), "--out", str(tmp_path / "thesis"), capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 2
    assert "thesis" in error
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize(("kind", "make"), WRONG_DATA, ids=[kind for kind, _ in WRONG_DATA])
def test_wrong_data_is_one_sentence_and_exit_2(
    kind: str, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = make(tmp_path)
    if "split" in given:
        pytest.skip("upstream splits are asked for in Python, not on the command line")
    arguments = ["distill", str(given["data"]), "--out", str(tmp_path / "run"), "--preset", "tiny"]
    arguments += ["--ipc", str(given.get("ipc", 2))]
    for name, option in (("captions", "--captions"), ("split_file", "--split-file")):
        arguments += [option, str(given[name])] if name in given else []
    for name, key in (("on_corrupt", "data.on_corrupt"), ("template", "data.caption_template")):
        arguments += ["--set", f"{key}={given[name]}"] if name in given else []
    code, error = terradistill(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2, kind
    assert str(given["says"]) in error.replace("\n", " ")
    assert "Traceback" not in error


def test_a_plan_writes_nothing(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "terradistill",
            "distill",
            str(drawn),
            "--out",
            str(tmp_path / "run"),
            "--preset",
            "tiny",
            "--ipc",
            "2",
            "--set",
            "evaluation.methods=['distilled', 'herding']",
            "--set",
            "diffusion.consistency_weight=0.1",
            "--dry-run",
        ],
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().out
    assert not ended.value.code
    assert "Training the generator" in shown
    assert "Training a network" in shown
    assert "Looking for" in shown
    assert "in all" in shown
    assert not (tmp_path / "run").exists()


def test_settings_are_listed_with_what_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(cli.app, ["settings", "sampling.c", "--preset", "dpd"], env={"COLUMNS": "200"}).output
    assert re.search(r"sampling\.cfg_scale +7\.5 +classifier-free guidance", shown)
    assert "sampling.steps" not in shown
    code, error = terradistill("settings", "nonsense", capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "No setting has 'nonsense' in its name" in error) == (2, True)
    assert not [name for name, _, _, said in described(Settings()) if not said], "every setting says what it is"


@pytest.mark.parametrize("command", OPTIONS, ids=" ".join)
def test_the_docs_name_every_option(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli.app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    docs = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    named = set(re.findall(r"--[a-z-]+", docs))  # whole: --set is not named where --set-metadata is
    assert not set(re.findall(r"--[a-z-]+", shown)) - {"--help"} - named
    assert all(word in docs for word in command)
