"""Networks for tests."""

from typing import Any

import torch


def awake(unet: Any) -> Any:
    """A fresh denoiser with small random weights where it starts at zero: it says something, as a trained one does."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=rng))
    return unet
