"""Many methods, datasets and numbers of images under one recipe: rows of one table, each made once.

OUT/<dataset>/exam/            split, test scenes, coresets, the network that sees features
OUT/<dataset>/generators/<k>/  one run for all methods whose training settings agree
OUT/<dataset>/sets/<method>-ipc<n>-<i>/distilled/
OUT/scores.json                the rows; scoreboard.md, scoreboard.csv, scoreboard.html show them
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.config import Settings
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation import drawing, learning
from terradistill.distillation.coresets import random_subset
from terradistill.distillation.rded import stitched_crops
from terradistill.distillation.scoreboard import CORESETS, TAUGHT, coreset, labelled, pick
from terradistill.distillation.teacher import teach, teacher_network
from terradistill.distillation.work import Work, open_work
from terradistill.evaluation.harness import Labelled, Row, score_method, with_references
from terradistill.evaluation.recipe import probabilities
from terradistill.models.generator import learned_from
from terradistill.run import Reporter, Run, Silent, write_text
from terradistill.seeding import derive

REAL = ("random", *CORESETS, "rded", "full")
SOFT = "+soft"  # after a method's name: its images with a teacher's labels
SettingsOf = Callable[[str], Settings]


def compare(
    data: Sequence[str],
    out: Path,
    settings_of: SettingsOf,
    *,
    methods: Sequence[str],
    ipcs: Sequence[int],
    n_sets: int = 3,
    trainings: int = 1,
    reporter: Reporter | None = None,
) -> list[Row]:
    """Score methods on datasets; what is done already is passed over, so the same command goes on after a kill.

    Args:
        data: several DATA, as everywhere.
        out: folder of the table and of all that it was made from.
        settings_of: the settings of a synthetic method, by name; "default" is asked for too. `evaluation` and
            `data` are those of "default" for all methods.
        methods: names that `settings_of` knows, and any of `REAL`; with `SOFT` after them, labelled by a teacher.
        ipcs: numbers of images a class.
        n_sets: sets drawn of each method with seeds of their own; methods without chance have one.
        trainings: of each network on each set. The spread between sets and that between trainings are told apart where
            both are more than one.
        reporter: told of progress.

    Returns:
        The rows of the table, those of earlier calls too.
    """
    reporter, kept = reporter or Silent(), out / "scores.json"
    rows: list[Row] = json.loads(kept.read_text()) if kept.exists() else []
    common = settings_of("default")
    for source in data:
        room = out / open_scenes(source).info.name
        synthetic = {method.removesuffix(SOFT) for method in methods} - set(REAL)
        seen = frozenset[str]().union(
            *(learned_from(given) for name in sorted(synthetic) if (given := settings_of(name).generator) is not None)
        )
        least = common.model_copy(update={"ipc": min(ipcs)})
        with _opened(source, room / "exam", least, reporter, seen=seen, spare=max(ipcs) - min(ipcs)) as exam:
            for method in methods:
                for ipc in ipcs if method != "full" else ipcs[:1]:
                    for network in common.evaluation.networks:
                        key: dict[str, Any] = {"dataset": exam.train.info.name, "method": method, "network": network}
                        key |= {"ipc": None if method == "full" else ipc, "pretrained": common.evaluation.pretrained}
                        if any(key.items() <= row.items() for row in rows):
                            continue
                        plain = method.removesuffix(SOFT)
                        sets, size = _sets(exam, source, room, settings_of, plain, ipc, n_sets, reporter)
                        if plain != method:
                            sets = [_taught(exam, each) for each in sets]
                            size += sum(each.soft.nbytes for each in sets[:1] if each.soft is not None)
                        rows.append(_score(exam, sets, size, key, common, trainings))
                        rows = with_references(rows)
                        write_text(kept, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return rows


@contextmanager
def _opened(source: str, root: Path, settings: Settings, reporter: Reporter, **more: Any) -> Iterator[Work]:
    work = open_work(source, root, settings, reporter=reporter, **more)
    with closing(work.run):
        yield work


def _score(
    exam: Work, sets: Sequence[Labelled], n_bytes: int, key: dict[str, Any], common: Settings, trainings: int
) -> Row:
    recipe = common.evaluation.model_copy(update={"n_seeds": max(len(sets), common.evaluation.n_seeds) * trainings})
    title = f"{key['network']} on {key['method']}" + (f", {key['ipc']} a class" if key["ipc"] else "")
    exam.run.reporter.start(title)
    row = score_method(
        key["method"],
        sets,
        _labelled(exam, exam.test, "test"),
        exam.train.classes,
        key["network"],
        recipe,
        dataset=key["dataset"],
        ipc=key["ipc"],
        base_seed=common.seed,
        device=exam.hardware.device,
        bf16=exam.hardware.bf16,
        progress=exam.run.reporter.progress,
    )
    exam.run.reporter.end(title, row["seconds"], f"{100 * row['oa_mean']:.1f} %")
    return row | {"bytes": n_bytes}


def _sets(
    exam: Work,
    source: str,
    room: Path,
    settings_of: SettingsOf,
    method: str,
    ipc: int,
    n_sets: int,
    reporter: Reporter,
) -> tuple[list[Labelled], int]:
    """The training sets of a method, and the bytes of the first as files."""
    if method in REAL:
        return _real_sets(exam, method, ipc, n_sets)
    settings = settings_of(method)
    split = exam.settings.data.model_copy(update={"split_file": exam.run / "split.json"})
    settings = settings.model_copy(update={"data": split, "ipc": ipc})
    # What is learned depends on these sections alone: methods that agree in them share a generator.
    what = {"generator", "precision", "data", "autoencoder", "diffusion", "finetune", "classifier", "seed"}
    base = Settings(ipc=1, **{name: getattr(settings, name) for name in what})
    learned = json.dumps(base.model_dump(mode="json", include=what), sort_keys=True)
    root = room / "generators" / sha256(learned.encode()).hexdigest()[:8]
    sets, n_bytes = [], 0
    with _opened(source, root, base, reporter) as work:
        for stage in (learning.autoencoder, learning.encode, learning.classifier, learning.diffusion):
            stage(work)
        for i in range(n_sets):
            name = f"{method}-ipc{ipc}-{i}"
            folder = _draw(work, room / "sets" / name, settings.model_copy(update={"seed": settings.seed + i}))
            n_bytes = n_bytes or sum(len(folder.read(k)) for k in range(len(folder)))
            sets.append(_labelled(exam, folder, name))
    return sets, n_bytes


def _draw(work: Work, root: Path, settings: Settings) -> SceneFolder:
    """One set, drawn with the generator, latents and classifier of another run."""
    run = Run(root, settings, work.run.reporter)
    with closing(run):
        run.describe(**{key: value for key, value in work.run.manifest.items() if key != "stages"})
        drawn = replace(work, run=run, base=work.run.root)
        for stage in (drawing.prototypes, drawing.candidates, drawing.export):
            stage(drawn)
    return open_scenes(root / "distilled")


def _real_sets(exam: Work, method: str, ipc: int, n_sets: int) -> tuple[list[Labelled], int]:
    if method in TAUGHT or method == "rded":
        teach(exam)
    elif method in CORESETS:
        learning.autoencoder(exam)
        learning.encode(exam)
    train, labels = _labelled(exam, exam.train, "train"), exam.train.labels
    if method == "rded":
        return _rded_sets(exam, train, ipc, n_sets)
    if method == "full":
        indices = [np.arange(len(labels))]
    elif method == "random":
        indices = [random_subset(labels, ipc, derive(exam.settings.seed, "random", i)) for i in range(n_sets)]
    else:
        indices = [coreset(exam, method, ipc)]
    n_bytes = sum(len(exam.train.read(i)) for i in indices[0].tolist())
    return [pick(train, index) for index in indices], n_bytes


def _rded_sets(exam: Work, train: Labelled, ipc: int, n_sets: int) -> tuple[list[Labelled], int]:
    network, side = teacher_network(exam), train.images.shape[1]
    sets = []
    for i in range(n_sets):
        seed = derive(exam.settings.seed, "rded", i)
        images = stitched_crops(train.images, train.labels, ipc, network, side, seed=seed, device=exam.hardware.device)
        sets.append(Labelled(*images))
    return sets, sum(map(_png_bytes, sets[0].images))


def _png_bytes(image: NDArray[np.uint8]) -> int:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return len(file.getvalue())


def _taught(exam: Work, made: Labelled) -> Labelled:
    """The same images, with what the exam's teacher thinks of them."""
    teach(exam)
    side, device, bf16 = made.images.shape[1], exam.hardware.device, exam.hardware.bf16
    soft = probabilities(teacher_network(exam), made.images, side, device=device, bf16=bf16)
    return replace(made, soft=soft)


def _labelled(exam: Work, scenes: SceneFolder, name: str) -> Labelled:
    side = exam.settings.evaluation.resolution or exam.settings.data.resolution
    return labelled(scenes, side, exam.run / "cache", name)
