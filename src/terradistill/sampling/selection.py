"""Choosing among candidates."""

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


def best_of(scores: Tensor, candidates: int) -> Tensor:
    """Index of the best candidate of each group; scores (G · candidates,) with groups side by side → int64 (G,)."""
    groups = scores.view(-1, candidates)
    return groups.argmax(1) + torch.arange(len(groups)) * candidates
