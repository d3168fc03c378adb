"""Many trajectories, one image (SatDiffMoE): denoised from different conditions, and drawn together as they go."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from terradistill.models.parameterisation import Parameterisation
from terradistill.sampling.sampler import Guidance, Predict, Step
from terradistill.seeding import generator as seeded

Distance = Literal["l2", "l1"]


def rising(weight: float) -> Callable[[float], float]:
    """λ from 0 at the first step to `weight` at the last; how it goes is unpublished. [ours]"""
    return lambda share: weight * share


def constant(weight: float) -> Callable[[float], float]:
    """λ the same in all steps."""
    return lambda _: weight


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
