"""Choosing among candidates."""

from collections.abc import Iterable

import torch
from torch import Tensor


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """``logit_target − max other logit``, shape (N,) (DPD, revised release). logits (N, K) with K ≥ 2, labels (N,)."""
    target = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return target - others.max(1).values


def herding(features: Tensor, target: Tensor, count: int, barred: Tensor | None = None) -> Tensor:
    """Greedy choice whose mean follows a target as closely as each step allows (Welling 2009; Rebuffi et al. 2017).

    Args:
        features: (G, N, D), the candidates of G groups.
        target: (G, D), the mean to follow.
        count: how many to choose in each group, at most N.
        barred: bool (G, N), candidates that are chosen only where no others are left.

    Returns:
        Places in 0 … N − 1, in the order chosen: int64 (G, count).
    """
    total, chosen = torch.zeros_like(target), torch.empty(len(features), count, dtype=torch.long)
    taken = torch.zeros(features.shape[:2], dtype=torch.bool)
    last_resort = torch.zeros(features.shape[:2]) if barred is None else barred * torch.finfo(torch.float32).max
    groups = torch.arange(len(features))
    for i in range(count):
        mean = (total[:, None] + features) / (i + 1)
        distance = ((mean - target[:, None]).norm(dim=2) + last_resort).masked_fill(taken, torch.inf)
        pick = distance.argmin(1)
        total = total + features[groups, pick]
        taken[groups, pick] = True
        chosen[:, i] = pick
    return chosen


def covering(
    features: Tensor,
    real: Iterable[Tensor],
    sureness: Tensor,
    count: int,
    *,
    weight: float,
    barred: Tensor | None = None,
) -> Tensor:
    """Greedy choice of images that are like all of the real ones, and surely of their class [ours].

        F(S) = mean over real x of max_{i in S} cos(f_x, f_i)  +  weight / count · Σ_{i in S} sureness_i

    The first term is the intra-class coverage of DPD; two images that are alike cover little more than one. F is
    monotone and submodular, so the greedy choice has at least 1 − 1/e of what is possible (Nemhauser et al. 1978).

    Args:
        features: (G, N, D), rows of length 1, the candidates of G groups.
        real: G tensors (M_g, D), rows of length 1, what each group should cover.
        sureness: (G, N), in [0, 1].
        count: how many to choose in each group, at most N.
        weight: of being sure, beside covering.
        barred: bool (G, N), candidates that are chosen only where no others are left.

    Returns:
        Places in 0 … N − 1, in the order chosen: int64 (G, count).
    """
    chosen = torch.empty(len(features), count, dtype=torch.long)
    for group, scenes in enumerate(real):
        alike = scenes @ features[group].T  # (M, N)
        bonus = weight / count * sureness[group]
        if barred is not None:
            bonus = bonus - 1e3 * barred[group]
        covered = alike.new_full((len(scenes), 1), -1.0)
        for i in range(count):
            gain = (alike - covered).clamp_min(0).mean(0) + bonus
            pick = int(gain.argmax())
            covered, bonus[pick] = torch.maximum(covered, alike[:, pick, None]), -torch.inf
            chosen[group, i] = pick
    return chosen


def best_of(scores: Tensor, candidates: int) -> Tensor:
    """Index of the best candidate of each group; scores (G · candidates,) with groups side by side → int64 (G,)."""
    groups = scores.view(-1, candidates)
    return groups.argmax(1) + torch.arange(len(groups)) * candidates
