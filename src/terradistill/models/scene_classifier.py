"""A trained classifier of scenes: a plain backbone, its classes, and the temperature that makes it honest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from terradistill.errors import EvaluationError, reason
from terradistill.models.downstream import build_network
from terradistill.models.places import LEARNED_FROM

STATISTICS = ("mean", "std")
KIND = "terradistill scene classifier"
HUB = "hub:"  # before the names of networks that `build_network` asks the hub for


@dataclass(frozen=True)
class SceneClassifier:
    """A network and what it needs to be used.

    Attributes:
        network: images (n, 3, side, side) in [-1, 1] to logits (n, classes); nothing of its training is left in it.
        name: of the network, as `build_network` takes it.
        classes: in the order of the logits.
        readable: class -> words.
        resolution: side that it sees, pixels.
        temperature: by which logits are divided before they become probabilities.
        about: how it was trained, for whoever asks.
        learned_from: hashes of the scenes that it has learned from; a file beside the others.
    """

    network: nn.Module
    name: str
    classes: tuple[str, ...]
    readable: Mapping[str, str]
    resolution: int
    temperature: float = 1.0
    about: Mapping[str, Any] = field(default_factory=dict)
    learned_from: frozenset[str] = frozenset()

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`; of a network from the hub what it is built of, in `network/`."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "kind": KIND,
            "network": self.name,
            # Pretrained bodies want pixels in the scale that they were trained with.
            **{key: getattr(self.network, key).flatten().tolist() for key in STATISTICS if hasattr(self.network, key)},
            "classes": self.classes,
            "readable": dict(self.readable),
            "resolution": self.resolution,
            "temperature": self.temperature,
            "about": dict(self.about),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / LEARNED_FROM).write_text(json.dumps({"sha256": sorted(self.learned_from)}) + "\n", encoding="utf-8")
        state = {key: value.detach().cpu().contiguous() for key, value in self.network.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        if self.name.startswith(HUB):
            body: Any = self.network.body
            built_of = {key: value for key, value in body.config.to_dict().items() if not key.startswith("_")}
            (folder / "network").mkdir(exist_ok=True)
            (folder / "network" / "config.json").write_text(json.dumps(built_of, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def located(source: str | Path) -> Path:
        """The folder of a classifier: itself, or `model/` in that of a run."""
        folder = Path(source)
        inside = folder / "model"
        return inside if not (folder / "config.json").is_file() and (inside / "config.json").is_file() else folder

    @classmethod
    def load(cls, source: str | Path) -> "SceneClassifier":
        """Open a classifier folder, or a run folder that holds one.

        Raises:
            EvaluationError: there is none, or it is damaged.
        """
        folder = cls.located(source)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if not isinstance(config, dict) or config.get("kind") != KIND:
                raise ValueError("its config.json is of something else")
            name, own = str(config["network"]), folder / "network"
            named = f"{HUB}{own}" if name.startswith(HUB) and own.is_dir() else name  # no hub is needed to open it
            network = build_network(named, len(config["classes"]), config["resolution"])
            network.load_state_dict(load_file(folder / "model.safetensors"))
            for key in STATISTICS:
                if key in config:
                    getattr(network, key).copy_(torch.tensor(config[key]).view(1, -1, 1, 1))
            learned = frozenset(json.loads((folder / LEARNED_FROM).read_text(encoding="utf-8"))["sha256"])
            return cls(
                network.eval(),
                name,
                tuple(config["classes"]),
                config["readable"],
                config["resolution"],
                config["temperature"],
                config["about"],
                learned,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise EvaluationError(
                f"{source} is no classifier ({reason(error)}): give the folder of a run of terradistill classify train."
            ) from error
