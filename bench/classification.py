"""Labels alone against self-distillation, under one budget and one recipe, with paired intervals.

    python bench/classification.py DATA [DATA ...] --out DIR [--methods ce byot logit-sd dsd] [--seeds 3]
        [--networks resnet18 convnext-atto] [--variant shuffled:classify.shuffled=true] [--set classify.epochs=30]
        [--learn SCENES ...]

A run a network, method and seed, which `terradistill classify train` makes; the same command goes on after a kill, and
others add networks, methods and DATA to the table. Seeds draw weights, order, augmentation and validation scenes; the
split is the same for all, so that intervals are of training alone. Differences to --base are paired by seed, with 95 %
intervals of Student's t, each of its own; other spreads are standard deviations. Of methods with refinement also: how
far students are from their teachers on validation scenes, before it, after it, and after a linear map instead, with the
paired intervals of what refinement gains on both. DIR/classification.md is the table, made of DIR/classification.json;
who chooses among methods does so by validation scenes. Minutes are of the run alone only where nothing else ran. With
--learn, all is learned from these scene folders, such as distilled ones, and the test scenes of the one DATA judge.
"""

import argparse
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality import told

from terradistill.classification.learn import scores_of, train_classifier
from terradistill.config import load_settings
from terradistill.console import Rich
from terradistill.data.sources import open_scenes
from terradistill.evaluation.metrics import paired
from terradistill.evaluation.recipe import logits
from terradistill.files import write_text
from terradistill.hardware import describe, find_hardware
from terradistill.models.scene_classifier import SceneClassifier
from terradistill.models.self_distillation import METHODS

KEPT, GAIN = "classification.json", "divergence_from_teachers"
ABOUT = ("validation_accuracy", "parameters", "parameters_while_training", "milliseconds_a_step", "seconds", GAIN)


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


def _kept(out: Path) -> dict[str, Any]:
    """The rows of earlier calls, by data, network and method."""
    path = out / KEPT
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _parts(name: str) -> tuple[str, str, str]:
    """Data, network and method of a row."""
    place, network, arm = name.split(" ")
    return place, network, arm


