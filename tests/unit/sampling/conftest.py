"""A denoiser that is known in closed form: the data are Gaussian."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from terradistill.hardware import Hardware
from terradistill.models.generator import noise_schedule
from terradistill.models.parameterisation import Parameterisation

SHAPE = (2, 4, 4)


class GaussianUnet:
    """The exact prediction for data N(mean, std²); the prompt's embedding is the mean."""

    def __init__(self, schedule: Parameterisation, std: float) -> None:
        self.schedule, self.std, self.batch_sizes = schedule, std, list[int]()
        self.config = SimpleNamespace(num_class_embeds=None)

    def __call__(self, z: Tensor, t: Tensor, text: Tensor, class_labels: Tensor | None = None) -> SimpleNamespace:
        assert (class_labels is None) == (self.config.num_class_embeds is None)
        self.batch_sizes.append(len(z))
        mean = text[:, 0, 0].view(-1, 1, 1, 1)
        t = t.round().long()
        alpha = self.schedule.alphas_cumprod[t].to(z)
        gain = self.std**2 * alpha.sqrt() / (alpha * self.std**2 + 1 - alpha)
        z0 = mean + gain * (z - alpha.sqrt() * mean)
        noise = (z - alpha.sqrt() * z0) / (1 - alpha).sqrt()
        return SimpleNamespace(sample=self.schedule.target(z0, noise, t))


def gaussian_generator(kind: str = "v_prediction", std: float = 0.5) -> Any:
    # Noise prediction has no schedule that ends at pure noise; this one ends as near to it as makes no difference.
    nearly = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type=kind)
    scheduler = nearly if kind == "epsilon" else noise_schedule(kind, 2.0)
    schedule = Parameterisation.of(scheduler)
    return SimpleNamespace(
        unet=GaussianUnet(schedule, std), scheduler=scheduler, latent_shape=SHAPE, parameterisation=schedule
    )


@pytest.fixture
def cpu() -> Hardware:
    return Hardware(torch.device("cpu"))
