import pytest
import torch
import torch.nn.functional as F

from terradistill.models.autoencoder import build_vae, fold_statistics, norm_groups
from terradistill.settings import AutoencoderSettings

SETTINGS = AutoencoderSettings(block_channels=(16, 32))


def scenes() -> torch.Tensor:
    """Smooth images whose colours say nothing about their brightness: (16, 3, 32, 32) in [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand((16, 3, 5, 5), generator=rng) * 2 - 1
    fine = torch.randn((16, 3, 32, 32), generator=rng) * 0.1
    return (F.interpolate(coarse, 32, mode="bicubic") + fine).clamp(-1, 1)


@pytest.mark.parametrize(
    ("channels", "layers"), [((8,), 1), ((16, 32), 1), ((24, 48), 2), ((32, 64, 128), 1), ((32, 64, 64, 64), 2)]
)
def test_a_fresh_autoencoder_makes_thumbnails_in_colour(channels: tuple[int, ...], layers: int) -> None:
    vae = build_vae(AutoencoderSettings(block_channels=channels, layers_per_block=layers), 32, 0).eval()
    x, factor = scenes(), 2 ** (len(channels) - 1)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
        y = vae.decode(z).sample
    thumbnail = F.avg_pool2d(x, factor)
    error = (y - F.interpolate(thumbnail, scale_factor=factor)).square().mean()
    assert z.shape[2:] == thumbnail.shape[2:]
    assert error < 0.02 * x.square().mean()


def test_two_latent_channels_have_no_room_for_a_thumbnail_and_still_build() -> None:
    vae = build_vae(AutoencoderSettings(block_channels=(8, 16), latent_channels=2), 32, 0)
    assert vae.encode(scenes()).latent_dist.mean.shape == (16, 2, 16, 16)


def test_a_group_of_the_normalisation_has_eight_channels_or_more() -> None:
    assert [norm_groups(widths) for widths in ((32, 64, 128), (8,), (24, 48), (512, 256))] == [4, 1, 1, 32]


def test_the_same_seed_builds_the_same_weights() -> None:
    one, two, other = (build_vae(SETTINGS, 32, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["encoder.conv_in.weight"], other["encoder.conv_in.weight"])


def test_whitening_changes_the_latents_and_not_the_images() -> None:
    vae = build_vae(SETTINGS, 32, 0).double().eval()
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        decoded = vae.decode(before.mean).sample
        mean, std = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
        fold_statistics(vae, mean, std)
        after = vae.encode(images).latent_dist
        torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close(after.std * std.view(1, -1, 1, 1), before.std)
        torch.testing.assert_close(vae.decode(after.mean).sample, decoded)
