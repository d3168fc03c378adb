import numpy as np
import torch
from torch import nn

from terradistill.distillation.rded import stitched_crops


class Bright(nn.Module):
    """Takes bright images for class 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = x.mean((1, 2, 3))
        return torch.stack([-level, level], 1) * 10


def test_the_surest_crops_are_stitched() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = np.where(labels[:, None, None, None] == 1, 200, 60) + rng.integers(-50, 50, (40, 1, 1, 1))
    images = np.broadcast_to(images, (40, 32, 32, 3)).astype(np.uint8)
    made, classes = stitched_crops(images, labels, 2, Bright(), 32, seen_at=32, seed=0, device=torch.device("cpu"))
    assert made.shape == (4, 32, 32, 3)
    assert classes.tolist() == [0, 0, 1, 1]
    brightest = np.sort(images[labels == 1][:, 0, 0, 0])[::-1]
    assert sorted({int(value) for value in made[2:].reshape(-1)}, reverse=True)[0] == brightest[0]
    assert made[2:].min() >= brightest[8] - 1
    assert made[:2].max() <= np.sort(images[labels == 0][:, 0, 0, 0])[8] + 1
    again, _ = stitched_crops(images, labels, 2, Bright(), 32, seen_at=32, seed=0, device=torch.device("cpu"))
    assert (again == made).all()


def test_few_scenes_give_crops_twice() -> None:
    images, labels = np.zeros((4, 16, 16, 3), np.uint8), np.array([0, 0, 1, 1])
    made, _ = stitched_crops(images, labels, 3, Bright(), 16, seen_at=32, seed=0, device=torch.device("cpu"))
    assert made.shape == (6, 16, 16, 3)
