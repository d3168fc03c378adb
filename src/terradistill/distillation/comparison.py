"""Many methods, datasets and numbers of images under one recipe: rows of one table, each made once.

OUT/<dataset>/exam/            split, test scenes, coresets, the network that sees features
OUT/<dataset>/generators/<k>/  one run for all methods whose training settings agree
OUT/<dataset>/sets/<method>-<settings>-ipc<n>-<i>/distilled/
OUT/<dataset>/scores.json      its rows
OUT/scores.json                the rows of all; scoreboard.md, scoreboard.csv, scoreboard.html show them

Several processes may be at one table, each at datasets of its own.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.data.annotations import written
from terradistill.data.formation import packed, unpacked
from terradistill.data.images import resize
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes, with_captions
from terradistill.distillation import drawing, learning, refining
from terradistill.distillation.coresets import CORESETS, random_subset
from terradistill.distillation.originality import Originality
from terradistill.distillation.rded import stitched_crops
from terradistill.distillation.scoreboard import coreset, labelled, pick
from terradistill.distillation.teacher import SIDE as TAUGHT_AT
from terradistill.distillation.teacher import as_column, soft_labels, teach, teacher_network
from terradistill.distillation.work import Work, generator_hash, open_work, seen_by
from terradistill.errors import ConfigError, DataError, RunError
from terradistill.evaluation.harness import REFERENCES, Labelled, Method, Row, score_method, with_references
from terradistill.files import write_text
from terradistill.models.downstream import named_network
from terradistill.models.places import learned_from, write_learned_from
from terradistill.report.table import write_table
from terradistill.run import FREE, Reporter, Run, Silent
from terradistill.seeding import derive
from terradistill.settings import EvaluationSettings, Settings

SettingsOf = Callable[[str], Settings]
Opened = AbstractContextManager[Work]


def real_methods() -> tuple[str, ...]:
    """Names of the methods that choose among real images."""
    return ("random", *CORESETS, "rded", "full")


def compare(
    data: Sequence[str],
    out: Path,
    settings_of: SettingsOf,
    *,
    methods: Sequence[str],
    ipcs: Sequence[int],
    n_sets: int = 3,
    trainings: int = 2,
    captions: Path | None = None,
    command: str = "",
    reporter: Reporter | None = None,
) -> list[Row]:
    """Score methods on datasets; what is done already is passed over, so the same command goes on after a kill.

    The table is written anew after each row: `scores.json`, `scoreboard.md`, `.csv` and `.html` in `out`. Other calls
    may add networks, sizes, methods and numbers of images to it; nothing else of the recipe may change.

    Args:
        data: several DATA, as everywhere.
        out: folder of the table and of all that it was made from.
        settings_of: the settings of a synthetic method, by name; "default" is asked for too. `evaluation` and
            `data` are those of "default" for all methods.
        methods: names that `settings_of` knows, and any of `real_methods`; with ``+2x2`` (``+3x3``, …) after them, four
            (nine) times as many scenes at a half (a third) of their size; with ``+soft`` at the end, with a teacher's
            labels.
        ipcs: numbers of images a class.
        n_sets: sets drawn of each method with seeds of their own. Methods without chance have one, on which networks
            are trained as often as on all sets of the others.
        trainings: of each network on each set. The spread between sets and that between trainings are told apart where
            both are more than one.
        captions: JSON lines with captions of the scenes of any of `data`.
        command: what the table says that it was made by.
        reporter: told of progress.

    Returns:
        The rows of the table: those of this call, and of earlier ones.

    Raises:
        ConfigError: two datasets have one name, or all scenes are to be packed.
        RunError: `out` holds rows of another recipe, or a dataset was split in another way before.
    """
    reporter = reporter or Silent()
    common = settings_of("default")
    # Networks and sizes may be added to a table, as boards of their own; all else makes rows that cannot be compared.
    boards = {"networks", "methods", "n_seeds", "pretrained", "resolution"}
    recipe = common.evaluation.model_dump(mode="json", exclude=boards)
    recipe |= {"sets": n_sets, "trainings": trainings, "seed": common.seed}
    _require_recipe(out, recipe)
    asked = [Method.read(method) for method in methods]
    folders = [open_scenes(source) for source in data]
    with_theirs = folders if captions is None else with_captions(folders, captions)
    names = [folder.info.name for folder in folders]
    if any(method.name == "full" and method.formation > 1 for method in asked):
        raise ConfigError("full is not packed: all scenes leave no room for more of them.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"Two of {', '.join(data)} are called {twice[0]!r}: give them different names in their dataset.json."
        )
    synthetic = sorted({method.name for method in asked} - set(real_methods()))
    given = [settings_of(method).generator for method in synthetic]
    seen = frozenset[str]().union(*(learned_from(each) for each in given if each is not None))
    digests = {method: _digest(settings_of(method)) for method in synthetic}
    for source, name, folder, captioned in zip(data, names, folders, with_theirs, strict=True):
        room = out / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "data")
        opened = partial(_opened, source, captions=_captions_of(captioned, folder, room), reporter=reporter)
        least = _only(common, *EXAM)
        with opened(room / "exam", least, seen=seen, spare=max(ipcs) - 1) as exam:
            _require_packable(exam, max(ipcs), max(method.formation for method in asked))
            rows = _rows(room / "scores.json")
            for method, of in zip(methods, asked, strict=True):
                for ipc in ipcs if of.name != "full" else [None]:
                    key: dict[str, Any] = {"dataset": name, "method": method, "ipc": ipc}
                    key["settings"] = digests.get(of.name)
                    key["resolution"] = common.evaluation.resolution or exam.resolution
                    done = {(row["network"], row["pretrained"]) for row in rows if key.items() <= row.items()}
                    networks = common.evaluation.networks
                    left = [each for each in networks if _named(each, common.evaluation) not in done]
                    if not left:
                        continue
                    # Rows of a method that was something else before are not of this table any more.
                    rows = [row for row in rows if not _outdated(row, key)]
                    n, made_of = (ipc or 0) * of.formation**2, {"n_real": len(exam.train)}
                    if of.name in digests:
                        wanted = settings_of(of.name).model_copy(update={"data": exam.settings.data, "ipc": n})
                        place = room / "sets" / f"{of.name}-{digests[of.name]}-ipc{n}"
                        sets, made_of = _drawn_sets(exam, partial(opened, seen=seen), room, place, wanted, n_sets)
                    else:
                        sets = _real_sets(exam, of.name, n, n_sets)
                    sets, n_bytes = _stored(exam, sets, of)
                    told = {"recipe": recipe, "command": command, "settings": key["settings"], "bytes": n_bytes}
                    for network in left:
                        row = _score(exam, sets, key | {"network": network}, common, n_sets * trainings)
                        rows = with_references([*rows, row | told | made_of])
                        write_text(room / "scores.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
                        _gather(out)
    rows = _gather(out)  # rows of an earlier call may be all there are
    for line in _lacking(rows):
        reporter.say(line)
    return rows


def _rows(kept: Path) -> list[Row]:
    rows: list[Row] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    return rows


def _gather(out: Path) -> list[Row]:
    """The table of all datasets, written anew: who writes it last has read what the others have written."""
    rows = [row for kept in sorted(out.glob("*/scores.json")) for row in _rows(kept)]
    write_text(out / "scores.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write_table(rows, out)
    return rows


def _require_recipe(out: Path, recipe: dict[str, Any]) -> None:
    for row in (row for kept in sorted(out.glob("*/scores.json")) for row in _rows(kept)):
        # What a row does not know of the recipe was not there yet, and is as it was then: the default.
        before = EvaluationSettings().model_dump(mode="json") | row["recipe"]
        differ = [f"{name} ({before.get(name)} → {value})" for name, value in recipe.items() if before[name] != value]
        if differ:
            raise RunError(
                f"{out} holds rows of another recipe: {', '.join(differ)}. Rows of two recipes cannot be compared: use "
                "another --out, or the same recipe."
            )


def _lacking(rows: Sequence[Row]) -> list[str]:
    """What is not said of rows because a reference is not in the table."""
    drawn = [row for row in rows if Method.read(row["method"]).name not in REFERENCES]
    lines = []
    if any("ior" not in row for row in drawn):
        lines.append("some rows have no IOR: random, likewise packed and labelled, is not among --methods")
    if any("hlr" not in row and row.get("labels") == "hard" for row in drawn):
        lines.append("some rows have no HLR: full is not among --methods")
    return lines


def _stored(exam: Work, sets: Sequence[Labelled], method: Method) -> tuple[list[Labelled], int]:
    """Sets as a network sees them, and the bytes of what is stored of the first one."""
    sets, k = list(sets), method.formation
    if k > 1:
        sets = [pick(each, np.argsort(each.labels, kind="stable")) for each in sets]
        images = [packed(each.images, k) for each in sets]
    else:
        images = [each.images for each in sets]
    n_bytes = sum(map(_png_bytes, images[0]))
    if k > 1:
        side = sets[0].images.shape[1]
        cells = [np.stack([resize(cell, side) for cell in unpacked(each, k)]) for each in images]
        sets = [replace(each, images=seen) for each, seen in zip(sets, cells, strict=True)]
    if method.soft:
        sets = [replace(each, soft=soft_labels(exam, each.images)) for each in sets]
        n_bytes += sum(
            len(json.dumps(line)) for each in sets[:1] if each.soft is not None for line in as_column(each.soft)
        )
    return sets, n_bytes


def _captions_of(captioned: SceneFolder, folder: SceneFolder, room: Path) -> Path | None:
    """What a captions file says of these scenes, and of no other DATA's, as a file; None: nothing."""
    if captioned.scenes == folder.scenes:
        return None
    room.mkdir(parents=True, exist_ok=True)
    write_text(room / "captions.jsonl", written(captioned.scenes))
    return room / "captions.jsonl"


