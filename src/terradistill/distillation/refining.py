"""The stage that refines what was chosen, class by class, from files to files."""

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from terradistill.data.arrays import Rows, by_class
from terradistill.distillation.originality import Originality
from terradistill.distillation.work import Work
from terradistill.evaluation.recipe import augment, repeatable, to_input
from terradistill.hardware import Hardware
from terradistill.models.random_network import RandomNetwork
from terradistill.sampling.refinement import refine
from terradistill.sampling.sampler import decoded
from terradistill.seeding import derive, generator, numpy_generator
from terradistill.settings import EvaluationSettings

SIDES = (0.75, 1, 1.25)  # of what a network sees, in `refine_side`: one of them is drawn
REAL = 30  # scenes that a step looks at
PART = 64  # images through a network at a time


def resized(x: Tensor, to: int) -> Tensor:
    """Square images (..., side, side) at another side, bilinear, as products: their gradient is the same each time."""
    unit = torch.eye(x.shape[-1])[None, None]
    rows = F.interpolate(unit, (to, x.shape[-1]), mode="bilinear", antialias=True)[0, 0].to(x)
    return rows @ x @ rows.T


class Gap:
    """How far images are, on average, from the real scenes of a class, to a random network that is new at each step.

    Distribution matching (Zhao & Bilen 2023), images and scenes cropped and flipped as the exam does. There one
    architecture is drawn anew; here the architecture is drawn too, since what helps one may harm others [ours].
    """

    def __init__(
        self,
        real: Rows | NDArray[np.uint8],
        side: int,
        seed: int,
        hardware: Hardware,
        recipe: EvaluationSettings | None = None,
    ) -> None:
        """`real`: uint8 (m, H, W, 3); `side`: of what the networks see, pixels; `recipe`: how images are cropped."""
        self.real, self.side, self.seed, self.hardware = real, side, seed, hardware.learning
        self.recipe = recipe or EvaluationSettings()  # and not a run's own, which may change until the exam

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """Squared distance of the means, of images (n, 3, H, W) in [-1, 1]."""
        seed, device = derive(self.seed, step), self.hardware.device
        with repeatable(seed, device):
            network = RandomNetwork(numpy_generator(seed, "network")).to(device).requires_grad_(False)
        stream = numpy_generator(seed, "scenes")
        some, share = stream.permutation(len(self.real))[:REAL], stream.choice(SIDES)
        side = max(32, round(share * self.side / 16) * 16)  # halved four times, there is more than one place left
        crops = generator(seed, "crops")

        def seen(x: Tensor) -> Tensor:
            with self.hardware.autocast():
                found: Tensor = network(resized(x, side))
            return found.float()

        parts = augment(resized(images, self.side), self.recipe, crops).split(PART)
        # Of many images, a part at a time is looked at again on the way back, or all would have to be remembered.
        found = [checkpoint(seen, part, use_reentrant=False) if len(parts) > 1 else seen(part) for part in parts]
        with torch.no_grad():
            scenes = to_input(np.asarray(self.real[np.sort(some)]), self.side, device)
            target = seen(augment(scenes, self.recipe, crops)).mean(0)
        return (torch.cat(found).mean(0) - target).square().sum()


def refined(work: Work) -> None:
    """Move the chosen latents of each class as far as `sampling.refine_rounds` says: `latents/refined.safetensors`."""
    run, settings = work.run, work.settings
    wanted = settings.sampling
    if not wanted.refine_rounds or run.done("refine", shared=True):
        return
    with run.stage("refine", "Refining the chosen scenes") as stage:
        model, classes = work.generator(), work.train.classes
        drawn = load_file(run / "latents" / "distilled.safetensors")["latents"].unflatten(0, (len(classes), -1))
        real = by_class(work.pixels(), work.train.labels, len(classes))

        def make(number: int, path: object) -> None:
            gap = Gap(real[number], wanted.refine_side, derive(settings.seed, "refine", classes[number]), work.hardware)
            moved = refine(
                drawn[number],
                model,
                gap,
                rounds=wanted.refine_rounds,
                steps=wanted.refine_steps,
                rate=wanted.refine_rate,
                hardware=work.hardware,
            )
            save_file({"latents": moved.contiguous()}, str(path))
            stage.progress(number + 1, len(classes))

        pieces = stage.pieces([f"{number:05d}.safetensors" for number in range(len(classes))], make)
        if pieces is None:
            return
        before, after = drawn.flatten(0, 1), torch.cat([load_file(piece)["latents"] for piece in pieces])
        n_copies = 0
        if wanted.avoid_copies:  # what would become a near-copy stays as it was drawn
            labels = np.repeat(np.arange(len(classes)), settings.ipc)
            copies = Originality(work).copies(decoded(model, after, work.hardware), labels)
            after[copies], n_copies = before[copies], int(copies.sum())
        with stage.writes("latents/refined.safetensors") as path:
            save_file({"latents": after}, path)
        share = float((after - before).square().mean().sqrt() / before.std())
        stage.note = f"moved by {share:.0%} of the latents' deviation"
        if n_copies:
            stage.note += f"; {n_copies} stay as drawn, which would have become near-copies"
