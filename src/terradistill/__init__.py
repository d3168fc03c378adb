"""TerraDistill: condense a remote-sensing scene dataset into a tiny, realistic, synthetic one.

    import terradistill as td

    settings = td.load_settings(ipc=10)
    result = td.distill("scenes.zip", "runs/first", settings)
    print(result.report)

Names are loaded when they are used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terradistill.config import load_settings, presets
    from terradistill.data.check import check_scenes
    from terradistill.data.scenes import SceneFolder
    from terradistill.data.sources import open_scenes
    from terradistill.data.writing import write_scene_folder
    from terradistill.distillation.audit import audit
    from terradistill.distillation.pipeline import Distilled, distill, train
    from terradistill.distillation.prepare import prepare
    from terradistill.distillation.scoreboard import evaluate
    from terradistill.errors import TerraDistillError
    from terradistill.generation.draw import generate
    from terradistill.generation.orders import Order
    from terradistill.health import doctor
    from terradistill.models.generator import Generator
    from terradistill.settings import Settings

    __version__: str

_HOME = {
    "Distilled": "distillation.pipeline",
    "Generator": "models.generator",
    "Order": "generation.orders",
    "SceneFolder": "data.scenes",
    "Settings": "settings",
    "TerraDistillError": "errors",
    "audit": "distillation.audit",
    "check_scenes": "data.check",
    "distill": "distillation.pipeline",
    "doctor": "health",
    "evaluate": "distillation.scoreboard",
    "generate": "generation.draw",
    "load_settings": "config",
    "open_scenes": "data.sources",
    "prepare": "distillation.prepare",
    "presets": "config",
    "train": "distillation.pipeline",
    "write_scene_folder": "data.writing",
}

__all__ = [
    "Distilled",
    "Generator",
    "Order",
    "SceneFolder",
    "Settings",
    "TerraDistillError",
    "__version__",
    "audit",
    "check_scenes",
    "distill",
    "doctor",
    "evaluate",
    "generate",
    "load_settings",
    "open_scenes",
    "prepare",
    "presets",
    "train",
    "write_scene_folder",
]


def _version() -> str:
    # More than half of what importing the package would take.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("terradistill")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _HOME:
        return getattr(import_module(f"terradistill.{_HOME[name]}"), name)
    raise AttributeError(f"module 'terradistill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
