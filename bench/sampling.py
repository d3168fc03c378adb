"""How much faster sets are drawn than by the published release's procedure, with the same denoiser on this machine.

    python bench/sampling.py DATA --out DIR [--quick] [--set sampling.prune=[0.3,0.6]]

The reference draws as the release of DPD does: prototype by prototype, five candidates each, 50 DDIM steps, guidance in
every step, all candidates to the end. Ours draws with the settings that are given. Both have one generator, one latent
classifier and one exam; the last line says how much faster, and what the two sets are worth. DIR/sampling.md is the
table. The share of the peak is that of model FLOPs in the time of drawing, beside the fastest matrix product and 3x3
convolution that this machine was seen to do.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from terradistill.config import load_settings
from terradistill.console import Rich
from terradistill.data.sources import open_scenes
from terradistill.distillation import drawing, learning
from terradistill.distillation.scoreboard import labelled
from terradistill.distillation.work import Work, open_work
from terradistill.evaluation.harness import score_method
from terradistill.hardware import Hardware
from terradistill.models.generator import Generator, denoise
from terradistill.run import Run
from terradistill.settings import Settings

QUICK = ("finetune.steps=0", "classifier.max_steps=300")


@dataclass
class Count:
    """What the denoiser was asked."""

    calls: int = 0
    images: int = 0


@contextmanager
def counted(unet: Any) -> Iterator[Count]:
    """Count while the block runs."""
    count, plain = Count(), unet.forward

    def forward(z: torch.Tensor, *more: Any, **named: Any) -> Any:
        count.calls, count.images = count.calls + 1, count.images + len(z)
        return plain(z, *more, **named)

    unet.forward = forward
    try:
        yield count
    finally:
        unet.forward = plain


def flops_of(generator: Generator, hardware: Hardware) -> float:
    """Floating-point operations of the denoiser for one image."""
    z = torch.zeros(1, *generator.latent_shape, device=hardware.device)
    text = generator.embed([""])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoise(generator, z, torch.tensor([500], device=hardware.device), text)
    return float(counter.get_total_flops())


def peak(hardware: Hardware) -> dict[str, float]:
    """Fastest of a few large products and convolutions, in operations a second, in the precision that is used."""
    device, dtype = hardware.device, torch.bfloat16 if hardware.bf16 else torch.float32
    a = torch.randn(2048, 2048, device=device, dtype=dtype)
    x, w = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((32, 256, 32, 32), (256, 256, 3, 3)))
    works: dict[str, tuple[Callable[[], torch.Tensor], float]] = {
        "matrix product": (lambda: a @ a, 2.0 * 2048**3),
        "convolution": (lambda: torch.nn.functional.conv2d(x, w, padding=1), 2.0 * 32 * 32 * 32 * 256 * 256 * 9),
    }
    found = {}
    for name, (work, operations) in works.items():
        times = []
        for _ in range(8):
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.monotonic()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic() - began)
        found[name] = operations / min(times)
    return found


def drawn(work: Work, root: Path, settings: Settings, reporter: Rich) -> tuple[Any, float, Count]:
    """A set, the seconds that its candidates took, and what the denoiser was asked for them."""
    run = Run(root, settings, reporter)
    with closing(run):
        run.describe(**{key: value for key, value in work.run.manifest.items() if key != "stages"})
        own = replace(work, run=run, base=work.run.root)
        drawing.prototypes(own)
        generator = own.generator()
        own.generator = lambda: generator  # type: ignore[method-assign]  # the one that is counted
        with counted(generator.unet) as count:
            began = time.monotonic()
            drawing.candidates(own)
            seconds = time.monotonic() - began
        drawing.export(own)
    return open_scenes(root / "distilled"), seconds, count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True, help="a new folder: times are taken once")
    parser.add_argument("--quick", action="store_true", help="an unadapted generator and a shorter classifier")
    parser.add_argument("--generator")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--preset", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()
    if asked.out.exists():
        raise SystemExit(f"{asked.out} is there already: give a new folder for --out.")

    shared = [*(QUICK if asked.quick else ()), "sampling.avoid_copies=false"]
    given: dict[str, Any] = {"ipc": asked.ipc, "data__limit": asked.limit, "generator": asked.generator}
    ours = load_settings(asked.preset, None, [*shared, *asked.set], **given)
    released = load_settings([*asked.preset, "dpd"], None, shared, **given).sampling
    # The release holds the candidates of one prototype in a batch, and goes from prototype to prototype.
    reference = ours.model_copy(update={"sampling": released.model_copy(update={"batch_size": released.candidates})})
    lines = [
        "| procedure | s | images/s | evaluations an image | of the peak product | of the peak convolution | OA % |",
        "|---|---|---|---|---|---|---|",
    ]
    with Rich() as reporter:
        work = open_work(asked.data, asked.out / "base", ours, reporter=reporter)
        with closing(work.run):
            for stage in (learning.autoencoder, learning.encode, learning.classifier, learning.diffusion):
                stage(work)
            operations, best = flops_of(work.generator(), work.hardware), peak(work.hardware)
            side = ours.evaluation.resolution or work.resolution
            test = labelled(work.test, side, work.run / "cache", "test")
            found = {}
            for name, settings in (("release", reference), ("ours", ours)):
                scenes, seconds, count = drawn(work, asked.out / name, settings, reporter)
                row = score_method(
                    name,
                    [labelled(scenes, side, asked.out / name / "cache", "distilled")],
                    test,
                    work.train.classes,
                    ours.evaluation.networks[0],
                    ours.evaluation,
                    dataset=work.train.info.name,
                    ipc=asked.ipc,
                    base_seed=ours.seed,
                    device=work.hardware.device,
                    bf16=work.hardware.bf16,
                )
                found[name] = (seconds, row)
                rate = operations * count.images / seconds
                lines.append(
                    f"| {name} | {seconds:.0f} | {len(scenes) / seconds:.2f} | {count.images / len(scenes):.0f} "
                    f"| {rate / best['matrix product']:.0%} | {rate / best['convolution']:.0%} "
                    f"| {100 * row['oa_mean']:.1f} ± {100 * (row['oa_std'] or 0):.1f} |"
                )
    text = "\n".join([*lines, ""])
    (asked.out / "sampling.md").write_text(text)
    print(text)
    (slow, before), (fast, after) = found["release"], found["ours"]
    told = [f"{100 * row['oa_mean']:.1f} ± {100 * (row['oa_std'] or 0):.1f}" for row in (after, before)]
    gap, spread = after["oa_mean"] - before["oa_mean"], max(after["oa_std"] or 0, before["oa_std"] or 0)
    verdict = "equal" if abs(gap) <= spread else "higher" if gap > 0 else "lower"
    print(f"{slow / fast:.1f}× faster at {verdict} OA ({told[0]} against {told[1]})")


if __name__ == "__main__":
    main()
