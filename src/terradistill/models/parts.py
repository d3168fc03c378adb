"""Parts of a generator that stock pipelines do not know: a folder each, with `config.json` and `model.safetensors`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from terradistill.errors import GeneratorError, reason

Part = TypeVar("Part", bound=nn.Module)


def save_part(part: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write a module, and what it is built from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
    save_file({key: value.contiguous() for key, value in part.state_dict().items()}, folder / "model.safetensors")


def part_config(folder: Path) -> dict[str, Any]:
    """What a part was built from; empty where that cannot be read, which `load_part` will say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def load_part(build: Callable[..., Part], folder: Path, name: str) -> Part:
    """Open what `save_part` wrote; `build` takes what stands in the configuration.

    Raises:
        GeneratorError: it is damaged.
    """
    try:
        part = build(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        part.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise GeneratorError(
            f"The {name} {folder} cannot be loaded ({reason(error)}): restore it, or remove the folder to use "
            "the generator without it."
        ) from error
    return part
