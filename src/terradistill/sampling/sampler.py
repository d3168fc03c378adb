"""The batched sampler: any diffusers scheduler, any list of guidances, one seed an image.

A *guidance* wraps the function that predicts in one denoising step; guidances compose in a list, the first being the
innermost, and the sampler knows none of them by name. Legend: B batch, N images, P prompts, L tokens, D text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.images import to_uint8
from terradistill.errors import GeneratorError
from terradistill.hardware import Hardware, fitting
from terradistill.models.control import Control
from terradistill.models.generator import Generator, denoise
from terradistill.run import Progress
from terradistill.sampling.schedulers import make_scheduler, set_steps, takes_generators
from terradistill.seeding import generator as seeded
from terradistill.seeding import noise
from terradistill.settings import SamplingSettings


@dataclass(frozen=True)
class Step:
    """One denoising step of one batch.

    Attributes:
        rows: int64 (B,), which images of the request these are: guidances look up their own per-image data with it.
        index: number of the step, 0 … count − 1.
        count: number of steps.
        t: (), the timestep; a solver may put it between two of the noise schedule's.
        z: float32 (B, C, h, w), noisy latents.
        text: float32 (B, L, D), text embeddings.
        metadata: float32 (B, fields), rows of `MetadataEncoder.table`, or None.
        control: what an adapter has read off the images' conditions, or None.
        first: number of the first step that is taken; later than 0 where it began from something.
        after: timestep of the next step; 0 after the last.
    """

    rows: Tensor
    index: int
    count: int
    t: Tensor
    z: Tensor
    text: Tensor
    metadata: Tensor | None = None
    control: Control | None = None
    first: int = 0
    after: float = 0.0

    @property
    def share(self) -> float:
        """How far on the way: 0 at the first step, 1 at the last."""
        return self.index / max(1, self.count - 1)

    def some(self, index: Tensor) -> "Step":
        """The same step of some of its images, by their places in the batch."""
        return replace(
            self,
            rows=self.rows[index.cpu()],
            z=self.z[index],
            text=self.text[index],
            metadata=None if self.metadata is None else self.metadata[index],
            control=None if self.control is None else self.control.rows(index),
        )


# A step in, (latents to step from, model output in the generator's own parameterisation) out.
Predict = Callable[[Step], tuple[Tensor, Tensor]]
Guidance = Callable[[Predict], Predict]


@dataclass(frozen=True)
class Request:
    """N images to draw.

    Attributes:
        text: float32 (P, L, D), embeddings of the distinct prompts.
        prompt_of: int64 (N,), the prompt of each image.
        seeds: N seeds; image i's noise comes from seeds[i] alone.
        metadata: float32 (N, fields), rows of `MetadataEncoder.table`, or None.
        control: from image numbers, int64 (B,), to what an adapter reads off their conditions; None: it is not used.
        size: height and width of the latents; None: the generator's own, or those of `start`.
        start: float32 (N, C, h, w), scaled latents to begin from instead of pure noise, noised as far as `strength`.
        strength: in (0, 1], share of the steps that are done from `start` (SDEdit, Meng et al. 2022).
    """

    text: Tensor
    prompt_of: Tensor
    seeds: Sequence[int]
    metadata: Tensor | None = None
    control: Callable[[Tensor], Control] | None = None
    size: tuple[int, int] | None = None
    start: Tensor | None = None
    strength: float = 1.0

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class Prune:
    """Stop denoising what will not be kept (successive halving).

    Attributes:
        shares: of the steps that are done when it is looked; in (0, 1).
        keep: from image numbers, int64 (B,), and the clean latents that their predictions imply, (B, C, h, w), to which
            of them go on: bool (B,), at least one.
    """

    shares: tuple[float, ...]
    keep: Callable[[Tensor, Tensor], Tensor]


def looks(shares: Sequence[float], first: int, steps: int) -> set[int]:
    """After which steps, of those from `first` on, it is looked what will not be kept.

    Each look is at a step of its own; after the last step there is none.
    """
    found: list[int] = []
    for share in sorted(shares):
        earliest = found[-1] + 1 if found else first
        found.append(max(earliest, first + round(share * (steps - first)) - 1))
    return {step for step in found if step < steps - 1}


def sample(
    generator: Generator,
    request: Request,
    wanted: SamplingSettings,
    *,
    hardware: Hardware,
    guidances: Sequence[Guidance] = (),
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Draw scaled latents, float32 (N, C, h, w) on the CPU, in full batches whatever they are for.

    Of the settings only scheduler, steps, their spacing and, unless another one is given, the batch size have a say:
    guidances know their own.
    """
    return sample_some(
        generator, request, None, wanted,
        hardware=hardware, guidances=guidances, batch_size=batch_size, progress=progress,
    )[0]  # fmt: skip


