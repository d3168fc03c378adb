"""What image-mask pairs are worth: train a small segmentation network on them, test it on real ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.data.images import to_float
from terradistill.data.views import N_VIEWS, viewed
from terradistill.errors import ConfigError
from terradistill.evaluation.recipe import learning_share, repeatable, require_finite
from terradistill.hardware import Hardware
from terradistill.run import Progress
from terradistill.sections import EngineSettings
from terradistill.seeding import batch_indices, derive, generator

AT_ONCE = 64


@dataclass(frozen=True)
class Pairs:
    """Images with masks: uint8 (n, H, W, 3), and bool (n, H, W)."""

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.images)


class Segmenter(nn.Module):
    """A U-Net (that of diffusers, without its time): images (n, 3, H, W) in [-1, 1] to logits (n, H, W)."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        levels = len(widths)
        self.network: Any = UNet2DModel(
            in_channels=3,
            out_channels=1,
            block_out_channels=widths,
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            add_attention=False,
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.network(images, 0).sample)[:, 0]


def require_halvings(widths: Sequence[int], side: int) -> None:
    """Make sure that scenes can be halved between the levels of a segmentation network.

    Raises:
        ConfigError: they cannot.
    """
    if side % 2 ** (len(widths) - 1):
        raise ConfigError(
            f"engine.widths has {len(widths)} levels, and scenes of {side} pixels cannot be halved {len(widths) - 1} "
            "times: give fewer."
        )


def fit_segmenter(
    pairs: Pairs, settings: EngineSettings, *, seed: int, hardware: Hardware, progress: Progress | None = None
) -> Segmenter:
    """Train a fresh network: cross-entropy and Dice, AdamW, flips and quarter turns, light changed a little [ours].

    Raises:
        EvaluationError: the training diverged.
    """
    hardware = hardware.learning
    with repeatable(derive(seed, "segmenter"), hardware.device):
        network = Segmenter(settings.widths).to(hardware.device)
        optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_share(step, settings.steps, "cosine")
        )
        chance = generator(seed, "segmenter")
        network.train()
        for step in range(settings.steps):
            index = batch_indices(len(pairs), settings.batch_size, step, derive(seed, "batches"))
            views = torch.randint(0, N_VIEWS, (len(index),), generator=chance)
            gain, shift = (0.2 * torch.rand(2, len(index), 1, 1, 1, generator=chance) - 0.1).unbind()
            x = viewed(to_float(pairs.images[index]), views) * (1 + gain) + shift
            y = viewed(torch.from_numpy(pairs.masks[index])[:, None].float(), views)[:, 0].to(hardware.device)
            with hardware.autocast():
                logits = network(x.to(hardware.device)).float()
            shares = logits.sigmoid()
            overlap = (2 * (shares * y).sum((1, 2)) + 1) / (shares.sum((1, 2)) + y.sum((1, 2)) + 1)
            loss = F.binary_cross_entropy_with_logits(logits, y) + (1 - overlap).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if progress:
                progress(step + 1, settings.steps)
    require_finite(loss, "engine", settings.learning_rate)
    return network.eval()


@torch.inference_mode()
def segmented(network: nn.Module, images: NDArray[np.uint8], hardware: Hardware) -> NDArray[np.bool_]:
    """Masks bool (n, H, W) of uint8 images (n, H, W, 3)."""
    found = []
    for start in range(0, len(images), AT_ONCE):
        with hardware.autocast():
            logits = network(to_float(images[start : start + AT_ONCE]).to(hardware.device))
        found.append((logits.float() > 0).cpu().numpy())
    return np.concatenate(found)


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of all pixels together; 1 where neither has any."""
    union = int((found | truth).sum())
    return 1.0 if union == 0 else int((found & truth).sum()) / union
