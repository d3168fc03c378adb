"""The page of a classifier: how good it is, whether it knows, what it confuses and what it looks at."""

import base64
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from terradistill.files import replacing
from terradistill.report import plots, words


def write_classifier_report(run: Path) -> Path:
    """Write `report.html` of a run of `classify train`.

    Args:
        run: the run folder, with `manifest.json`, `scores.json` and `model/`.

    Returns:
        The path of the page.
    """
    manifest, settings, scores, config = (
        json.loads((run / name).read_text(encoding="utf-8"))
        for name in ("manifest.json", "resolved.json", "scores.json", "model/config.json")
    )
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        if row["stage"] == "classify" and "accuracy" in row:
            x, y = curves.setdefault("validation accuracy", ([], []))
            x.append(row["step"])
            y.append(100 * row["accuracy"])
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=PackageLoader(__package__, ".")
    )
    environment.filters["duration"] = words.duration
    hidden, looked = settings.get("export", {}).get("hide_real"), run / "looked_at.png"
    text = environment.get_template("classifier.html.j2").render(
        data=manifest["data"],
        scores=scores,
        about=config["about"],
        network=config["network"],
        classes=[
            (config["readable"][name], recall) for name, recall in zip(config["classes"], scores["recall"], strict=True)
        ],
        confusion=plots.confusion_plot(scores["confusion"], config["classes"]),
        reliability=plots.reliability_plot(scores["reliability"]),
        curve=plots.curve_plot(curves) if curves else None,
        looked=base64.b64encode(looked.read_bytes()).decode() if looked.exists() and not hidden else None,
    )
    path = run / "report.html"
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))
    return path
