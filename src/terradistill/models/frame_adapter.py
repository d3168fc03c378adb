"""Frames beside the prompt: a 3-D ControlNet (DiffusionSat, section 3.2).

One to a few frames of a place (other dates, other bands, a coarser sensor) are read by a copy of the denoiser's
encoder, and what it finds is added up over the frames. One frame makes it a ControlNet. Legend: B batch, T frames, C
bands, H W pixels of a frame, h w latent.

Its 3-D convolutions have kernels of 1 in time, as 2-D ones of frame after frame: what is between frames is left to the
attention. [ours]
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terradistill.errors import GeneratorError
from terradistill.models.control import Control, encoded, skip_widths, zeroed
from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.models.parts import load_part, save_part

EMBEDDING = (32, 64, 128, 128)  # channels on the way from pixels to latents, one halving after each but the last [ours]
HEADS = 4


class FrameAdapter(nn.Module):
    """A fresh one changes nothing, exactly: what it adds goes through convolutions that start at zero."""

    def __init__(
        self,
        unet: Any,
        factor: int,
        *,
        bands: Sequence[str],
        scale: int = 1,
        middle: bool = True,
        temporal: bool = True,
        gsd_max_m: float = 100.0,
        days: float = 3650.0,
        told: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Around a denoiser.

        Args:
            unet: the diffusers `UNet2DConditionModel` to adapt.
            factor: pixels of what is drawn per latent, along a side: a power of two.
            bands: names of the frames' channels, in their order.
            scale: pixels of what is drawn per pixel of a frame, along a side: a power of two, at most `factor`.
            middle: copy the denoiser's middle too. Without it nearly half of the weights are saved, and what is added
                to the middle is read off the last skip [ours].
            temporal: attention between frames; needless where there is ever one.
            gsd_max_m: see `MetadataEncoder`.
            days: likewise.
            told: fields of `MetadataEncoder` that it learns of a frame, and of what is drawn; None: all.
            about: what else it should remember, such as how bands are scaled.
        """
        super().__init__()
        require_scale(factor, scale)
        self.config = {
            "factor": factor,
            "bands": list(bands),
            "scale": scale,
            "middle": middle,
            "temporal": temporal,
            "gsd_max_m": gsd_max_m,
            "days": days,
            "told": [None if fields is None else list(fields) for fields in told],
            "about": dict(about or {}),
        }
        self.bands, self.scale, self.about = tuple(bands), scale, dict(about or {})
        widths, channels = skip_widths(unet), int(unet.config.block_out_channels[-1])
        self.embedding = _Embedding(len(bands), (factor // scale).bit_length() - 1, widths[0])
        self.conv_in = deepcopy(unet.conv_in)
        self.down_blocks = deepcopy(unet.down_blocks)
        self.mid_block = deepcopy(unet.mid_block) if middle else None
        time = int(unet.time_embedding.linear_2.out_features)
        self.of_frame = MetadataEncoder(time, gsd_max_m, days, told[0])
        self.of_target = MetadataEncoder(time, gsd_max_m, fields=told[1])
        self.temporal = nn.ModuleList(map(_Temporal, widths)) if temporal else None
        self.mixing = nn.Parameter(torch.zeros(len(widths)))  # α of each skip, 0 … 1
        self.skips = nn.ModuleList(zeroed(nn.Conv2d(width, width, 1)) for width in widths)
        self.middle = zeroed(nn.Conv2d(channels, channels, 1))
        self.requires_grad_(True)

    def control(self, frames: Tensor, known: Tensor, target: Tensor, strength: Tensor | None = None) -> Control:
        """Read the frames, once for all steps.

        Args:
            frames: float (B, T, C, H, W), bands scaled to about -1 … 1.
            known: rows of `of_frame.table`, (B, T, fields): date, resolution, days from what is drawn; NaN is unknown.
            target: rows of `of_target.table`, (B, fields): of what is drawn.
            strength: float (B,), what is added is multiplied by it; None: 1.
        """
        read = self.embedding(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        of_frames = self.of_frame(known.flatten(0, 1)).unflatten(0, known.shape[:2])
        vectors = of_frames + self.of_target(target)[:, None]
        return Control(self, (read, vectors), torch.ones(len(frames)).to(frames) if strength is None else strength)

    def forward(self, z: Tensor, time: Tensor, text: Tensor, control: Control) -> tuple[list[Tensor], Tensor]:
        """What to add to the denoiser's skips, in their order, and to its middle.

        Args:
            z: noisy latents (B, C, h, w).
            time: the denoiser's time embedding with all that joins it, (B, D).
            text: (B, L, D).
            control: of the same B images.
        """
        read, vectors = control.features
        n = read.shape[1]

        def of_each(x: Tensor) -> Tensor:
            return x.repeat_interleave(n, 0)

        x = self.conv_in(of_each(z))
        times, texts = of_each(time) + vectors.flatten(0, 1).to(time), of_each(text)
        x, skips = encoded(self, x + read.flatten(0, 1).to(x), times, texts)
        strength = control.strength.view(-1, 1, 1, 1)
        added = []
        # Kept in 0 … 1 without losing its gradient at the bounds, where it begins.
        mixing = self.mixing + (self.mixing.clamp(0, 1) - self.mixing).detach()
        for k, (skip, out) in enumerate(zip(skips, self.skips, strict=True)):
            frames = skip.unflatten(0, (-1, n))
            if self.temporal is not None:
                frames = mixing[k] * self.temporal[k](frames) + (1 - mixing[k]) * frames
            added.append((strength * _summed(out, frames)).to(skip))
        if self.mid_block is not None:
            x = self.mid_block(x, times, encoder_hidden_states=texts)
        return added, (strength * _summed(self.middle, x.unflatten(0, (-1, n)))).to(x)

    def save(self, folder: Path) -> None:
        """Write the part's folder."""
        save_part(self, self.config, folder)

    @classmethod
    def load(cls, folder: Path, unet: Any) -> "FrameAdapter":
        """Open what `save` wrote, for the denoiser that it was trained with.

        Raises:
            GeneratorError: it is damaged, or of another denoiser.
        """
        return load_part(partial(cls, unet), folder, "frame adapter")


def require_scale(factor: int, scale: int) -> None:
    """Make sure that frames can be read at the latents' size.

    Raises:
        GeneratorError: their pixels are larger than latents.
    """
    if factor % scale:
        raise GeneratorError(
            f"Frames at 1/{scale} of the resolution cannot be read: the generator's latents are at 1/{factor}; choose "
            "a scale that divides it."
        )


def _summed(out: nn.Module, frames: Tensor) -> Tensor:
    """(B, T, C, h, w) through a 1x1x1 convolution, added up over the frames: (B, C, h, w)."""
    each: Tensor = out(frames.flatten(0, 1))
    return torch.as_tensor(each.unflatten(0, frames.shape[:2]).sum(1))


class _Embedding(nn.Module):
    """Frames (n, C, H, W) to (n, width, h, w), each by itself."""

    def __init__(self, bands: int, halvings: int, width: int) -> None:
        super().__init__()
        widths = [*EMBEDDING, *[EMBEDDING[-1]] * halvings][: halvings + 1]
        layers: list[nn.Module] = [nn.Conv2d(bands, widths[0], 3, padding=1), nn.SiLU()]
        for c_in, c_out in pairwise(widths):
            layers += [nn.Conv2d(c_in, c_in, 3, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers, zeroed(nn.Conv2d(widths[-1], width, 3, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.layers(x))


class _Temporal(nn.Module):
    """Attention between the frames, place by place: (B, T, C, h, w) likewise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, _, _, h, w = x.shape
        tokens = x.permute(0, 3, 4, 1, 2).flatten(0, 2)  # (B h w, T, C)
        normed = self.norm(tokens)
        said = self.attention(normed, normed, normed, need_weights=False)[0]
        return torch.as_tensor((tokens + said).unflatten(0, (b, h, w)).permute(0, 3, 4, 1, 2))
