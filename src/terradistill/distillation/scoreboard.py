"""The scoreboard: the distilled set beside real images of the same number and beside all of them, under one recipe."""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terradistill.data.archive import ZipSource
from terradistill.data.arrays import mapped, write_array
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation.clusters import pooled_features
from terradistill.distillation.coresets import CORESETS, random_subset
from terradistill.distillation.teacher import taught_features, teach
from terradistill.distillation.work import Work, open_work
from terradistill.errors import DataError, EvaluationError, RunError, TerraDistillError
from terradistill.evaluation.harness import Labelled, Row, score_method, with_references
from terradistill.evaluation.method import SOFT
from terradistill.files import require_apart
from terradistill.models.downstream import named_network
from terradistill.models.places import LEARNED_FROM, learned_from, listed
from terradistill.run import Reporter, Stage
from terradistill.seeding import derive
from terradistill.settings import Settings

Sets = Callable[[], Sequence[Labelled]]
MakeSet = Callable[[Labelled], Labelled]


def evaluate_stage(work: Work) -> None:
    """Score the run's own set beside every method: `scores.json`. The first stage that opens the test split."""
    settings = work.settings

    if needs_teacher(settings):
        teach(work)

    def chosen(name: str) -> MakeSet:
        return lambda train: pick(train, coreset(work, name, settings.ipc))

    resolution = settings.evaluation.resolution or work.resolution
    _evaluate(work, open_scenes(work.run / "distilled"), resolution, {name: chosen(name) for name in CORESETS})


def needs_teacher(settings: Settings) -> bool:
    """Whether any method of the exam looks at the features of a trained network."""
    return any(name in CORESETS and CORESETS[name].taught for name in settings.evaluation.methods)


def coreset(work: Work, name: str, ipc: int) -> NDArray[np.int64]:
    """Indices of one of `CORESETS` in the train split, class after class: int64 (n_classes * ipc,)."""
    labels, seed, pool = work.train.labels, derive(work.settings.seed, "medoids"), work.settings.prototypes.pool
    if CORESETS[name].taught:
        return CORESETS[name].choose(taught_features(work), labels, ipc, seed)
    (work.run / "cache").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=work.run / "cache", ignore_cleanup_errors=True) as made:
        kept = Path(made) / "pooled.npy"  # a class at a time is read of it
        write_array(kept, len(labels), (pooled_features(part, pool) for part in work.latents().batches()))
        return CORESETS[name].choose(mapped(kept), labels, ipc, seed)


def evaluate(
    scenes: str | Path,
    against: str | Path,
    out: str | Path,
    settings: Settings,
    *,
    captions: Path | None = None,
    reporter: Reporter | None = None,
) -> list[Row]:
    """Score any scene folder as a training set for the test split of DATA, beside random and all real scenes.

    Args:
        scenes: the scene folder to judge, distilled here or elsewhere; its classes are those of DATA.
        against: DATA, as everywhere.
        out: run folder; `scores.json` in it holds the rows.
        settings: `data` says how DATA is split, `evaluation` how networks are trained. Without a split file, that of
            the run which holds the scenes is used.
        captions: not used for scoring; for DATA that needs it to open.
        reporter: told of progress.

    Returns:
        Rows of the scoreboard.

    Raises:
        DataError: the folders cannot be read, their classes differ, or the scenes hold copies of test scenes.
        RunError: `out` holds the scores of other scenes.
    """
    judged, work = open_exam(scenes, against, out, settings, captions=captions, reporter=reporter)
    with closing(work.run):
        resolution = work.settings.evaluation.resolution or max(scene.height for scene in judged.scenes)
        _evaluate(work, judged, resolution, {})
        scores: list[Row] = work.run.read_json("scores.json")
        return scores


