"""What enhancing is worth on scenes that the generator has not learned from, under the simulations that taught it.

    python bench/enhancement.py super-resolve RUN DATA [--per-class 10] [--minutes 30] [--sheet SHEET.png]
    python bench/enhancement.py fuse RUN DATA [--dates 1 2 4 8] [--seeds 3]
    python bench/enhancement.py timelapse RUN DATA [--dates 1 2 3]
    python bench/enhancement.py inpaint GENERATOR DATA [--cover 0.3]
    python bench/enhancement.py seams RUN IMAGE     a large image super-resolved: gradients at the edges of tiles

PSNR in dB, SSIM, and LPIPS (needs the extra `metrics`), each against the scene itself. Beside each task stand what
costs nothing (interpolation, copying the input, means) and, for super-resolution with `--minutes`, a regression network
of the adapter's size that learns for so long from the scenes that the generator learned from. Of coarse dates there are
the nearest and the best, by its PSNR: an oracle, since it takes the scene itself to choose it. Super-resolved scenes
are also shown to a classifier that learned from real ones.
"""

import argparse
import resource
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from held_out import seen_and_unseen, unseen_of
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from terradistill.config import load_settings
from terradistill.data.captions import class_prompt
from terradistill.data.images import load_pixels, to_float, to_uint8
from terradistill.data.pictures import open_pictures
from terradistill.data.scenes import SceneFolder
from terradistill.data.sensor import in_month
from terradistill.data.weather import cloud_cover, clouded
from terradistill.distillation.learning import simulation_of
from terradistill.enhancing.canvas import filled, tiles_of
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.fuse import fused
from terradistill.enhancing.inpaint import fill_hidden
from terradistill.enhancing.super_resolve import agreeing, bicubic, sharpened
from terradistill.enhancing.timelapse import at_date
from terradistill.evaluation.fidelity import Lpips
from terradistill.evaluation.harness import Labelled
from terradistill.evaluation.recipe import fit, predict
from terradistill.evaluation.similarity import ssim
from terradistill.hardware import Hardware, find_hardware
from terradistill.models.downstream import build_network
from terradistill.models.generator import Generator
from terradistill.models.places import learned_from
from terradistill.report.gallery import side_by_side
from terradistill.sections import EnhancerSettings
from terradistill.seeding import derive
from terradistill.seeding import generator as seeded
from terradistill.settings import Settings
from terradistill.training.frames import OtherDay

Pixels = NDArray[np.uint8]
EXAM = 64  # pixels at which the classifier looks
SHOWN = 8


class Table:
    """Rows of measures, printed as they come; the head says of what images all was made."""

    def __init__(self, truth: Pixels, hardware: Hardware, given: str) -> None:
        self.truth, self.lpips, self.device = truth, Lpips().to(hardware.device), hardware.device
        self.kept: dict[str, Pixels] = {"scene": truth}
        print(f"| {given:34} | PSNR dB | SSIM | LPIPS |\n|---|---|---|---|")

    def add(self, name: str, made: Pixels, more: str = "", truth: Pixels | None = None) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "lpips": []}
        right = self.truth if truth is None else truth
        for first in range(0, len(made), 32):
            x, y = (to_float(each[first : first + 32]).to(self.device) for each in (made, right))
            found["psnr"].append(-10 * torch.log10((x - y).square().mean((1, 2, 3)).clamp_min(1e-9) / 4))
            found["ssim"].append(ssim(x, y))
            found["lpips"].append(self.lpips(x, y))
        means = {key: float(torch.cat(values).mean()) for key, values in found.items()}
        self.kept[name] = made
        line = f"| {name:34} | {means['psnr']:.2f} | {means['ssim']:.3f} | {means['lpips']:.3f} |{more}"
        print(line, flush=True)
        return means

    def picture(self, out: Path | None) -> None:
        if out is not None:
            some = np.linspace(0, len(self.truth) - 1, min(SHOWN, len(self.truth))).astype(int)
            side_by_side({name: list(images[some]) for name, images in self.kept.items()}, out)


def taught(enhancer: Enhancer) -> EnhancerSettings:
    """The simulation that an enhancer learned with."""
    about = enhancer.adapter.about
    if "simulated" not in about:
        raise SystemExit("This enhancer has learned from bands as they are, which no simulation makes: see `enhance`.")
    return EnhancerSettings(task=about["task"], scale=enhancer.adapter.scale, **about["simulated"])


