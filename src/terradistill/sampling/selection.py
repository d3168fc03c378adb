"""Choosing among candidates."""

import torch
from torch import Tensor


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """``logit_target − max other logit``, shape (N,) (DPD, revised release). logits (N, K) with K ≥ 2, labels (N,)."""
    target = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return target - others.max(1).values


def best_of(scores: Tensor, candidates: int) -> Tensor:
    """Index of the best candidate of each group; scores (G · candidates,) with groups side by side → int64 (G,)."""
    groups = scores.view(-1, candidates)
    return groups.argmax(1) + torch.arange(len(groups)) * candidates
