"""In-painting: what is known of an image stays, the rest is drawn."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from terradistill.models.parameterisation import Parameterisation
from terradistill.sampling.sampler import Guidance, Predict, Step
from terradistill.seeding import derive, noise


def keep_known(
    known: Tensor, drawn: Tensor, schedule: Parameterisation, *, seeds: Sequence[int] = (), repeats: int = 1
) -> Guidance:
    """Every prediction is told the truth where it is known; solvers carry it from noise to the image. [ours]

    Put it last in the list. Taking a step, adding noise again and repeating it lets what is drawn settle on what is
    around it (RePaint, Lugmayr et al. 2022, goes back and forth over several steps at once).

    Args:
        known: scaled latents float (N, C, h, w).
        drawn: float (N, 1, h, w), 1 where an image is drawn and 0 where it stays; between, a share of either.
        schedule: the generator's.
        seeds: N seeds, of the fresh noise.
        repeats: how often each step is taken; 1 takes no fresh noise.
    """

    def guide(predict: Predict) -> Predict:
        def guided(step: Step) -> tuple[Tensor, Tensor]:
            share, truth = (each[step.rows].to(step.z) for each in (drawn, known))
            t = step.t.round().long()
            for again in range(repeats - 1, -1, -1):
                z, output = predict(step)
                output = schedule.output(z, truth + share * (schedule.z0(z, output, t) - truth), t)
                if again:
                    fresh = noise([derive(seeds[int(row)], step.index, again) for row in step.rows], z.shape[1:])
                    step = replace(
                        step, z=_once_more(z, output, t, torch.tensor(round(step.after)), fresh.to(z), schedule)
                    )
            return z, output

        return guided

    return guide


def _once_more(z: Tensor, output: Tensor, t: Tensor, s: Tensor, fresh: Tensor, schedule: Parameterisation) -> Tensor:
    """One DDIM step from t to s, and back to t by fresh noise."""
    z_s = schedule.add_noise(schedule.z0(z, output, t), schedule.noise(z, output, t), s)
    kept = (schedule.alphas_cumprod[t] / schedule.alphas_cumprod[s]).to(z)
    return kept.sqrt() * z_s + (1 - kept).sqrt() * fresh
