"""Several processes at one run end with the images of one."""

import json
import os
import random
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from threading import Thread

import pytest

from terradistill import run as runs
from terradistill.errors import ConfigError, RunError
from terradistill.run import Run, Stage
from terradistill.settings import Settings
from terradistill.team import Team, find_team
from tests.conftest import TINY, terradistill

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "terradistill")
PIECES = {f"{stage} {k}" for stage, count in (("encode", 4), ("candidates", 6), ("refine", 3)) for k in range(count)}
Process = subprocess.Popen[str]
# Two parts a step, for two processes to share.
SHARED = ("--set", "diffusion.accumulate=2", "--set", "precision=fp32")
# The command line in small pieces, of which each process makes its own and says so.
IN_PIECES = """
from terradistill.cli import main
from terradistill.distillation import drawing, learning
from terradistill.run import Stage

learning.ENCODED, drawing.PIECE = 5, 2
plain = Stage.pieces


def noted(stage, names, make):
    def note(number, path):
        make(number, path)
        print("made", stage.name, number, flush=True)

    return plain(stage, names, note)


Stage.pieces = noted
main()
"""


def begin(data: Path, run: Path, *more: str, program: tuple[str, ...] = ("-m", "terradistill")) -> Process:
    command = [sys.executable, *program, "distill", str(data), "--out", str(run), *TINY, *SHARED, *more]
    # One thread each: sums of several threads depend on how many there are.
    return subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def shard(data: Path, run: Path, *place: str) -> Process:
    return begin(data, run, "--no-eval", *place, program=("-c", IN_PIECES))


def finish(*processes: Process) -> list[set[str]]:
    """The pieces that each has made."""
    pieces = []
    try:
        for process in processes:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
            pieces.append({line.removeprefix("made ") for line in said.splitlines() if line.startswith("made ")})
    finally:
        for process in processes:
            process.kill()
    return pieces


def made(run: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in sorted((run / "distilled").rglob("*.png"))}
    for name in ("distilled", "refined"):
        files[name] = (run / "latents" / f"{name}.safetensors").read_bytes()
    return files


@pytest.fixture(scope="module")
def alone(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    finish(begin(drawn, run))
    return run


def test_two_joined_processes_equal_one(drawn: Path, alone: Path, tmp_path: Path) -> None:
    finish(begin(drawn, tmp_path / "run", program=TORCHRUN))
    assert made(tmp_path / "run") == made(alone)
    weights = "generator/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (alone / weights).read_bytes()
    scores = [json.loads((run / "scores.json").read_text()) for run in (tmp_path / "run", alone)]
    assert [row["oa"] for row in scores[0]] == [row["oa"] for row in scores[1]]
    assert not (tmp_path / "run" / "work" / "candidates").exists()


@pytest.fixture(scope="module")
def in_pieces(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, in the same pieces as those of shards."""
    run = tmp_path_factory.mktemp("pieces") / "run"
    assert finish(shard(drawn, run)) == [PIECES]
    return run


def test_shards_share_the_pieces(drawn: Path, in_pieces: Path, tmp_path: Path) -> None:
    first, second = finish(*(shard(drawn, tmp_path / "run", "--shard", f"{k}/2") for k in range(2)))
    assert first | second == PIECES
    assert {piece for piece in second if int(piece.split()[1]) % 2} == second != set()
    assert made(tmp_path / "run") == made(in_pieces)


def test_a_killed_shard_is_taken_up_again(drawn: Path, in_pieces: Path, tmp_path: Path) -> None:
    run, killed = tmp_path / "run", random.choice((0, 1))  # the first, which leads, or the other
    after = random.randint(1, 5)  # of its six pieces or more: it encodes, draws or refines
    both = [shard(drawn, run, "--shard", f"{k}/2") for k in range(2)]
    try:
        assert both[killed].stdout is not None
        pieces = (line for line in both[killed].stdout if line.startswith("made "))
        last = list(islice(pieces, after))[-1]
        assert both[killed].poll() is None
    finally:
        both[killed].kill()
    both[killed].communicate()
    assert both[killed].returncode == -signal.SIGKILL
    finish(shard(drawn, run, "--shard", f"{killed}/2"), both[1 - killed])
    assert made(run) == made(in_pieces), f"shard {killed} was killed when it had {last.strip()}"


def test_a_first_shard_that_a_scheduler_ends_tells_the_others(drawn: Path, in_pieces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = shard(drawn, run, "--shard", "0/2")
    try:
        assert first.stdout is not None
        next(line for line in first.stdout if line.startswith("made "))
        first.terminate()
        said, _ = first.communicate(timeout=60)
    finally:
        first.kill()
    assert (first.returncode, "the same command goes on" in said) == (143, True), said
    assert (run / runs.STOPPED).exists()
    finish(*(shard(drawn, run, "--shard", f"{k}/2") for k in range(2)))
    assert made(run) == made(in_pieces)


def test_who_waits_is_told_when_the_first_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leading = Run(tmp_path / "run", Settings(), team=Team(0, 2))
    follower = Run(tmp_path / "run", Settings(), team=Team(1, 2))
    with pytest.raises(ZeroDivisionError), leading.stage("one", "One"):
        raise ZeroDivisionError
    with pytest.raises(RunError, match="given up"):
        follower.done("one")
    monkeypatch.setattr(runs, "PATIENCE", 0.05)
    with pytest.raises(RunError, match="Nobody has begun"):
        Run(tmp_path / "run", Settings(), team=Team(1, 2))
    leading.close()
    Run(tmp_path / "run", Settings(), team=Team(0, 2))
    assert not follower.done("one", shared=True)


def test_who_leads_is_told_when_another_ends_in_an_error(tmp_path: Path) -> None:
    names = ["0.txt", "1.txt"]

    def write(number: int, path: Path) -> None:
        path.write_text(str(number))

    def fails(number: int, path: Path) -> None:
        raise ZeroDivisionError(number, path)

    leading = Run(tmp_path / "run", Settings(), team=Team(0, 2))
    follower = Run(tmp_path / "run", Settings(), team=Team(1, 2))
    with pytest.raises(ZeroDivisionError), follower.stage("one", "One") as stage:
        stage.pieces(names, fails)
    with pytest.raises(RunError, match="Process 1 of 2 has ended in an error"), leading.stage("one", "One") as stage:
        stage.pieces(names, write)
    assert "waiting for process 1 of 2" in (tmp_path / "run" / "log.txt").read_text()
    leading.close()
    leading = Run(tmp_path / "run", Settings(), team=Team(0, 2))
    follower = Run(tmp_path / "run", Settings(), team=Team(1, 2))

    def shares() -> None:
        with follower.stage("one", "One") as stage:
            stage.pieces(names, write)

    other = Thread(target=shares)
    other.start()
    with leading.stage("one", "One") as stage:
        assert stage.pieces(names, write) == [stage.work / "pieces" / name for name in names]
    other.join(20)
    assert not other.is_alive()


@pytest.mark.parametrize("shard", ["2/2", "a/2", "1", "-1/2", "1/"])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(ConfigError, match="expected i/n"):
        find_team(shard)
    assert find_team("1/2") == Team(1, 2)
    assert find_team() == Team()


def test_commands_that_share_nothing_are_not_launched_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    command = ["generate", "--prompt", "a river", "--out", str(tmp_path / "made")]
    code, said = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "4 processes were launched together" in said) == (2, True), said
    assert not (tmp_path / "made").exists()


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
