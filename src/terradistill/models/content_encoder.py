"""A picture as a part of the prompt (CRS-Diff): a few more tokens behind the words."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.models.parts import load_part, save_part

TOKENS = 4
POOLED = 4  # side of the grid that a latent is pooled to


class ContentEncoder(nn.Module):
    """What a content image looks like, in tokens of the text's width.

    CRS-Diff reads CLIP's image embedding; here the generator's own latents, pooled to a coarse grid, are read: they
    need no further weights [ours].
    """

    def __init__(self, latent_channels: int, text_width: int) -> None:
        super().__init__()
        self.sizes = {"latent_channels": latent_channels, "text_width": text_width}
        features = latent_channels * POOLED**2
        self.network = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, text_width),
            nn.SiLU(),
            nn.Linear(text_width, TOKENS * text_width),
        )
        self.none = nn.Parameter(torch.zeros(TOKENS, text_width))  # no picture, beside prompts that have one

    def forward(self, latents: Tensor, strength: float | Tensor = 1.0) -> Tensor:
        """Tokens (B, 4, D) of scaled latents (B, C, h, w) of content images, weakened to `strength`, (B,) or one."""
        tokens = self.network(F.adaptive_avg_pool2d(latents, POOLED).flatten(1)).unflatten(1, (TOKENS, -1))
        return torch.as_tensor(tokens * torch.as_tensor(strength, device=tokens.device).reshape(-1, 1, 1))

    def save(self, folder: Path) -> None:
        """Write the part's folder."""
        save_part(self, self.sizes, folder)

    @classmethod
    def load(cls, folder: Path) -> "ContentEncoder":
        """Open what `save` wrote.

        Raises:
            GeneratorError: it is damaged.
        """
        return load_part(cls, folder, "content encoder")