BESIDE = {
    "data",
    "evaluation",
    "export",
    "engine",
    "adapter",
    "enhancer",
    "enhance",
    "classify",
    "ipc",
}  # what no set depends on


def _digest(settings: Settings) -> str:
    """What a synthetic method is, beside data, exam and number of images."""
    told = settings.model_dump(mode="json", exclude=BESIDE) | {"generator": generator_hash(settings.generator)}
    for section, key in (name.split(".") for name in FREE if name.startswith("sampling.")):
        del told[section][key]
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _outdated(row: Row, key: dict[str, Any]) -> bool:
    same = all(row[name] == key[name] for name in ("dataset", "method", "ipc"))
    return same and row.get("settings") != key["settings"]


def _named(network: str, evaluation: EvaluationSettings) -> tuple[str, bool]:
    return named_network(network, pretrained=evaluation.pretrained)


@contextmanager
def _opened(source: str, root: Path, settings: Settings, **more: Any) -> Iterator[Work]:
    work = open_work(source, root, settings, **more)
    with closing(work.run):
        yield work


def _score(exam: Work, sets: Sequence[Labelled], key: dict[str, Any], common: Settings, n: int) -> Row:
    title = f"{key['network']} on {key['method']}" + (f", {key['ipc']} a class" if key["ipc"] else "")
    exam.run.reporter.start(title)
    row = score_method(
        key["method"],
        sets,
        _labelled(exam, exam.test, exam.run / "cache", "test"),
        exam.train.classes,
        key["network"],
        common.evaluation.model_copy(update={"n_seeds": n}),
        dataset=key["dataset"],
        ipc=key["ipc"],
        base_seed=common.seed,
        hardware=exam.hardware,
        progress=exam.run.reporter.progress,
    )
    if (name := Method.read(key["method"]).name) in CORESETS:
        row["title"] = CORESETS[name].title
    exam.run.reporter.end(title, row["seconds"], f"{100 * row['oa_mean']:.1f} %")
    return row


