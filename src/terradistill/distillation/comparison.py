"""Many methods, datasets and numbers of images under one recipe: rows of one table, each made once.

OUT/<dataset>/exam/            split, test scenes, coresets, the network that sees features
OUT/<dataset>/generators/<k>/  one run for all methods whose training settings agree
OUT/<dataset>/sets/<method>-ipc<n>-<i>/distilled/
OUT/scores.json                the rows; scoreboard.md, scoreboard.csv, scoreboard.html show them
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
from terradistill.data.images import resize
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes, with_captions
from terradistill.distillation import drawing, learning, refining
from terradistill.distillation.coresets import CORESETS, random_subset
from terradistill.distillation.rded import stitched_crops
from terradistill.distillation.scoreboard import coreset, labelled, pick
from terradistill.distillation.teacher import SIDE as TAUGHT_AT
from terradistill.distillation.teacher import soft_labels, teach, teacher_network
from terradistill.distillation.work import Work, open_work
from terradistill.errors import ConfigError, DataError, RunError
from terradistill.evaluation.harness import SOFT, Labelled, Row, score_method, with_references
from terradistill.files import write_text
from terradistill.models.downstream import named_network
from terradistill.models.places import learned_from, write_learned_from
from terradistill.report.table import write_table
from terradistill.run import FREE, Reporter, Run, Silent
from terradistill.seeding import derive
from terradistill.settings import EvaluationSettings, Settings

PACKED = "+2x2"  # after a method's name: four of its scenes, halved, in the place of each image ("multi-formation")
SettingsOf = Callable[[str], Settings]
Opened = AbstractContextManager[Work]


def real_methods() -> tuple[str, ...]:
    """Names of the methods that choose among real images."""
    return ("random", *CORESETS, "rded", "full")


def plain(method: str) -> str:
    """A method's name without what may follow it."""
    return method.removesuffix(SOFT).removesuffix(PACKED)


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

    The table is written anew after each row: `scores.json`, `scoreboard.md`, `.csv` and `.html` in `out`.

    Args:
        data: several DATA, as everywhere.
        out: folder of the table and of all that it was made from.
        settings_of: the settings of a synthetic method, by name; "default" is asked for too. `evaluation` and
            `data` are those of "default" for all methods.
        methods: names that `settings_of` knows, and any of `real_methods`; with `PACKED` after them, four times as many
            scenes at half their size; with `SOFT` at the end, with a teacher's labels.
        ipcs: numbers of images a class.
        n_sets: sets drawn of each method with seeds of their own. Methods without chance have one, on which networks
            are trained as often as on all sets of the others.
        trainings: of each network on each set. The spread between sets and that between trainings are told apart where
            both are more than one.
        captions: JSON lines with captions of the scenes of any of `data`.
        command: what the table says that it was made by.
        reporter: told of progress.

    Returns:
        The rows of the table: those of this call, and of earlier ones under the same recipe. Rows of another recipe
        are dropped.

    Raises:
        ConfigError: two datasets have one name, or all scenes are to be packed.
        RunError: a dataset was split in another way before.
    """
    reporter, kept = reporter or Silent(), out / "scores.json"
    common = settings_of("default")
    # Networks and sizes may be added to a table, as boards of their own; all else makes rows that cannot be compared.
    boards = {"networks", "methods", "n_seeds", "pretrained", "resolution"}
    recipe = common.evaluation.model_dump(mode="json", exclude=boards)
    recipe |= {"sets": n_sets, "trainings": trainings, "seed": common.seed}
    before: list[Row] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    rows = [row for row in before if row["recipe"] == recipe]
    folders = [open_scenes(source) for source in data]
    with_theirs = folders if captions is None else with_captions(folders, captions)
    names = [folder.info.name for folder in folders]
    if "full" in {plain(method) for method in methods if PACKED in method}:
        raise ConfigError(f"full{PACKED} is no method: all scenes leave no room for more of them.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"Two of {', '.join(data)} are called {twice[0]!r}: give them different names in their dataset.json."
        )
    for source, name, folder, captioned in zip(data, names, folders, with_theirs, strict=True):
        room = out / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "data")
        its = _captions_of(captioned, folder, room)
        opened = partial(_opened, source, captions=its, reporter=reporter)
        synthetic = sorted({plain(method) for method in methods} - set(real_methods()))
        given = [settings_of(method).generator for method in synthetic]
        seen = frozenset[str]().union(*(learned_from(each) for each in given if each is not None))
        least = common.model_copy(update={"ipc": 1})
        with opened(room / "exam", least, seen=seen, spare=max(ipcs) - 1) as exam:
            if any(PACKED in method for method in methods):
                _require_packable(exam, max(ipcs))
            for method in methods:
                name_of = plain(method)
                for ipc in ipcs if name_of != "full" else [None]:
                    key: dict[str, Any] = {"dataset": name, "method": method, "ipc": ipc}
                    key["settings"] = None if name_of in real_methods() else _digest(settings_of(name_of))
                    key["resolution"] = common.evaluation.resolution or exam.resolution
                    done = {(row["network"], row["pretrained"]) for row in rows if key.items() <= row.items()}
                    asked = common.evaluation
                    left = [each for each in asked.networks if _named(each, asked) not in done]
                    if not left:
                        continue
                    # Rows of a method that was something else before are not of this table any more.
                    rows = [row for row in rows if not _outdated(row, key)]
                    n = (ipc or 0) * (4 if PACKED in method else 1)
                    if name_of in real_methods():
                        sets = _real_sets(exam, name_of, n, n_sets)
                    else:
                        wanted = settings_of(name_of).model_copy(update={"data": exam.settings.data, "ipc": n})
                        sets = _drawn_sets(exam, partial(opened, seen=seen), room, name_of, wanted, n_sets)
                    stored = [_packed(each) if PACKED in method else each.images for each in sets]
                    n_bytes = sum(map(_png_bytes, stored[0]))
                    if PACKED in method:
                        sets = [_unpacked(images, each.labels) for images, each in zip(stored, sets, strict=True)]
                    if method.endswith(SOFT):
                        sets = [replace(each, soft=soft_labels(exam, each.images)) for each in sets]
                        n_bytes += sum(each.soft.nbytes for each in sets[:1] if each.soft is not None)
                    for network in left:
                        row = _score(exam, sets, key | {"network": network}, common, n_sets * trainings)
                        told = {"bytes": n_bytes, "recipe": recipe, "command": command, "settings": key["settings"]}
                        rows = with_references([*rows, row | told])
                        write_text(kept, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
                        write_table(rows, out)
    write_table(rows, out)  # rows of an earlier call may be all there are
    return rows


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
    told = settings.model_dump(mode="json", exclude=BESIDE)
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
    if (name := plain(key["method"])) in CORESETS:
        row["title"] = CORESETS[name].title
    exam.run.reporter.end(title, row["seconds"], f"{100 * row['oa_mean']:.1f} %")
    return row


def _drawn_sets(
    exam: Work, opened: Callable[..., Opened], room: Path, method: str, settings: Settings, n_sets: int
) -> list[Labelled]:
    """Sets of a synthetic method, by one generator."""
    # What is learned depends on these sections alone: methods that agree in them share a generator.
    what = {"generator", "precision", "data", "autoencoder", "diffusion", "finetune", "classifier", "seed"}
    drawing = {"low_memory": settings.sampling.low_memory}  # which encodes too
    base = Settings(ipc=1, sampling=drawing, **{name: getattr(settings, name) for name in what})
    learned = json.dumps(base.model_dump(mode="json", include=what), sort_keys=True)
    root = room / "generators" / sha256(learned.encode()).hexdigest()[:8]
    sets = []
    with opened(root, base) as work:
        if {scene.sha256 for scene in work.train.scenes} != {scene.sha256 for scene in exam.train.scenes}:
            raise RunError(f"{root} learns from another split than {exam.run.root} tests on: use another --out.")
        for stage in (learning.autoencoder, learning.encode, learning.classifier, learning.diffusion):
            stage(work)
        for i in range(n_sets):
            folder = room / "sets" / f"{method}-ipc{settings.ipc}-{i}"
            drawn = _draw(work, folder, settings.model_copy(update={"seed": settings.seed + i}))
            sets.append(_labelled(exam, drawn, folder / "cache", "distilled"))
    return sets


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


def _require_packable(exam: Work, ipc: int) -> None:
    least, side = min(exam.train.counts.values()), exam.settings.evaluation.resolution or exam.resolution
    if least < 4 * ipc:
        raise DataError(
            f"A class of {exam.train.info.name} has {least} train scenes; {PACKED} at {ipc} images a class takes "
            f"{4 * ipc}: lower --ipc, or leave those methods out."
        )
    if side % 2:
        raise ConfigError(f"evaluation.resolution is {side}: with {PACKED} it should be even.")


def _packed(each: Labelled) -> NDArray[np.uint8]:
    """Four scenes of a class, halved, in the place of one: uint8 (n // 4, H, W, 3), class by class."""
    scenes = np.asarray(each.images[np.argsort(each.labels, kind="stable")])
    n, height, width, _ = scenes.shape
    pooled = scenes.reshape(n, height // 2, 2, width // 2, 2, 3).mean((2, 4)).round().astype(np.uint8)
    quarters = pooled.reshape(n // 4, 2, 2, height // 2, width // 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(quarters).reshape(n // 4, height, width, 3)


def _unpacked(packed: NDArray[np.uint8], labels: NDArray[np.int64]) -> Labelled:
    """The scenes of `_packed`, enlarged to the size that they had."""
    n, height, width, _ = packed.shape
    quarters = packed.reshape(n, 2, height // 2, 2, width // 2, 3).transpose(0, 1, 3, 2, 4, 5)
    scenes = quarters.reshape(4 * n, height // 2, width // 2, 3)
    return Labelled(np.stack([resize(scene, height) for scene in scenes]), np.sort(labels))


def _png_bytes(image: NDArray[np.uint8]) -> int:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return len(file.getvalue())


def _labelled(exam: Work, scenes: SceneFolder, cache: Path, name: str) -> Labelled:
    """Scenes at the size that the networks see."""
    return labelled(scenes, exam.settings.evaluation.resolution or exam.resolution, cache, name)
