"""A run folder made of nothing but noise: everything a report reads, in seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from terradistill.settings import Settings

NASTY = ("<script>alert(1)", 'a "quoted" & $x_1$ class', "river")


def score(method: str, oa: float, n_train: int, n_classes: int, **more: Any) -> dict[str, Any]:
    """A row of ``scores.json``."""
    confusion = np.full((n_classes, n_classes), 1) + np.eye(n_classes, dtype=int) * 20
    row = {"method": method, "dataset": "toy", "ipc": 2, "network": "convnet3", "pretrained": False, "labels": "hard"}
    row |= {"n_seeds": 3, "n_sets": 1, "oa_mean": oa, "oa_std": 0.01, "aa_mean": oa, "kappa_mean": oa, "seconds": 1.0}
    row |= {"n_train": n_train, "n_test": 50, "chance": 1 / n_classes, "resolution": 16, "steps": 3}
    row |= {"oa": [oa - 0.01, oa, oa + 0.01], "recall": [oa] * n_classes, "confusion": confusion.tolist()}
    return row | {"ior": None, "hlr": None} | more


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Fabricates a run folder: ``make_run(classes=..., ipc=..., side=...)``."""

    def make(classes: tuple[str, ...] = NASTY, ipc: int = 2, side: int = 16) -> Path:
        run, noise = tmp_path / "run", np.random.default_rng(0)
        settings = Settings(ipc=ipc)
        (run / "distilled").mkdir(parents=True)
        (run / "resolved.json").write_text(settings.model_dump_json())
        rows = []
        for name in classes:
            (run / "distilled" / name).mkdir()
            for i in range(ipc):
                pixels = noise.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(run / "distilled" / name / f"{i:03d}.png")
                row = {"file_name": f"{name}/{i:03d}.png", "label": name, "prompt": f"a satellite image of {name}"}
                rows.append(row | {"seed": 7 + i, "prototype": i, "margin": 0.25, "candidate": 1})
        (run / "distilled" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data: dict[str, Any] = {
            "name": "toy",
            "title": "Toy <b>scenes</b>",
            "licence": "MIT",
            "citation": "Nobody & Co.",
            "gsd_m": 10,
        }
        data |= {"url": "javascript:alert(1)", "classes": list(classes), "n_train": 100, "n_test": 50}
        data |= {"check": {"n_corrupt": 1, "duplicates": ["a.png", "b.png"]}}
        stage = {"name": "sampling", "title": "Drawing", "seconds": 75, "peak_memory_bytes": 2_000_000, "note": "ok"}
        manifest: dict[str, Any] = {
            "terradistill": "0.1.0",
            "git_sha": "0123456789abcdef",
            "command": "terradistill distill <in>",
        }
        manifest |= {"created": "2026-01-01T00:00:00+00:00", "data": data, "stages": [stage]}
        manifest |= {"device": {"name": "a CPU", "torch": "2.9", "threads": 2, "precision": "fp32"}}
        (run / "manifest.json").write_text(json.dumps(manifest))
        n = len(classes)
        scores = [score("distilled", 0.6, n * ipc, n), score("random", 0.5, n * ipc, n), score("full", 0.9, 100, n)]
        (run / "scores.json").write_text(json.dumps(scores))
        lines = [{"stage": "diffusion", "step": step, "loss": 9 / step, "held_out_loss": 1.0} for step in range(1, 40)]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"stage": "diffusion", "step": 40, "loss": None}])
        (run / "metrics.jsonl").write_text(text + '{"stage": "classi')  # killed while writing
        return run

    return make