# What the exam, its coresets among it, depends on.
EXAM = ("generator", "precision", "data", "autoencoder", "diffusion", "evaluation", "seed")
# What is learned depends on these sections alone: methods that agree in them share a generator.
LEARNED = ("generator", "precision", "data", "autoencoder", "diffusion", "finetune", "classifier", "seed")


def _only(settings: Settings, *sections: str) -> Settings:
    """These sections of the settings; the others as they are by default."""
    drawing = {"low_memory": settings.sampling.low_memory}  # which encodes too
    return Settings(ipc=1, sampling=drawing, **{name: getattr(settings, name) for name in sections})


def _drawn_sets(
    exam: Work, opened: Callable[..., Opened], room: Path, place: Path, settings: Settings, n_sets: int
) -> tuple[list[Labelled], dict[str, int]]:
    """Sets of a synthetic method, by one generator; from how many of the scenes (`n_real`) that has learned, and how
    many of all drawn images are near-copies of them (`copies`)."""
    base = _only(settings, *LEARNED)
    learned = json.dumps(base.model_dump(mode="json", include=set(LEARNED)), sort_keys=True)
    root = room / "generators" / sha256(learned.encode()).hexdigest()[:8]
    sets = []
    with opened(root, base) as work:
        known = work.learned | seen_by(settings.generator)
        same = {scene.sha256 for scene in work.train.scenes} == {scene.sha256 for scene in exam.train.scenes}
        if not same or any(not scene.hashes.isdisjoint(known) for scene in exam.test.scenes):
            raise RunError(f"{root} learns from another split than {exam.run.root} tests on: use another --out.")
        for stage in (learning.autoencoder, learning.encode, learning.classifier, learning.diffusion):
            stage(work)
        original, copies = Originality(work), 0
        for i in range(n_sets):
            folder = place.with_name(f"{place.name}-{i}")
            drawn = _draw(work, folder, settings.model_copy(update={"seed": settings.seed + i}))
            sets.append(_labelled(exam, drawn, folder / "cache", "distilled"))
            copies += int(original.copies(sets[-1].images, sets[-1].labels).sum())
        return sets, {"n_real": len(original.labels), "copies": copies}


