"""What enhancing is worth on scenes that the generator has not learned from, under the simulations that taught it.

    python bench/enhancement.py super-resolve RUN DATA [--per-class 10] [--sheet SHEET.png]
    python bench/enhancement.py bands RUN CUT       what `terradistill data cut` has cut
    python bench/enhancement.py fuse RUN DATA [--dates 1 2 4] [--seeds 3]
    python bench/enhancement.py timelapse RUN DATA [--dates 1 2 3]
    python bench/enhancement.py pairs RUN PAIRS     real changes: before/, after/, and masks in change/
    python bench/enhancement.py cut PAIRS OUT       pairs to learn from, in OUT/learn, and to judge, in OUT/judge
    python bench/enhancement.py inpaint GENERATOR DATA [--cover 0.3]
    python bench/enhancement.py seams RUN IMAGE     a large image super-resolved: gradients at the edges of tiles,
                                                    beside those at the other edges of latents

PSNR in dB, SSIM, and LPIPS (shift-tolerant, needs the extra `metrics`), each against the scene itself; of what is
drawn, mean ± standard deviation over --seeds drawings of all scenes. Beside each task stand what costs nothing
(interpolation, copying the input, means) and, but for pairs and in-painting, a regression network of the adapter's size
that learns for as long as the adapter did (or `--minutes`; 0: none) from scenes of DATA that the generator learned
from, turned and flipped, and is told days and months too. Of coarse dates there are the nearest and the best, by its
PSNR: an oracle, since it takes the scene itself to choose it. Super-resolved scenes are also shown to classifiers, one
a seed, that learned from real ones (and how often they are right above bicubic ones, with a 95 % interval over the
scenes), where DATA has any; nothing says their class to what draws them, but in the row that says so. A --sheet shows
the scenes of DATA: of real ones it is for looking at, and not for passing on.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from held_out import require, seen_and_unseen, unseen_of
from numpy.typing import NDArray
from PIL import Image
from quality import Table, told
from regression import dated, in_season, regression, several
from torch import Tensor
from torch.nn import functional as F

from terradistill.config import load_settings
from terradistill.data.bands import BandScale, bands_of
from terradistill.data.captions import class_prompt
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels, pixel_hash, to_float, to_uint8
from terradistill.data.pictures import open_pictures
from terradistill.data.scenes import SceneFolder
from terradistill.data.sensor import MIDSUMMER
from terradistill.data.sources import open_scenes
from terradistill.data.views import random_views
from terradistill.data.weather import cloud_cover, clouded
from terradistill.distillation.beside import simulation_of
from terradistill.enhancing.canvas import filled, tiles_of
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.fuse import fused
from terradistill.enhancing.inpaint import fill_hidden
from terradistill.enhancing.results import AT_ONCE
from terradistill.enhancing.super_resolve import agreeing, bicubic, sharpened
from terradistill.enhancing.timelapse import Frame, at_date
from terradistill.evaluation.harness import Labelled
from terradistill.evaluation.recipe import fit, predict, repeatable
from terradistill.hardware import Hardware, find_hardware
from terradistill.models.downstream import build_network
from terradistill.models.generator import Generator
from terradistill.sections import EnhancerSettings
from terradistill.seeding import derive
from terradistill.seeding import generator as seeded
from terradistill.settings import Settings
from terradistill.training.frames import OtherDay

Pixels = NDArray[np.uint8]
EXAM = 64  # pixels at which the classifier looks
KINDS, JUDGE = ("before", "after", "change"), 0.3  # of pairs, share that judges


def trained_minutes(source: str) -> float:
    """How long the adapter of a run was trained; 0 where nothing says so."""
    manifest = Path(source) / "manifest.json"
    stages = json.loads(manifest.read_text())["stages"] if manifest.is_file() else []
    return float(sum(stage["seconds"] for stage in stages if stage["name"] == "enhancer") / 60)


def taught(enhancer: Enhancer) -> EnhancerSettings:
    """The simulation that an enhancer learned with."""
    about = enhancer.adapter.about
    if about.get("real"):
        raise SystemExit("This enhancer has learned from real dates, which no simulation makes: see `pairs`.")
    if "simulated" not in about:
        raise SystemExit("This enhancer has learned from bands as they are, which no simulation makes: see `bands`.")
    return EnhancerSettings(task=about["task"], scale=enhancer.adapter.scale, **about["simulated"])


def coarse_and_fine(
    enhancer: Enhancer, scenes: SceneFolder, folder: Path, wanted: EnhancerSettings, template: str
) -> tuple[Pixels, Pixels, list[str]]:
    """Frames as the sensor sees them, the scenes themselves, and prompts."""
    fine = load_pixels(scenes, enhancer.generator.resolution, folder / f"{len(scenes)}.npy")
    shown = simulation_of(wanted).show(to_float(fine), torch.zeros(len(fine)), seeded(0, "sensor"), most=True)
    prompts = [class_prompt(scenes, scenes.classes[s.label], template) for s in scenes.scenes]
    return to_uint8(shown.frames[:, 0]), np.asarray(fine), prompts


def super_resolve(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    enhancer = open_enhancer(settings, "super-resolve")
    scale = enhancer.adapter.scale
    wanted = taught(enhancer)
    learned = enhancer.generator.learned_from
    seen, unseen = seen_and_unseen(learned, asked.data, max(asked.per_class, 200))
    few = unseen_of(learned, asked.data, asked.per_class)
    coarse, fine, prompts = coarse_and_fine(enhancer, few, folder, wanted, settings.data.caption_template)
    seeds = range(asked.seeds if len(seen) else 0)
    judges = [_judge(seen, unseen, folder, enhancer.hardware, settings, seed) for seed in seeds]
    table = Table(fine, enhancer.hardware, f"of simulated frames, {scale} x coarser", *["OA %"][: len(judges)])

    right: dict[str, NDArray[np.float64]] = {}  # share of judges and drawings that find a scene's class

    def row(name: str, *several: Pixels) -> None:
        found = np.array([judge(made, few.labels) for made in several for judge in judges])
        table.add(name, *several, more=told(100 * found.mean(1), 1) if judges else None)
        right[name] = found.mean(0) if judges else np.zeros(len(fine))

    row("the scene itself", fine)
    row("bicubic", np.stack([bicubic(image, scale) for image in coarse]))
    if asked.minutes:
        simulate, known = simulation_of(wanted), learned_pixels(asked, enhancer, folder)

        def some(index: NDArray[np.int64], rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            y = random_views(to_float(np.asarray(known[index])), rng)
            x = simulate.show(y, torch.zeros(len(y)), rng, most=True).frames[:, 0]
            return x, x, y

        regress = regression(enhancer, len(known), coarse.shape[3], some, 60 * asked.minutes)
        row(f"regression, {asked.minutes:.2g} min", regress(to_float(coarse), to_float(coarse)))

    frames = to_float(coarse).numpy()
    free = [sharp(enhancer, settings, frames, [""] * len(fine), seed) for seed in range(asked.seeds)]
    drawn = [agreeing(made, coarse, scale, enhancer.blur) for made in free]
    row("drawn, free", *free)
    row("drawn", *drawn)
    row(f"mean of {len(drawn)} drawn alone", np.mean(drawn, axis=0).round().astype(np.uint8))
    oracle = sharp(enhancer, settings, frames, prompts, 0)
    row("drawn, told its class (oracle)", agreeing(oracle, coarse, scale, enhancer.blur))
    if judges:
        more = 100 * (right["drawn"] - right["bicubic"])
        print(f"OA drawn above bicubic: {more.mean():+.1f} ± {1.96 * more.std(ddof=1) / len(more) ** 0.5:.1f} points")
    table.picture(asked.sheet, asked.show)


def sharp(
    enhancer: Enhancer, settings: Settings, frames: NDArray[np.float32], texts: Sequence[str], seed: int
) -> Pixels:
    """Frames (n, C, h, w) drawn, each after its own text."""
    return by_text(
        texts, seed, lambda some, text, seeds: sharpened(enhancer, frames[some], text, seeds, settings.sampling)
    )


def by_text(texts: Sequence[str], seed: int, draw: Callable[[list[int], str, list[int]], Pixels]) -> Pixels:
    """An image for each text, some of one text at once: `draw` is told which they are, the text, and their seeds."""
    made: dict[int, Pixels] = {}
    for text in dict.fromkeys(texts):
        index = [i for i, own in enumerate(texts) if own == text]
        for some in (index[k : k + AT_ONCE] for k in range(0, len(index), AT_ONCE)):
            made |= dict(zip(some, draw(some, text, [derive(seed, "bench", i) for i in some]), strict=True))
    return np.stack([made[i] for i in range(len(texts))])


def learned_pixels(asked: argparse.Namespace, enhancer: Enhancer, folder: Path) -> Pixels:
    """Scenes of DATA that the generator or its enhancer has learned from, for what learns beside it."""
    seen = require(seen_and_unseen(enhancer.generator.learned_from, asked.data)[0], asked.data, learned=True)
    return load_pixels(seen, enhancer.generator.resolution, folder / "learned.npy")


def _judge(
    seen: SceneFolder, unseen: SceneFolder, folder: Path, hardware: Hardware, settings: Settings, seed: int
) -> Callable[[Pixels, NDArray[np.int64]], NDArray[np.bool_]]:
    """Which images a small network, learned from real scenes at their full resolution, finds right."""
    recipe = settings.evaluation
    real = Labelled(load_pixels(seen, EXAM, folder / "exam.npy"), seen.labels)
    with repeatable(seed, hardware.device):
        network = build_network("convnet3", len(unseen.classes), EXAM).to(hardware.device)
        fit(network, real.images, real.labels, EXAM, recipe, seed=seed, hardware=hardware)

    def judge(images: Pixels, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        small = F.interpolate(to_float(images), (EXAM, EXAM), mode="bicubic", antialias=True).clamp(-1, 1)
        return np.asarray(predict(network, to_uint8(small), EXAM, hardware=hardware) == labels)

    return judge


def bands(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    enhancer, cut = open_enhancer(settings, "super-resolve"), Path(asked.data)
    if "bands" not in enhancer.adapter.about:
        raise SystemExit("This enhancer reads pictures: see `super-resolve`.")
    scale, side, names = enhancer.adapter.scale, enhancer.generator.resolution, enhancer.adapter.bands
    scaler = BandScale.noted(names, enhancer.adapter.about["bands"])
    # Squares overlap: one that was not learned from may lie within others that were, but for the split of the cut.
    sides = json.loads((cut / "split.json").read_text())
    (scenes, _), learned = check_scenes(open_scenes(cut)), enhancer.generator.learned_from

    def shown(kind: str) -> tuple[NDArray[np.float32], Pixels]:
        """Bands in the grid of the frames, and pictures, of the scenes of one side."""
        of = scenes.subset([i for i, scene in enumerate(scenes.scenes) if scene.name in sides[kind]])
        coarse = [bands_of(cut, scene.name).coarser(scale) for scene in of.scenes]  # as it was learned
        stacks = [image.stacked(names, side // scale, side // scale) for image in coarse]
        if kind == "test" and not of.hashes.isdisjoint(learned):
            raise SystemExit(f"The enhancer has learned from test squares of {cut}: train it with --split-file of it.")
        return scaler.scaled(np.stack(stacks)), np.asarray(load_pixels(of, side, folder / f"{kind}.npy"))

    frames, fine = shown("test")
    coarse = F.avg_pool2d(to_float(fine), scale)
    table = Table(fine, enhancer.hardware, f"of {len(names)} bands, {scale} x coarser")
    table.add("bicubic", np.stack([bicubic(image, scale) for image in to_uint8(coarse)]))
    if asked.minutes:
        known, real = shown("train")

        def some(index: NDArray[np.int64], _: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            y = to_float(real[index])
            return torch.from_numpy(known[index]), F.avg_pool2d(y, scale), y

        regress = regression(enhancer, len(real), len(names), some, 60 * asked.minutes)
        table.add(f"regression, {asked.minutes:.2g} min", regress(torch.from_numpy(frames), coarse))

    free = [sharp(enhancer, settings, frames, [""] * len(fine), seed) for seed in range(asked.seeds)]
    drawn = [agreeing(made, to_uint8(coarse), scale, enhancer.blur) for made in free]
    table.add("drawn, free", *free)
    table.add("drawn", *drawn)
    table.add(f"mean of {len(drawn)} drawn alone", np.mean(drawn, axis=0).round().astype(np.uint8))
    table.picture(asked.sheet, asked.show)


def fuse(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    enhancer = open_enhancer(settings, "fuse")
    scale, most = enhancer.adapter.scale, max(asked.dates)
    wanted = taught(enhancer)
    scenes = unseen_of(enhancer.generator.learned_from, asked.data, asked.per_class)
    fine = np.asarray(load_pixels(scenes, enhancer.generator.resolution, folder / "fine.npy"))
    simulation = simulation_of(wanted)
    assert isinstance(simulation, OtherDay)
    looks = torch.randint(0, 12, (len(fine),), generator=seeded(0, "months"))
    shots = [simulation.show(to_float(fine), looks, seeded(0, "date", k), most=True) for k in range(most)]
    seasons = shots[0].target
    truth = to_uint8(in_season(to_float(fine), shots[0]))
    stacks = np.stack([to_uint8(shot.frames[:, 0]) for shot in shots], 1)  # (n, dates, h, w, 3)
    days = np.array([[row[0]["days"] for row in shot.known] for shot in shots]).T
    table = Table(truth, enhancer.hardware, f"of simulated dates, {scale} x coarser")
    wide = np.stack([[bicubic(image, scale) for image in stack] for stack in stacks])
    nearest = np.abs(days).argmin(1)
    table.add("bicubic of the nearest date", wide[np.arange(len(wide)), nearest])
    errors = [
        np.square(dates - scene.astype(np.float32)).mean((1, 2, 3)) for dates, scene in zip(wide, truth, strict=True)
    ]
    best = np.argmin(errors, axis=1)  # the highest PSNR: an oracle
    table.add("bicubic of the best date (oracle)", wide[np.arange(len(wide)), best])
    table.add(f"mean of {most} bicubics", wide.mean(1).round().astype(np.uint8))
    table.add(f"median of {most} bicubics", np.median(wide, axis=1).round().astype(np.uint8))
    if asked.minutes:
        known = learned_pixels(asked, enhancer, folder)

        def some(index: NDArray[np.int64], rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            scenes = random_views(to_float(np.asarray(known[index])), rng)
            asked_for = torch.randint(0, 12, (len(scenes),), generator=rng)
            taken = [simulation.show(scenes, asked_for, rng, most=True) for _ in range(most)]
            return *dated(taken, wanted.days), in_season(scenes, taken[0])

        seen, coarse = dated(shots, wanted.days)
        regress = regression(enhancer, len(known), seen.shape[1], some, 60 * asked.minutes)
        table.add(f"regression of {most}, {asked.minutes:.2g} min", regress(seen, coarse))
    order = np.argsort(np.abs(days), axis=1)  # the nearest dates first

    def drawn(n: int, seed: int, **otherwise: object) -> Pixels:
        """Each scene after its n nearest dates."""
        how = settings.model_copy(update={"enhance": settings.enhance.model_copy(update=otherwise)})
        own = [(stack[some], list(when[some])) for stack, when, some in zip(stacks, days, order[:, :n], strict=True)]
        return np.stack(
            [
                fused(enhancer, images, when, seasons[i], "", derive(seed, "bench", i), how)
                for i, (images, when) in enumerate(own)
            ]
        )

    def alone(k: int, seed: int) -> Pixels:
        """Each scene after its date number k alone."""
        own = [(stack[[some]], [when[some]]) for stack, when, some in zip(stacks, days, order[:, k], strict=True)]
        return np.stack(
            [
                fused(enhancer, images, when, seasons[i], "", derive(seed, "alone", k, i), settings)
                for i, (images, when) in enumerate(own)
            ]
        )

    # Of each seed, drawn once and averaged over the first of them: the mean of independent samples.
    independent = [[alone(k, seed) for k in range(max(asked.dates))] for seed in range(asked.seeds)]
    seeds, to_one_mean = range(asked.seeds), dict(load_settings(["satdiffmoe"]).enhance)
    for n in asked.dates:
        table.add(f"fused, {_of(n, 'date')}", *(drawn(n, seed) for seed in seeds))
        if n > 1:
            table.add(f"led to one mean, {n} dates", *(drawn(n, seed, **to_one_mean) for seed in seeds))
            table.add(f"nearest of {n} independent ones", *(drawn(n, seed, fusion=0.0) for seed in seeds))
            means = [np.mean(each[:n], axis=0).round().astype(np.uint8) for each in independent]
            table.add(f"mean of {n} images drawn alone", *means)
    table.picture(asked.sheet, asked.show)


def _of(n: int, name: str) -> str:
    return f"{n} {name}{'s' if n > 1 else ''}"


def timelapse(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    enhancer = open_enhancer(settings, "timelapse")
    scenes = unseen_of(enhancer.generator.learned_from, asked.data, asked.per_class)
    fine = np.asarray(load_pixels(scenes, enhancer.generator.resolution, folder / "fine.npy"))
    looks = torch.randint(0, 12, (len(fine),), generator=seeded(0, "months"))
    simulation = simulation_of(taught(enhancer))
    shown = simulation.show(to_float(fine), looks, seeded(0, "frames"), most=True)
    frames = to_uint8(shown.frames.flatten(0, 1)).reshape(len(fine), -1, *fine.shape[1:])
    seen, nearest = several(shown)
    table = Table(to_uint8(in_season(to_float(fine), shown)), enhancer.hardware, "of simulated months, and clouds")
    table.add("copy of the nearest month", to_uint8(nearest))
    table.add("median of the frames", np.median(frames, axis=1).round().astype(np.uint8))
    if asked.minutes:
        known = learned_pixels(asked, enhancer, folder)

        def some(index: NDArray[np.int64], rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            scenes = random_views(to_float(np.asarray(known[index])), rng)
            asked_for = torch.randint(0, 12, (len(scenes),), generator=rng)
            taken = simulation.show(scenes, asked_for, rng, most=True)
            return *several(taken), in_season(scenes, taken)

        regress = regression(enhancer, len(known), seen.shape[1], some, 60 * asked.minutes)
        table.add(f"regression of {frames.shape[1]}, {asked.minutes:.2g} min", regress(seen, nearest))

    def drawn(n: int, seed: int, later: int = 0) -> Pixels:
        return np.stack(
            [
                at_date(
                    enhancer,
                    [Frame(row, frame) for row, frame in zip(shown.known[i][:n], frames[i][:n], strict=True)],
                    {**shown.target[i], "month": (shown.target[i]["month"] + later) % 12},
                    "",
                    derive(seed, "bench", i),
                    settings.sampling,
                )
                for i in range(len(fine))
            ]
        )

    for n in asked.dates:
        made = [drawn(n, seed) for seed in range(asked.seeds)]
        table.add(f"drawn after {_of(n, 'frame')}", *made)
    table.add(f"mean of {len(made)} of these", np.mean(made, axis=0).round().astype(np.uint8))
    wrong = (drawn(asked.dates[-1], seed, later=6) for seed in range(asked.seeds))
    table.add("drawn, told half a year later", *wrong)
    table.picture(asked.sheet, asked.show)


def changes(data: str, side: int) -> dict[str, dict[str, Pixels]]:
    """Images before and after a change, and where it is, by name."""
    found = {picture.name: picture.pixels() for picture in open_pictures(data)}
    names = sorted(name.removeprefix("before/") for name in found if name.startswith("before/"))
    whole = [name for name in names if {f"{kind}/{name}" for kind in KINDS} <= set(found)]
    if not whole or len(whole) < len(names) or min(min(found[f"before/{name}"].shape[:2]) for name in names) < side:
        raise SystemExit(
            f"{data} needs before/, after/ and change/ with images of the same names, of {side} pixels or more."
        )
    return {name: {kind: found[f"{kind}/{name}"] for kind in KINDS} for name in names}


def squares(image: Pixels, side: int) -> list[Pixels]:
    """Squares of the generator's size, which show it the metres a pixel that the image has."""
    return [
        image[y : y + side, x : x + side]
        for y in range(0, image.shape[0] - side + 1, side)
        for x in range(0, image.shape[1] - side + 1, side)
    ]


