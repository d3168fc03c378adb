"""Schedulers: four by a short name, and others of diffusers by the name of their class; and where their steps lie."""

import inspect
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from terradistill.errors import ConfigError
from terradistill.settings import GIVEN_TIMES, SamplingSettings, Scheduler

# Karras et al. (2022) go from 80 to 0.002. From 30 on can be seen what scenes differ in as a whole (colour): it adds up
# over the latent, and a leap from pure noise to 10 made them alike. Below 0.02 is hardly any noise. [ours]
RHO, MOST, LEAST = 7.0, 30.0, 0.02

_SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    "dpm++": ("DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
    "sde-dpm++": ("DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    "ddim": ("DPMSolverMultistepScheduler", {"solver_order": 1, "algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
# What a generator's own scheduler may bring beside its noise schedule, set back.
_PLAIN = {
    **dict.fromkeys((f"use_{kind}_sigmas" for kind in ("karras", "exponential", "beta", "flow")), False),
    "use_lu_lambdas": False,
    "timestep_spacing": "trailing",
    "timestep_type": "discrete",
    "interpolation_type": "linear",
}


def make_scheduler(base: Any, name: Scheduler) -> Any:
    """A fresh diffusers scheduler with the noise schedule of `base` and nothing else of it, such as its times."""
    import diffusers

    kind, extra = _SHORT.get(name, (name, {}))
    return getattr(diffusers, kind).from_config(base.config, **_PLAIN, **extra)


def set_steps(solver: Any, wanted: SamplingSettings) -> None:
    """Tell the solver of the settings at which of the noise schedule's times to step, the first being the noisiest.

    Solvers that choose their times themselves, and Heun's, which would leap from pure noise, space them evenly.

    Raises:
        ConfigError: the noise schedule has not so many, or the solver's rounding takes one more than there are.
    """
    steps, most = wanted.steps, len(solver.alphas_cumprod)
    if steps > most:
        raise ConfigError(f"sampling.steps={steps}: this generator's noise schedule has {most} times.")
    if wanted.scheduler not in GIVEN_TIMES:
        solver.set_timesteps(steps)
        if solver.timesteps.min() < 0:
            raise ConfigError(f"sampling.steps={steps}: {wanted.scheduler} miscounts them here: take one less.")
    elif wanted.spacing == "karras":
        solver.set_timesteps(timesteps=karras_times(solver.alphas_cumprod, steps))
    else:
        solver.set_timesteps(timesteps=[round(most - i * most / steps) - 1 for i in range(steps)])


def karras_times(alphas_cumprod: ArrayLike, steps: int) -> list[int]:
    """Times of a noise schedule, falling: its noisiest, and then evenly in the 7th root of σ (Karras et al. 2022).

    σ = √((1−ᾱ)/ᾱ) is the noise beside a signal of unit scale. Evenly in time, a schedule that ends at pure noise spends
    half of its steps where the scene is all there, and none but one or two where its layout comes about.

    Args:
        alphas_cumprod: ᾱ_t for t = 0 … T−1, falling.
        steps: number of times, at most T.
    """
    alpha = np.asarray(alphas_cumprod, np.float64)
    sigma = np.sqrt((1 - alpha) / alpha)
    high, low = (np.clip(bound, sigma[0], sigma[-1]) ** (1 / RHO) for bound in (MOST, LEAST))
    wanted = (np.linspace(high, low, steps - 1) if steps != 2 else (high + low) / 2) ** RHO
    times = np.interp(np.log(wanted), np.log(sigma), np.arange(len(sigma))).round()
    times = np.append(len(sigma) - 1.0, times)
    # Each once, where steps are many.
    order = np.arange(steps)
    times = np.maximum(np.minimum.accumulate(times + order) - order, order[::-1])
    return [int(t) for t in times]


def takes_generators(solver: Any) -> bool:
    """Whether its steps may draw noise."""
    return "generator" in inspect.signature(solver.step).parameters
