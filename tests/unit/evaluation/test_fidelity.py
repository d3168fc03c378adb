"""The kernel distance against its definition and its limits."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from terradistill.errors import EvaluationError
from terradistill.evaluation import fidelity
from terradistill.evaluation.fidelity import Inception, Lpips, features, kid

PACKAGE = [0.04150565341114998, 0.04133917763829231]


def draw(n: int, shift: float, seed: int) -> torch.Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)) + shift


def test_kid_is_the_mean_over_pairs() -> None:
    a, b = draw(5, 0, 0).double(), draw(4, 1, 1).double()

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 8 + 1) ** 3)

    within_a = np.mean([k(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(4) for j in range(4) if i != j])
    across = np.mean([k(x, y) for x in a for y in b])
    assert kid(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_kid_is_unbiased_and_grows_with_distance() -> None:
    same = [kid(draw(100, 0, 2 * i), draw(100, 0, 2 * i + 1)) for i in range(50)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 50**0.5
    assert min(same) < 0 < max(same)
    near, far = kid(draw(100, 0, 1), draw(100, 0.5, 2)), kid(draw(100, 0, 1), draw(100, 1, 2))
    assert max(same) < near < far


def test_features_do_not_depend_on_the_batches() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    network, cpu = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), torch.device("cpu")
    torch.testing.assert_close(features(network, images, cpu, 3), features(network, images, cpu, 7))


@pytest.mark.parametrize("network", [Inception, Lpips])
def test_missing_weights_say_what_to_install(network: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "find_spec", lambda _: None)
    with pytest.raises(EvaluationError, match="metrics"):
        network()


def test_inception_has_its_2048_features() -> None:
    assert Inception()(torch.zeros(2, 3, 64, 64)).shape == (2, 2048)


def test_lpips_is_zero_for_the_same_and_grows_with_what_the_eye_sees() -> None:
    lpips, rng = Lpips(), torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand(2, 3, 16, 16, generator=rng) * 2 - 1, (64, 64), mode="bicubic").clamp(-1, 1)
    noise = torch.randn(x.shape, generator=rng)
    grainy, noisy = ((x + strength * noise).clamp(-1, 1) for strength in (0.1, 0.5))
    assert lpips(x, x).abs().max() == 0
    torch.testing.assert_close(lpips(x, noisy), lpips(noisy, x))
    assert (lpips(x, grainy) < lpips(x, noisy)).all()
    assert (lpips(x, x.roll(1, -1)) < lpips(x, x.flip(0))).all(), "a small shift is no other scene"


def test_lpips_is_that_of_the_package() -> None:
    # Made once with stlpips-pytorch 0.0.2's own code: net="alex", variant="shift_tolerant".
    rng = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 2, 3, 64, 64, generator=rng) * 2 - 1
    torch.testing.assert_close(Lpips()(x, y), torch.tensor(PACKAGE), atol=1e-5, rtol=1e-4)
