"""A weaker denoiser of the same latents, to guide away from: where both err, it errs more (Karras et al. 2024)."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.models.pipeline import opening, quietly


class Weaker(nn.Module):
    """A denoiser and perhaps a metadata encoder of its own; words reach it as the stronger one embeds them.

    An earlier state of the same training does, best of all.
    """

    def __init__(self, unet: Any, metadata_encoder: MetadataEncoder | None = None) -> None:
        super().__init__()
        self.unet, self.metadata_encoder = unet, metadata_encoder

    @classmethod
    def like(cls, generator: Any) -> "Weaker":
        """What a generator is at the moment, whatever it learns from here on."""
        return cls(*copy.deepcopy((generator.unet, generator.metadata_encoder))).eval().requires_grad_(False)

    @torch.no_grad()
    def follow(self, before: "Weaker", after: Any) -> None:
        """Change as the stronger one has in between, so that guidance does not exaggerate what that has learned [ours].

        Args:
            before: the stronger one as it was.
            after: the generator that it has become. Parts of another shape than the weaker's say nothing of how to
                change, and leave it as it is.
        """
        for name in ("unet", "metadata_encoder"):
            parts = [getattr(each, name) for each in (self, before, after)]
            if any(part is None for part in parts):
                continue
            mine, then, now = (dict(part.named_parameters()) for part in parts)
            if {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in then.items()}:
                for key, value in mine.items():
                    value += (now[key] - then[key]).to(value)

    def save(self, folder: Path) -> None:
        """Write the part's folder: `unet` and `metadata_encoder`."""
        with quietly():
            self.unet.save_pretrained(str(folder / "unet"), safe_serialization=True)
        if self.metadata_encoder is not None:
            self.metadata_encoder.save(folder / "metadata_encoder")

    @classmethod
    def load(cls, folder: Path) -> "Weaker":
        """Open what `save` wrote.

        Raises:
            GeneratorError: it is damaged.
        """
        with opening(folder):
            from diffusers import UNet2DConditionModel

            unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True, use_safetensors=True)
        numbers = folder / "metadata_encoder"
        return cls(unet, MetadataEncoder.load(numbers) if numbers.is_dir() else None)
