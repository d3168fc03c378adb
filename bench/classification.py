"""Labels alone against self-distillation, under one budget and one recipe, with paired intervals.

    python bench/classification.py DATA [DATA ...] --out DIR [--methods ce byot logit-sd dsd] [--seeds 3]
        [--networks resnet18 convnext-atto] [--variant shuffled:classify.shuffled=true] [--set classify.epochs=30]
        [--learn SCENES ...]

A run a network, method and seed, which `terradistill classify train` makes; the same command goes on after a kill.
Seeds draw weights, order, augmentation and validation scenes; the split is the same for all. Differences to `ce` are
paired by seed, with 95 % intervals of Student's t. DIR/classification.md is the table. With --learn, all is learned
from these scene folders, such as distilled ones, and the test scenes of the one DATA judge.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from terradistill.classification.learn import scores_of, train_classifier
from terradistill.config import load_settings
from terradistill.console import Rich
from terradistill.data.sources import open_scenes
from terradistill.evaluation.metrics import paired
from terradistill.evaluation.recipe import logits
from terradistill.hardware import find_hardware
from terradistill.models.scene_classifier import SceneClassifier


def speed(classifier: SceneClassifier, batch: int = 64) -> float:
    """Images a second that it judges on this machine: the fastest of five batches."""
    pixels, took = np.zeros((batch, classifier.resolution, classifier.resolution, 3), np.uint8), []
    hardware = find_hardware()
    classifier.network.to(hardware.device)
    for _ in range(5):
        began = time.perf_counter()
        logits(classifier.network, pixels, classifier.resolution, hardware=hardware)
        took.append(time.perf_counter() - began)
    return batch / min(took)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["ce", "byot", "logit-sd", "dsd"])
    parser.add_argument("--networks", nargs="+", default=["resnet18"])
    parser.add_argument("--variant", action="append", default=[], metavar="NAME:A.B=C[,...]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--learn", nargs="+", default=[], metavar="SCENES")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    arms = {method: [f"classify.method={method}"] for method in asked.methods}
    for text in asked.variant:
        name, _, overrides = text.partition(":")
        arms[name] = ["classify.method=dsd", *overrides.split(",")]
    lines = [
        "| data | network | method | OA % | to ce, points | AA % | κ | ECE | weights, learning | ms a step "
        "| weights, used | images/s, used |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    if asked.learn and len(asked.data) > 1:
        parser.error("--learn needs one DATA that judges")
    jobs: list[tuple[str, str | None]] = [(learn, asked.data[0]) for learn in asked.learn]
    for data, against in jobs or [(data, None) for data in asked.data]:
        title = open_scenes(data).info.title or Path(data).stem
        name = "-".join(Path(data).resolve().with_suffix("").parts[-2:]) if against else Path(data).stem
        for network in asked.networks:
            found: dict[str, list[dict[str, Any]]] = {}
            about: dict[str, Any] = {}
            for arm, overrides in arms.items():
                for seed in range(asked.seeds):
                    run = asked.out / name / network / f"{arm}-{seed}"
                    # One budget for all: none stops early, unless that is asked for.
                    first = ["classify.patience=1000000", f"classify.network={network}"]
                    settings = load_settings(
                        None, None, [*first, *asked.set, *overrides], seed=seed, data__limit=asked.limit
                    )
                    with Rich() as reporter:
                        train_classifier(data, run, settings, against=against, reporter=reporter)
                    shutil.rmtree(run / "cache", ignore_errors=True)
                    found.setdefault(arm, []).append(scores_of(run))
                    classifier = SceneClassifier.load(run)
                    about[arm] = {**classifier.about, "speed": speed(classifier)}
            base = np.array([row["oa"] for row in found.get("ce", [])])
            for arm, rows in found.items():
                oa = 100 * np.array([row["oa"] for row in rows])
                to_ce = ""
                if arm != "ce" and len(base):
                    mean, half = paired(oa - 100 * base)
                    to_ce = f"{mean:+.2f} ± {half:.2f}"
                means = [np.mean([row[key] for row in rows]) for key in ("aa", "kappa", "calibration_error")]
                lines.append(
                    f"| {title} | {network} | {arm} | {oa.mean():.2f} ± {oa.std(ddof=1) if len(oa) > 1 else 0:.2f} "
                    f"| {to_ce} | {100 * means[0]:.2f} | {means[1]:.4f} | {means[2]:.3f} "
                    f"| {about[arm]['parameters_while_training'] / 1e6:.2f} M "
                    f"| {about[arm]['milliseconds_a_step']:.0f} | {about[arm]['parameters'] / 1e6:.2f} M "
                    f"| {about[arm]['speed']:.0f} |"
                )
                if "divergence_from_teachers" in about[arm]:
                    print(arm, "KL to teachers:", json.dumps(about[arm]["divergence_from_teachers"]))
    text = "\n".join([*lines, ""])
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "classification.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