def coarse_and_fine(
    enhancer: Enhancer, scenes: SceneFolder, folder: Path, wanted: EnhancerSettings
) -> tuple[Pixels, Pixels, list[str]]:
    """Frames as the sensor sees them, the scenes themselves, and prompts."""
    fine = load_pixels(scenes, enhancer.generator.resolution, folder / f"{len(scenes)}.npy")
    shown = simulation_of(wanted).show(to_float(fine), torch.zeros(len(fine)), seeded(0, "sensor"), most=True)
    template = load_settings(None).data.caption_template
    prompts = [class_prompt(scenes, scenes.classes[s.label], template) for s in scenes.scenes]
    return to_uint8(shown.frames[:, 0]), np.asarray(fine), prompts


def super_resolve(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    enhancer = open_enhancer(settings, "super-resolve")
    scale = enhancer.adapter.scale
    wanted = taught(enhancer)
    seen, unseen = seen_and_unseen(learned_from(asked.source), asked.data, max(asked.per_class, 200))
    few = unseen_of(learned_from(asked.source), asked.data, asked.per_class)
    coarse, fine, prompts = coarse_and_fine(enhancer, few, folder, wanted)
    judge = _judge(seen, unseen, folder, enhancer.hardware, asked.preset)
    table = Table(fine, enhancer.hardware, f"of simulated frames, {scale} x coarser")

    def row(name: str, made: Pixels) -> None:
        table.add(name, made, f" {judge(made, few.labels):.1%} |")

    row("the scene itself", fine)
    row("bicubic", np.stack([bicubic(image, scale) for image in coarse]))
    if asked.minutes:
        regress = _regression(enhancer, seen, folder, wanted, 60 * asked.minutes)
        row(f"regression, {asked.minutes:g} min", regress(coarse))
    seeds = [derive(0, "bench", i) for i in range(len(coarse))]
    how = settings.sampling
    planes = to_float(coarse).numpy()
    free = [sharpened(enhancer, *each, how) for each in zip(planes, prompts, seeds, strict=True)]
    row("drawn, free", np.stack(free))
    row("drawn", np.stack([agreeing(made, image, scale) for made, image in zip(free, coarse, strict=True)]))
    table.picture(asked.sheet)


def _judge(
    seen: SceneFolder, unseen: SceneFolder, folder: Path, hardware: Hardware, preset: list[str] | None
) -> Callable[[Pixels, NDArray[np.int64]], float]:
    """Share of images that a small network, learned from real scenes at their full resolution, finds right."""
    recipe = load_settings(preset).evaluation
    real = Labelled(load_pixels(seen, EXAM, folder / "exam.npy"), seen.labels)
    network = build_network("convnet3", len(unseen.classes), EXAM).to(hardware.device)
    fit(network, real.images, real.labels, EXAM, recipe, seed=0, hardware=hardware)

    def judge(images: Pixels, labels: NDArray[np.int64]) -> float:
        small = F.interpolate(to_float(images), (EXAM, EXAM), mode="bicubic", antialias=True).clamp(-1, 1)
        return float((predict(network, to_uint8(small), EXAM, hardware=hardware) == labels).mean())

    return judge


def _regression(
    enhancer: Enhancer, seen: SceneFolder, folder: Path, wanted: EnhancerSettings, seconds: float
) -> Callable[[Pixels], Pixels]:
    """A U-Net that learns to correct bicubic interpolation, of about the adapter's weights, for a time."""
    from diffusers import UNet2DModel

    device, size = enhancer.hardware.device, sum(p.numel() for p in enhancer.adapter.parameters())
    widths = (32, 64, 128, 128)
    network: Any
    for width in range(16, 257, 16):
        widths = (width, 2 * width, 4 * width, 4 * width)
        network = UNet2DModel(
            in_channels=3, out_channels=3, block_out_channels=widths, layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D",) * 4, up_block_types=("UpBlock2D",) * 4, add_attention=False,
        )  # fmt: skip
        if sum(p.numel() for p in network.parameters()) >= size:
            break
    network = network.to(device).train()
    fine = load_pixels(seen, enhancer.generator.resolution, folder / "regression.npy")
    simulate, optimizer = simulation_of(wanted), torch.optim.AdamW(network.parameters(), 3e-4)

    def corrected(x: Tensor) -> Tensor:
        wide = F.interpolate(x, scale_factor=wanted.ratio, mode="bicubic", align_corners=False)
        with enhancer.hardware.learning.autocast():
            return torch.as_tensor(wide + network(wide, 0).sample.float())

    began, step = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        rng = seeded(0, "regression", step)
        y = to_float(np.asarray(fine[torch.randint(0, len(fine), (8,), generator=rng).numpy()]))
        x = simulate.show(y, torch.zeros(len(y)), rng, most=True).frames[:, 0]
        loss = (corrected(x.to(device)) - y.to(device)).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
    network.eval()
    print(f"<!-- regression: {sum(p.numel() for p in network.parameters()):,} weights, {step:,} steps of 8 -->")

    @torch.no_grad()
    def apply(coarse: Pixels) -> Pixels:
        parts = [to_uint8(corrected(to_float(coarse[k : k + 16]).to(device))) for k in range(0, len(coarse), 16)]
        return np.concatenate(parts)

    return apply


def fuse(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    enhancer = open_enhancer(settings, "fuse")
    scale, most = enhancer.adapter.scale, max(asked.dates)
    wanted = taught(enhancer)
    scenes = unseen_of(learned_from(asked.source), asked.data, asked.per_class)
    fine = np.asarray(load_pixels(scenes, enhancer.generator.resolution, folder / "fine.npy"))
    simulation = simulation_of(wanted)
    assert isinstance(simulation, OtherDay)
    shots = [
        simulation.show(to_float(fine), torch.zeros(len(fine)), seeded(0, "date", k), most=True) for k in range(most)
    ]
    stacks = np.stack([to_uint8(shot.frames[:, 0]) for shot in shots], 1)  # (n, dates, h, w, 3)
    days = np.array([[row[0]["days"] for row in shot.known] for shot in shots]).T
    table = Table(fine, enhancer.hardware, f"of simulated dates, {scale} x coarser")
    wide = np.stack([[bicubic(image, scale) for image in stack] for stack in stacks])
    nearest = np.abs(days).argmin(1)
    table.add("bicubic of the nearest date", wide[np.arange(len(wide)), nearest])
    errors = [
        np.square(dates - scene.astype(np.float32)).mean((1, 2, 3)) for dates, scene in zip(wide, fine, strict=True)
    ]
    best = np.argmin(errors, axis=1)  # the highest PSNR: an oracle
    table.add("bicubic of the best date (oracle)", wide[np.arange(len(wide)), best])
    table.add(f"mean of {most} bicubics", wide.mean(1).round().astype(np.uint8))
    table.add(f"median of {most} bicubics", np.median(wide, axis=1).round().astype(np.uint8))
    for n in asked.dates:
        order = np.argsort(np.abs(days), axis=1)[:, :n]  # the nearest dates
        if n > 1:
            alone = [
                np.mean([fused(enhancer, stacks[i][[k]], [days[i][k]], "", i, settings) for k in order[i]], axis=0)
                for i in range(len(fine))
            ]
            table.add(f"mean of {n} images drawn alone", np.stack(alone).round().astype(np.uint8))
        for name, fusion in (("fused", settings.enhance.fusion), ("mean of independent latents", 0.0)):
            how, scores = (
                settings.model_copy(update={"enhance": settings.enhance.model_copy(update={"fusion": fusion})}),
                [],
            )
            if n == 1 and fusion == 0:
                continue
            for seed in range(asked.seeds):
                made = [
                    fused(enhancer, stacks[i][order[i]], days[i][order[i]].tolist(), "", derive(seed, "bench", i), how)
                    for i in range(len(fine))
                ]
                scores.append(table.add(f"{name}, {n} dates, seed {seed}", np.stack(made)))
            spread = {key: float(np.std([score[key] for score in scores])) for key in scores[0]}
            mean = {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}
            told = ", ".join(f"{key} {mean[key]:.3f} ± {spread[key]:.3f}" for key in mean)
            print(f"<!-- {name}, {n} dates: {told} -->", flush=True)
    table.picture(asked.sheet)


def timelapse(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    enhancer = open_enhancer(settings, "timelapse")
    scenes = unseen_of(learned_from(asked.source), asked.data, asked.per_class)
    fine = np.asarray(load_pixels(scenes, enhancer.generator.resolution, folder / "fine.npy"))
    rng = np.random.default_rng(0)
    target = rng.integers(1, 13, len(fine))
    months = np.stack([rng.choice(np.setdiff1d(np.arange(1, 13), [month]), 3, replace=False) for month in target])
    truth = to_uint8(in_month(to_float(fine), torch.as_tensor(target) + 14 / 31))
    thick = cloud_cover(3 * len(fine), fine.shape[1], fine.shape[2], 0.2, seeded(0, "clouds"))
    looks = in_month(to_float(np.repeat(fine, 3, 0)), torch.as_tensor(months.ravel()) + 14 / 31)
    frames = to_uint8(clouded(looks, thick)).reshape(len(fine), 3, *fine.shape[1:])
    table = Table(truth, enhancer.hardware, "of simulated months, and clouds")
    gap = np.abs(months - target[:, None])
    table.add("copy of the nearest month", frames[np.arange(len(fine)), np.minimum(gap, 12 - gap).argmin(1)])
    table.add("median of the frames", np.median(frames, axis=1).round().astype(np.uint8))
    for n in asked.dates:
        made = [
            at_date(
                enhancer,
                [
                    (date(2021, int(month), 15), frame)
                    for month, frame in zip(months[i][:n], frames[i][:n], strict=True)
                ],
                date(2021, int(target[i]), 15),
                "",
                derive(0, "bench", i),
                settings.sampling,
            )
            for i in range(len(fine))
        ]
        table.add(f"drawn after {n} frames", np.stack(made))
    table.picture(asked.sheet)


def inpaint(asked: argparse.Namespace, settings: Settings, folder: Path) -> None:
    hardware = find_hardware(settings.precision)
    generator = Generator.load(asked.source).ready(hardware.device)
    scenes = unseen_of(learned_from(asked.source), asked.data, asked.per_class)
    fine = np.asarray(load_pixels(scenes, generator.resolution, folder / "fine.npy"))
    prompts = [class_prompt(scenes, scenes.classes[s.label], settings.data.caption_template) for s in scenes.scenes]
    thick = cloud_cover(len(fine), fine.shape[1], fine.shape[2], asked.cover, seeded(0, "clouds"))
    given, hidden = to_uint8(clouded(to_float(fine), thick)), (thick[:, 0] > 0).numpy()
    table = Table(fine, hardware, "under simulated clouds")
    table.add("under clouds", given)
    table.add("interpolated", np.stack([filled(*each) for each in zip(given, hidden, strict=True)]))
    for name, texts in (("drawn, no prompt", [""] * len(fine)), ("drawn, prompt of the class", prompts)):
        made = [
            fill_hidden(generator, given[i], hidden[i], texts[i], derive(0, "bench", i), settings, hardware)
            for i in range(len(fine))
        ]
        table.add(name, np.stack(made))
    print(f"<!-- {hidden.mean():.1%} of the pixels hidden -->")
    table.picture(asked.sheet)


def seams(asked: argparse.Namespace, settings: Settings, _: Path) -> None:
    enhancer = open_enhancer(settings, "super-resolve")
    (picture,) = open_pictures(asked.data)
    began, image = time.monotonic(), picture.pixels()
    frame = to_float(image[None])[0].numpy()
    made = sharpened(enhancer, frame, "", 0, settings.sampling).astype(np.float32).mean(2)
    height, width = made.shape
    factor, side = enhancer.generator.factor, enhancer.generator.latent_shape[1]
    places = tiles_of(enhancer.generator, (-(-height // factor), -(-width // factor)))
    edges = [sorted({k * factor for place in places for k in (place[axis], place[axis] + side)}) for axis in (0, 1)]
    across = [np.abs(np.diff(made, axis=axis)).mean(1 - axis) for axis in (0, 1)]
    at, inside = [], []
    for steps, lines in zip(across, edges, strict=True):
        seam = np.isin(np.arange(1, len(steps) + 1), lines)
        at.append(steps[seam])
        inside.append(steps[~seam])
    ratio = float(np.concatenate(at).mean() / np.concatenate(inside).mean())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{width} x {height} pixels in {len(places)} tiles, {time.monotonic() - began:.0f} s, {peak:.1f} GiB at most; "
        f"gradient at the edges of tiles {ratio:.3f} of that elsewhere"
    )


TASKS = {"seams": seams, "super-resolve": super_resolve, "fuse": fuse, "timelapse": timelapse, "inpaint": inpaint}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("source")
    parser.add_argument("data")
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--dates", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cover", type=float, default=0.3)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--preset", action="append")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()
    settings = load_settings(asked.preset, None, [*asked.set], generator=asked.source)
    with TemporaryDirectory() as made:
        TASKS[asked.task](asked, settings, Path(made))


if __name__ == "__main__":
    main()
