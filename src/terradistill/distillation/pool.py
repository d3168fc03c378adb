"""Candidates that are drawn once: what sets of one generator have in common is read, and not drawn again."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from terradistill.files import replacing
from terradistill.settings import SamplingSettings

AFTER = {
    *("candidates", "prune", "selection", "sureness", "avoid_copies"),
    *("refine_rounds", "refine_steps", "refine_side", "refine_rate", "batch_size", "low_memory"),
}  # settings of sampling that choose among candidates, or only say how they are drawn


class Pool:
    """Latents of candidates, a file each, by what they were drawn from.

    Args:
        root: a folder of the generator that draws.
        sampling: how it draws.
    """

    def __init__(self, root: Path, sampling: SamplingSettings) -> None:
        told = sampling.model_dump_json(exclude=AFTER)
        self._folder = root / sha256(told.encode()).hexdigest()[:12]

    def get(self, asked: Sequence[object], draw: Callable[[NDArray[np.int64]], Tensor]) -> Tensor:
        """Latents (n, C, h, w) of candidates.

        Args:
            asked: what each is drawn from, as JSON can hold it.
            draw: draws those of some places, int64 (k,), of `asked`; called once, with what is not there yet.
        """
        files = [self._folder / f"{sha256(json.dumps(each).encode()).hexdigest()}.safetensors" for each in asked]
        new = np.array([k for k, path in enumerate(files) if not path.exists()], dtype=np.int64)
        if len(new):
            for k, latent in zip(new, draw(new), strict=True):
                with replacing(files[k]) as part:
                    save_file({"latent": latent.contiguous()}, part)
        return torch.stack([load_file(path)["latent"] for path in files])
