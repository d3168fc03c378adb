"""A CLIP that knows remote sensing, by hub id or from a folder: how well images fit their words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from terradistill.errors import EvaluationError, reason


class Clip:
    """Any model that transformers opens as a CLIP (image and text towers with one space)."""

    def __init__(self, processor: Any, model: Any) -> None:
        self.processor, self.model = processor, model.eval().requires_grad_(False)

    @classmethod
    def load(cls, source: str, device: torch.device) -> "Clip":
        """Open a folder or a hub id; no code that comes with it is run.

        Raises:
            EvaluationError: there is no such model, the hub cannot be reached, or it is of another kind.
        """
        from transformers import AutoModel, AutoProcessor

        known: dict[str, Any] = {"local_files_only": Path(source).is_dir(), "trust_remote_code": False}
        try:
            processor = AutoProcessor.from_pretrained(source, **known)
            model: Any = AutoModel.from_pretrained(source, use_safetensors=True, **known)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise EvaluationError(
                f"The CLIP model {source} cannot be loaded ({reason(error)}): give the hub id or folder of one, "
                "and check the network."
            ) from error
        if not hasattr(model, "get_image_features"):
            raise EvaluationError(f"{source} is a {type(model).__name__} and no CLIP: give one with a space for both.")
        return cls(processor, model.to(device))

    @torch.inference_mode()
    def similarities(self, images: NDArray[np.uint8], texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Cosines of uint8 images (n, H, W, 3) with texts: float32 (n, len(texts))."""
        device = self.model.device
        words = self.processor(text=list(texts), padding=True, truncation=True, return_tensors="pt").to(device)
        told = _unit(self.model.get_text_features(**words))
        seen = []
        for start in range(0, len(images), batch_size):
            pictures = [Image.fromarray(image) for image in images[start : start + batch_size]]
            pixels = self.processor(images=pictures, return_tensors="pt").to(device)
            seen.append(_unit(self.model.get_image_features(**pixels)) @ told.T)
        return torch.cat(seen).float().cpu()


def _unit(features: Any) -> Tensor:
    # A tensor, or (transformers 5) an output that holds it.
    pooled = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(pooled.float(), dim=1)
