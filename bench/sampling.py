"""How much faster sets are drawn than by the published release's procedure, with the same denoiser on this machine.

    python bench/sampling.py DATA --out DIR [--quick] [--set sampling.prune=[0.5,0.65]]

The reference draws as the release of DPD does: prototype by prototype, five candidates each, 50 DDIM steps, guidance in
every step, all candidates to the end, in float32 (on GPUs in float16, as released). Ours draws with the settings that
are given; the rows between turn one into the other, a change a row. All have one generator, one latent classifier and
one exam.

Times are of drawing, choosing and refining, an image that is kept; nothing that another row has drawn is read. Up to
our selection they are of a batch or somewhat more; what stands beside the drawing, such as the choice, is shared by a
class's images, so that the rows after it are of a set of ten a class. The last row is what `distill` does, near-copies
of train scenes passed over; writing and judging are in none. What sets are worth is told of the first and the last row,
from --sets sets each of --ipc images a class, every one drawn from other seeds; those of the reference are of its own
prototypes, and drawn in batches and in the precision of ours, which changes them by rounding alone.

The share of the peak is that of model FLOPs in the denoiser's time, beside the fastest matrix product and 3x3
convolution that this machine was seen to do. DIR/sampling.md is the table; the last line says how much faster. The same
command goes on after a kill; a row whose time was being taken begins anew.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from terradistill.config import load_settings
from terradistill.console import Rich
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation import drawing, learning, refining
from terradistill.distillation.scoreboard import labelled
from terradistill.distillation.work import Work, open_work
from terradistill.evaluation.harness import Row, score_method
from terradistill.files import write_text
from terradistill.hardware import Hardware
from terradistill.models.generator import Generator, denoise
from terradistill.run import Run
from terradistill.settings import SamplingSettings, Settings

QUICK = ("finetune.steps=0", "classifier.max_steps=300")
IPC, QUICK_IPC = 10, 1
COUNTED = "count.json"


@dataclass
class Count:
    """What the denoiser was asked, the seconds from its first question to its last answer, and those of all."""

    images: int = 0
    began: float = 0.0
    seconds: float = 0.0
    all_seconds: float = 0.0


@contextmanager
def counted(generator: Generator) -> Iterator[Count]:
    """Count, of the denoiser and of a weaker one, while the block runs."""
    count, unets = Count(), [part.unet for part in (generator, generator.weaker) if part is not None]
    plains = [unet.forward for unet in unets]

    def forward(plain: Callable[..., Any], z: torch.Tensor, *more: Any, **named: Any) -> Any:
        count.began = count.began or time.monotonic()
        count.images += len(z)
        said = plain(z, *more, **named)
        if z.device.type == "cuda":
            torch.cuda.synchronize()
        count.seconds = time.monotonic() - count.began
        return said

    for unet, plain in zip(unets, plains, strict=True):
        unet.forward = partial(forward, plain)
    try:
        yield count
    finally:
        for unet, plain in zip(unets, plains, strict=True):
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
    device, dtype = hardware.device, hardware.half or torch.float32
    # Large enough that a GPU does not wait for its orders.
    side, n = (2048, 32) if device.type == "cpu" else (8192, 2048)
    a = torch.randn(side, side, device=device, dtype=dtype)
    x, w = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((n, 256, 32, 32), (256, 256, 3, 3)))
    if device.type != "cpu":
        x, w = (each.contiguous(memory_format=torch.channels_last) for each in (x, w))
    works: dict[str, tuple[Callable[[], torch.Tensor], float]] = {
        "matrix product": (lambda: a @ a, 2.0 * side**3),
        "convolution": (lambda: torch.nn.functional.conv2d(x, w, padding=1), 2.0 * n * 32 * 32 * 256 * 256 * 9),
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


@dataclass(frozen=True)
class Procedure:
    """A way to draw candidates."""

    name: str
    sampling: SamplingSettings
    half: torch.dtype | None


@dataclass(frozen=True)
class Drawn:
    """What a procedure made, and what the denoiser was asked for it."""

    root: Path
    count: Count

    @property
    def scenes(self) -> SceneFolder:
        return open_scenes(self.root / "distilled")

    @property
    def seconds(self) -> float:
        """An image that is kept."""
        return self.count.all_seconds / len(self.scenes)

    @property
    def margin(self) -> float:
        """How sure the latent classifier is of what was kept."""
        return float(load_file(self.root / "latents" / "distilled.safetensors")["margin"].mean())


def procedures(released: SamplingSettings, ours: SamplingSettings, hardware: Hardware) -> list[Procedure]:
    """From the release's to ours, a change a row; rows that would change nothing are left out."""
    every = tuple(SamplingSettings.model_fields)
    drawing = tuple(field for field in every if field != "avoid_copies" and not field.startswith("refine_"))
    changes = {
        "in the precision of ours": (),
        "in full batches": ("batch_size",),
        "with our solver and steps": ("scheduler", "spacing", "steps"),
        "guided as ours, where ours is": tuple(field for field in every if field.startswith(("cfg_", "autoguidance"))),
        "with our prototypes' pull and selection": tuple(field for field in drawing if field != "prune"),
        "halved on the way": drawing,
        "refined": tuple(field for field in every if field != "avoid_copies"),
        "near-copies passed over": every,
    }
    # The candidates of one prototype are a batch.
    alone = released.model_copy(update={"batch_size": released.candidates})
    found = [Procedure("release", alone, half=None if hardware.device.type == "cpu" else torch.float16)]
    for name, fields in changes.items():
        update = {field: getattr(ours, field) for field in fields}
        found.append(Procedure(name, found[-1].sampling.model_copy(update=update), hardware.half))
    return [each for i, each in enumerate(found) if i == 0 or each != replace(found[i - 1], name=each.name)]


