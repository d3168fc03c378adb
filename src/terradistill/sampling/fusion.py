"""Many trajectories, one image (SatDiffMoE): denoised from different conditions, and drawn together as they go."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from terradistill.models.parameterisation import Parameterisation
from terradistill.sampling.sampler import Guidance, Predict, Step
from terradistill.seeding import generator as seeded

Distance = Literal["l2", "l1"]
Course = Literal["falling", "rising", "constant"]


def course(kind: Course, weight: float) -> Callable[[float], float]:
    """λ by the share of the steps that are done; how it goes is unpublished. [ours]

    Falling from `weight` at the first step to 0 at the last, trajectories agree on what is where and each draws what is
    small for itself; rising, they end as one, whose small things are means and pale.
    """
    at_first, at_last = {"falling": (weight, 0.0), "rising": (0.0, weight), "constant": (weight, weight)}[kind]
    return lambda share: at_first + share * (at_last - at_first)


def nearest(latents: Tensor, days: Sequence[float], distance: Distance) -> int:
    """Which trajectory of an image, latents (N, C, h, w), lies nearest to their centre; of two, that of the fewer days.

    Their centre is as far from the one of two as from the other.
    """
    if len(latents) < 3:
        return min(range(len(latents)), key=lambda i: abs(days[i]))
    away = latents - _centres(latents, torch.zeros(len(latents), dtype=torch.long), distance)
    size = away.square() if distance == "l2" else away.abs()
    return int(size.flatten(1).sum(1).argmin())


def fuse(
    groups: Tensor,
    schedule: Parameterisation,
    weight: Callable[[float], float],
    *,
    distance: Distance = "l2",
    subset: int | None = None,
    seeds: Sequence[int] = (),
) -> Guidance:
    """Lead the clean latents of each group towards their centre. Put it after what guides single images.

        ẑ0_i ← (1 − λ)·ẑ0_i + λ·z̄0        z̄0 = argmin_z Σ_i d(z, ẑ0_i)

    One trajectory is left as it is, and so are all where λ is 0. A batch holds whole groups: give `sample` a
    multiple of their size.

    Args:
        groups: int64 (N,), the image that each trajectory is of.
        schedule: the generator's.
        weight: λ by the share of the steps that are done.
        distance: l2, whose centre is the mean; l1, whose centre is the median of each element.
        subset: how many trajectories of a group are denoised in a step, drawn anew each time; the others take the
            centre of those. None: all.
        seeds: one a trajectory, of these draws; so neither order nor batches matter.
    """

    def guide(predict: Predict) -> Predict:
        def guided(step: Step) -> tuple[Tensor, Tensor]:
            _, place = groups[step.rows].unique(return_inverse=True)
            chosen = _chosen(place, subset, seeds, step)
            z, output = predict(step if len(chosen) == len(place) else step.some(chosen.to(step.z.device)))
            share = weight(step.share)
            if share == 0 and len(chosen) == len(place):
                return z, output
            t = step.t.round().long()
            z0 = schedule.z0(z, output, t)
            centres = _centres(z0, place[chosen], distance)
            if len(chosen) == len(place):
                alone = torch.bincount(place)[place].eq(1).view(-1, 1, 1, 1).to(z.device)
                led = torch.where(alone, z0, z0 + share * (centres[place] - z0))
                return z, torch.where(alone, output, schedule.output(z, led, t))
            every = centres[place].clone()
            every[chosen] = z0 + share * (centres[place[chosen]] - z0)
            return step.z, schedule.output(step.z, every, t)

        return guided

    return guide


def _chosen(place: Tensor, subset: int | None, seeds: Sequence[int], step: Step) -> Tensor:
    """Places in the batch of the trajectories that are denoised in a step, in order."""
    if subset is None:
        return torch.arange(len(place))
    lots = [torch.rand((), generator=seeded(seeds[int(row)], "subset", step.index)) for row in step.rows]
    lot, kept = torch.stack(lots), []
    for group in range(int(place.max()) + 1):
        members = (place == group).nonzero()[:, 0]
        kept.append(members[lot[members].argsort()[:subset]])
    return torch.cat(kept).sort().values


def _centres(z0: Tensor, place: Tensor, distance: Distance) -> Tensor:
    """The centre of each group: (groups, C, h, w)."""
    parts = [z0[(place == group).to(z0.device)] for group in range(int(place.max()) + 1)]
    return torch.stack([part.mean(0) if distance == "l2" else _median(part) for part in parts])


def _median(values: Tensor) -> Tensor:
    """Over the first dimension; of an even number, between the two in the middle."""
    return (values.median(0).values - (-values).median(0).values) / 2
