"""What the denoiser is told of the scenes of a batch while it learns, and how often it is left out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.models.generator import Generator
from terradistill.training.latents import LatentCache


@dataclass(frozen=True)
class CaptionTable:
    """The captions of all scenes, tokenised once.

    Attributes:
        tokens: int64 (M, L), one row for each distinct caption; row 0 is the empty caption.
        first: int64 (N,), where a scene's captions begin in `rows`.
        count: int64 (N,), how many it has.
        rows: int64 (sum of count,), rows of `tokens`.
    """

    tokens: Tensor
    first: Tensor
    count: Tensor
    rows: Tensor

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]], generator: Generator) -> "CaptionTable":
        number: dict[str, int] = {"": 0}
        rows = [number.setdefault(text, len(number)) for texts in captions for text in texts]
        count = torch.tensor([len(texts) for texts in captions])
        return cls(generator.tokens(list(number)), count.cumsum(0) - count, count, torch.tensor(rows))

    def draw(self, index: NDArray[np.int64], empty: Tensor, rng: torch.Generator) -> Tensor:
        """Tokens (B, L) of one caption a scene; of none where `empty`, bool (B,), says so."""
        scenes = torch.as_tensor(index)
        pick = (torch.rand(len(index), generator=rng) * self.count[scenes]).long()
        return self.tokens[(self.rows[self.first[scenes] + pick]).masked_fill(empty, 0)]


@dataclass(frozen=True)
class Told:
    """What the denoiser is told of B scenes, on the CPU.

    Attributes:
        tokens: int64 (B, L), of the captions.
        metadata: rows of `MetadataEncoder.table`, float32 (B, fields); None: nothing.
        condition: what the adapter that is trained reads; None: there is none.
        content: scaled latents of content images (B, C, h, w), for the content encoder; None: it is not used.
        picture: bool (B,), whether a scene's content image is shown.
    """

    tokens: Tensor
    metadata: Tensor | None = None
    condition: tuple[Tensor, ...] | None = None
    content: Tensor | None = None
    picture: Tensor | None = None

    def some(self, rows: slice) -> "Told":
        """Of some of the scenes."""
        return Told(
            self.tokens[rows],
            None if self.metadata is None else self.metadata[rows],
            None if self.condition is None else tuple(part[rows] for part in self.condition),
            None if self.content is None else self.content[rows],
            None if self.picture is None else self.picture[rows],
        )


class Conditions(Protocol):
    """What an adapter of N scenes is shown, scene by scene."""

    @property
    def adapter(self) -> str:
        """Which one, by the generator's name for it: its `control` takes what follows."""

    def draw(self, index: NDArray[np.int64], views: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """For a step of training: of scenes in views, with whatever is left to chance."""

    def whole(self, index: NDArray[np.int64], views: Tensor) -> tuple[Tensor, ...]:
        """For the held-out loss: the same, with all that there is, and the same each time."""


def draw_told(
    latents: LatentCache,
    table: CaptionTable,
    metadata: Tensor | None,
    conditions: Conditions | None,
    content: bool,
    index: NDArray[np.int64],
    dropout: float,
    rng: torch.Generator,
) -> tuple[Tensor, Told]:
    """Scenes for a step of training: their latents (B, C, h, w), and what the denoiser is told of them.

    Captions and content images (where `content` says that there are any) are each dropped with p = `dropout`. So is the
    whole of a scene's metadata, as in DiffusionSat's paper (p = 0.1); that it is dropped beside the caption too is
    [ours]: both at once, as in the free half of guidance, and metadata alone, since most prompts come without. So it is
    unknown with 1 - (1 - p)^2. What `conditions` leave out is their own affair.
    """
    free, plain = torch.rand(2, len(index), generator=rng) < dropout
    tokens = table.draw(index, free, rng)
    numbers = None if metadata is None else metadata[index].masked_fill((free | plain)[:, None], torch.nan)
    views = latents.draw_views(len(index), rng)
    told = Told(tokens, numbers)
    z0 = latents.draw(index, rng, views)
    if conditions is not None:
        told = replace(told, condition=conditions.draw(index, views, rng))
    if content:
        # The scene itself in another view: what it looks like, not where things are.
        turned = views + torch.randint(1, max(2, latents.n_views), views.shape, generator=rng)
        shown = torch.rand(len(index), generator=rng) >= dropout
        told = replace(told, content=latents.draw(index, rng, turned % latents.n_views), picture=shown)
    return z0, told
