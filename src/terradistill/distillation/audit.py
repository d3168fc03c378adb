"""The audit: is any image of a set a near-copy of a real scene, and does the set betray what was learned from?

It finds what it looks for and proves nothing about the rest: an audit, not a guarantee.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from terradistill.config import Settings
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.data.splits import load_split
from terradistill.distillation.scoreboard import learned_by
from terradistill.errors import DataError
from terradistill.evaluation.copies import BANDS, SIDE, Likeness, flagged, likeness, thresholds
from terradistill.report.gallery import contact_sheet
from terradistill.run import Reporter, Silent, replacing, write_text
from terradistill.seeding import numpy_generator

SHOWN = 24  # pairs in the picture
DRAWS = 200  # of the bootstrap


def audit(
    scenes: str | Path,
    against: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compare every image of a scene folder with the real scenes of its class, those learned from and those not.

    Args:
        scenes: the folder to audit, distilled or drawn; its classes are among those of DATA.
        against: DATA, as everywhere. The scenes learned from are those that the run or generator of `scenes` names,
            else the train side of `settings.data.split_file`, else all of them.
        out: folder for `audit.json` (a row an image, its neighbour and how alike they are) and `audit.png` (the pairs
            that are most alike, the real one on the right).
        settings: of `data`, the split file alone matters.
        reporter: told of progress.

    Returns:
        What `audit.json` holds.

    Raises:
        DataError: the folders cannot be read, or a class of `scenes` has no real scene that was learned from.
    """
    settings, reporter, out = settings or Settings(), reporter or Silent(), Path(out)
    judged = open_scenes(scenes)  # unchecked: a picture that occurs twice is looked at twice
    real, _ = check_scenes(open_scenes(against))
    odd = sorted(set(judged.classes) - set(real.classes))
    if odd:
        raise DataError(f"{against} has no class {odd[0]!r}, which {scenes} has: give the data that it was made from.")
    member = _members(Path(scenes), real, settings)
    with TemporaryDirectory() as cache:
        made = np.asarray(load_pixels(judged, SIDE, Path(cache) / "made.npy"))
        pixels = load_pixels(real, SIDE, Path(cache) / "real.npy")
        reporter.start("Comparing with real scenes")
        began, rows = time.monotonic(), [dict[str, Any]()] * len(judged)
        limits: dict[str, dict[str, float]] = {}
        told: list[tuple[NDArray[np.bool_], torch.Tensor]] = []
        neighbours = np.zeros(len(judged), np.int64)
        for label, name in enumerate(judged.classes):
            here, there = np.flatnonzero(judged.labels == label), real.labels == real.classes.index(name)
            inside, outside = np.flatnonzero(there & member), np.flatnonzero(there & ~member)
            if len(inside) + len(outside) < 2 or not len(inside):
                raise DataError(
                    f"Of class {name!r} in {against} {len(inside)} scenes were learned from and {len(outside)} not: "
                    "expected at least one learned from, and another to tell likeness from copying."
                )
            learned, unseen = np.asarray(pixels[inside]), np.asarray(pixels[outside])
            most = thresholds(
                likeness(unseen, learned)
                if len(outside)
                else likeness(learned, learned, itself=np.arange(len(learned)))
            )
            found = likeness(made[here], learned)
            limits[name] = _by_band(most)
            neighbours[here], of_class = _rows(judged, here, real, inside, found, most)
            for i, row in zip(here, of_class, strict=True):
                rows[i] = row
            if len(outside):
                both = np.concatenate([learned, unseen])
                told.append((np.arange(len(both)) < len(learned), likeness(both, made[here]).value))
            reporter.progress(label + 1, len(judged.classes))
        near = [row["file_name"] for row in rows if row["flagged"]]
        result: dict[str, Any] = {
            "scenes": len(rows),
            "flagged": near,
            "calibrated_by": "unseen scenes" if told else "the learned scenes, each without itself",
            "limits": limits,
            "membership": _membership(told),
            "images": rows,
        }
        out.mkdir(parents=True, exist_ok=True)
        _picture(rows, made, pixels, neighbours, out / "audit.png")
    write_text(out / "audit.json", json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    reporter.end("Comparing with real scenes", time.monotonic() - began, f"{len(near)} of {len(rows)} flagged")
    return result


def _members(scenes: Path, real: SceneFolder, settings: Settings) -> NDArray[np.bool_]:
    learned = learned_by(scenes)
    if not learned and settings.data.split_file is not None:
        learned = frozenset(scene.sha256 for scene in load_split(settings.data.split_file, real)[0].scenes)
    return np.array([not learned or scene.sha256 in learned for scene in real.scenes])


def _rows(
    judged: SceneFolder,
    here: NDArray[np.int64],
    real: SceneFolder,
    inside: NDArray[np.int64],
    found: Likeness,
    most: torch.Tensor,
) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Each image's neighbour among the real scenes, and its row."""
    worst = ((found.value - most) / (1 - most).clamp_min(1e-6)).argmax(1)  # the band that comes nearest to a copy
    neighbours = inside[found.nearest.gather(1, worst[:, None])[:, 0].numpy()]
    rows = [
        {
            "file_name": judged.scenes[i].name,
            "neighbour": real.scenes[neighbour].name,
            "band": BANDS[int(band)],
            "likeness": _by_band(value),
            "excess": round(float(((value - most) / (1 - most).clamp_min(1e-6)).max()), 4),
            "flagged": bool(flag),
        }
        for i, neighbour, band, value, flag in zip(
            here, neighbours, worst, found.value, flagged(found, most), strict=True
        )
    ]
    return neighbours, rows


def _by_band(values: torch.Tensor) -> dict[str, float]:
    return {band: round(float(value), 4) for band, value in zip(BANDS, values, strict=True)}


def _membership(told: list[tuple[NDArray[np.bool_], torch.Tensor]]) -> dict[str, Any] | None:
    """How well likeness to the set tells scenes that were learned from and others apart: AUC, 0.5 is not at all."""
    if not told:
        return None
    member = np.concatenate([each for each, _ in told])
    # Likenesses of different classes are made comparable by their ranks within the class.
    scores = np.concatenate([value.argsort(0).argsort(0).numpy() / len(value) for _, value in told])
    rng = numpy_generator(0, "membership")
    auc: dict[str, Any] = {}
    for band, name in enumerate(BANDS):
        draws = [_auc(member, scores[:, band], rng.integers(0, len(member), len(member))) for _ in range(DRAWS)]
        auc[name] = {
            "auc": round(float(roc_auc_score(member, scores[:, band])), 4),
            "interval": [round(float(q), 4) for q in np.quantile(draws, [0.025, 0.975])],
        }
    return {"n_learned": int(member.sum()), "n_unseen": int((~member).sum()), **auc}


def _auc(member: NDArray[np.bool_], scores: NDArray[np.float64], index: NDArray[np.int64]) -> float:
    return float(roc_auc_score(member[index], scores[index]))


def _picture(
    rows: list[dict[str, Any]],
    made: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    neighbours: NDArray[np.int64],
    path: Path,
) -> None:
    first = np.argsort([-row["excess"] for row in rows], kind="stable")[:SHOWN]
    both = np.stack([made[first], np.asarray(pixels[neighbours[first]])], axis=1)
    with replacing(path) as temporary:
        contact_sheet(both.reshape(-1, SIDE, SIDE, 3), 8, scale=2).save(temporary, "PNG")
