"""Memory and time of the main job against the number of scenes, drawn as they are read.

    python bench/scale.py --scenes 2000 20000 200000 --out DIR [--set A.B=C]

A run each, in a process of its own: read and check, train shortly, encode, choose prototypes, draw, write. Its networks
are small and its trainings short, since neither depends on the number of scenes. What a further scene takes is told by
the differences of runs, so that three say whether it stays the same; and what the main job would take for 10^6 to 10^8
scenes, were it to go on so. A stage's memory is the most that the process has had by then; what it frees it keeps.
"""

import argparse
import json
import subprocess
import sys
import zlib
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from terradistill.config import load_settings
from terradistill.console import Rich
from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder
from terradistill.distillation.pipeline import distill

SIDE, CLASSES = 64, 5  # of 200,000 scenes, classes so large that their prototypes are found by batches
SHORT = [
    "data.resolution=64", "data.train_fraction=0.95", "autoencoder.steps=20", "diffusion.steps=10", "diffusion.views=1",
    "classifier.max_steps=40", "sampling.candidates=2", "sampling.steps=5", "sampling.refine_rounds=1",
]  # fmt: skip


def scenes(n: int) -> SceneFolder:
    """n scenes of a few classes, each drawn from its name when it is read."""

    def read(name: str) -> bytes:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        coarse[..., int(name.split("/")[0]) % 3] //= 2
        image = np.array(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        file = BytesIO()
        Image.fromarray(image).save(file, "BMP")
        return file.getvalue()

    listed = tuple(Scene(f"{label}/{i:09d}.bmp", label) for label in range(CLASSES) for i in range(n // CLASSES))
    return SceneFolder(tuple(map(str, range(CLASSES))), listed, DatasetInfo("drawn", synthetic=True), read)


def measured(n: int, out: Path, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Seconds and peak bytes of each stage."""
    run = out / str(n)
    command = [sys.executable, __file__, "--one", str(n), "--out", str(run)]
    subprocess.run([*command, *(part for each in overrides for part in ("--set", each))], check=True)
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    return {row["name"]: {"seconds": row["seconds"], "peak": row["peak_memory_bytes"]} for row in stages}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", nargs="+", type=int, default=[2_000, 20_000, 200_000])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        settings = load_settings(["small"], overrides=[*SHORT, *asked.set])
        with Rich() as reporter:
            distill(scenes(asked.one), asked.out, settings, evaluate=False, reporter=reporter)
        return
    runs = {n: measured(n, asked.out, asked.set) for n in sorted(asked.scenes)}
    print("| stage | " + " | ".join(f"{n:,} scenes" for n in runs) + " |")
    print("|---|" + "---:|" * len(runs))
    for name in runs[min(runs)]:
        cells = [f"{found[name]['seconds']:.1f} s, {found[name]['peak'] / 1e6:,.0f} MB" for found in runs.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    seconds = [sum(row["seconds"] for row in found.values()) for found in runs.values()]
    peaks = [max(row["peak"] for row in found.values()) for found in runs.values()]
    read = [found["read"]["peak"] for found in runs.values()]
    print(f"| all | {' | '.join(f'{s:.0f} s, {p / 1e6:,.0f} MB' for s, p in zip(seconds, peaks, strict=True))} |")
    if len(runs) < 2:
        return
    print(f"peak memory: × {peaks[-1] / peaks[-2]:.2f} from {[*runs][-2]:,} to {[*runs][-1]:,} scenes")
    # What training and drawing take whatever the number of scenes goes out of differences.
    steps = list(pairwise(runs))
    each = [(b - a) / (n - m) for (a, b), (m, n) in zip(pairwise(seconds), steps, strict=True)]
    for (m, n), one in zip(steps, each, strict=True):
        print(f"a further scene, from {m:,} to {n:,}: {1000 * one:.2f} ms")
    if len(each) > 1:
        print(f"time of a further scene: × {each[-1] / each[-2]:.2f}")
    listed = (read[-1] - read[-2]) / (steps[-1][1] - steps[-1][0])
    print(f"the list of scenes: {listed:.0f} bytes a scene")
    for n in (10**6, 10**7, 10**8):
        more = n - [*runs][-1]
        hours, memory = (seconds[-1] + each[-1] * more) / 3600, (peaks[-1] + listed * more) / 1e9
        print(f"  {n:.0e} scenes, on as straight a line: {hours:,.1f} h of one such machine, {memory:,.1f} GB")


if __name__ == "__main__":
    main()
