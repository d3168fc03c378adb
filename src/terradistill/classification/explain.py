"""What a classifier looks at: Grad-CAM (Selvaraju et al. 2017) by captum, as a picture."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from terradistill.data.arrays import evenly
from terradistill.errors import EvaluationError
from terradistill.evaluation.recipe import to_input
from terradistill.hardware import Hardware
from terradistill.models.scene_classifier import SceneClassifier
from terradistill.models.self_distillation import channels_last, stages_of
from terradistill.report.gallery import side_by_side

SHOWN = 12  # scenes in the picture
WARM = np.array([255, 92, 0], np.float32)


def looked_at(
    classifier: SceneClassifier, pixels: NDArray[np.uint8], labels: NDArray[np.int64], out: Path, hardware: Hardware
) -> str | None:
    """A scene a class, and below it where the class was seen; a sentence where there is nothing to show."""
    if find_spec("captum") is None:
        return "without captum (pip install '.[classify]') the report does not show what the network looks at"
    first = [int(np.flatnonzero(labels == k)[0]) for k in np.unique(labels)]
    some = np.array(first)[evenly(SHOWN, len(first))]
    heat = heatmaps(classifier, pixels[some], torch.from_numpy(labels[some]), hardware)
    if heat is None:
        return "the network's last stage has no places: the report does not show what it looks at"
    share = 0.65 * heat[..., None]
    warmed = (np.asarray(pixels[some]) * (1 - share) + share * WARM).round().astype(np.uint8)
    side_by_side({"scene": list(np.asarray(pixels[some])), "looked at": list(warmed)}, out)
    return None


def heatmaps(
    classifier: SceneClassifier, pixels: NDArray[np.uint8], labels: torch.Tensor, hardware: Hardware
) -> NDArray[np.float32] | None:
    """Where each class was seen, float32 (n, H, W) from 0 to 1; None for networks whose last stage has no places.

    Args:
        classifier: what looks.
        pixels: uint8 (n, H, W, 3).
        labels: the class to look for in each, int64 (n,).
        hardware: device.
    """
    from captum.attr import LayerGradCam

    try:
        last = stages_of(classifier.network)[-1]
    except EvaluationError:  # a network without stages: its last convolution
        convolutions = [module for module in classifier.network.modules() if isinstance(module, torch.nn.Conv2d)]
        if not convolutions:
            return None
        last = convolutions[-1]
    x = to_input(pixels, classifier.resolution, hardware.device)
    if not _gives_planes(classifier.network, last, x[:1]):
        return None
    x = x.requires_grad_()
    found = LayerGradCam(classifier.network, last).attribute(
        x, target=labels.to(hardware.device), relu_attributions=True
    )
    heat = found[0] if isinstance(found, tuple) else found
    heat = F.interpolate(heat.detach().float().cpu(), pixels.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
    peaks: torch.Tensor = heat.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return np.asarray((heat / peaks).numpy(), np.float32)


@torch.no_grad()
def _gives_planes(network: torch.nn.Module, layer: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether a layer gives one tensor (n, channels, h, w); some have tuples, tokens, or channels last."""
    seen: list[object] = []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        network.eval()(x)
    finally:
        hook.remove()
    found = seen[0]
    return isinstance(found, torch.Tensor) and found.ndim == 4 and not channels_last(found)
