"""Refining a chosen set in latent space: its features move towards the class's, on a leash."""

from collections.abc import Callable

import torch
from torch import Tensor


def refine(
    latents: Tensor,
    groups: Tensor,
    target: Tensor,
    features: Callable[[Tensor], Tensor],
    *,
    steps: int,
    leash: float,
    rate: float = 0.02,
) -> Tensor:
    """Match the mean features of each group to a target [ours].

        Σ_g ( ‖ mean_{i in g} f(z_i) − target_g ‖² + leash · mean_{i in g} ‖ z_i − z_i,drawn ‖² )

    Args:
        latents: float (N, C, h, w), scaled, as drawn.
        groups: int64 (N,), the class of each.
        target: float (G, D), where the means should be.
        features: of latents, (N, D); differentiable.
        steps: of Adam; 0 changes nothing.
        leash: weight of the distance from what was drawn, a mean over elements; the decoder knows no other latents.
        rate: of Adam, in units of the latents.

    Returns:
        Latents of the same shape.
    """
    if steps == 0:
        return latents
    member = torch.nn.functional.one_hot(groups, len(target)).float()
    share = (member / member.sum(0).clamp_min(1)).T.to(latents.device)  # (G, N): rows of means
    moved = latents.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], rate)
    for _ in range(steps):
        gap = (share @ features(moved) - target).square().sum()
        strayed = (moved - latents).square().flatten(1).mean(1)
        loss = gap + leash * (share @ strayed).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return moved.detach()
