from typing import Any

import numpy as np
import pytest
import torch

from terradistill.errors import EvaluationError
from terradistill.evaluation.recipe import augment, fit, learning_share, repeatable, to_input, training_steps
from terradistill.hardware import find_hardware
from terradistill.seeding import generator
from terradistill.settings import EvaluationSettings

CPU = torch.device("cpu")


def settings(**changes: object) -> EvaluationSettings:
    return EvaluationSettings.model_validate(changes)


@pytest.mark.parametrize(("n", "steps"), [(10, 50), (1000, 157), (100_000, 400)])
def test_steps_are_the_epochs_within_the_bounds(n: int, steps: int) -> None:
    assert training_steps(n, settings(epochs=10, batch_size=64, min_steps=50, max_steps=400)) == steps


def test_the_rate_of_learning_falls_as_it_is_said() -> None:
    steps = [learning_share(step, 1200, "steps") for step in (0, 799, 800, 999, 1000, 1199)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = [learning_share(step, 1200, "cosine") for step in (0, 59, 600, 900, 1200)]
    assert cosine == pytest.approx([1 / 60, 0.994, 0.5, 0.146, 0], abs=1e-3)


def test_a_network_learns_by_the_rate_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.SGD.step

    def spied(self: torch.optim.SGD, *given: Any) -> None:
        seen.append(self.param_groups[0]["lr"])
        step(self, *given)

    monkeypatch.setattr(torch.optim.SGD, "step", spied)
    settings = EvaluationSettings(optimizer="sgd", rate="steps", learning_rate=0.01, min_steps=12, max_steps=12)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    images, labels = np.zeros((4, 16, 16, 3), np.uint8), np.array([0, 1, 0, 1])
    fit(network, images, labels, 16, settings, seed=0, hardware=find_hardware("fp32"))
    assert seen == pytest.approx([0.01] * 8 + [0.001] * 2 + [0.0001] * 2)


def test_input_has_the_scale_and_side_asked_for() -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1] = 255
    images.setflags(write=False)  # as a read-only memory map is
    assert to_input(images, 8, CPU).flatten(1).tolist() == [[-1.0] * 192, [1.0] * 192]
    assert to_input(images, 12, CPU).shape == (2, 3, 12, 12)


def test_whole_images_without_flips_stay_as_they_are() -> None:
    x = torch.rand(5, 3, 8, 8)
    still = settings(crop_area=(1, 1), crop_aspect=(1, 1), flips=False)
    torch.testing.assert_close(augment(x, still, generator(0)), x)


def test_flips_alone_give_the_four_mirror_images() -> None:
    x = torch.rand(1, 3, 8, 8).expand(64, -1, -1, -1)
    out = augment(x, settings(crop_area=(1, 1), crop_aspect=(1, 1)), generator(0))
    mirrored = [x[0], x[0].flip(1), x[0].flip(2), x[0].flip(1, 2)]
    kinds = [[torch.allclose(image, want, atol=1e-5) for want in mirrored] for image in out]
    assert all(sum(kind) == 1 for kind in kinds)
    assert all(sum(column) > 4 for column in zip(*kinds, strict=True))


def test_crops_stay_inside_and_keep_their_area() -> None:
    side = 32
    ramp = torch.linspace(-1 + 1 / side, 1 - 1 / side, side)  # the pixel's own coordinate
    x = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), torch.ones(side, side)])
    out = augment(x.expand(200, -1, -1, -1), settings(crop_area=(0.5, 0.6), crop_aspect=(0.8, 1.25)), generator(0))
    steps = side - 1
    width = (out[:, 0, 0, -1] - out[:, 0, 0, 0]).abs() / 2 * side / steps
    height = (out[:, 1, -1, 0] - out[:, 1, 0, 0]).abs() / 2 * side / steps
    assert ((width * height > 0.49) & (width * height < 0.61)).all()
    assert ((width / height > 0.79) & (width / height < 1.26)).all()
    assert (out[:, :2].abs() <= 1).all()
    assert (out[:, 2] - 1).abs().max() < 1e-5


def test_augmentation_follows_its_seed_and_leaves_the_global_state() -> None:
    x = torch.rand(4, 3, 8, 8)
    before = torch.get_rng_state()
    one, same, other = (augment(x, settings(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_repeatable_gives_the_global_state_back() -> None:
    before = torch.get_rng_state()
    draws = []
    for seed in (3, 3, 4):
        with repeatable(seed, CPU):
            draws.append(torch.rand(1).item())
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(before, torch.get_rng_state())


def test_compiled_steps_teach_the_same() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    labels, learned = np.arange(8) % 2, []
    for compiled in (False, True):
        wanted = settings(compile=compiled, min_steps=3, max_steps=3, batch_size=4)
        with repeatable(0, CPU):
            network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2), torch.nn.ReLU())
            fit(network, images, labels, 16, wanted, seed=0, hardware=find_hardware("fp32"))
        learned.append(torch.cat([weight.flatten() for weight in network.parameters()]))
    torch.testing.assert_close(learned[1], learned[0], atol=2e-3, rtol=0)
    assert (learned[0] - learned[1]).abs().mean() < 1e-5


def test_without_a_compiler_it_says_so() -> None:
    import torch._inductor.config as compiling

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2), torch.nn.ReLU())
    images, labels = np.zeros((4, 16, 16, 3), np.uint8), np.array([0, 1, 0, 1])
    torch.compiler.reset()
    without = compiling.patch({"cpp.cxx": (None, "/nowhere"), "force_disable_caches": True})
    with without, pytest.raises(EvaluationError, match=r"No working C\+\+ compiler.*leave out evaluation\.compile"):
        fit(network, images, labels, 16, settings(compile=True), seed=0, hardware=find_hardware("fp32"))
