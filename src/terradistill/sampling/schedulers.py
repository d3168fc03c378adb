"""Schedulers: three by a short name, and others of diffusers by the name of their class."""

import inspect
from typing import Any

from terradistill.settings import Scheduler

_SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    "dpm++": ("DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
    "ddim": ("DPMSolverMultistepScheduler", {"solver_order": 1, "algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def make_scheduler(base: Any, name: Scheduler) -> Any:
    """A fresh diffusers scheduler with the noise schedule of `base`.

    What the generator's own scheduler may bring beside its noise schedule (noise of its own, other times) is set back.
    """
    import diffusers

    kind, extra = _SHORT.get(name, (name, {}))
    return getattr(diffusers, kind).from_config(
        base.config, timestep_spacing="trailing", use_karras_sigmas=False, **extra
    )


def takes_generators(solver: Any) -> bool:
    """Whether its steps may draw noise."""
    return "generator" in inspect.signature(solver.step).parameters
