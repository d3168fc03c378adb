"""Memory and time of the main job against the number of scenes, drawn as they are read.

    python bench/scale.py --scenes 20000 200000 --out DIR [--set A.B=C]

A run each, in a process of its own: read and check, train shortly, encode, choose prototypes, draw, write. Its networks
are small and its trainings short, since neither depends on the number of scenes. Ratios are to the first run. Then what
the stages that grow would take for 10^6 to 10^8 scenes, on as straight a line as these two runs lie on.
"""

import argparse
import json
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from terradistill.config import load_settings
from terradistill.console import Rich
from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder
from terradistill.distillation.pipeline import distill

SIDE, CLASSES = 64, 5  # of 200,000 scenes, classes so large that their prototypes are found by batches
GROWING = ("read", "encode", "prototypes", "candidates")
SHORT = [
    "data.resolution=64", "data.train_fraction=0.95", "autoencoder.steps=40", "diffusion.steps=40", "diffusion.views=1",
    "classifier.max_steps=100", "sampling.candidates=5", "sampling.steps=10",
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
    parser.add_argument("--scenes", nargs="+", type=int, default=[20_000, 200_000])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        settings = load_settings(["small"], overrides=[*SHORT, *asked.set])
        with Rich() as reporter:
            distill(scenes(asked.one), asked.out, settings, evaluate=False, reporter=reporter)
        return
    runs = {n: measured(n, asked.out, asked.set) for n in asked.scenes}
    first, last = asked.scenes[0], asked.scenes[-1]
    print("| stage | " + " | ".join(f"{n:,} scenes" for n in runs) + " | time a scene | peak memory |")
    print("|---|" + "---:|" * (len(runs) + 2))
    for name in runs[first]:
        cells = [f"{found[name]['seconds']:.1f} s, {found[name]['peak'] / 1e6:,.0f} MB" for found in runs.values()]
        small, large = runs[first][name], runs[last][name]
        grows = f"× {large['seconds'] / last / (small['seconds'] / first):.2f}" if name in GROWING else ""
        print(f"| {name} | {' | '.join(cells)} | {grows} | × {large['peak'] / small['peak']:.2f} |")
    # Of the stages that grow, each beside itself: the largest of all would hide it behind one that does not.
    grown = {name: runs[last][name]["peak"] / runs[first][name]["peak"] for name in GROWING}
    most = max(grown, key=lambda name: grown[name])
    times = [sum(found[name]["seconds"] for name in GROWING) for found in runs.values()]
    slower = times[-1] / last / (times[0] / first)
    whole = [max(row["peak"] for row in found.values()) for found in runs.values()]
    print(f"peak memory: × {whole[-1] / whole[0]:.2f}, of one stage at most × {grown[most]:.2f} ({most})")
    print(f"time a scene: × {slower:.2f}")
    if len(runs) > 1:
        slope = (times[-1] - times[0]) / (last - first)
        print(f"a further million scenes: {slope * 1e6 / 60:,.0f} minutes of one such machine")
        for n in (10**6, 10**7, 10**8):
            print(f"  {n:.0e} scenes: {(times[0] + slope * (n - first)) / 3600:,.1f} h")


if __name__ == "__main__":
    main()