def open_exam(
    scenes: str | Path,
    against: str | Path,
    out: str | Path,
    settings: Settings,
    *,
    captions: Path | None = None,
    reporter: Reporter | None = None,
    least: int | None = None,
) -> tuple[SceneFolder, Work]:
    """A scene folder to judge, and DATA split so that no test scene went into it; see `evaluate`. Close `work.run`.

    DATA has to have at least `least` train scenes a class: as many as are judged, where nothing is said.
    """
    require_apart(Path(out), scenes)
    judged, found = check_scenes(open_scenes(scenes))
    ipc = max(judged.counts.values())
    made_in = Path(scenes).expanduser().resolve().parent
    split, of_a_run = made_in / "split.json", (made_in / "resolved.json").is_file()
    if settings.data.split_file is None and of_a_run:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"split_file": split})})
    settings, seen = settings.model_copy(update={"ipc": ipc, "generator": None}), learned_by(Path(scenes))
    spare = 0 if least is None else least - ipc
    fresh = not (Path(out) / "resolved.json").exists()
    work = open_work(against, Path(out), settings, captions=captions, reporter=reporter, spare=spare, seen=seen)
    try:
        _require_honest(judged, work, seen, str(scenes), str(against), f" {split}" if of_a_run else "")
    except BaseException as error:
        # As in `open_work`: the mended command, with a split file say, should find the folder free.
        work.run.discard() if fresh and isinstance(error, TerraDistillError) else work.run.close()
        raise
    for line in found.summary():
        work.run.say(line)
    work.run.describe(judged=_mark(judged))
    return judged, work


def _require_honest(
    judged: SceneFolder, work: Work, seen: frozenset[str], scenes: str, against: str, split: str
) -> None:
    if judged.classes != work.train.classes:
        odd = sorted(set(judged.classes) ^ set(work.train.classes))
        raise DataError(
            f"{scenes} and {against} differ in the classes {', '.join(odd[:5])}: give scenes of the same classes."
        )
    exam = work.test.hashes
    if exam & seen:
        raise DataError(
            f"{scenes} was made by a generator that has learned from test scenes of this split: give the split "
            f"it was trained with (--split-file{split})."
        )
    copies = [scene.name for scene in judged.scenes if not scene.hashes.isdisjoint(exam)]
    if copies:
        raise DataError(
            f"{len(copies)} of {scenes} are exact copies of test scenes of {against}, {copies[0]!r} first: "
            "give the split they were made with (--split-file)."
        )
    if work.run.manifest.get("judged", _mark(judged)) != _mark(judged):
        raise RunError(f"{work.run.root} holds the scores of other scenes than {scenes}: use another --out.")


def _mark(judged: SceneFolder) -> str:
    """What is judged: the scenes, and the soft labels that they bring along."""
    soft = [scene.soft_labels for scene in judged.scenes]
    return sha256(f"{judged.fingerprint}{soft}".encode()).hexdigest() if any(soft) else judged.fingerprint


def learned_by(scenes: Path) -> frozenset[str]:
    """Hashes of all that went into the judged scenes, where their run folder or a `learned_from.json` says so."""
    scenes = scenes.expanduser()
    run, note = scenes.resolve().parent, (scenes if scenes.is_dir() else scenes.parent) / LEARNED_FROM
    known = set(listed(note.read_text(encoding="utf-8", errors="replace"), str(note))) if note.is_file() else set()
    if zipfile.is_zipfile(scenes):
        archive = ZipSource(scenes)
        for name in archive.names:
            if name.rsplit("/", 1)[-1] == LEARNED_FROM:
                known |= listed(archive(name).decode(errors="replace"), f"{scenes}/{name}")
    if (run / "resolved.json").is_file() and (run / "split.json").is_file():
        try:
            split, resolved = (json.loads((run / f"{name}.json").read_bytes()) for name in ("split", "resolved"))
            known |= {entry["sha256"] for entry in split["train"]}
            given = resolved["generator"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{run} has a damaged split.json or resolved.json, so what {scenes} was made from is not known: "
                "restore it, or move the scenes into a folder of their own, with learned_from.json beside them."
            ) from error
        source = run if (run / "generator").is_dir() else given
        known |= learned_from(source) if source is not None else set()
    return frozenset(known)


