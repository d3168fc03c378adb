"""How much of the real scenes a set covers, and how much of the set is like real scenes, in the features of a network.

All take float tensors of features: a (n, D) of the set, b (m, D) of real scenes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 1024  # rows of a matrix of distances at a time: memory grows with the set, not with its square


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to the features (FID, Heusel et al. 2017).

    With fewer images than features the covariances are of low rank and the number means little: give `kid` and a
    real-against-real floor beside it.
    """
    a, b = a.double(), b.double()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    x, y = ((v - v.mean(0)) / max(len(v) - 1, 1) ** 0.5 for v in (a, b))  # covariances are xᵀx and yᵀy
    # tr √(xᵀx yᵀy) is the sum of the singular values of x yᵀ; of more images than features the triangles are enough.
    x, y = (torch.linalg.qr(v, mode="r").R if len(v) > v.shape[1] else v for v in (x, y))
    return float(shift + x.square().sum() + y.square().sum() - 2 * torch.linalg.svdvals(x @ y.T).sum())


def intra_class_coverage(a: Tensor, a_labels: Tensor, b: Tensor, b_labels: Tensor) -> float:
    """Mean over real scenes of the highest cosine similarity to an image of the same class: at most 1.

    DPD's measure, in whatever features are given; DPD's own are those of a ResNet-18 from ImageNet.
    """
    likeness = F.normalize(b, dim=1) @ F.normalize(a, dim=1).T
    same = b_labels[:, None] == a_labels[None]
    best = likeness.masked_fill(~same, -torch.inf).max(1).values
    return float(torch.where(same.any(1), best, 0.0).mean())  # a class that the set lacks is not covered


def neighbourhoods(a: Tensor, b: Tensor, k: int = 5) -> dict[str, float]:
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) by k nearest neighbours.

    Args:
        a: features of the set, (n, D), n above k.
        b: features of real scenes, (m, D), m above k.
        k: which neighbour bounds a scene's neighbourhood.
    """
    radius_a, radius_b = (_radii(v, k) for v in (a, b))
    holding = torch.zeros(len(a), device=a.device)  # real scenes in whose neighbourhood the image lies
    covered, recalled = (torch.zeros(len(b), dtype=torch.bool, device=a.device) for _ in range(2))
    for start in range(0, len(a), BLOCK):
        distance = torch.cdist(a[start : start + BLOCK], b)
        inside_b = distance <= radius_b[None]
        holding[start : start + BLOCK] = inside_b.float().sum(1)
        covered |= inside_b.any(0)
        recalled |= (distance <= radius_a[start : start + BLOCK, None]).any(0)
    return {
        "precision": float((holding > 0).float().mean()),
        "recall": float(recalled.float().mean()),
        "density": float(holding.mean() / k),
        "coverage": float(covered.float().mean()),
    }


def _radii(v: Tensor, k: int) -> Tensor:
    """Distance of each of (n, D) to its k-th neighbour: (n,)."""
    return torch.cat([torch.cdist(part, v).kthvalue(min(k + 1, len(v)), dim=1).values for part in v.split(BLOCK)])