def _draw(work: Work, root: Path, settings: Settings) -> SceneFolder:
    """One set, drawn with the generator, latents and classifier of another run."""
    run = Run(root, settings, work.run.reporter)
    with closing(run):
        run.describe(**{key: value for key, value in work.run.manifest.items() if key != "stages"})
        drawn = replace(work, run=run, base=work.run.root)
        for stage in (drawing.prototypes, drawing.candidates, refining.refined, drawing.export):
            stage(drawn)
    # What a run folder says of what was learned from, so that the set can be audited and judged by itself.
    shutil.copy(work.run / "split.json", root / "split.json")
    write_learned_from(root / "distilled", work.learned | work.generator().learned_from)
    return open_scenes(root / "distilled")


def _real_sets(exam: Work, method: str, ipc: int, n_sets: int) -> list[Labelled]:
    train, labels = _labelled(exam, exam.train, exam.run / "cache", "train"), exam.train.labels
    if method == "full":
        return [train]
    if method == "random":
        return [pick(train, random_subset(labels, ipc, derive(exam.settings.seed, "random", i))) for i in range(n_sets)]
    if method == "rded" or CORESETS[method].taught:
        teach(exam)
    else:
        learning.autoencoder(exam)
        learning.encode(exam)
    if method == "rded":
        return _rded_sets(exam, train, ipc, n_sets)
    return [pick(train, coreset(exam, method, ipc))]


def _rded_sets(exam: Work, train: Labelled, ipc: int, n_sets: int) -> list[Labelled]:
    network, side = teacher_network(exam), train.images.shape[1]
    return [
        Labelled(
            *stitched_crops(
                train.images,
                train.labels,
                ipc,
                network,
                side,
                seen_at=TAUGHT_AT,
                seed=derive(exam.settings.seed, "rded", i),
                device=exam.hardware.device,
            )
        )
        for i in range(n_sets)
    ]


def _require_packable(exam: Work, ipc: int, k: int) -> None:
    least = min(exam.train.counts.values())
    if k > 1 and least < k**2 * ipc:
        raise DataError(
            f"A class of {exam.train.info.name} has {least} train scenes; +{k}x{k} at {ipc} images a class takes "
            f"{k**2 * ipc}: lower --ipc, or leave those methods out."
        )


def _png_bytes(image: NDArray[np.uint8]) -> int:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return len(file.getvalue())


def _labelled(exam: Work, scenes: SceneFolder, cache: Path, name: str) -> Labelled:
    """Scenes at the size that the networks see."""
    return labelled(scenes, exam.settings.evaluation.resolution or exam.resolution, cache, name)
