"""What learns beside a denoiser learns to heed the maps and pictures of its own scenes, in any view."""

import numpy as np
import pytest
import torch

from terradistill.config import load_settings
from terradistill.data.views import N_VIEWS, view
from terradistill.hardware import Hardware
from terradistill.models.autoencoder import build_vae
from terradistill.models.content_encoder import TOKENS, ContentEncoder
from terradistill.models.generator import Generator, build_generator
from terradistill.models.map_adapter import MapAdapter
from terradistill.settings import Settings
from terradistill.training.diffusion import Noising, denoising_loss, train_diffusion
from terradistill.training.latents import LatentCache
from terradistill.training.maps import MapTable
from terradistill.training.told import Told

N, SIDE = 48, 32
EDGES = ("edges",)


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """Blocks that lie otherwise in each scene: bool (N, 16, 16), as large as latents are."""
    rng, masks = np.random.default_rng(0), np.zeros((N, 16, 16), bool)
    for mask, (y, x) in zip(masks, rng.integers(0, 9, (N, 2)), strict=True):
        mask[y : y + 6, x : x + 8] = True
    return masks


def built(tiny: Settings) -> Generator:
    vae = build_vae(tiny.autoencoder, SIDE, 0).eval()
    return build_generator(tiny.diffusion, vae, SIDE, ["a field"], 0)


def cache_of(means: torch.Tensor) -> LatentCache:
    """Latents (N, C, 16, 16) in all their views, with no deviation."""
    seen = torch.stack([view(means, number) for number in range(N_VIEWS)], 1)
    return LatentCache(torch.stack([seen, torch.full_like(seen, 1e-3)], 2).half())


def loss_of(generator: Generator, z0: torch.Tensor, told: Told, cpu: Hardware, adapter: str | None) -> float:
    schedule = generator.parameterisation
    noising = Noising.draw(schedule, z0, torch.Generator().manual_seed(0))
    return float(denoising_loss(generator, schedule, z0, told, noising, cpu, None, adapter))


def test_an_adapter_learns_to_follow_the_maps_of_its_scenes(masks: np.ndarray, cpu: Hardware) -> None:
    tiny = load_settings(["tiny"])
    generator = built(tiny)
    channels = generator.latent_shape[0]
    cache = cache_of(torch.where(torch.from_numpy(masks)[:, None], 1.5, -0.5).expand(-1, channels, -1, -1))
    planes = 255 * np.kron(masks, np.ones((2, 2), bool))[:, None].astype(np.uint8)
    generator.map_adapter = MapAdapter(generator.unet, generator.factor, (16, 16), EDGES)
    wanted = tiny.adapter.model_copy(
        update={"steps": 100, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 10, "ema_decay": 0.9}
    )
    learned, unseen = slice(0, 40), slice(40, N)
    train_diffusion(
        generator,
        LatentCache(cache.data[learned]),
        [["a field"]] * 40,
        wanted.of(tiny.diffusion),
        conditions=MapTable(planes[learned], EDGES),
        parts=("unet", "map_adapter"),  # a denoiser that has learned nothing yet draws nothing, whatever it is shown
        seed=0,
        hardware=cpu,
    )
    z0, tokens = cache.means(unseen), generator.tokens(["a field"] * (N - 40))
    table = MapTable(planes[unseen], EDGES)
    index, as_they_are = np.arange(N - 40), torch.zeros(N - 40, dtype=torch.int64)
    losses = {}
    for name, of in (("own", index), ("another's", np.roll(index, 3))):
        told = Told(tokens, None, table.whole(of, as_they_are))
        losses[name] = loss_of(generator, z0, told, cpu, "map_adapter")
    losses["none"] = loss_of(generator, z0, Told(tokens), cpu, None)
    assert losses["own"] < 0.8 * losses["none"], losses
    assert losses["own"] < 0.8 * losses["another's"], losses


def test_a_content_encoder_learns_what_scenes_look_like(cpu: Hardware) -> None:
    tiny = load_settings(["tiny"])
    generator = built(tiny)
    channels, width = generator.latent_shape[0], int(generator.text_encoder.config.hidden_size)
    looks = 1.5 * torch.randn(N, channels, 1, 1, generator=torch.Generator().manual_seed(0))
    cache = cache_of(looks.expand(-1, -1, 16, 16))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator.content_encoder = ContentEncoder(channels, width, generator.time_width)
        train_diffusion(
            generator,
            LatentCache(cache.data[:40]),
            [["a field"]] * 40,
            tiny.diffusion.model_copy(update={"steps": 160, "learning_rate": 3e-3, "caption_dropout": 0.1}),
            parts=("unet", "content_encoder"),
            seed=0,
            hardware=cpu,
        )
    z0, tokens = cache.means(slice(40, N)), generator.tokens(["a field"] * (N - 40))
    shown = torch.ones(N - 40, dtype=torch.bool)
    own, other = (
        loss_of(generator, z0, Told(tokens, content=content, picture=shown), cpu, None)
        for content in (z0, z0.roll(3, 0))
    )
    assert own < 0.9 * other, (own, other)


def test_a_picture_is_four_tokens_and_a_vector_that_its_strength_weakens() -> None:
    torch.manual_seed(0)
    encoder, latents = ContentEncoder(4, 24, 32), torch.randn(3, 4, 16, 16)
    assert not encoder.beside_time(encoder(latents)).any(), "a fresh one joins the time embedding with nothing"
    with torch.no_grad():
        encoder.none.normal_()
        encoder.to_time.weight.normal_()
    whole, none = encoder(latents), encoder.none.expand(3, -1, -1)
    assert whole.shape == (3, TOKENS, 24)
    assert torch.allclose(encoder(latents, 0.5), (whole + none) / 2, atol=1e-6)
    shares = encoder(latents, torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(shares[0], none[0]), "no picture"
    assert torch.allclose(shares[2], 2 * whole[2] - none[2], atol=1e-5)
    assert not encoder.beside_time(none).any(), "no picture adds exactly nothing"
    assert torch.allclose(encoder.beside_time(shares)[2], 2 * encoder.beside_time(whole)[2], atol=1e-4)
    assert not torch.allclose(whole[0], whole[1])
