"""Imports run downward only: the house stands on its rooms in this order, and no room knows the one above."""

import ast
from pathlib import Path

import terradistill

SRC = Path(terradistill.__file__).parent
FLOOR = {
    **dict.fromkeys(("__init__", "errors", "seeding", "config", "settings", "sections"), 0),
    **dict.fromkeys(("hardware", "team", "files", "run", "shipped"), 0),
    **dict.fromkeys(("data", "models"), 1),
    **dict.fromkeys(("training", "sampling", "evaluation"), 2),
    "report": 3,
    **dict.fromkeys(("distillation", "generation"), 4),
    **dict.fromkeys(("console", "health", "studio", "engine", "enhancing", "classification"), 5),
    "cli": 6,
    "__main__": 7,
}


def imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports, in functions too; names imported for typing alone are left out."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "terradistill":
            names += [f"terradistill.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "terradistill" and len(parts) > 1 and id(node) not in typing_only:
                found.add(parts[1])
    return {name for name in found if name in FLOOR}


def test_every_file_has_a_floor() -> None:
    rooms = {path.name if path.is_dir() else path.stem for path in SRC.iterdir() if path.name != "__pycache__"}
    assert rooms - {"presets", "py"} <= set(FLOOR), "a new room needs its floor here and in docs/architecture.md"


def test_imports_run_downward_only() -> None:
    wrong = []
    for path in SRC.rglob("*.py"):
        room = path.relative_to(SRC).parts[0].removesuffix(".py")
        wrong += [
            f"{path.relative_to(SRC)} imports {other}"
            for other in imports(path)
            if other != room and (FLOOR[other] > FLOOR[room] or FLOOR[other] == FLOOR[room] > 0)
        ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_two() -> None:
    long = {
        str(path.relative_to(SRC)): n for path in SRC.rglob("*.py") if (n := len(path.read_text().splitlines())) > 450
    }
    assert not long
