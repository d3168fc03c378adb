"""What comes with the package: a pretrained generator, and scenes that it drew to try things on."""

from pathlib import Path

_HERE = Path(__file__).parent

GENERATORS = {"base-128": _HERE / "base-128"}
"""Generator folders by name (docs/models/base-128.md)."""

SCENES = {"sample": _HERE / "sample.zip"}
"""Scene datasets by name."""
