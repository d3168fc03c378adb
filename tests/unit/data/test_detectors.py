"""Learned annotators are loaded as controlnet_aux wants it, and missed in one sentence."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from terradistill.data import detectors, maps
from terradistill.data.detectors import load_detector
from terradistill.errors import ConfigError


class Detector:
    """What stands in for one of controlnet_aux: it draws the red channel, larger."""

    asked: str = ""

    @classmethod
    def from_pretrained(cls, source: str) -> "Detector":
        if source == "nowhere":
            raise OSError("no network")
        cls.asked = source
        return cls()

    def __call__(self, image: Image.Image, *, detect_resolution: int, image_resolution: int) -> Image.Image:
        assert detect_resolution == 512
        return image.getchannel("R").resize((2 * image_resolution, 2 * image_resolution))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """controlnet_aux, as far as it is used."""
    module: Any = SimpleNamespace(HEDdetector=Detector, MLSDdetector=Detector, MidasDetector=Detector)
    monkeypatch.setitem(sys.modules, "controlnet_aux", module)
    monkeypatch.setattr(detectors, "find_spec", lambda _: object())


@pytest.mark.usefixtures("installed")
def test_a_detector_draws_at_the_size_of_the_scene() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    drawn = load_detector("midas")(image)
    assert (drawn.shape, drawn.dtype) == ((24, 24), np.uint8)
    assert Detector.asked == "lllyasviel/Annotators"
    assert np.corrcoef(drawn.ravel(), image[..., 0].ravel())[0, 1] > 0.9


@pytest.mark.usefixtures("installed")
def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(detectors.DETECTORS, "hed", ("edges", "HEDdetector", "nowhere"))
    with pytest.raises(ConfigError, match="cannot be fetched"):
        load_detector("hed")


def test_without_the_package_it_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"\.\[detectors\]"):
        load_detector("hed")


def test_detectors_are_asked_for_beside_their_map() -> None:
    assert maps.parse_maps(["edges:hed", "depth:midas"]) == {"edges": "hed", "depth": "midas"}
    for odd in ("edges:midas", "lines:best"):
        with pytest.raises(ConfigError, match="draws"):
            maps.parse_maps([odd])


def test_a_broken_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)  # its import fails
    monkeypatch.setattr(detectors, "find_spec", lambda _: object())
    with pytest.raises(ConfigError, match="controlnet_aux does not load"):
        load_detector("hed")
