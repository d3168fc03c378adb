"""What sees train scenes and candidates where a set is chosen: the latent classifier, or a pretrained network."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from terradistill.distillation.learning import judge
from terradistill.distillation.work import Work
from terradistill.evaluation import recipe
from terradistill.models.downstream import build_network
from terradistill.models.generator import Generator
from terradistill.sampling.sampler import decoded
from terradistill.training import classifier

PART = 256  # images that are decoded and looked at before the next


class Eyes:
    """Features of length 1; those of a pretrained network are of the decoded image, at the generator's size.

    Args:
        work: whose scenes, and whose `sampling.eyes`.
        generator: decodes.
    """

    def __init__(self, work: Work, generator: Generator) -> None:
        self.work, self.generator, name = work, generator, work.settings.sampling.eyes
        self.judge = judge(work) if name == "classifier" else None
        if self.judge is None:
            with recipe.repeatable(0, work.hardware.device):  # of its last layer, which is not asked
                network = build_network(name, 2, work.resolution, pretrained=True)
            self.network = network.to(work.hardware.device).requires_grad_(False)

    def train(self) -> Iterator[NDArray[np.float32]]:
        """Of the train scenes, in their order: float32 (n, D) each."""
        if self.judge is not None:
            for part in self.work.latents().batches():
                yield self.drawn(part).numpy()
        else:
            pixels = self.work.pixels()
            for start in range(0, len(pixels), PART):
                yield self._of(np.asarray(pixels[start : start + PART])).numpy()

    def drawn(self, latents: Tensor) -> Tensor:
        """Of candidates (N, C, h, w): float32 (N, D)."""
        if self.judge is not None:
            return classifier.embed(self.judge, latents, self.work.hardware)
        parts = latents.split(PART)
        return torch.cat([self._of(decoded(self.generator, part, self.work.hardware)) for part in parts])

    def _of(self, images: NDArray[np.uint8]) -> Tensor:
        return F.normalize(recipe.embed(self.network, images, images.shape[1], hardware=self.work.hardware), dim=1)
