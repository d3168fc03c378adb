"""What adapters beside a denoiser share: what they have read off their conditions, and the way through its encoder.

Legend: B batch, h w latent, C_l channels of the denoiser at depth l.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Control:
    """What an adapter has read off the conditions of B images, once for all steps.

    Attributes:
        adapter: who turns it into what the denoiser's skips and middle are given: called with noisy latents, the time
            embedding with all that joins it, text and this.
        features: tensors (B, …), the adapter's own.
        strength: float (B,), what the adapter's say is multiplied by; 0 is none at all. Of several parts, (B, parts).
    """

    adapter: "Callable[[Tensor, Tensor, Tensor, Control], tuple[list[Tensor], Tensor]]"
    features: tuple[Tensor, ...]
    strength: Tensor

    def rows(self, index: Tensor) -> "Control":
        """Those of some images, in this order."""
        return replace(self, features=tuple(f[index] for f in self.features), strength=self.strength[index])

    def doubled(self, *, free: bool) -> "Control":
        """For guidance: a half that is told no prompt beside one that is; `free` says whether it is shown these."""
        strength = torch.cat([self.strength * float(free), self.strength])
        return replace(self, features=tuple(torch.cat([f, f]) for f in self.features), strength=strength)


def through(block: Any, x: Tensor, time: Tensor, text: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One block of an encoder: what goes on, and the skips that it leaves."""
    more = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
    x, skips = block(hidden_states=x, temb=time, **more)
    return x, list(skips)


def encoded(net: Any, x: Tensor, time: Tensor, text: Tensor) -> tuple[Tensor, list[Tensor]]:
    """All blocks of an encoder: what comes out, and its skips, that of the first convolution before them."""
    skips = [x]
    for block in net.down_blocks:
        x, more = through(block, x, time, text)
        skips += more
    return x, skips


def skip_widths(unet: Any) -> list[int]:
    """Channels of the skips that a denoiser's encoder leaves, in their order."""
    widths = [int(unet.config.block_out_channels[0])]
    for block in unet.down_blocks:
        channels = int(block.resnets[-1].out_channels)
        widths += [channels] * (len(block.resnets) + len(block.downsamplers or ()))
    return widths


def zeroed(layer: nn.Module) -> nn.Module:
    """A layer that says nothing until it has learned."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
