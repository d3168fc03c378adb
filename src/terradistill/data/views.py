"""The eight views of a scene under flips and quarter turns: seen from above, a scene has no up."""

import torch
from torch import Tensor

N_VIEWS = 8


def view(images: Tensor, number: int) -> Tensor:
    """One view of (..., H, W): bit 0 flips left-right, bit 1 flips up-down, bit 2 transposes; 0 is the scene itself."""
    if number & 1:
        images = images.flip(-1)
    if number & 2:
        images = images.flip(-2)
    return images.transpose(-1, -2) if number & 4 else images


def viewed(images: Tensor, numbers: Tensor) -> Tensor:
    """Each image of (B, C, H, W) in a view of its own, int64 (B,); H equals W where any is transposed."""
    flip_x, flip_y, turn = ((numbers >> bit & 1).bool().view(-1, 1, 1, 1) for bit in range(3))
    images = torch.where(flip_x, images.flip(-1), images)
    images = torch.where(flip_y, images.flip(-2), images)
    return torch.where(turn, images.transpose(-1, -2), images) if turn.any() else images


def random_views(images: Tensor, rng: torch.Generator, *, turns: bool = True) -> Tensor:
    """Each image of (B, C, H, W) in a view drawn for it; H equals W. Without turns: flipped only."""
    flip_x, flip_y, turn = (torch.randint(0, 2, (len(images), 1, 1, 1), generator=rng).bool() for _ in range(3))
    images = torch.where(flip_x, images.flip(-1), images)
    images = torch.where(flip_y, images.flip(-2), images)
    return torch.where(turn, images.transpose(-1, -2), images) if turns else images
