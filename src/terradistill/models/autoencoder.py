"""The latent space: a fresh KL autoencoder that starts as a thumbnail, and how its latents are scaled."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from terradistill.errors import ConfigError
from terradistill.settings import AutoencoderSettings

_COLOURS = 3
_CARRIED = 2 * _COLOURS  # channels: red, green, blue and their negatives
_STEADY = 4.0  # value of the channels that hold a group's deviation still: large beside pixels in [-1, 1]


def build_vae(settings: AutoencoderSettings, resolution: int, seed: int) -> Any:
    """A fresh KL autoencoder (diffusers `AutoencoderKL`) that already hands on a scene's thumbnail."""
    from diffusers import AutoencoderKL

    levels = len(settings.block_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae: Any = AutoencoderKL(
            block_out_channels=settings.block_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=settings.layers_per_block,
            latent_channels=settings.latent_channels,
            norm_num_groups=norm_groups(settings.block_channels),
            mid_block_add_attention=settings.attention,
            sample_size=resolution,
            scaling_factor=1.0,
        )
    # A small posterior deviation at the start: unit noise on latents that say nothing yet would drown them for long.
    with torch.no_grad():
        vae.quant_conv.weight[settings.latent_channels :] = 0
        vae.quant_conv.bias[settings.latent_channels :] = -8
    if settings.latent_channels >= _COLOURS:
        _start_as_thumbnail(vae)
    return vae


def require_fitting_crop(settings: AutoencoderSettings, resolution: int) -> None:
    """Make sure that what the autoencoder is trained on can be halved as often as its levels ask.

    Raises:
        ConfigError: it cannot.
    """
    factor = 2 ** (len(settings.block_channels) - 1)
    step = 2 * factor if settings.scale_weight else factor  # the scale term halves the latents once more
    name, side = ("data.resolution", resolution) if settings.crop is None else ("autoencoder.crop", settings.crop)
    if min(side, resolution) % step:
        raise ConfigError(
            f"{name} is {side}: an autoencoder of {len(settings.block_channels)} levels"
            f"{' with a scale term' if settings.scale_weight else ''} needs a multiple of {step}."
        )


def norm_groups(channels: Sequence[int]) -> int:
    """Groups of the normalisations: a divisor of every width, 32 at most as in Stable Diffusion.

    A group has 8 channels or more: with one a group it would be instance normalisation, which takes colour away.
    """
    return max(1, math.gcd(256, *channels) // 8)


def fold_statistics(vae: Any, mean_C: Tensor, std_C: Tensor) -> None:
    """Fold per-channel statistics into the VAE: its latents become (z - mean) / std.

    The 1x1 convolutions next to the latent take them up exactly; the statistics live in the weights, the folder
    needs no scaling factor but 1, and a stock pipeline decodes correctly.
    """
    channels = len(mean_C)
    with torch.no_grad():
        out, into = vae.quant_conv, vae.post_quant_conv  # (mean, log-variance) ← h;  h ← z
        out.weight[:channels] /= std_C.view(-1, 1, 1, 1)
        out.bias[:channels] = (out.bias[:channels] - mean_C) / std_C
        out.bias[channels:] -= 2 * std_C.log()
        into.bias += (into.weight[:, :, 0, 0] * mean_C).sum(1)
        into.weight *= std_C.view(1, -1, 1, 1)


@torch.no_grad()
def _start_as_thumbnail(vae: Any) -> None:
    """Set a few weights so that the first three latents are the local mean colour, and decoded as such [ours].

    A random autoencoder finds brightness first and colour thousands of steps later, as colour is a small part of the
    error. Six channels carry ±RGB along the skip connections: averaged where the encoder halves, repeated where the
    decoder doubles. The last activation undoes itself, as SiLU(u) - SiLU(-u) = u. The last normalisation is held nearly
    constant by giving the other channels of the first group large, opposite values. All weights learn on.
    """
    for name, module in (*vae.encoder.named_modules(), *vae.decoder.named_modules()):
        if name.endswith("conv2"):  # the end of a residual branch
            _carry(module, 0.0)
        elif name.endswith("conv_shortcut"):
            _carry(module, 1.0)
    for half in (vae.encoder, vae.decoder):
        for attention in half.mid_block.attentions:
            if attention is not None:
                _carry(attention.to_out[0], 0.0)
        _carry(half.conv_in, 1.0, signs=True)
    for block in vae.encoder.down_blocks:
        for sampler in block.downsamplers or ():
            _carry(sampler.conv, 0.25, taps=slice(0, 2))  # diffusers pads on the right and below
    for block in vae.decoder.up_blocks:
        for sampler in block.upsamplers or ():
            _carry(sampler.conv, 1.0)
    _hand_over(vae.encoder, vae.encoder.mid_block.resnets[-1])
    _hand_over(vae.decoder, vae.decoder.up_blocks[-1].resnets[-1])
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight[:_COLOURS] = conv.bias[:_COLOURS] = 0
        conv.weight[range(_COLOURS), range(_COLOURS)] = 1


def _carry(layer: Any, gain: float, *, signs: bool = False, taps: slice | None = None) -> None:
    # Outputs 0 to 5 become gain times inputs 0 to 5; with signs: inputs 0 to 2, and their negatives.
    layer.weight[:_CARRIED] = layer.bias[:_CARRIED] = 0
    for channel in range(_CARRIED if gain else 0):
        sign = -1 if signs and channel >= _COLOURS else 1
        centre = layer.weight.shape[-1] // 2
        where = taps or slice(centre, centre + 1)
        layer.weight[channel, channel % _COLOURS if signs else channel, where, where] = sign * gain


def _hand_over(half: Any, last: Any) -> None:
    # Outputs 0 to 2 become the carried colours, through normalisation, SiLU and the last convolution.
    group = half.conv_norm_out.num_channels // half.conv_norm_out.num_groups
    steady = group - _CARRIED
    last.conv2.weight[_CARRIED:group] = 0
    last.conv2.bias[_CARRIED:group:2], last.conv2.bias[_CARRIED + 1 : group : 2] = _STEADY, -_STEADY
    half.conv_out.weight[:_COLOURS] = half.conv_out.bias[:_COLOURS] = 0
    deviation = _STEADY * math.sqrt(steady / group)
    for colour in range(_COLOURS):
        half.conv_out.weight[colour, colour, 1, 1] = deviation
        half.conv_out.weight[colour, colour + _COLOURS, 1, 1] = -deviation
