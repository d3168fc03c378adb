"""The audit: is any image of a set a near-copy of a real scene, and does the set betray what was learned from?

It finds what it looks for and proves nothing about the rest: an audit, not a guarantee.
"""

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from terradistill.data.arrays import evenly
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.data.splits import load_split
from terradistill.distillation.given import given_teacher
from terradistill.distillation.scoreboard import learned_by
from terradistill.distillation.teacher import teacher_network, trained_network
from terradistill.distillation.work import Work
from terradistill.errors import DataError
from terradistill.evaluation.copies import BANDS, SIDE, likeness
from terradistill.evaluation.neighbours import CALIBRATED_BY, Neighbours, neighbours_of
from terradistill.evaluation.recipe import embed
from terradistill.evaluation.similarity import most_similar
from terradistill.files import replacing, write_text
from terradistill.hardware import Hardware, find_hardware
from terradistill.report.gallery import contact_sheet
from terradistill.run import Progress, Reporter, Silent
from terradistill.seeding import derive, numpy_generator
from terradistill.settings import Settings

SHOWN, MOST = 24, 200  # pairs in the picture: those that are most alike, and all that are flagged, up to so many
DRAWS = 200  # of the bootstrap
TITLE = "Looking for near-copies"


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
        out: folder for `audit.json` and `audit.png` (the pairs that are most alike, the real one on the right).
        settings: of `data`, the split file alone matters; `evaluation` is the recipe of the network whose features are
            compared; `export.hide_real` shows and names no real scene.
        reporter: told of progress.

    Returns:
        What `audit.json` holds: a row an image with the scene it would be a copy of, the most similar one in pixels
        (SSIM) and the nearest in the features of a network trained on the learned scenes; and `nn_ssim` as DPD reports
        it (mean over images of the mean of the five highest SSIM) but at 64 pixels, beside that of unseen scenes.

    Raises:
        DataError: the folders cannot be read, or a class of `scenes` has no real scene that was learned from.
    """
    settings, reporter, out = settings or Settings(), reporter or Silent(), Path(out)
    judged = open_scenes(scenes)  # unchecked: a picture that occurs twice is looked at twice
    real, found = check_scenes(open_scenes(against))
    odd = sorted(set(judged.classes) - set(real.classes))
    if odd:
        raise DataError(f"{against} has no class {odd[0]!r}, which {scenes} has: give the data that it was made from.")
    member = _members(Path(scenes), real, found.dropped, settings)
    reporter.start(TITLE)
    began = time.monotonic()
    with TemporaryDirectory() as cache:
        result = _examined(
            _Side.of(judged, Path(cache) / "made.npy"),
            _Side.of(real.subset(np.flatnonzero(member)), Path(cache) / "learned.npy"),
            _Side.of(real.subset(np.flatnonzero(~member)), Path(cache) / "unseen.npy"),
            out,
            settings,
            find_hardware(settings.precision),
            reporter.progress,
        )
    reporter.end(TITLE, time.monotonic() - began, _note(result))
    return result


def audit_stage(work: Work) -> None:
    """The run's own set against the scenes that it was made from: `audit.json`, `audit.png`. Opens the test split."""
    run = work.run
    if run.done("audit"):
        if work.settings.export.hide_real:
            _hide(run.root, work.train)
        return
    with run.stage("audit", TITLE) as stage:
        found = _examined(
            _Side.of(open_scenes(run / "distilled"), run / "cache" / f"distilled-{SIDE}.npy"),
            _Side.of(*work.known_at(SIDE)),
            _Side.of(work.test, run / "cache" / f"test-{SIDE}.npy"),
            run.root,
            work.settings,
            work.hardware,
            stage.progress,
            teacher_network(work) if (run / "teacher").exists() else None,
        )
        stage.note = _note(found)


def _hide(out: Path, train: SceneFolder) -> None:
    """Take the real scenes out of an audit that was made when they could be seen."""
    (out / "audit.png").unlink(missing_ok=True)
    found = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    hashes = {scene.name: scene.sha256 for scene in train.scenes}
    for row in found["images"]:
        for place in (row, row["pixels"], row["features"]):
            place["neighbour"] = hashes.get(place["neighbour"], place["neighbour"])
    write_text(out / "audit.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")