def cut(asked: argparse.Namespace, _: Settings, __: Path) -> None:
    found, out = changes(asked.source, asked.side), Path(asked.data)
    last = [*found][-max(1, round(JUDGE * len(found))) :]
    for name, images in found.items():
        kept = images if name in last else {kind: image for kind, image in images.items() if kind != "change"}
        for kind, image in kept.items():
            folder = out / ("judge" if name in last else "learn") / kind
            folder.mkdir(parents=True, exist_ok=True)
            parts = [image] if name in last else squares(image, asked.side)
            for k, part in enumerate(parts):
                Image.fromarray(part).save(folder / f"{name}-{k}.png")
    print(f"{len(found) - len(last)} pairs to learn from, {len(last)} to judge")


def pairs(asked: argparse.Namespace, settings: Settings, _: Path) -> None:
    enhancer = open_enhancer(settings, "timelapse")
    side = enhancer.generator.resolution
    found, learned = changes(asked.data, side), enhancer.generator.learned_from

    def tiles(kind: str) -> Pixels:
        return np.stack([square for images in found.values() for square in squares(images[kind], side)])

    before, after = tiles("before"), tiles("after")
    if not learned.isdisjoint(map(pixel_hash, [*before, *after])):
        raise SystemExit(f"The enhancer has learned from squares of {asked.data}: give what `cut` has left to judge.")
    changed = tiles("change")[..., 0] > 0
    table = Table(after, enhancer.hardware, "of real changes", "PSNR of all that changed", "of all else")

    def row(name: str, *several: Pixels) -> None:
        errors = np.array([np.square(made / 255.0 - after / 255.0).mean(3) for made in several])
        parts = [-10 * np.log10(errors[:, some].mean(1) + 1e-9) if some.any() else None for some in (changed, ~changed)]
        table.add(name, *several, more=" | ".join("" if part is None else told(part, 2) for part in parts))

    row("copy of the image before", before)
    # Nothing says when these were taken. To what has learned months both are called midsummer, so that only the
    # adapter's doing is seen.
    when = {} if enhancer.adapter.about.get("real") else {"month": MIDSUMMER - 1}

    def drawn(seed: int) -> Pixels:
        each = [
            at_date(enhancer, [Frame(when, image)], when, "", derive(seed, "bench", i), settings.sampling)
            for i, image in enumerate(before)
        ]
        return np.stack(each)

    row("drawn after it", *(drawn(seed) for seed in range(asked.seeds)))
    print(f"<!-- {len(found)} pairs, {len(after)} squares, {changed.mean():.1%} of the pixels changed -->")
    table.picture(asked.sheet, asked.show)


