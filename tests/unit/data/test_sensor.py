"""A coarser sensor, other months and clouds: simulated as they say."""

import pytest
import torch

from terradistill.data.sensor import MIDSUMMER, Sensor, blurred, in_month, shifted
from terradistill.data.weather import cloud_cover, clouded

CLEAN = {"gain": 0.0, "offset": 0.0, "noise": 0.0}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_sensor_keeps_the_mean_and_loses_detail() -> None:
    images = torch.rand(3, 3, 32, 32, generator=rng()) * 2 - 1
    seen = Sensor(scale=4, **CLEAN).see(images, rng())
    assert seen.shape == (3, 3, 8, 8)
    torch.testing.assert_close(seen.mean((2, 3)), images.mean((2, 3)), atol=0.02, rtol=0)
    assert seen.std() < 0.3 * images.std()
    plain = Sensor(scale=4, blur=0.0, **CLEAN).see(images, rng())
    torch.testing.assert_close(plain, torch.nn.functional.avg_pool2d(images, 4))
    assert torch.equal(Sensor(scale=1, blur=0.0, **CLEAN).see(images, rng()), images)


def test_radiometry_and_noise_are_of_the_deviation_that_is_asked_for() -> None:
    flat = torch.full((4000, 1, 4, 4), 0.5)
    bright = Sensor(scale=1, blur=0, gain=0, offset=0.05, noise=0).see(flat, rng()).mean((1, 2, 3))
    assert float(bright.std()) == pytest.approx(0.05, rel=0.05)
    steep = Sensor(scale=1, blur=0, gain=0.1, offset=0, noise=0).see(flat, rng()).mean((1, 2, 3))
    assert float(steep.std()) == pytest.approx(0.05, rel=0.05)
    grainy = Sensor(scale=1, blur=0, gain=0, offset=0, noise=0.02).see(flat, rng())
    assert float(grainy.std()) == pytest.approx(0.02, rel=0.05)


def test_a_blur_is_a_gaussian_of_its_deviation() -> None:
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    found = blurred(point, 2.0)[0, 0]
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    offset = torch.arange(41.0) - 20
    assert float((found.sum(0) * offset**2).sum()) == pytest.approx(4, rel=0.03)
    assert torch.equal(blurred(point, 0.0), point)


def test_a_shift_moves_down_and_right() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[..., 4, 4] = 1
    moved = shifted(image, torch.tensor([[2.0, -1.0]]))
    assert moved[0, 0].argmax() == 6 * 9 + 3
    assert torch.allclose(shifted(image, torch.zeros(1, 2)), image, atol=1e-6)


def test_months_change_what_is_green_and_midsummer_nothing() -> None:
    green, grey = torch.tensor([-0.6, 0.2, -0.7]), torch.tensor([0.1, 0.1, 0.1])
    images = torch.stack([green, grey]).view(2, 3, 1, 1).expand(-1, -1, 4, 4)
    summer = in_month(images, torch.full((2,), MIDSUMMER))
    torch.testing.assert_close(summer, images.contiguous(), atol=1e-5, rtol=0)
    winter = in_month(images, torch.full((2,), 1.0))
    redder = (winter[:, 0] - winter[:, 1]) - (images[:, 0] - images[:, 1])
    assert redder[0].mean() > 0.3, "leaves turn brown"
    assert abs(float(redder[1].mean())) < 0.1, "roofs do not"
    assert winter[1].mean() < images[1].mean(), "the light fades"
    torch.testing.assert_close(in_month(images, torch.full((2,), 13.0)), winter)


@pytest.mark.parametrize("cover", [0.0, 0.2, 0.6, 1.0])
def test_clouds_hide_as_much_as_is_asked_for(cover: float) -> None:
    thick = cloud_cover(6, 48, 64, cover, rng(3))
    assert thick.shape == (6, 1, 48, 64)
    assert 0 <= float(thick.min()) <= float(thick.max()) <= 1
    assert float((thick >= 0.5).float().mean()) == pytest.approx(cover, abs=0.02)
    images = torch.rand(6, 3, 48, 64, generator=rng()) * 2 - 1
    under = clouded(images, thick)
    free = (thick == 0).expand_as(images)
    assert torch.equal(under[free], images[free])
    assert torch.allclose(under[(thick == 1).expand_as(images)], torch.tensor(0.9))


def test_a_single_pixel_may_have_clouds() -> None:
    assert float(cloud_cover(1, 1, 1, 0.5, rng()).isfinite().all()) == 1
