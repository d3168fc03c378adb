"""What a step of training the denoiser takes, how much of it waits for data, and its share of the machine's peak.

    python bench/training.py DATA --out DIR [--steps 12] [--generator G] [--limit N] [--set diffusion.batch_size=64]

Adapting a generator to DATA with all its weights, and by low-rank adapters. Latents are encoded first and kept in DIR.
Seconds are the median of all steps but the first two; data: reading latents, captions and numbers of a batch, which the
step waits for. Operations are those of a whole step, counted by torch, in that time, beside the fastest matrix product
and 3x3 convolution that this machine was seen to do. DIR/training.md is the table.
"""

import argparse
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from sampling import peak
from torch.utils.flop_counter import FlopCounterMode

from terradistill.config import load_settings
from terradistill.console import Rich
from terradistill.distillation import learning
from terradistill.distillation.learning import ALL
from terradistill.distillation.work import Work, open_work
from terradistill.models.generator import Generator
from terradistill.settings import DiffusionSettings
from terradistill.training.diffusion import train_diffusion
from terradistill.training.progress import Unwatched
from terradistill.training.told import draw_told

WARM = 2  # steps, which are not timed
KINDS = {"all weights": None, "low-rank adapters of rank 4": 4}


class Clock(Unwatched):
    """When each step ended, and how long its data took."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends, self.waits = device, list[float](), list[float]()

    def progress(self, done: int, of: int) -> None:  # noqa: ARG002
        self.ends.append(self._now())

    def drawing(self, *given: Any) -> Any:
        """`draw_told`, timed."""
        began = time.monotonic()
        found = draw_told(*given)
        self.waits.append(time.monotonic() - began)
        return found

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    @property
    def step(self) -> float:
        """Seconds."""
        return statistics.median(b - a for a, b in zip(self.ends[WARM - 1 :], self.ends[WARM:], strict=False))

    @property
    def waiting(self) -> float:
        """Share of a step."""
        return statistics.median(self.waits[WARM:]) / self.step


def trained(work: Work, wanted: DiffusionSettings, rank: int | None) -> Clock:
    """So many steps from the given generator on; nothing is kept."""
    generator, clock = (
        Generator.load(str(work.settings.generator)).to(work.hardware.device),
        Clock(work.hardware.device),
    )
    generator.weaker = None
    with patch("terradistill.training.diffusion.draw_told", clock.drawing):
        train_diffusion(
            generator, work.latents(), work.captions(), wanted, metadata=learning.known_numbers(work, generator),
            parts=ALL if rank is None else ("unet", "metadata_encoder"), lora_rank=rank, seed=0,
            hardware=work.hardware, watch=clock,
        )  # fmt: skip
    return clock


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--generator")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--preset", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()
    if asked.steps < WARM + 2:
        parser.error(f"--steps {asked.steps}: the first {WARM} are not timed, give {WARM + 2} or more")
    settings = load_settings(asked.preset, None, asked.set, ipc=1, generator=asked.generator, data__limit=asked.limit)
    if settings.generator is None:
        parser.error("a generator that is trained from scratch is not timed: give --generator")
    with Rich() as reporter:
        work = open_work(asked.data, asked.out, settings, reporter=reporter)
        with closing(work.run):
            for stage in (learning.autoencoder, learning.encode):
                stage(work)
            wanted = settings.finetune.of(settings.diffusion, len(work.train))
            wanted = wanted.model_copy(update={"steps": asked.steps, "held_out": 0.0, "warmup_steps": 0})
            best, batch = peak(work.hardware.learning), wanted.batch_size
            lines = [
                "| trained | s a step | images/s | waiting for data | of the peak product | of the peak convolution |"
            ]
            lines += ["|---|---|---|---|---|---|"]
            for name, rank in KINDS.items():
                with FlopCounterMode(display=False) as counter:
                    trained(work, wanted.model_copy(update={"steps": 1}), rank)
                clock = trained(work, wanted, rank)
                rate = counter.get_total_flops() / clock.step
                lines.append(
                    f"| {name} | {clock.step:.2f} | {batch / clock.step:.1f} | {clock.waiting:.1%} "
                    f"| {rate / best['matrix product']:.0%} | {rate / best['convolution']:.0%} |"
                )
    text = "\n".join(
        ["", f"Steps of {batch} scenes on {work.hardware.name}, {work.hardware.learning.precision}.", "", *lines]
    )
    (asked.out / "training.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
