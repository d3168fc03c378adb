"""What makes drawn images what they are: as long as it is the same, so are they."""

import json
from hashlib import sha256
from typing import Any

import torch

from terradistill.config import flatten
from terradistill.models.generator import Generator
from terradistill.run import FREE
from terradistill.settings import Settings


def asked_for(task: str, settings: Settings, generator: Generator, *sections: str, **more: Any) -> dict[str, Any]:
    """Task, seed, weights, precision, the settings of `sections` that change images, and `more`, as JSON holds them."""
    drawing = {name: getattr(settings, name).model_dump(mode="json") for name in sections}
    told = {key: value for key, value in flatten(drawing).items() if key not in FREE}
    told["precision"] = settings.precision
    return {"task": task, "seed": settings.seed, "generator": _fingerprint(generator), **more, **told}


def _fingerprint(generator: Generator) -> str:
    """A hash of what draws: weights, and how they are used."""
    # What starts with _ says where it came from, and not what it is.
    used = [
        {key: value for key, value in part.config.items() if not key.startswith("_")}
        for part in (generator.scheduler, generator.vae)
    ]
    digest = sha256(json.dumps(used, sort_keys=True, default=str).encode())
    for part in generator.networks:
        for value in part.state_dict().values():
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
