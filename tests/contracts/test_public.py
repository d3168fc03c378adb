import subprocess
import sys

import terradistill as td


def test_the_public_names() -> None:
    assert td.__all__ == sorted(td.__all__)
    assert {
        "distill",
        "train",
        "evaluate",
        "prepare",
        "doctor",
        "load_settings",
        "open_scenes",
        "SceneFolder",
        "Generator",
    } <= set(td.__all__)
    for name in td.__all__:
        assert getattr(td, name) is not None
        assert name == "__version__" or getattr(td, name).__doc__


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, terradistill; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "PIL", "pydantic"} & set(loaded)