def table(kept: Mapping[str, Any], base: str) -> str:
    """The rows as Markdown; below, what refinement does."""
    lines = [
        f"| data | network | method | OA %, ± spread | to {base}, points, ± 95 % | best validation % | AA % | κ | ECE "
        "| seeds | minutes | ms a step | weights, learning | weights, used | images/s, used | machine |",
        "|---" * 16 + "|",
    ]
    machines = list(dict.fromkeys(each["machine"] for row in kept.values() for each in row["seeds"]))
    refined = [
        "| data | network | method | pair | KL before | refined | linear map instead | refined − before "
        "| refined − linear |"
    ]
    refined += ["|---" * 9 + "|"]
    rate: dict[tuple[str, str], float] = {}  # what is used is the same network, whatever it learned by
    for name, row in kept.items():
        place, network, _ = _parts(name)
        rate[place, network] = max(rate.get((place, network), 0.0), *(each["images_a_second"] for each in row["seeds"]))
    for name, row in kept.items():
        place, network, arm = _parts(name)
        seeds = row["seeds"]

        def of(key: str, seeds: Sequence[Mapping[str, Any]] = seeds) -> NDArray[np.float64]:
            return np.array([each[key] for each in seeds], np.float64)

        other = kept.get(" ".join((place, network, base)), {"seeds": []})["seeds"]
        n, beside, on = min(len(seeds), len(other)), "", {machines.index(each["machine"]) for each in seeds}
        if arm != base and n:
            mean, half = paired(100 * (of("oa")[:n] - of("oa", other)[:n]))
            beside = f"{mean:+.2f}" + (f" ± {half:.2f}" if n > 1 else "")
        lines.append(
            f"| {row['title']} | {network} | {arm} | {told(100 * of('oa'), 2)} | {beside} "
            f"| {100 * of('validation_accuracy').mean():.2f} "
            f"| {100 * of('aa').mean():.2f} | {of('kappa').mean():.4f} | {of('calibration_error').mean():.3f} "
            f"| {len(seeds)} | {of('seconds').mean() / 60:.1f} | {of('milliseconds_a_step').mean():.0f} "
            f"| {of('parameters_while_training').mean() / 1e6:.2f} M | {of('parameters').mean() / 1e6:.2f} M "
            f"| {rate[place, network]:.0f} | {', '.join(str(k + 1) for k in sorted(on))} |"
        )
        gains = [each[GAIN] for each in seeds if GAIN in each]
        for k in range(len(gains[0]["raw"]) if gains else 0):
            raw, after, linear = (np.array([gain[key][k] for gain in gains]) for key in ("raw", "refined", "linear"))
            gained = [
                f"{mean:+.4f}" + (f" ± {half:.4f}" if len(raw) > 1 else "")
                for mean, half in map(paired, (after - raw, after - linear))
            ]
            refined.append(
                f"| {row['title']} | {network} | {arm} | {k + 1} to {k + 2} | {raw.mean():.4f} | {after.mean():.4f} "
                f"| {linear.mean():.4f} | {' | '.join(gained)} |"
            )
    lines += ["", *(f"Machine {i}: {machine}." for i, machine in enumerate(machines, 1))]
    return "\n".join([*lines, *(["", *refined] if len(refined) > 2 else [])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["ce", "byot", "logit-sd", "dsd"])
    parser.add_argument("--networks", nargs="+", default=["resnet18"])
    parser.add_argument("--variant", action="append", default=[], metavar="NAME:A.B=C[,...]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", default="ce", help="the method that all others are held against")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--learn", nargs="+", default=[], metavar="SCENES")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    arms = {method: [f"classify.method={method}"] for method in asked.methods}
    for text in asked.variant:
        name, _, overrides = text.partition(":")
        if name in arms or name in METHODS or not re.fullmatch(r"[\w.-]+", name):
            parser.error(f"the variant {name!r} should have a name of its own, of letters, digits, . _ and -")
        arms[name] = ["classify.method=dsd", *overrides.split(",")]
    places = [Path(each).stem for each in asked.data]
    if len(set(places)) < len(places):
        parser.error("two DATA have one name")
    if asked.learn and len(asked.data) > 1:
        parser.error("--learn needs one DATA that judges")
    # What all rows share, defaults that may have changed since among it.
    shared = load_settings(None, None, asked.set, data__limit=asked.limit)
    recipe = {"data": shared.data.model_dump(mode="json"), "classify": shared.classify.model_dump(mode="json")}
    if any(row.get("recipe") != recipe for row in _kept(asked.out).values()):
        parser.error(f"{asked.out} holds rows of another recipe: give the same --set and --limit, or another --out")
    jobs: list[tuple[str, str | None]] = [(learn, asked.data[0]) for learn in asked.learn]
    for data, against in jobs or [(data, None) for data in asked.data]:
        title = open_scenes(data).info.title or Path(data).stem
        name = "-".join(Path(data).resolve().with_suffix("").parts[-2:]) if against else Path(data).stem
        for network in asked.networks:
            for arm, overrides in arms.items():
                key = " ".join((name, network, arm))
                of_seeds = _kept(asked.out).get(key, {"seeds": []})["seeds"]
                for seed in range(len(of_seeds), asked.seeds):
                    run = asked.out / name / network / f"{arm}-{seed}"
                    # One budget for all: none stops early, unless that is asked for.
                    first = ["classify.patience=1000000", f"classify.network={network}"]
                    settings = load_settings(
                        None, None, [*first, *asked.set, *overrides], seed=seed, data__limit=asked.limit
                    )
                    with Rich() as reporter:
                        train_classifier(data, run, settings, against=against, reporter=reporter)
                    shutil.rmtree(run / "cache", ignore_errors=True)
                    classifier = SceneClassifier.load(run)
                    scores = {key: scores_of(run)[key] for key in ("oa", "aa", "kappa", "calibration_error")}
                    about = {key: classifier.about[key] for key in ABOUT if key in classifier.about}
                    machine = ", ".join(f"{key}: {value}" for key, value in describe(find_hardware()).items())
                    rate = round(speed(classifier))
                    of_seeds.append({**scores, **about, "images_a_second": rate, "machine": machine})
                    kept = _kept(asked.out) | {key: {"title": title, "recipe": recipe, "seeds": of_seeds}}
                    write_text(asked.out / KEPT, json.dumps(kept, indent=1))
                    write_text(asked.out / "classification.md", table(kept, asked.base))
    print(table(_kept(asked.out), asked.base))


if __name__ == "__main__":
    main()
