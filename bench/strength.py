"""What prototype guidance does: accuracy and nearness to the prototypes against its strength.

    python bench/strength.py DATA --out DIR [--guidance blend] [--strengths 0 0.1 0.25 0.5 1] [--set A.B=C]

One generator and one latent classifier draw all sets; the scoreboard's recipe scores them. The same command goes on
after a kill. DIR/strength.png is the picture. Nearness is the mean distance of the kept images from their prototypes in
latents, divided by that between prototypes of one class: 1 is as far as another prototype, 0 the prototype itself.
"""

import argparse
import shlex
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from safetensors.torch import load_file
from torch import cdist

from terradistill.config import load_settings
from terradistill.console import Rich
from terradistill.data.sources import open_scenes
from terradistill.distillation.comparison import compare
from terradistill.settings import Settings


def distance(run: Path, ipc: int, candidates: int) -> float:
    """From the kept images to their prototypes, in units of that between prototypes of a class."""
    kept = load_file(run / "latents" / "distilled.safetensors")
    targets = load_file(run / "latents" / "prototypes.safetensors")["latents"].float()
    own = targets[(kept["candidate"] // candidates).long()]
    to_own = (kept["latents"].float() - own).flatten(1).norm(dim=1).mean()
    of_class = targets.flatten(1).unflatten(0, (-1, ipc))
    between = cdist(of_class, of_class).sum() / (len(of_class) * ipc * (ipc - 1))
    return float(to_own / between)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--guidance", default="blend")
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.0, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=2)
    parser.add_argument("--preset", action="append")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()
    if asked.ipc < 2:
        raise SystemExit(f"--ipc is {asked.ipc}: the distance between a class's prototypes takes two.")
    methods = {f"{asked.guidance}-{s:g}": s for s in asked.strengths}

    def settings_of(method: str) -> Settings:
        own = [
            f"sampling.prototype_guidance={asked.guidance}",
            f"sampling.prototype_scale={methods.get(method, 0.0)}",
            "sampling.prototype_until=1",
        ]
        return load_settings(asked.preset, None, [*own, *asked.set])

    with Rich() as reporter:
        rows = compare(
            [asked.data],
            asked.out,
            settings_of,
            methods=["random", *methods],
            ipcs=[asked.ipc],
            n_sets=asked.sets,
            trainings=asked.trainings,
            command=shlex.join(["python", *sys.argv]),
            reporter=reporter,
        )
    info, networks = open_scenes(asked.data).info, load_settings(asked.preset, None, asked.set).evaluation.networks
    oa: dict[str, dict[str, tuple[float, float]]] = {network: {} for network in networks}
    for row in rows:
        name = row["network"] + "+pretrained" * (row["pretrained"] and row["network"] not in networks)
        if row["ipc"] == asked.ipc and name in oa:
            oa[name][row["method"]] = (row["oa_mean"], row["oa_std"] or 0.0)
    near = {
        method: [
            distance(run, asked.ipc, settings_of(method).sampling.candidates)
            for run in sorted(asked.out.glob(f"*/sets/{method}-*-ipc{asked.ipc}-*"))
        ]
        for method in methods
    }
    print(f"{info.title}, {asked.ipc} images a class")
    for network, of in oa.items():
        print(f"  {network}; random real images {100 * of['random'][0]:.1f} %")
        for method, s in sorted(methods.items(), key=lambda item: item[1]):
            mean, std = of[method]
            print(f"    s = {s:<5g} {100 * mean:.1f} ± {100 * std:.1f} %, distance {np.mean(near[method]):.3f}")

    figure, left = plt.subplots(figsize=(6, 3.6), layout="constrained")
    ordered = sorted(methods, key=lambda method: methods[method])
    x, right = np.array([methods[method] for method in ordered]), left.twinx()
    for colour, (network, of) in zip(("C0", "C2", "C3", "C4"), oa.items(), strict=False):
        y, spread = (100 * np.array([of[method][k] for method in ordered]) for k in (0, 1))
        left.errorbar(x, y, spread, marker="o", color=colour, capsize=3, label=network)
        left.axhline(100 * of["random"][0], color=colour, linestyle=":", label="random real images")
    right.plot(x, [np.mean(near[method]) for method in ordered], marker="s", color="C1")
    left.set(xlabel=f"strength s of {asked.guidance}", title=f"{info.title}, {asked.ipc} images a class")
    left.set_ylabel("OA, %")
    right.set_ylabel("distance to the prototype", color="C1")
    right.set_ylim(0)
    left.legend(fontsize="small")
    figure.savefig(asked.out / "strength.png", dpi=120)


if __name__ == "__main__":
    main()
