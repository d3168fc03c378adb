"""The report of a run: one HTML file that needs nothing else, not even a network."""

import base64
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray
from PIL import Image

from terradistill.config import flatten
from terradistill.errors import RunError
from terradistill.files import replacing
from terradistill.report import plots, words
from terradistill.report.gallery import write_gallery

Row = Mapping[str, Any]

# A report is mailed around: pictures stay below some ten megabytes whatever the run's size.
PIXEL_BUDGET = 4_500_000
DISPLAY_SIDE = 80  # CSS pixels: ten a row beside the class name
THUMBNAIL_SIDES = (128, 96, 64)
NOT_CURVES = {"stage", "step", "epoch", "seconds", "learning_rate"}
MAX_POINTS = 300


@dataclass(frozen=True)
class Picture:
    """An image on the page: where its pixels are, and what hovering tells."""

    uri: str
    title: str


@dataclass(frozen=True)
class ClassGallery:
    """One class: (distilled, prototype or None) pairs, and how many images were left out for size."""

    name: str
    pairs: list[tuple[Picture, Picture | None]]
    n_hidden: int


def write_report(run_dir: Path, *, prototypes: NDArray[np.uint8] | None = None) -> Path:
    """Writes ``report.html`` and ``gallery.png`` into a run folder.

    Whatever the run has not made yet (scores, curves, images) is left out and said to be missing.

    Args:
        run_dir: folder with ``manifest.json`` and ``resolved.json``.
        prototypes: real prototypes, uint8 of shape (n_classes, ipc, height, width, 3), classes as in the manifest;
            None, or the setting ``export.hide_real``, leaves real scenes out.

    Returns:
        The path of the report.

    Raises:
        RunError: if the folder is not a run, or one of its files is not JSON.
    """
    manifest, settings = _read(run_dir / "manifest.json"), _read(run_dir / "resolved.json")
    if "data" not in manifest:
        raise RunError(f"{run_dir} has not read its data yet: run the same `terradistill distill` command again.")
    scores: list[dict[str, Any]] = _read(run_dir / "scores.json") if (run_dir / "scores.json").exists() else []
    if settings.get("export", {}).get("hide_real"):
        prototypes = None
    classes = [str(name) for name in manifest["data"]["classes"]]
    files = {name: sorted((run_dir / "distilled" / name).glob("*.png")) for name in classes}
    write_gallery(files, run_dir / "gallery.png")

    lead = words.headline(scores)
    against = words.rivals(scores, lead) if lead else {}
    recalls = {name: against[name]["recall"] for name in ("distilled", "random") if against.get(name, {}).get("recall")}
    stages = manifest.get("stages") or []
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=PackageLoader(__package__, ".")
    )
    environment.filters |= {
        "duration": words.duration,
        "size": words.size,
        "spoken": words.spoken,
        "points": words.points,
    }
    environment.globals |= {"accuracy": words.accuracy, "method_name": words.method_name}
    text = environment.get_template("page.html.j2").render(
        manifest=manifest,
        data=manifest["data"],
        settings=settings,
        flat_settings={key: json.dumps(value, ensure_ascii=False) for key, value in flatten(settings).items()},
        verdict=words.verdict(scores),
        figures=_key_figures(manifest, settings, files, _soft_bytes(run_dir / "distilled" / "metadata.jsonl")),
        data_link=_link(manifest["data"].get("url")),
        galleries=_galleries(run_dir, files, prototypes),
        display_side=DISPLAY_SIDE,
        pixelated=_side(files) <= DISPLAY_SIDE,
        has_prototypes=prototypes is not None,
        boards=[(name, rows, plots.accuracy_plot(rows)) for name, rows in words.boards(scores)],
        lead=lead,
        audit=_audit(run_dir, hidden=prototypes is None),
        recall=plots.recall_plot(recalls, classes) if recalls else None,
        confusion=plots.confusion_plot(lead["confusion"], classes) if lead and lead.get("confusion") else None,
        curves=_curves(run_dir / "metrics.jsonl"),
        clusters=plots.cluster_plot(_read(run_dir / "clusters.json")) if (run_dir / "clusters.json").exists() else None,
        prompts=_prompts(run_dir / "prototypes.json"),
        stages=stages,
        stage_plot=plots.stage_plot(stages) if stages else None,
        checks=_checks(manifest["data"].get("check") or {}),
    )
    path = run_dir / "report.html"
    # File names need not be valid Unicode; a question mark in the report is better than none.
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return path


def _soft_bytes(metadata: Path) -> int:
    """Size of the soft labels that stand beside the images."""
    lines = metadata.read_text(encoding="utf-8").splitlines() if metadata.exists() else []
    soft = [json.loads(line).get("soft_labels") for line in lines if "soft_labels" in line]
    return sum(len(json.dumps(labels)) for labels in soft if labels)