@dataclass(frozen=True)
class _Side:
    """Scenes with their pixels, uint8 (n, 64, 64, 3)."""

    scenes: SceneFolder
    pixels: NDArray[np.uint8]

    @classmethod
    def of(cls, scenes: SceneFolder, cache: Path) -> "_Side":
        return cls(scenes, load_pixels(scenes, SIDE, cache))

    def of_class(self, name: str, most: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Indices of a class's scenes, at most so many of them, and their pixels."""
        here = np.flatnonzero(self.scenes.labels == self.scenes.classes.index(name))
        if most is not None and len(here) > most:
            here = here[evenly(most, len(here))]
        return here, np.asarray(self.pixels[here])


def _examined(
    made: _Side,
    learned: _Side,
    unseen: _Side,
    out: Path,
    settings: Settings,
    hardware: Hardware,
    progress: Progress,
    network: nn.Module | None = None,
) -> dict[str, Any]:
    """What `audit.json` holds; written, with the picture, into a folder."""
    hidden = settings.export.hide_real
    _require_comparable(made.scenes, learned.scenes, unseen.scenes)
    given = given_teacher(settings, learned.scenes.classes, unseen.scenes)
    network, side = (given.network, given.resolution) if given else (network, SIDE)
    if network is None:
        network = trained_network(
            learned.pixels,
            learned.scenes.labels,
            len(learned.scenes.classes),
            SIDE,
            hardware,
            seed=derive(settings.seed, "audit"),
            recipe=settings.evaluation,
        )
    features = partial(embed, network.to(hardware.device), resolution=side, hardware=hardware)
    rows, nearest = [dict[str, Any]()] * len(made.scenes), np.zeros(len(made.scenes), np.int64)
    limits: dict[str, dict[str, float | int]] = {}
    told: list[tuple[NDArray[np.bool_], torch.Tensor]] = []
    published: dict[str, list[float]] = {"made": [], "unseen": []}
    for number, name in enumerate(made.scenes.classes):
        here, images = made.of_class(name)
        inside, real = learned.of_class(name)
        _, others = unseen.of_class(name, CALIBRATED_BY)
        found = neighbours_of(images, real, others, features)
        limits[name] = _by_band(found.limits) | {"cosine": round(found.cosine_limit, 4), "twins": found.n_twins}
        names = [scene.sha256 if hidden else scene.name for scene in (learned.scenes.scenes[i] for i in inside)]
        for i, row in zip(here, _rows(found, names), strict=True):
            rows[i] = {"file_name": made.scenes.scenes[i].name, **row}
        nearest[here] = inside[found.excess[2].numpy()]
        published["made"] += found.ssim.mean(1).tolist()
        if len(others):
            some = others[evenly(max(len(images), 10), len(others))]
            published["unseen"] += most_similar(some, real)[0].mean(1).tolist()
            both = np.concatenate([real, others])
            told.append((np.arange(len(both)) < len(real), likeness(both, images).value))
        progress(number + 1, len(made.scenes.classes))
    result: dict[str, Any] = {
        "scenes": len(rows),
        "flagged": [row["file_name"] for row in rows if row["flagged"]],
        "calibrated_by": "learned scenes, each without itself" + (", and unseen ones" if told else ""),
        "limits": limits,
        "nn_ssim": {side: round(float(np.mean(values)), 4) for side, values in published.items() if values},
        "membership": _membership(told),
        "images": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    if hidden:
        (out / "audit.png").unlink(missing_ok=True)  # of an earlier call
    else:
        _picture(rows, made.pixels, learned.pixels, nearest, out / "audit.png")
    write_text(out / "audit.json", json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    return result


def _rows(found: Neighbours, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row an image, its neighbours by name."""
    excess, band, twin = found.excess
    return [
        {
            "flagged": bool(flag),
            "neighbour": names[int(twin[k])],
            "band": BANDS[int(band[k])],
            "likeness": _by_band(found.found.value[k]),
            "excess": round(float(excess[k]), 4),
            "pixels": {"neighbour": names[int(found.similar[k])], "ssim": round(float(found.ssim[k, 0]), 4)},
            "features": {
                "neighbour": names[int(found.near[k])],
                "cosine": round(float(found.cosine[k]), 4),
                "nearer_than_unseen": bool(found.cosine[k] > found.cosine_limit),
            },
        }
        for k, flag in enumerate(found.flagged)
    ]


def _require_comparable(made: SceneFolder, learned: SceneFolder, unseen: SceneFolder) -> None:
    for name in made.classes:
        n, others = learned.counts[name], unseen.counts[name]
        if n + others < 2 or not n:
            raise DataError(
                f"Of class {name!r} {n} real scenes were learned from and {others} not: "
                "expected at least one learned from, and another to tell likeness from copying."
            )


def _note(found: dict[str, Any]) -> str:
    return f"{len(found['flagged'])} of {found['scenes']} flagged"


def _members(scenes: Path, real: SceneFolder, dropped: Collection[str], settings: Settings) -> NDArray[np.bool_]:
    learned = learned_by(scenes)
    if not learned and settings.data.split_file is not None:
        train, _ = load_split(settings.data.split_file, real, dropped=dropped)
        learned = train.hashes
    return np.array([not learned or not scene.hashes.isdisjoint(learned) for scene in real.scenes])


def _by_band(values: torch.Tensor) -> dict[str, float]:
    return {band: round(float(value), 4) for band, value in zip(BANDS, values, strict=True)}


def _membership(told: list[tuple[NDArray[np.bool_], torch.Tensor]]) -> dict[str, Any] | None:
    """How well likeness to the set tells scenes that were learned from and others apart: AUC, 0.5 is not at all."""
    if not told:
        return None
    member = np.concatenate([each for each, _ in told])
    # Likenesses of different classes are made comparable by their ranks within the class.
    scores = np.concatenate([value.argsort(0).argsort(0).numpy() / len(value) for _, value in told])
    rng, sides = numpy_generator(0, "membership"), (np.flatnonzero(member), np.flatnonzero(~member))
    auc: dict[str, Any] = {}
    for band, name in enumerate(BANDS):
        # Each side by itself, or a draw of a small one could hold none of it.
        draws = [
            _auc(member, scores[:, band], np.concatenate([rng.choice(side, len(side)) for side in sides]))
            for _ in range(DRAWS)
        ]
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
    shown = max(SHOWN, min(sum(row["flagged"] for row in rows), MOST))
    first = np.argsort([-row["excess"] for row in rows], kind="stable")[:shown]
    both = np.stack([made[first], np.asarray(pixels[neighbours[first]])], axis=1)
    with replacing(path) as temporary:
        contact_sheet(both.reshape(-1, SIDE, SIDE, 3), 8, scale=2 if shown == SHOWN else 1).save(temporary, "PNG")
