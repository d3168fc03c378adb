"""A ControlNet for each map (Zhang et al. 2023), added up as diffusers' `MultiControlNetModel` does.

What the map adapter is compared with. One difference: the copies share the denoiser's time embedding, and so hear of
its metadata too. Legend as in `terradistill.models.map_adapter`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terradistill.models.control import Control, encoded
from terradistill.models.parts import load_part, save_part
from terradistill.settings import MAPS

EMBEDDING = (16, 32, 96, 256)  # channels on the way from pixels to latents, one halving after each but the last


class ControlNets(nn.Module):
    """As many copies of the denoiser's encoder as there are maps. Fresh ones change nothing, exactly."""

    def __init__(self, unet: Any, factor: int, learned: Sequence[str]) -> None:
        """Around a denoiser.

        Args:
            unet: the diffusers `UNet2DConditionModel` to adapt.
            factor: pixels per latent, along a side: a power of two.
            learned: the maps that it is taught to read, a ControlNet each.
        """
        from diffusers import ControlNetModel

        super().__init__()
        self.learned, self.factor = tuple(learned), factor
        halvings = factor.bit_length() - 1
        widths = [*EMBEDDING, *[EMBEDDING[-1]] * halvings][: halvings + 1]
        nets: list[Any] = [
            ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths) for _ in self.learned
        ]
        self.nets = nn.ModuleList(nets)
        self.requires_grad_(True)

    def control(self, maps: Tensor, strengths: Tensor) -> Control:
        """Read the maps, once for all steps; arguments as for `MapAdapter.control`, strengths each for itself."""
        places = [MAPS.index(name) for name in self.learned]
        planes = [maps[:, 3 * k : 3 * k + 3].float() / 255 for k in places]
        nets: list[Any] = list(self.nets)
        features = tuple(net.controlnet_cond_embedding(plane) for net, plane in zip(nets, planes, strict=True))
        return Control(self, features, strengths[:, places])

    def forward(self, z: Tensor, time: Tensor, text: Tensor, control: Control) -> tuple[list[Tensor], Tensor]:
        """What to add to the denoiser's skips, in their order, and to its middle; see `MapAdapter.forward`."""
        said = [
            _residuals(net, z, time, text, features, strength.view(-1, 1, 1, 1))
            for net, features, strength in zip(self.nets, control.features, control.strength.unbind(1), strict=True)
        ]
        skips = [torch.stack(alike).sum(0) for alike in zip(*(skips for skips, _ in said), strict=True)]
        return skips, torch.stack([middle for _, middle in said]).sum(0)

    def save(self, folder: Path) -> None:
        """Write the part's folder."""
        save_part(self, {"kind": "controlnet", "factor": self.factor, "learned": self.learned}, folder)

    @classmethod
    def load(cls, folder: Path, unet: Any) -> "ControlNets":
        """Open what `save` wrote, for the denoiser that it was trained with.

        Raises:
            GeneratorError: it is damaged, or of another denoiser.
        """

        def build(kind: str, **more: Any) -> "ControlNets":  # noqa: ARG001 - the folder's, and read by now
            return cls(unet, **more)

        return load_part(build, folder, "map adapter")


def _residuals(
    net: Any, z: Tensor, time: Tensor, text: Tensor, features: Tensor, strength: Tensor
) -> tuple[list[Tensor], Tensor]:
    x = net.conv_in(z)
    x, skips = encoded(net, x + features.to(x), time, text)
    x = net.mid_block(x, time, encoder_hidden_states=text)
    added = [(strength * out(skip)).to(skip) for out, skip in zip(net.controlnet_down_blocks, skips, strict=True)]
    return added, (strength * net.controlnet_mid_block(x)).to(x)
