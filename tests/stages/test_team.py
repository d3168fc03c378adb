"""Several processes at one run end with the images of one."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import terradistill as td
from terradistill import run as runs
from terradistill.distillation import drawing, learning
from terradistill.errors import ConfigError, RunError
from terradistill.run import Run, Stage, wait_for
from terradistill.settings import Settings
from terradistill.team import Team, find_team
from tests.conftest import TINY, tiny_settings

# Two parts a step, for two processes to share.
SHARED = ("--set", "diffusion.accumulate=2", "--set", "precision=fp32")


def begin(data: Path, run: Path, *more: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        *launcher,
        "-m",
        "terradistill",
        "distill",
        str(data),
        "--out",
        str(run),
        *TINY,
        *SHARED,
        *more,
    ]
    # One thread each: sums of several threads depend on how many there are.
    return subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    try:
        for process in processes:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()


def made(run: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in sorted((run / "distilled").rglob("*.png"))}
    files["latents"] = (run / "latents" / "distilled.safetensors").read_bytes()
    return files


@pytest.fixture(scope="module")
def alone(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    finish(begin(drawn, run))
    return run


def test_two_joined_processes_equal_one(drawn: Path, alone: Path, tmp_path: Path) -> None:
    finish(
        begin(drawn, tmp_path / "run", launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"))
    )
    assert made(tmp_path / "run") == made(alone)
    weights = "generator/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (alone / weights).read_bytes()
    scores = [json.loads((run / "scores.json").read_text()) for run in (tmp_path / "run", alone)]
    assert [row["oa"] for row in scores[0]] == [row["oa"] for row in scores[1]]
    assert not (tmp_path / "run" / "work" / "candidates").exists()


def test_a_killed_shard_is_taken_up_again(drawn: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    leader, other = (begin(drawn, run, "--no-eval", "--shard", f"{k}/2") for k in range(2))
    try:
        wait_for((run / "split.json").exists)  # after which both encode and draw
        time.sleep(random.uniform(0, 8))
    finally:
        other.kill()
    other.communicate()
    finish(begin(drawn, run, "--no-eval", "--shard", "1/2"), leader)
    assert made(run) == made(alone)


def test_both_encode_and_draw(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads as shards, and smaller pieces, of which each makes its own."""
    monkeypatch.setattr(learning, "ENCODED", 5)
    monkeypatch.setattr(drawing, "PIECE", 2)
    makers: dict[str, set[int]] = {}
    plain = Stage.pieces

    def noted(stage: Stage, names: list[str], make: Callable[[int, Path], None]) -> list[Path] | None:
        def note(number: int, path: Path) -> None:
            makers.setdefault(f"{stage.name} {number}", set()).add(stage.run.team.rank)
            make(number, path)

        return plain(stage, names, note)

    monkeypatch.setattr(Stage, "pieces", noted)
    settings = tiny_settings(precision="fp32")
    with ThreadPoolExecutor(2) as pool:
        distil = partial(td.distill, drawn, tmp_path / "two", settings, evaluate=False)
        both = [pool.submit(distil, team=Team(k, 2)) for k in range(2)]
        sets = [each.result(timeout=300).scenes for each in both]
    assert sets[0].fingerprint == sets[1].fingerprint
    assert makers == {
        f"{stage} {k}": {k % 2} for stage, count in (("encode", 4), ("candidates", 6)) for k in range(count)
    }
    td.distill(drawn, tmp_path / "one", settings, evaluate=False)
    assert made(tmp_path / "one") == made(tmp_path / "two")


def test_who_waits_is_told_when_the_first_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leading = Run(tmp_path / "run", Settings(), team=Team(0, 2))
    follower = Run(tmp_path / "run", Settings(), team=Team(1, 2))
    with pytest.raises(ZeroDivisionError), leading.stage("one", "One"):
        raise ZeroDivisionError
    with pytest.raises(RunError, match="given up"):
        follower.done("one")
    monkeypatch.setattr(runs, "PATIENCE", 0.05)
    with pytest.raises(RunError, match="No leading process has begun"):
        Run(tmp_path / "run", Settings(), team=Team(1, 2))
    leading.close()
    Run(tmp_path / "run", Settings(), team=Team(0, 2))
    assert not follower.done("one", shared=True)


@pytest.mark.parametrize("shard", ["2/2", "a/2", "1", "-1/2", "1/"])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(ConfigError, match="expected i/n"):
        find_team(shard)
    assert find_team("1/2") == Team(1, 2)
    assert find_team() == Team()


def test_processes_take_turns(tmp_path: Path) -> None:
    written: list[int] = []

    def note(number: int, path: Path) -> None:
        written.append(number)
        path.write_text(str(number))

    leading = Run(tmp_path / "run", Settings())
    names = ["a", "b", "c"]
    with leading.stage("one", "One") as stage:
        follower = Run(tmp_path / "run", Settings(), team=Team(1, 2))
        assert Stage(follower, "one").pieces(names, note) is None
        assert [path.name for path in (stage.work / "pieces").iterdir()] == ["b"]
        assert [path.name for path in stage.pieces(names, note) or []] == names
        assert written == [1, 0, 2], "what is there already is not made again"
    assert follower.done("one")
    leading.discard()
    with pytest.raises(RunError, match="given up"):
        follower.done("two")
