"""The distance in features: zero for equal images, felt by the images and not by the network."""

import torch

from terradistill.models.downstream import build_network
from terradistill.models.perceptual import Perceptual


def test_equal_images_are_near_and_only_the_first_take_gradients() -> None:
    torch.manual_seed(0)
    perceptual = Perceptual(build_network("convnet3", 3, 32))
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    y = (x + 0.2 * torch.randn_like(x)).requires_grad_()
    assert perceptual(x, x).item() == 0
    distance = perceptual(y, x)
    assert perceptual(0.5 * (x + y), x) < distance
    distance.backward()
    assert y.grad is not None
    assert y.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in perceptual.parameters())
    assert [part.shape[1] for part in perceptual.features(x)] == [128, 128, 128]