def inpaint(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    hardware = find_hardware(settings.precision)
    generator = Generator.load(asked.source).ready(hardware.device)
    scenes = unseen_of(generator.learned_from, asked.data, asked.per_class)
    fine = np.asarray(load_pixels(scenes, generator.resolution, folder / "fine.npy"))
    prompts = [class_prompt(scenes, scenes.classes[s.label], settings.data.caption_template) for s in scenes.scenes]
    thick = cloud_cover(len(fine), fine.shape[1], fine.shape[2], asked.cover, seeded(0, "clouds"))
    given, hidden = to_uint8(clouded(to_float(fine), thick)), (thick[:, 0] > 0).numpy()
    table = Table(fine, hardware, "under simulated clouds", "PSNR of what was hidden")

    def row(name: str, *several: Pixels) -> None:
        errors = [np.square(made / 255.0 - fine / 255.0).mean(3)[hidden].mean() for made in several]
        table.add(name, *several, more=told(-10 * np.log10(np.array(errors) + 1e-9), 2))

    row("under clouds", given)
    row("interpolated", np.stack([filled(*each) for each in zip(given, hidden, strict=True)]))

    def drawn(texts: Sequence[str], seed: int) -> Pixels:
        return by_text(
            texts,
            seed,
            lambda some, text, seeds: fill_hidden(
                generator, given[some], hidden[some], text, seeds, settings, hardware
            ),
        )

    for name, texts in (("drawn, no prompt", [""] * len(fine)), ("drawn, prompt of the class", prompts)):
        several = [drawn(texts, seed) for seed in range(asked.seeds)]
        row(name, *several)
    row(f"mean of {len(several)} drawn alone", np.mean(several, axis=0).round().astype(np.uint8))
    print(f"<!-- {hidden.mean():.1%} of the pixels hidden -->")
    table.picture(asked.sheet, asked.show)


def seams(asked: argparse.Namespace, settings: Settings, _: Path) -> None:
    enhancer = open_enhancer(settings, "super-resolve")
    if "bands" in enhancer.adapter.about:
        raise SystemExit("This enhancer reads bands: give one that reads pictures.")
    (picture,) = open_pictures(asked.data)
    began, image = time.process_time(), picture.pixels()
    drawn = sharpened(enhancer, to_float(image[None]).numpy(), "", [0], settings.sampling)
    height, width = drawn.shape[1:3]
    factor, side = enhancer.generator.factor, enhancer.generator.latent_shape[1]
    multiple = enhancer.multiple  # to which an image is enlarged before it is cut into tiles
    places = tiles_of(
        enhancer.generator, (-(-height // multiple) * multiple // factor, -(-width // multiple) * multiple // factor)
    )
    edges = [sorted({k * factor for place in places for k in (place[axis], place[axis] + side)}) for axis in (0, 1)]
    if len(places) == 1:
        raise SystemExit(f"{width} x {height} pixels are one tile: give a larger image.")

    def ratio(image: Pixels) -> float:
        """Mean gradient at the edges of tiles, over that at the other edges of latents."""
        made, at, inside = image.astype(np.float32).mean(2), [], []
        for axis, lines in enumerate(edges):
            steps = np.abs(np.diff(made, axis=axis)).mean(1 - axis)
            pixels = np.arange(1, len(steps) + 1)
            seam = np.isin(pixels, lines)
            at.append(steps[seam])
            inside.append(steps[~seam & (pixels % factor == 0)])  # a decoder may leave its own pattern at all of these
        return float(np.concatenate(at).mean() / np.concatenate(inside).mean())

    (faithful,) = agreeing(drawn, image[None], enhancer.adapter.scale, enhancer.blur)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    plain = bicubic(image, enhancer.adapter.scale)
    print(
        f"{width} x {height} pixels in {len(places)} tiles, {time.process_time() - began:.0f} s of processors, "
        f"{peak:.1f} GiB at most; "
        f"gradient at the edges of tiles {ratio(faithful):.3f} of that at other edges of latents "
        f"({ratio(drawn[0]):.3f} drawn freely; {ratio(plain):.3f} interpolated, without tiles)"
    )


TASKS = {
    "seams": seams,
    "super-resolve": super_resolve,
    "bands": bands,
    "fuse": fuse,
    "timelapse": timelapse,
    "pairs": pairs,
    "cut": cut,
    "inpaint": inpaint,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("source")
    parser.add_argument("data")
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--minutes", type=float, help="of the regression; as long as RUN's adapter, unless told")
    parser.add_argument("--dates", type=int, nargs="+", help="1 2 4; of frames 1 2 3")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cover", type=float, default=0.3)
    parser.add_argument("--side", type=int, default=128, help="cut: of the squares")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--show", action="append", default=[], metavar="ROW", help="in the sheet; all, unless told")
    parser.add_argument("--preset", action="append")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()
    asked.minutes = trained_minutes(asked.source) if asked.minutes is None else asked.minutes
    asked.dates = asked.dates or ([1, 2, 3] if asked.task == "timelapse" else [1, 2, 4])
    settings = load_settings(asked.preset, None, [*asked.set], generator=asked.source)
    with TemporaryDirectory() as made:
        TASKS[asked.task](asked, settings, Path(made))


if __name__ == "__main__":
    main()
