"""Killed without warning at random moments, the same command ends with the same images."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TINY


def start(data: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "terradistill", "distill", str(data), "--out", str(out), *TINY]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=_heeds_the_keyboard)


def _heeds_the_keyboard() -> None:
    # A shell's background job, as a CI may be one, ignores it, and so do its children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def images(run: Path) -> dict[str, str]:
    folder = run / "distilled"
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.png")}


def begins(process: subprocess.Popen[bytes], out: Path) -> float:
    """Wait until a process writes into its run folder, and say when that was: importing libraries is no work."""

    def written() -> int:
        return out.stat().st_mtime_ns if out.exists() else 0

    before = written()
    while written() == before and process.poll() is None:
        time.sleep(0.02)
    return time.monotonic()


def stages_done(run: Path) -> int:
    manifest = run / "manifest.json"
    return len(json.loads(manifest.read_text())["stages"]) if manifest.exists() else 0


@pytest.mark.slow
def test_killed_at_five_random_moments_the_same_images_come_out(drawn: Path, tmp_path: Path) -> None:
    whole = start(drawn, tmp_path / "whole")
    began = begins(whole, tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr and whole.stderr.read()
    n_stages = stages_done(tmp_path / "whole")
    seconds = (time.monotonic() - began) / n_stages

    rng = random.Random(0)
    kills = 0
    # Counted in stages and not in seconds alone, which pass as they like on a busy machine.
    for done in sorted(rng.sample(range(n_stages), 5)):
        process = start(drawn, tmp_path / "killed")
        begins(process, tmp_path / "killed")
        while process.poll() is None and stages_done(tmp_path / "killed") < done:
            time.sleep(0.02)
        try:
            process.wait(timeout=rng.uniform(0, 1) * seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills >= 3
    last = start(drawn, tmp_path / "killed")
    assert last.wait() == 0, last.stderr and last.stderr.read()
    assert len(images(tmp_path / "whole")) == 6
    assert images(tmp_path / "killed") == images(tmp_path / "whole")


@pytest.mark.slow
def test_interrupted_by_the_keyboard_it_says_so(drawn: Path, tmp_path: Path) -> None:
    process = start(drawn, tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.stderr is not None
    assert b"the same command goes on" in process.stderr.read()
