"""The distances in features: zero for equal images, felt by the images and not by the network."""

import torch
from torch.nn.functional import avg_pool2d, interpolate

from terradistill.models.downstream import build_network
from terradistill.models.perceptual import Perceptual


def test_equal_images_are_near_and_only_the_first_take_gradients() -> None:
    torch.manual_seed(0)
    perceptual = Perceptual(build_network("convnet3", 3, 32))
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    y = (x + 0.2 * torch.randn_like(x)).requires_grad_()
    assert [distance.item() for distance in perceptual(x, x)] == [0, 0]
    far, near = perceptual(y, x), perceptual(0.5 * (x + y), x)
    assert near[0] < far[0]
    assert near[1] < far[1]
    (far[0] + far[1]).backward()
    assert y.grad is not None
    assert y.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in perceptual.parameters())
    assert [part.shape[1] for part in perceptual.features(x)] == [128, 128, 128]


def test_another_draw_of_a_texture_is_far_in_place_and_near_as_a_texture() -> None:
    torch.manual_seed(0)
    perceptual = Perceptual(build_network("convnet3", 3, 64))
    grain = 0.3 * torch.randn(2, 4, 3, 64, 64)
    blurred = interpolate(avg_pool2d(grain[0], 4), scale_factor=4.0, mode="bilinear")
    (place_other, texture_other), (place_blurred, texture_blurred) = (
        perceptual(images, grain[0]) for images in (grain[1], blurred)
    )
    assert texture_other < 0.8 * texture_blurred
    assert place_other > 1.2 * place_blurred