def sample_some(
    generator: Generator,
    request: Request,
    prune: Prune | None,
    wanted: SamplingSettings,
    *,
    hardware: Hardware,
    guidances: Sequence[Guidance] = (),
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """As `sample`, of those images alone that are not pruned: their latents, and their numbers, int64 (n,).

    What is compared when images are pruned should lie in one batch: give `batch_size` a multiple of its size.
    """
    predict, batch_size = compose(unguided(generator, hardware), guidances), batch_size or wanted.batch_size
    drawn, kept = [torch.empty(0, *generator.latent_shape)], [torch.empty(0, dtype=torch.long)]
    for first in range(0, len(request), batch_size):
        rows = torch.arange(first, min(first + batch_size, len(request)))
        # A fresh one: multistep solvers remember the batch.
        solver = make_scheduler(generator.scheduler, wanted.scheduler)
        set_steps(solver, wanted)
        latents, left = _sample_batch(generator, request, rows, solver, predict, hardware.device, prune)
        _require_finite(latents, hardware)
        drawn.append(latents)
        kept.append(left)
        if progress:
            progress(int(rows[-1]) + 1, len(request))
    return torch.cat(drawn[1:] or drawn), torch.cat(kept)


@torch.no_grad()
def _sample_batch(
    generator: Generator,
    request: Request,
    rows: Tensor,
    solver: Any,
    predict: Predict,
    device: torch.device,
    prune: Prune | None,
) -> tuple[Tensor, Tensor]:
    text = request.text[request.prompt_of[rows]].to(device)
    metadata = None if request.metadata is None else request.metadata[rows].to(device)
    seeds = [request.seeds[int(row)] for row in rows]
    control, shape = request.control(rows) if request.control else None, generator.latent_shape
    if request.size is not None:
        shape = (shape[0], *request.size)
    z, first = noise(seeds, shape).to(device), 0
    if request.start is None:
        z = z * solver.init_noise_sigma
    else:
        steps = solver.num_inference_steps
        first = (steps - max(1, round(request.strength * steps))) * solver.order
        solver.set_begin_index(first)
        z = solver.add_noise(request.start[rows].to(device), z, solver.timesteps[first : first + 1])
    # Steps that draw noise draw each image's from its own seed, so that its neighbours do not matter.
    own = {"generator": [seeded(seed, "steps") for seed in seeds]} if takes_generators(solver) else {}
    looked_at = looks(prune.shares, first, len(solver.timesteps)) if prune else set()
    step = Step(rows, first, len(solver.timesteps), solver.timesteps[first], z, text, metadata, control, first)
    afters = [*solver.timesteps[first + 1 :].tolist(), 0.0]
    for index, (t, after) in enumerate(zip(solver.timesteps[first:], afters, strict=True), first):
        # Some solvers keep z at the scale of its noise; networks and guidances see unit variance with all of them.
        scale = solver.scale_model_input(torch.ones((), device=device), t)
        step = replace(step, index=index, t=t, after=after, z=z * scale)
        moved, output = predict(step)
        z = solver.step(output, t, moved / scale, **own).prev_sample
        if prune and index in looked_at:
            z0 = generator.parameterisation.z0(moved, output, t.round().long())
            go_on = prune.keep(step.rows, z0).nonzero()[:, 0].to(device)
            step, z = step.some(go_on), z[go_on]
            own = {key: [several[int(k)] for k in go_on] for key, several in own.items()}
            _forget_others(solver, go_on, len(moved))
    return torch.as_tensor(z).float().cpu(), step.rows


def _forget_others(solver: Any, index: Tensor, n: int) -> None:
    """Leave in a solver's memory of earlier steps those of some of its n images."""

    def some(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim == 4 and len(value) == n:
            return value[index]
        return [some(each) for each in value] if isinstance(value, list) else value

    for name, value in vars(solver).items():
        if isinstance(value, Tensor | list):
            setattr(solver, name, some(value))


def _require_finite(values: Tensor, hardware: Hardware) -> None:
    if not values.isfinite().all():
        remedy = "" if hardware.half is None else f", or {hardware.precision} overflows: try --set precision=fp32"
        raise GeneratorError(f"What this generator draws is not finite: its weights are damaged{remedy}.")


def decoded(generator: Generator, latents: Tensor, hardware: Hardware, batch_size: int = 64) -> NDArray[np.uint8]:
    """Images uint8 (N, H, W, 3) of scaled latents (N, C, h, w), a batch at a time, as memory suffices."""

    def at_most(size: int) -> NDArray[np.uint8]:
        parts = []
        with hardware.autocast():
            for part in latents.split(size):
                images = generator.decode(part.to(hardware.device))
                _require_finite(images, hardware)
                parts.append(to_uint8(images))
        return np.concatenate(parts)

    return fitting(batch_size, at_most)[0]


def unguided(generator: Generator, hardware: Hardware) -> Predict:
    """The UNet itself."""

    def predict(step: Step) -> tuple[Tensor, Tensor]:
        with hardware.autocast():
            output = denoise(generator, step.z, step.t.to(step.z.device), step.text, step.metadata, step.control)
        return step.z, output.float()

    return predict


def compose(predict: Predict, guidances: Sequence[Guidance]) -> Predict:
    for guidance in guidances:
        predict = guidance(predict)
    return predict
