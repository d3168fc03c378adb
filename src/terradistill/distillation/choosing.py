"""Which candidates a set is made of: the choice, and what it passes over."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.arrays import by_class, mapped, write_array
from terradistill.distillation.learning import judge
from terradistill.distillation.originality import Originality
from terradistill.distillation.work import Work
from terradistill.models.generator import Generator
from terradistill.sampling.sampler import decoded
from terradistill.sampling.selection import best_of, covering, herding, margins
from terradistill.seeding import derive
from terradistill.training.classifier import embed, predict

REDRAWS = 3  # of candidates that are near-copies


class Choice:
    """Chooses by `sampling.selection`, each class for itself.

    Args:
        work: whose scenes and settings.
        kept: file in which features of the train scenes are kept while the choice is made.
    """

    def __init__(self, work: Work, kept: Path) -> None:
        self.work, self.model, self.wanted = work, judge(work), work.settings.sampling
        if self.wanted.selection != "margin":
            parts = (embed(self.model, part, work.hardware).numpy() for part in work.latents().batches())
            write_array(kept, len(work.train), parts)
            self.real = by_class(mapped(kept), work.train.labels, len(work.train.classes))
            self.means = torch.stack([torch.from_numpy(each[:]).mean(0) for each in self.real])

    def look(self, drawn: Tensor) -> None:
        """Take candidates to choose among: as many of each prototype, float (N, C, h, w), class after class."""
        n_classes, ipc = len(self.work.train.classes), self.work.settings.ipc
        self.candidates = len(drawn) // (n_classes * ipc)  # that pruning has left of each prototype
        labels = torch.arange(n_classes).repeat_interleave(ipc * self.candidates)
        self.scores = margins(predict(self.model, drawn, self.work.hardware), labels)
        if self.wanted.selection != "margin":
            self.features = embed(self.model, drawn, self.work.hardware).unflatten(0, (n_classes, -1))

    def __call__(self, barred: Tensor) -> Tensor:
        """Places of what is chosen, class after class: int64 (n_classes * ipc,); `barred`, bool (N,), come last."""
        wanted, ipc = self.wanted, self.work.settings.ipc
        if wanted.selection == "margin":
            return best_of(self.scores - barred * 1e6, self.candidates)
        shape = self.features.shape[:2]
        if wanted.selection == "herding":
            places = herding(self.features, self.means, ipc, barred.view(shape))
        else:
            real = (torch.from_numpy(each[:]) for each in self.real)
            sure = self.scores.sigmoid().view(shape)
            places = covering(self.features, real, sure, ipc, weight=wanted.sureness, barred=barred.view(shape))
        return torch.as_tensor(places.sort(1).values + torch.arange(shape[0])[:, None] * shape[1]).flatten()


def chosen(
    work: Work,
    generator: Generator,
    drawn: Tensor,
    seeds: list[int],
    draw: Callable[[NDArray[np.int64]], Tensor],
    kept_in: Path,
) -> tuple[Tensor, Tensor, int]:
    """Which candidates are kept, their latents, and how many are near-copies.

    A near-copy of a train scene is barred and the choice made anew, until nothing new is found; what was barred is then
    drawn again from other seeds, a few times. What is a near-copy even so stays, and is counted.

    Args:
        work: whose scenes and settings.
        generator: decodes.
        drawn: candidates, class after class; those drawn again take their places.
        seeds: of the candidates, likewise.
        draw: draws candidates, by their places, from what `seeds` says by then.
        kept_in: file for features of train scenes.
    """
    choice, original = Choice(work, kept_in), Originality(work)
    labels = np.repeat(np.arange(len(work.train.classes)), work.settings.ipc)
    barred = torch.zeros(len(drawn), dtype=torch.bool)
    for redrawn in range(REDRAWS + 1):
        choice.look(drawn)
        looked: dict[int, bool] = {}  # which candidates are near-copies
        while True:
            kept = choice(barred)
            if not work.settings.sampling.avoid_copies:
                return kept, drawn[kept], 0
            new = [i for i, k in enumerate(kept.tolist()) if k not in looked]
            if new:
                found = original.copies(decoded(generator, drawn[kept[new]], work.hardware), labels[new])
                looked |= dict(zip(kept[new].tolist(), found.tolist(), strict=True))
            copies = torch.tensor([looked[k] for k in kept.tolist()])
            if not copies.any():
                return kept, drawn[kept], 0
            if barred[kept[copies]].all():  # nothing else is left to choose from
                break
            barred[kept[copies]] = True
        if redrawn < REDRAWS:
            again = np.flatnonzero(barred.numpy())
            for k in again:
                seeds[k] = derive(work.settings.seed, "again", seeds[k])
            drawn[again] = draw(again)
            barred[:] = False
    return kept, drawn[kept], int(copies.sum())
