"""Conversions between ε, v and the clean latent, in float64."""

import pytest
import torch

from terradistill.errors import GeneratorError
from terradistill.models.parameterisation import KINDS, Parameterisation

ALPHAS = torch.linspace(0.9999, 0.0047, 1000, dtype=torch.float64)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    z0 = torch.randn(5, 4, 8, 8, generator=rng, dtype=torch.float64)
    noise = torch.randn(5, 4, 8, 8, generator=rng, dtype=torch.float64)
    return z0, noise, torch.tensor([0, 10, 400, 900, 999])


@pytest.mark.parametrize("kind", KINDS)
def test_conversions_round_trip(kind: str, pair: tuple[torch.Tensor, ...]) -> None:
    z0, noise, t = pair
    schedule = Parameterisation(ALPHAS, kind)
    z_t, target = schedule.add_noise(z0, noise, t), schedule.target(z0, noise, t)
    torch.testing.assert_close(schedule.z0(z_t, target, t), z0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.noise(z_t, target, t), noise, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(schedule.output(z_t, z0, t), target, rtol=1e-7, atol=1e-7)


def test_velocity_is_the_derivative_along_the_angle(pair: tuple[torch.Tensor, ...]) -> None:
    # With cos φ = √ᾱ, z(φ) = cos φ z0 + sin φ ε and v = dz/dφ (Salimans & Ho 2022, appendix D).
    z0, noise, t = pair
    phi = ALPHAS[t].sqrt().arccos().view(-1, 1, 1, 1)
    h = 1e-6
    slope = ((phi + h).cos() * z0 + (phi + h).sin() * noise - (phi - h).cos() * z0 - (phi - h).sin() * noise) / (2 * h)
    torch.testing.assert_close(
        Parameterisation(ALPHAS, "v_prediction").target(z0, noise, t), slope, rtol=1e-6, atol=1e-6
    )


def test_min_snr_weighs_errors_of_the_clean_latent_by_the_clipped_ratio() -> None:
    # As errors of z0, ε errors are SNR times and v errors SNR + 1 times larger.
    t = torch.tensor([5, 200, 700, 990])
    snr = ALPHAS[t] / (1 - ALPHAS[t])
    for kind, factor in (("epsilon", snr), ("v_prediction", snr + 1), ("sample", torch.ones_like(snr))):
        weight = Parameterisation(ALPHAS, kind).loss_weight(t, 5.0)
        expected = factor.clamp(max=5.0) if kind == "v_prediction" else snr.clamp(max=5.0)
        torch.testing.assert_close(weight * factor, expected)
        assert Parameterisation(ALPHAS, kind).loss_weight(t, None).tolist() == [1.0] * 4


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(GeneratorError, match="'score'"):
        Parameterisation(ALPHAS, "score")