def drawn(work: Work, root: Path, settings: Settings, half: torch.dtype | None, reporter: Rich) -> Drawn:
    """A set by a procedure, or what an earlier call made of it."""
    if (root / COUNTED).exists():
        return Drawn(root, Count(**json.loads((root / COUNTED).read_text())))
    run = Run(root, settings, reporter)
    with closing(run):
        run.describe(**{key: value for key, value in work.run.manifest.items() if key != "stages"})
        own = replace(work, run=run, base=work.run.root, hardware=replace(work.hardware, half=half))
        drawing.prototypes(own)
        generator = own.generator()
        own.generator = lambda: generator  # type: ignore[method-assign]  # the one that is counted
        if half == torch.float16:
            generator.unet.half()  # as released: its weights too
        began = time.monotonic()
        with counted(generator) as count:
            drawing.candidates(own)
        refining.refined(own)
        count.all_seconds = time.monotonic() - began
        drawing.export(own)
        write_text(root / COUNTED, json.dumps(asdict(count)))
    return Drawn(root, count)


def worth(work: Work, name: str, sets: Sequence[Drawn], ours: Settings, kept: Path) -> Row:
    """What sets train a network to, on the test split; `kept` holds the trainings that are done."""
    side = ours.evaluation.resolution or work.resolution
    return score_method(
        name,
        [labelled(made.scenes, side, made.root / "cache", "distilled") for made in sets],
        labelled(work.test, side, work.run / "cache", "test"),
        work.train.classes,
        ours.evaluation.networks[0],
        ours.evaluation.model_copy(update={"n_seeds": len(sets) * -(-ours.evaluation.n_seeds // len(sets))}),
        dataset=work.train.info.name,
        ipc=ours.ipc,
        base_seed=ours.seed,
        hardware=work.hardware,
        kept=kept,
    )


def table(rows: Sequence[tuple[Procedure, Drawn]], operations: float, best: dict[str, float]) -> list[str]:
    """Lines of Markdown, each row beside the one before it."""
    lines = [
        "| drawn as | images | s an image | faster than the row before | evaluations a kept image "
        "| margin of the kept | of the peak product | of the peak convolution |",
        "|---|---|---|---|---|---|---|---|",
    ]
    before = None
    for procedure, made in rows:
        n, seconds, rate = len(made.scenes), made.seconds, operations * made.count.images / made.count.seconds
        lines.append(
            f"| {procedure.name} | {n} | {seconds:.3g} | {f'{before / seconds:.1f}×' if before else ''} "
            f"| {made.count.images / n:.0f} | {made.margin:.2f} "
            f"| {rate / best['matrix product']:.0%} | {rate / best['convolution']:.0%} |"
        )
        before = seconds
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="nothing adapted, shorter training, fewer images")
    parser.add_argument("--generator")
    parser.add_argument("--ipc", type=int, help=f"of the sets that are judged; {IPC}, with --quick {QUICK_IPC}")
    parser.add_argument("--sets", type=int, default=3, help="that are judged, of either side")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--preset", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()

    shared = [*(QUICK if asked.quick else ())]
    ipc = asked.ipc or (QUICK_IPC if asked.quick else IPC)
    given: dict[str, Any] = {"ipc": ipc, "data__limit": asked.limit, "generator": asked.generator}
    ours = load_settings(asked.preset, None, [*shared, *asked.set], **given)
    dpd = load_settings([*asked.preset, "dpd"], None, [*shared, "sampling.avoid_copies=false"], **given)
    released = dpd.sampling
    with Rich() as reporter:
        work = open_work(asked.data, asked.out / "base", ours, reporter=reporter)
        with closing(work.run):
            for stage in (learning.autoencoder, learning.encode, learning.classifier, learning.diffusion):
                stage(work)
            operations, best = flops_of(work.generator(), work.hardware), peak(work.hardware)
            rows = []
            # As many prototypes of a class as fill a batch.
            few = -(-ours.sampling.batch_size // (len(work.train.classes) * released.candidates))
            set_of = min(IPC, *work.train.counts.values())
            for i, each in enumerate(procedures(released, ours.sampling, work.hardware)):
                many = max(few, set_of) if each.sampling.selection == ours.sampling.selection else few
                one, root = ours.model_copy(update={"sampling": each.sampling, "ipc": many}), asked.out / f"timed-{i}"
                if not (root / COUNTED).exists():
                    for part in (root, work.run / "drawn"):  # a row that reads would take no time
                        shutil.rmtree(part, ignore_errors=True)
                rows.append((each, drawn(work, root, one, each.half, reporter)))
            lines = table(rows, operations, best)
            (asked.out / "sampling.md").write_text("\n".join([*lines, ""]))  # what follows takes longer
            told = {}
            quickly = released.model_copy(update={"batch_size": ours.sampling.batch_size})
            theirs = {"sampling": quickly, "prototypes": dpd.prototypes}
            for name, changed in (("release", theirs), ("ours", {"sampling": ours.sampling})):
                sets = []
                for seed in range(asked.sets):
                    update = {**changed, "seed": ours.seed + seed}
                    out = asked.out / f"{name}-{seed}"
                    sets.append(drawn(work, out, ours.model_copy(update=update), work.hardware.half, reporter))
                told[name] = worth(work, name, sets, ours, asked.out / f"{name}.json")
    verdict = compared(told["ours"], told["release"], rows[0][1].seconds / rows[-1][1].seconds)
    (asked.out / "sampling.md").write_text("\n".join([*lines, "", verdict, ""]))
    print("\n".join([*lines, "", verdict]))


def compared(ours: Row, release: Row, faster: float) -> str:
    """The last line."""
    (after, spread), (before, other) = ((row["oa_mean"], row["oa_std"] or 0) for row in (ours, release))
    verdict = "equal" if abs(after - before) <= max(spread, other) else "higher" if after > before else "lower"
    return (
        f"{faster:.1f}× faster at {verdict} OA "
        f"({100 * after:.1f} ± {100 * spread:.1f} against {100 * before:.1f} ± {100 * other:.1f})"
    )


if __name__ == "__main__":
    main()
