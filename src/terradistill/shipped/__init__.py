"""What comes with the package: a pretrained generator, and scenes that it drew to try things on."""

from pathlib import Path

_HERE = Path(__file__).parent

GENERATORS = {"base-128": _HERE / "base-128"}
"""Generator folders by name (docs/models/base-128.md)."""

ENHANCERS: dict[str, dict[str, Path]] = {
    "base-128": {"super-resolve": _HERE / "base-128-super-resolve", "fuse": _HERE / "base-128-fuse"}
}
"""Of a generator, by its name, folders with what enhances beside it, by the task."""

SCENES = {"sample": _HERE / "sample.zip"}
"""Scene datasets by name."""
