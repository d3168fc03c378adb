"""What a frame says of another date depends on which it is."""

import numpy as np
import pytest
import torch

from terradistill.config import load_settings
from terradistill.data.sensor import Sensor
from terradistill.hardware import Hardware
from terradistill.models.autoencoder import build_vae
from terradistill.models.frame_adapter import FrameAdapter
from terradistill.models.generator import build_generator
from terradistill.training.diffusion import Noising, denoising_loss, train_diffusion
from terradistill.training.frames import SEASONAL, FrameTable, OtherDay, OtherSeasons, seasonal_view
from terradistill.training.latents import LatentCache, encode_scenes
from terradistill.training.told import Told

SIDE, LEARNED, UNSEEN, SEED = 8, 60, 200, 0
PLAIN = {"blur": 0, "gain": 0, "offset": 0, "noise": 0}
SIMULATIONS = {
    "days": (OtherDay(Sensor(2, **PLAIN), days=180.0, shift=0, clouds=0), 2, (("days",), ("month",))),
    "months": (OtherSeasons(Sensor(1, **PLAIN), frames=1, clouds=0), 1, (("month",), ("month",))),
}


@pytest.mark.parametrize("told", SIMULATIONS)
def test_the_right_dates_tell_more_of_unseen_scenes_than_shuffled_ones(told: str) -> None:
    """Water that is dark in a frame may be dark itself, or seen in winter."""
    simulation, scale, fields = SIMULATIONS[told]
    cpu, tiny, rng = Hardware(torch.device("cpu")), load_settings(["tiny"]), np.random.default_rng(SEED)
    light = rng.uniform(0.2, 1.0, (LEARNED + 20, 1, 1, 1))
    pixels = (255 * np.array([0.6, 0.7, 1.0]) * light).astype(np.uint8).repeat(SIDE, 1).repeat(SIDE, 2)
    settings = tiny.diffusion.model_copy(
        update={
            "block_channels": (32,), "attention_levels": (False,), "layers_per_block": 1, "batch_size": 16,
            "steps": 150, "learning_rate": 3e-3, "ema_decay": 0.9,
        }
    )  # fmt: skip
    generator = build_generator(settings, build_vae(tiny.autoencoder, SIDE, 0).eval(), SIDE, ["a lake"], SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        generator.frame_adapter = FrameAdapter(
            generator.unet,
            generator.factor,
            bands="RGB",
            scale=scale,
            temporal=told == "months",
            days=180.0,
            told=fields,
        )
    frames = FrameTable(pixels, simulation, generator.frame_adapter, seasonal=True)
    latents = encode_scenes(generator, pixels, n_views=1, look=lambda x, k: seasonal_view(x, SEASONAL[k]), hardware=cpu)
    train_diffusion(
        generator, LatentCache(latents.data[:LEARNED]), [["a lake"]] * LEARNED, settings,
        parts=("unet", "frame_adapter"), conditions=frames, seed=SEED, hardware=cpu,
    )  # fmt: skip

    index = np.resize(np.arange(LEARNED, len(pixels)), UNSEEN)
    seen, dates, target = frames.draw(index, torch.zeros(UNSEEN).long(), torch.Generator().manual_seed(1))
    z0, tokens, schedule = latents.means(index), generator.tokens(["a lake"] * UNSEEN), generator.parameterisation
    noising = Noising.draw(schedule, z0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        right, shuffled = (
            float(denoising_loss(generator, schedule, z0, said, noising, cpu, None, "frame_adapter"))
            for said in (Told(tokens, condition=(seen, known, target)) for known in (dates, dates.roll(1, 0)))
        )
    assert right < 0.95 * shuffled