def _evaluate(work: Work, distilled: SceneFolder, resolution: int, more: dict[str, MakeSet]) -> None:
    run, settings = work.run, work.settings
    if run.done("evaluate", shared=True):
        return
    with run.stage("evaluate", "Training downstream networks") as stage:
        cache = run.root / "cache"
        train = labelled(work.train, resolution, cache, "train")
        test = labelled(work.test, resolution, cache, "test")
        sets: dict[str, Sets] = {
            "distilled": lambda: [labelled(distilled, resolution, cache, "distilled")],
            # A new draw for every training: the spread of `random` holds the luck of the draw.
            "random": lambda: random_sets(train, settings.ipc, settings.seed, settings.evaluation.n_seeds),
            **{name: partial(_alone, make, train) for name, make in more.items()},
            "full": lambda: [train],
        }
        wanted: dict[str, Sets] = {name: sets[name] for name in settings.evaluation.methods if name in sets}
        if "distilled" in wanted and any(scene.soft_labels for scene in distilled.scenes):
            soft = distilled.soft_labels
            wanted[f"distilled{SOFT}"] = lambda: [
                replace(labelled(distilled, resolution, cache, "distilled"), soft=soft)
            ]
        if not wanted:
            raise EvaluationError(
                f"None of evaluation.methods {', '.join(settings.evaluation.methods)} can be scored here: "
                f"choose from {', '.join(sets)}."
            )
        rows = _score(work, stage, wanted, test, settings.ipc)
        if rows is None:
            return
        run.write_json("scores.json", rows)
        stage.note = _summary(rows)


def _alone(make: MakeSet, train: Labelled) -> list[Labelled]:
    return [make(train)]


def _score(work: Work, stage: Stage, methods: dict[str, Sets], test: Labelled, ipc: int) -> list[Row] | None:
    settings = work.settings.evaluation
    # Rows of another recipe (it may be changed until the exam is held) would not be comparable.
    recipe = settings.model_dump_json(exclude={"networks", "methods", "compile"})
    mark = sha256(recipe.encode()).hexdigest()[:8]
    networks = {named_network(name, pretrained=settings.pretrained): name for name in settings.networks}
    jobs = [(network, method) for network in networks.values() for method in methods]

    def make(number: int, path: Path) -> None:
        network, method = jobs[number]
        row = score_method(
            method,
            methods[method](),
            test,
            work.train.classes,
            network,
            settings,
            dataset=work.train.info.name,
            ipc=None if method == "full" else ipc,
            base_seed=work.settings.seed,
            hardware=work.hardware,
            progress=lambda done, of: stage.progress(int(1000 * (number + done / of)), 1000 * len(jobs)),
        )
        if method in CORESETS:
            row["title"] = CORESETS[method].title
        path.write_text(json.dumps(row), encoding="utf-8")

    # Each finished row is kept at once: a kill costs one row, not the table.
    names = [f"{mark}-{re.sub(r'[^A-Za-z0-9.-]', '_', network)}-{method}.json" for network, method in jobs]
    rows = stage.pieces(names, make)
    return None if rows is None else with_references([json.loads(row.read_text(encoding="utf-8")) for row in rows])


def labelled(scenes: SceneFolder, resolution: int, cache: Path, name: str) -> Labelled:
    """Scenes at one size, kept under a name in a cache folder."""
    return Labelled(load_pixels(scenes, resolution, cache / f"{name}-{resolution}.npy"), scenes.labels)


def random_sets(train: Labelled, ipc: int, seed: int, n_sets: int) -> list[Labelled]:
    """Several sets of so many random images of each class."""
    return [pick(train, random_subset(train.labels, ipc, derive(seed, "random", i))) for i in range(n_sets)]


def pick(scenes: Labelled, index: NDArray[np.int64]) -> Labelled:
    """Some of the images."""
    return Labelled(np.asarray(scenes.images[index]), scenes.labels[index])


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    return ", ".join(
        f"{row['method']} {100 * row['oa_mean']:.1f} %" for row in rows if row["network"] == rows[0]["network"]
    )
