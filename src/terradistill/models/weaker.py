"""A weaker denoiser of the same latents, to guide away from: where both err, it errs more (Karras et al. 2024)."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.models.pipeline import opening, quietly


class Weaker(nn.Module):
    """A denoiser with a text encoder and, perhaps, a metadata encoder of its own; words are split as by the stronger.

    An earlier state of the same training does, as does a smaller network that has learned the same for less time.
    """

    def __init__(self, unet: Any, text_encoder: Any, metadata_encoder: MetadataEncoder | None = None) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.metadata_encoder = unet, text_encoder, metadata_encoder

    @classmethod
    def like(cls, generator: Any) -> "Weaker":
        """What a generator is at the moment, whatever it learns from here on."""
        parts = (generator.unet, generator.text_encoder, generator.metadata_encoder)
        return cls(*copy.deepcopy(parts)).eval().requires_grad_(False)

    def embed(self, tokens: Tensor) -> Tensor:
        """Text embeddings, float32 (n, L, D), of the stronger's token ids, int64 (n, L)."""
        with torch.no_grad():
            return torch.as_tensor(self.text_encoder(tokens.to(self.text_encoder.device))[0]).float()

    def save(self, folder: Path) -> None:
        """Write the part's folder: `unet`, `text_encoder` and `metadata_encoder`."""
        with quietly():
            self.unet.save_pretrained(str(folder / "unet"), safe_serialization=True)
            self.text_encoder.save_pretrained(str(folder / "text_encoder"), safe_serialization=True)
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
            from transformers import CLIPTextModel

            unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True, use_safetensors=True)
            text = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, use_safetensors=True)
        numbers = folder / "metadata_encoder"
        return cls(unet, text, MetadataEncoder.load(numbers) if numbers.is_dir() else None)
