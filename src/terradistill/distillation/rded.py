"""RDED-style sets (Sun et al. 2024): the crops that a network is surest of, four of them stitched into an image."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from terradistill.evaluation.recipe import PREDICT_BATCH, to_input
from terradistill.seeding import numpy_generator

CROPS = 5  # looked at in each scene
AREA = (0.25, 1.0)  # of a crop
SCENES = 300  # of a class


def stitched_crops(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    ipc: int,
    network: nn.Module,
    resolution: int,
    *,
    seen_at: int,
    seed: int,
    device: torch.device,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A set of `ipc` stitched images a class.

    Args:
        images: train scenes, uint8 (n, H, W, 3); may be a memory map.
        labels: int64 (n,), classes counted from 0, at least 4 · ipc scenes of each (else some crops occur twice).
        ipc: images per class.
        network: judges the crops.
        resolution: side of the stitched images, pixels.
        seen_at: side at which the network was trained, pixels.
        seed: of scenes and crops; each class has its own stream.
        device: where the network is.

    Returns:
        Images uint8 (n_classes · ipc, resolution, resolution, 3) and their labels.
    """
    made = []
    classes = int(labels.max()) + 1
    for label in range(classes):
        rng = numpy_generator(seed, "rded", label)
        scenes = rng.permutation(np.flatnonzero(labels == label))[:SCENES]
        crops, losses = [], []
        for start in range(0, len(scenes), PREDICT_BATCH):
            batch = to_input(np.asarray(images[np.sort(scenes[start : start + PREDICT_BATCH])]), resolution, device)
            drawn = torch.stack([_crop(batch, rng) for _ in range(CROPS)], dim=1)  # (B, crops, 3, side, side)
            with torch.inference_mode():
                seen = F.interpolate(drawn.flatten(0, 1), (seen_at, seen_at), mode="bilinear", antialias=True)
                logits = network(seen).float()
            loss = F.cross_entropy(logits, torch.full((len(logits),), label, device=device), reduction="none")
            best = loss.view(-1, CROPS).min(1)
            crops.append(drawn[torch.arange(len(drawn)), best.indices].cpu())
            losses.append(best.values.cpu())
        surest = torch.cat(losses).argsort(stable=True)
        surest = surest.repeat(-(-4 * ipc // len(surest)))[: 4 * ipc]
        half = F.interpolate(
            torch.cat(crops)[surest], (resolution // 2, resolution // 2), mode="bilinear", antialias=True
        )
        rows = torch.cat([torch.cat([half[0::4], half[1::4]], -1), torch.cat([half[2::4], half[3::4]], -1)], -2)
        rows = rows[..., :resolution, :resolution]
        made.append(((rows + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(made), np.repeat(np.arange(classes), ipc)


def _crop(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """One square crop of each image (B, 3, side, side), at full size again."""
    n = len(batch)
    side = np.sqrt(rng.uniform(*AREA, n))
    theta = np.zeros((n, 2, 3), np.float32)  # from output to input, in coordinates from -1 to 1
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = (2 * rng.uniform(size=(n, 2)) - 1) * (1 - side)[:, None]
    grid = F.affine_grid(torch.from_numpy(theta), list(batch.shape), align_corners=False).to(batch.device)
    return F.grid_sample(batch, grid, padding_mode="border", align_corners=False)