def _key_figures(
    manifest: Row, settings: Row, files: Mapping[str, list[Path]], soft_bytes: int
) -> list[tuple[str, str]]:
    """(number, what it is) pairs for the head of the page; those that are unknown are left out."""
    data, stages = manifest["data"], manifest.get("stages") or []
    n_images = sum(map(len, files.values()))
    n_bytes = sum(path.stat().st_size for paths in files.values() for path in paths)
    figures = []
    if n_images and data.get("n_train"):
        figures.append((f"{data['n_train'] / n_images:,.0f} : 1", f"{data['n_train']:,} images became {n_images:,}"))
    if 0 < n_bytes <= data.get("bytes_train", 0):
        figures.append(
            (
                f"{data['bytes_train'] / n_bytes:,.0f} : 1",
                f"{words.size(data['bytes_train'])} became {words.size(n_bytes)}",
            )
        )
    elif n_bytes:
        figures.append((words.size(n_bytes), "the distilled images on disk"))
    if soft_bytes:
        figures.append((words.size(soft_bytes), "of soft labels beside them"))
    figures += [(f"{len(files)}", "classes"), (f"{settings['ipc']}", "images a class")]
    if stages:
        figures.append(
            (
                words.duration(sum(stage.get("seconds") or 0 for stage in stages)),
                f"on {manifest.get('device', {}).get('name') or 'this machine'}",
            )
        )
    if peak := max((stage.get("peak_memory_bytes") or 0 for stage in stages), default=0):
        figures.append((words.size(peak), "peak memory"))
    return figures


def _galleries(
    run_dir: Path, files: Mapping[str, list[Path]], prototypes: NDArray[np.uint8] | None
) -> list[ClassGallery]:
    notes: dict[str, Row] = {}
    if (path := run_dir / "distilled" / "metadata.jsonl").exists():
        notes = {str(row.get("file_name")): row for row in _lines(path)}
    n_most, sheets = max(map(len, files.values()), default=0), 1 if prototypes is None else 2
    per_image = PIXEL_BUDGET / max(1, n_most * len(files) * sheets)
    side = next((side for side in THUMBNAIL_SIDES if side**2 <= per_image), THUMBNAIL_SIDES[-1])
    n_shown = max(1, int(PIXEL_BUDGET / (side**2 * max(1, len(files)) * sheets)))
    galleries = []
    for c, (name, paths) in enumerate(files.items()):
        pairs = []
        for i, path in enumerate(paths[:n_shown]):
            note = notes.get(f"{name}/{path.name}", {})
            with Image.open(path) as image:
                picture = Picture(_uri(image.convert("RGB"), side), _title(note))
            real = None
            if prototypes is not None and c < len(prototypes):
                k = note.get("prototype")
                k = k if isinstance(k, int) and 0 <= k < prototypes.shape[1] else i
                if k < prototypes.shape[1]:
                    real = Picture(_uri(Image.fromarray(prototypes[c, k]), side), f"real prototype {k} of {name}")
            pairs.append((picture, real))
        if paths:
            galleries.append(ClassGallery(name, pairs, len(paths) - len(pairs)))
    return galleries


def _audit(run_dir: Path, *, hidden: bool) -> dict[str, Any] | None:
    """The audit in words, and its picture unless real scenes are hidden."""
    if not (run_dir / "audit.json").exists():
        return None
    found, picture = _read(run_dir / "audit.json"), None
    if (run_dir / "audit.png").exists() and not hidden:
        buffer = io.BytesIO()
        with Image.open(run_dir / "audit.png") as image:
            image.save(buffer, "JPEG", quality=85)  # a third of the PNG's size
        picture = Picture("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), "audit.png")
    return {"verdict": words.audited(found), "picture": picture}


def _side(files: Mapping[str, list[Path]]) -> int:
    """Width of the first distilled image, pixels; 0 without images."""
    for path in (path for paths in files.values() for path in paths):
        with Image.open(path) as image:
            return image.width
    return 0


def _link(url: Any) -> str | None:
    """The address, if a page may link to it: a manifest is no place for `javascript:`."""
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else None


def _title(note: Row) -> str:
    keys = [("prompt", "“{}”"), ("seed", "seed {}"), ("candidate", "candidate {}"), ("margin", "margin {:.3f}")]
    return " · ".join(form.format(note[key]) for key, form in keys if note.get(key) is not None)


def _uri(image: Image.Image, side: int) -> str:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _curves(path: Path) -> list[tuple[str, str, str]]:
    """(stage, quantity, SVG) charts; a quantity and its held-out twin share one."""
    panels: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for line in _lines(path) if path.exists() else ():
        for key, value in line.items():
            if (
                key in NOT_CURVES
                or isinstance(value, bool)
                or not isinstance(value, int | float)
                or not math.isfinite(value)
            ):
                continue
            panel = panels.setdefault((str(line.get("stage")), key.removeprefix("held_out_")), {})
            panel.setdefault(key, {})[int(line.get("step", 0))] = float(value)  # a resumed run says a step twice
    return [
        (stage, quantity, plots.curve_plot({key: _thinned(curve) for key, curve in curves.items()}))
        for (stage, quantity), curves in panels.items()
    ]


def _prompts(path: Path) -> list[tuple[str, list[str]]]:
    """(class, its distinct prompts)."""
    rows = _read(path) if path.exists() else []
    return [(row["class"], list(dict.fromkeys(row.get("prompt", [])))) for row in rows if row.get("prompt")]


def _thinned(curve: Mapping[int, float]) -> tuple[list[float], list[float]]:
    steps = sorted(curve)
    picked = [
        steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_POINTS)).round().astype(int))
    ]
    return [float(step) for step in picked], [curve[step] for step in picked]


def _checks(check: Row) -> list[tuple[str, str]]:
    """Counts of what was found wrong with the data; lists are counted."""
    counted = {key: len(value) if isinstance(value, list | dict) else value for key, value in check.items()}
    return [
        (key.removeprefix("n_").replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
        for key, value in counted.items()
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; a last line cut short by a crash is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n"):  # splitlines would cut at U+2028 too
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing: expected a run folder, as `terradistill distill DATA --out {path.parent}` makes it."
        ) from None
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not valid JSON ({error}): delete it and run the same command again.") from None
