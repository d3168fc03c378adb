"""Learned annotators of `controlnet_aux`: HED's soft edges, MLSD's line segments, MiDaS's depth."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.errors import ConfigError, reason

# Name -> the map that it draws, its class in controlnet_aux, and where its weights are on the hub.
DETECTORS = {
    "hed": ("edges", "HEDdetector", "lllyasviel/Annotators"),
    "mlsd": ("lines", "MLSDdetector", "lllyasviel/Annotators"),
    "midas": ("depth", "MidasDetector", "lllyasviel/Annotators"),
}


def require_detector(name: str) -> None:
    """Make sure that what runs a detector is there.

    Raises:
        ConfigError: `controlnet_aux` is not installed.
    """
    if find_spec("controlnet_aux") is None:
        raise ConfigError(f"The detector {name!r} needs controlnet_aux: pip install '.[detectors]'.")


def load_detector(name: str) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """A function from scenes, uint8 (H, W, 3), to grey maps, uint8 (H, W).

    Raises:
        ConfigError: `controlnet_aux` is not installed or broken, or its weights cannot be fetched.
    """
    require_detector(name)
    try:
        import controlnet_aux
    except Exception as error:  # its own parts may not fit together: whatever they raise
        raise ConfigError(
            f"controlnet_aux does not load ({reason(error)}): install it anew, pip install '.[detectors]'."
        ) from error

    _, kind, source = DETECTORS[name]
    try:
        detector: Any = getattr(controlnet_aux, kind).from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The weights of {name!r} ({source}) cannot be fetched ({reason(error)}): check the network."
        ) from error

    def detect(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        found = detector(
            Image.fromarray(image), detect_resolution=max(512, min(height, width)), image_resolution=min(height, width)
        )
        return np.asarray(found.convert("L").resize((width, height), Image.Resampling.BILINEAR))

    return detect
