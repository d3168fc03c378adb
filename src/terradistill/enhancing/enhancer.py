"""A generator with the frame adapter that a task needs, ready to draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.images import to_float
from terradistill.enhancing.canvas import multiple_of
from terradistill.errors import ConfigError
from terradistill.hardware import Hardware, find_hardware
from terradistill.models.control import Control
from terradistill.models.frame_adapter import FrameAdapter
from terradistill.models.generator import Generator
from terradistill.models.places import locate_generator
from terradistill.settings import Settings
from terradistill.shipped import ENHANCERS, GENERATORS
from terradistill.training.frames import tables


@dataclass(frozen=True)
class Enhancer:
    """What draws.

    Attributes:
        generator: on its device, frozen.
        adapter: its frame adapter.
        hardware: device and precision.
    """

    generator: Generator
    adapter: FrameAdapter
    hardware: Hardware

    @property
    def multiple(self) -> int:
        """See `multiple_of`."""
        return multiple_of(self.generator)

    @property
    def blur(self) -> float:
        """Deviation of the point spread of the sensor that it has learned from, in pixels of a frame."""
        return float(self.adapter.about.get("simulated", {}).get("blur", 0.0))

    def frames(self, images: NDArray[np.uint8]) -> Tensor:
        """Frames float (n, C, H, W) on the device, of images (n, H, W, 3)."""
        return to_float(images).to(self.hardware.device)

    def control(
        self,
        frames: Tensor,
        known: Sequence[Sequence[Mapping[str, float]]],
        target: Sequence[Mapping[str, float]],
    ) -> Control:
        """What the adapter reads off frames (B, T, C, H, W), with what is known of them and of what is drawn."""
        numbers, wanted = (each.to(self.hardware.device) for each in tables(self.adapter, known, target))
        with torch.no_grad(), self.hardware.autocast():
            return self.adapter.control(frames, numbers, wanted)


def open_enhancer(settings: Settings, task: str) -> Enhancer:
    """The generator that the settings name, if it has learned the task, or if what does it comes with the package.

    Raises:
        ConfigError: it has not.
    """
    if settings.generator is None:
        raise ConfigError("There is nothing to draw with: name a generator, such as --generator RUN.")
    generator = Generator.load(settings.generator)
    if generator.frame_adapter is None and (shipped := _shipped(settings.generator, task)) is not None:
        generator.extended(shipped)
    adapter = generator.frame_adapter
    learned: Any = None if adapter is None else adapter.about.get("task")
    if adapter is None or learned != task:
        raise ConfigError(
            f"The generator {settings.generator} has learned to {learned or 'draw alone'}, not to {task}: train one "
            f"with terradistill train enhancer DATA --task {task}, and name its run as --generator."
        )
    hardware = find_hardware(settings.precision)
    return Enhancer(generator.ready(hardware.device, low_memory=settings.sampling.low_memory), adapter, hardware)


def _shipped(generator: str, task: str) -> Path | None:
    """What does a task beside a generator, where both come with the package."""
    at = locate_generator(generator)
    return next((parts.get(task) for name, parts in ENHANCERS.items() if str(GENERATORS[name]) == at), None)
