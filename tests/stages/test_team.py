"""Several processes at one run end with the images of one."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from terradistill.errors import ConfigError, RunError
from terradistill.run import Run, Stage
from terradistill.settings import Settings
from terradistill.team import Team, find_team
from tests.conftest import TINY

# Two parts a step, for two processes to share; and pieces enough that both have some.
SHARED = ("--set", "diffusion.accumulate=2", "--set", "sampling.batch_size=4", "--set", "precision=fp32")


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
    for process in processes:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said


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
    time.sleep(random.uniform(4, 14))
    other.kill()
    other.communicate()
    finish(begin(drawn, run, "--no-eval", "--shard", "1/2"), leader)
    assert made(run) == made(alone)


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
