"""Maps beside the prompt (CRS-Diff): a trainable copy of the denoiser's encoder, modulated by what maps show.

The denoiser itself stays as it is; the copy adds to its skip connections and to its middle. Legend: B batch, h w
latent, H W pixels, C_l channels of the denoiser at depth l.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terradistill.models.autoencoder import norm_groups
from terradistill.models.control import Control, skip_widths, through, zeroed
from terradistill.models.parts import load_part, save_part
from terradistill.settings import MAPS

WIDTHS = (192, 256, 384, 512)  # channels of the features at each depth, as released


class MapAdapter(nn.Module):
    """Features of maps at every depth of the denoiser, and a copy of its encoder that they modulate.

    A fresh one changes nothing, exactly: everything that it adds goes through convolutions that start at zero.
    """

    def __init__(self, unet: Any, factor: int, widths: Sequence[int] = WIDTHS, learned: Sequence[str] = MAPS) -> None:
        """Around a denoiser.

        Args:
            unet: the diffusers `UNet2DConditionModel` to adapt.
            factor: pixels per latent, along a side.
            widths: channels of the features at each depth.
            learned: the maps that it is taught to read.
        """
        super().__init__()
        self.learned = tuple(learned)
        channels = [int(width) for width in unet.config.block_out_channels]
        self.factor, self.widths = factor, [*widths, *[widths[-1]] * len(channels)][: len(channels)]
        self.extractor = _Extractor(factor, self.widths)
        # What each block is given: the first convolution's channels, then those of the block before.
        inputs = [channels[0], *channels[:-1]]
        self.modulations = nn.ModuleList(map(_Modulation, inputs, self.widths))
        self.conv_in = deepcopy(unet.conv_in)
        self.down_blocks = deepcopy(unet.down_blocks)
        self.mid_block = deepcopy(unet.mid_block)
        self.skips = nn.ModuleList(zeroed(nn.Conv2d(width, width, 1)) for width in skip_widths(unet))
        self.middle = zeroed(nn.Conv2d(channels[-1], channels[-1], 1))
        self.requires_grad_(True)

    def control(self, maps: Tensor, strengths: Tensor) -> Control:
        """Read the maps, once for all steps.

        The strongest map's strength multiplies the adapter's say; the others are weakened in proportion before they
        are read. So strength 0 of all is the prompt alone, exactly. [ours]

        Args:
            maps: uint8 (B, 18, H, W), the six of `MAPS` as three planes each; a missing one is zero.
            strengths: float (B, 6), at least 0; 0 for a missing one.
        """
        most = strengths.amax(1)
        share = strengths / most.clamp_min(1e-6)[:, None]
        planes = maps.float() / 255 * share.repeat_interleave(3, 1)[:, :, None, None]
        # That a map is there, beside what it shows: a road map without roads is not the same as none. [ours]
        present = share[:, :, None, None].expand(-1, -1, *maps.shape[2:])
        return Control(self, self.extractor(torch.cat([planes, present], 1)), most)

    def forward(self, z: Tensor, time: Tensor, text: Tensor, control: Control) -> tuple[list[Tensor], Tensor]:
        """What to add to the denoiser's skips, in their order, and to its middle.

        Args:
            z: noisy latents (B, C, h, w).
            time: the denoiser's time embedding with all that joins it, (B, D).
            text: (B, L, D).
            control: of the same B images.
        """
        x = self.conv_in(z)
        skips = [x]
        for block, modulation, features in zip(self.down_blocks, self.modulations, control.features, strict=True):
            x, more = through(block, modulation(x, features), time, text)
            skips += more
        x = self.mid_block(x, time, encoder_hidden_states=text)
        strength = control.strength.view(-1, 1, 1, 1)
        # In the precision of what they are added to: or else nothing, added, would change how the rest is computed.
        added = [(strength * out(skip)).to(skip) for out, skip in zip(self.skips, skips, strict=True)]
        return added, (strength * self.middle(x)).to(x)

    def save(self, folder: Path) -> None:
        """Write the part's folder."""
        save_part(self, {"factor": self.factor, "widths": self.widths, "learned": self.learned}, folder)

    @classmethod
    def load(cls, folder: Path, unet: Any) -> "MapAdapter":
        """Open what `save` wrote, for the denoiser that it was trained with.

        Raises:
            GeneratorError: it is damaged, or of another denoiser.
        """
        return load_part(partial(cls, unet), folder, "map adapter")


class _Extractor(nn.Module):
    """Maps (B, 24, H, W) to one tensor a depth, (B, width, H / factor / 2**l, W / factor / 2**l)."""

    def __init__(self, factor: int, widths: Sequence[int]) -> None:
        super().__init__()
        stem = min(4, factor)
        self.stem = nn.Sequential(nn.Conv2d(4 * len(MAPS), widths[0], stem, stem), nn.SiLU())
        strides = [factor // stem, *[2] * (len(widths) - 1)]
        inputs = [widths[0], *widths[:-1]]
        self.stages = nn.ModuleList(map(_stage, inputs, widths, strides))
        self.outputs = nn.ModuleList(zeroed(nn.Conv2d(width, width, 1)) for width in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, found = self.stem(x), []
        for stage, output in zip(self.stages, self.outputs, strict=True):
            x = stage(x)
            found.append(output(x))
        return tuple(found)


def _stage(c_in: int, c_out: int, stride: int) -> nn.Module:
    groups = norm_groups((c_out,))
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, 1),
        nn.GroupNorm(groups, c_out),
        nn.SiLU(),
        nn.Conv2d(c_out, c_out, 3, 1, 1),
        nn.GroupNorm(groups, c_out),
        nn.SiLU(),
    )


class _Modulation(nn.Module):
    """Feature denormalisation: ``GN(x)·(1 + γ(f)) + β(f)``, with a norm that has no weights of its own."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups((channels,)), channels, affine=False)
        self.shift = nn.Conv2d(width, 2 * channels, 3, 1, 1)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        gamma, beta = self.shift(f).chunk(2, dim=1)
        return torch.as_tensor(self.norm(x) * (1 + gamma) + beta).to(x)
