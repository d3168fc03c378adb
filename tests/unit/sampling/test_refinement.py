from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from terradistill.distillation import refining
from terradistill.distillation.refining import Gap
from terradistill.hardware import Hardware
from terradistill.models.random_network import RandomNetwork
from terradistill.sampling.refinement import refine
from terradistill.settings import EvaluationSettings

CPU = Hardware(torch.device("cpu"))


class Halving:
    """An autoencoder that knows means of 2 x 2 pixels and nothing finer."""

    def decode(self, latents: Tensor) -> Tensor:
        return functional.interpolate(latents, scale_factor=2).clamp(-1, 1)

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        return functional.avg_pool2d(images, 2), None


def moved(latents: Tensor, gap: Callable[[Tensor, int], Tensor], rounds: int = 2) -> Tensor:
    halving: Any = Halving()
    return refine(latents, halving, gap, rounds=rounds, steps=3, rate=0.05, hardware=CPU)


def test_images_move_as_far_as_the_autoencoder_can_say() -> None:
    chequers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    latents, finer = 0.5 * chequers.repeat(2, 3, 2, 2), chequers.repeat(4, 4)
    lighter = moved(latents, lambda images, _: -images.sum()) - latents
    contrast = 0.5 * (64 / 63) ** 0.5
    assert torch.allclose(lighter, torch.full_like(latents, 2 * 3 * 0.05 * contrast), atol=1e-5), "of the rate"
    assert torch.allclose(moved(latents, lambda images, _: -(images * finer).sum()), latents, atol=1e-6)
    assert moved(latents, lambda images, _: -images.sum(), rounds=0) is latents


def test_an_image_moves_by_as_much_as_it_has_contrast() -> None:
    strong = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) / 2
    latents = torch.cat([strong, strong / 10, torch.full_like(strong, 0.3)])
    moves = moved(latents, lambda images, _: (images * images).sum(), rounds=1) - latents
    far = moves.flatten(1).norm(dim=1).tolist()
    assert far[1] == pytest.approx(far[0] / 10, rel=0.02)
    assert far[2] == 0, "calm water stays calm"


def test_all_channels_of_a_pixel_move_alike_and_steps_are_counted_through() -> None:
    steps: list[int] = []

    def red(images: Tensor, step: int) -> Tensor:
        steps.append(step)
        return -images[:, 0].sum()

    latents = torch.linspace(-0.5, 0.5, 16).view(1, 1, 4, 4).repeat(1, 3, 1, 1)
    found = moved(latents, red) - latents
    assert steps == list(range(6))
    assert found.min() > 0
    assert torch.allclose(found[:, 0], found[:, 2])


def test_a_gap_is_none_from_the_class_itself_and_the_same_twice() -> None:
    real = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    plain = EvaluationSettings(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flips=False)
    gap = Gap(real, 32, 0, CPU, plain)
    same = torch.from_numpy(real).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert gap(same, 0) < 1e-6 * gap(-same, 0)
    assert gap(-same, 0) == gap(-same, 0) != gap(-same, 1)


def test_sides_change_as_by_interpolation() -> None:
    x = torch.rand(2, 3, 40, 40)
    for side in (40, 32, 64):
        wanted = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
        torch.testing.assert_close(refining.resized(x, side), wanted)


def test_networks_of_all_kinds_look_at_single_images() -> None:
    seen = set()
    for number in range(60):
        network = RandomNetwork(np.random.default_rng(number))
        for side in (32, 48):
            found = network(torch.rand(1, 3, side, side))
            assert found.shape[0] == 1
            assert found.isfinite().all()
        seen.add(found.shape[1])
    assert seen == {64, 128, 256, 512, 1024, 2048}  # 64 or 128 channels, of 1, 4 or 16 places


def test_many_images_are_looked_at_in_parts_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    gap, slopes = Gap(real, 32, 0, CPU), []
    for size in (64, 3):
        monkeypatch.setattr(refining, "PART", size)
        images = torch.linspace(-1, 1, 8 * 3 * 32 * 32).view(8, 3, 32, 32).requires_grad_(True)
        gap(images, 0).backward()
        slopes.append(images.grad)
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-3, atol=1e-6)
