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

    CRS-Diff reads CLIP's image embedding; here the generator's own latents are read, pooled to a coarse grid, and how
    much they vary: they need no further weights. A denoiser that has learned from words alone and stays as it is hears
    little of a picture through its attention to them, so the tokens join its time embedding too, as metadata does
    [both ours].
    """

    def __init__(self, latent_channels: int, text_width: int, time_width: int) -> None:
        super().__init__()
        self.sizes = {"latent_channels": latent_channels, "text_width": text_width, "time_width": time_width}
        features = latent_channels * (POOLED**2 + 1)
        self.network = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, 2 * text_width),
            nn.SiLU(),
            nn.Linear(2 * text_width, TOKENS * text_width),
        )
        self.none = nn.Parameter(torch.zeros(TOKENS, text_width))  # no picture, beside prompts that have one
        self.to_time = nn.Linear(TOKENS * text_width, time_width, bias=False)
        nn.init.zeros_(self.to_time.weight)

    def forward(self, latents: Tensor, strength: float | Tensor = 1.0) -> Tensor:
        """Tokens (B, 4, D) of scaled latents (B, C, h, w) of content images.

        `strength`, (B,) or one: 1 is the picture as it was learned, 0 is no picture [CRS-Diff scales the tokens].
        """
        seen = [F.adaptive_avg_pool2d(latents, POOLED).flatten(1), latents.flatten(2).std(2)]
        tokens = self.network(torch.cat(seen, 1)).unflatten(1, (TOKENS, -1))
        share = torch.as_tensor(strength, device=tokens.device).reshape(-1, 1, 1)
        return torch.as_tensor(self.none + share * (tokens - self.none))

    def beside_time(self, tokens: Tensor) -> Tensor:
        """What tokens (B, 4, D) add to the time embedding, (B, time_width): of no picture exactly nothing."""
        return torch.as_tensor(self.to_time((tokens - self.none).flatten(1)))

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
