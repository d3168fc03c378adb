"""Random networks of many kinds: what all of them see in images is no quirk of one architecture."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.models.downstream import Halved

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.GELU, nn.Tanh, nn.LeakyReLU)


class RandomNetwork(nn.Module):
    """Two to four blocks of convolution, norm, activation and halving, each choice drawn, as are the weights [ours].

    None has a norm over the batch, of which few images know little.
    """

    def __init__(self, stream: np.random.Generator) -> None:
        """`stream` draws the architecture; the weights come from torch's global random state."""
        super().__init__()
        width, norm, halving = int(stream.choice([64, 128])), stream.integers(3), stream.integers(3)
        activation, first = ACTIVATIONS[stream.integers(len(ACTIVATIONS))], int(stream.choice([3, 5]))
        blocks: list[nn.Module] = []
        for number in range(int(stream.integers(2, 5))):
            side = 3 if number else first
            convolution = nn.Conv2d(width if number else 3, width, side, 2 if halving == 0 else 1, padding=side // 2)
            nn.init.kaiming_normal_(convolution.weight)
            blocks.append(convolution)
            if norm:
                blocks.append(nn.GroupNorm(width if norm == 1 else 1, width))
            blocks.append(activation())
            if halving:
                blocks.append(Halved() if halving == 1 else nn.MaxPool2d(2))
        grid = int(stream.choice([1, 2, 4]))
        self.body, self.grid = nn.Sequential(*blocks), grid

    def forward(self, images: Tensor) -> Tensor:
        """Features of images (n, 3, side, side) in [-1, 1]: (n, D)."""
        seen: Tensor = self.body(images)
        # As a product: images are moved by its gradient, and that of torch's own pooling differs each time on GPUs.
        means = F.adaptive_avg_pool1d(torch.eye(seen.shape[-1]), self.grid).T.to(seen)
        return (means @ seen @ means.T).flatten(1)
