"""Many methods, datasets and numbers of images under one recipe: rows of one table, each made once.

OUT/<dataset>/exam/            split, test scenes, coresets, the network that sees features
OUT/<dataset>/generators/<k>/  one run for all methods whose training settings agree
OUT/<dataset>/sets/<method>-<settings>-ipc<n>-<i>/distilled/
OUT/<dataset>/trainings/       of the row that is being made
OUT/<dataset>/scores.json      its rows
OUT/scores.json                the rows of all, enough to go on elsewhere; scoreboard.md, .png, .csv, .html show them

Several processes may be at one table, each at datasets of its own.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from terradistill.config import flatten
from terradistill.data.annotations import written
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes, with_captions
from terradistill.distillation.coresets import CORESETS
from terradistill.distillation.sets import (
    BESIDE,
    EXAM,
    Opened,
    as_stored,
    at_size,
    digest,
    drawn_sets,
    only,
    real_sets,
    unasked,
)
from terradistill.distillation.work import Work, open_work, weights_hash
from terradistill.errors import ConfigError, DataError, RunError
from terradistill.evaluation.harness import (
    Labelled,
    Row,
    is_compiled,
    score_method,
    with_references,
)
from terradistill.evaluation.method import REFERENCES, Method
from terradistill.files import write_text
from terradistill.models.downstream import named_network
from terradistill.models.places import learned_from
from terradistill.models.scene_classifier import SceneClassifier
from terradistill.report.table import write_table
from terradistill.run import Reporter, Silent
from terradistill.settings import EvaluationSettings, Settings

SettingsOf = Callable[[str], Settings]


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

    The table is written anew after each row: `scores.json`, `scoreboard.md`, `.png`, `.csv` and `.html` in `out`. Other
    calls may add networks, sizes, methods and numbers of images to it, with fewer sets and trainings or more; nothing
    else of the recipe may change.

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
        command: what the table says that these rows are made by.
        reporter: told of progress.

    Returns:
        The rows of the table: those of this call, and of earlier ones.

    Raises:
        ConfigError: nothing is asked for, two datasets have one name, or all scenes are to be packed.
        RunError: `out` holds something else, or rows of another recipe, or a dataset was split in another way before.
    """
    reporter = reporter or Silent()
    common = settings_of("default")
    # Networks and sizes may be added to a table, as boards of their own; all else makes rows that cannot be compared.
    boards = {"networks", "methods", "n_seeds", "pretrained", "resolution", "compile"}
    recipe = common.evaluation.model_dump(mode="json", exclude=boards)
    recipe |= {"seed": common.seed}
    if common.evaluation.teacher is not None:  # another one may stand at its place next time
        teacher = SceneClassifier.located(common.evaluation.teacher)
        recipe["teacher"] = [weights_hash([teacher]), SceneClassifier.load(teacher).temperature]
    _require_recipe(out, recipe)
    if not methods or not ipcs:
        raise ConfigError("No method or no number of images is named: give --methods and --ipc at least one each.")
    asked = {method: Method.read(method) for method in methods}
    if any(method.name == "full" and method.formation > 1 for method in asked.values()):
        raise ConfigError("full is not packed: all scenes leave no room for more of them.")
    synthetic = {of.name: settings_of(of.name) for of in asked.values() if of.name not in real_methods()}
    digests = {name: digest(settings) for name, settings in synthetic.items()}
    runs = {"sets": n_sets, "trainings": trainings}
    call = _Call(common, asked, synthetic, digests, ipcs, runs, recipe, command)
    folders = [open_scenes(source) for source in data]
    with_theirs = folders if captions is None else with_captions(folders, captions)
    names = [folder.info.name for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"Two of {', '.join(data)} are called {twice[0]!r}: give them different names in their dataset.json."
        )
    given = [settings.generator for settings in synthetic.values() if settings.generator is not None]
    seen = frozenset[str]().union(*map(learned_from, given))
    for source, name, folder, captioned in zip(data, names, folders, with_theirs, strict=True):
        room = out / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "data")
        words = _captions_of(captioned, folder, room)
        opened = partial(_opened, source, captions=words, reporter=reporter, seen=seen)
        with opened(room / "exam", only(common, *EXAM), spare=max(ipcs) - 1, free=unasked(*EXAM)) as exam:
            _require_packable(exam, max(ipcs), max(method.formation for method in asked.values()))
            done = [row for row in _table(out) if row["dataset"] == name]
            _require_exam(out, exam, done)
            for rows in _made(call, exam, room, opened, done):
                write_text(room / "scores.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
                _gather(out)
    rows = _gather(out)  # rows of an earlier call may be all there are
    for line in _lacking(rows):
        reporter.say(line)
    return rows


@dataclass(frozen=True)
class _Call:
    """What one call asks of every dataset."""

    common: Settings
    methods: Mapping[str, Method]
    synthetic: Mapping[str, Settings]
    digests: Mapping[str, str]
    ipcs: Sequence[int]
    runs: Mapping[str, int]
    recipe: Row
    command: str

    def about(self, name: str) -> Row:
        """What a row says of its method: the command that asked for it last, and what its name stands for."""
        title = CORESETS[name].title if name in CORESETS else None
        if name in self.synthetic:
            title = _changes(self.common, self.synthetic[name])
        return {"command": self.command} | ({} if title is None else {"title": title})

    def wanted(self) -> Iterator[tuple[str, Method, int | None]]:
        for name, method in self.methods.items():
            for ipc in self.ipcs if method.name != "full" else [None]:
                yield name, method, ipc


def _made(call: _Call, exam: Work, room: Path, opened: Callable[..., Opened], rows: list[Row]) -> Iterator[list[Row]]:
    """The rows of a dataset, after each one that was lacking, and at the end."""
    evaluation, judge = call.common.evaluation, f"{exam.hardware.name}, {exam.hardware.precision}"
    networks = {each: named_network(each, pretrained=evaluation.pretrained) for each in evaluation.networks}
    for name, of, ipc in call.wanted():
        key: Row = {"dataset": exam.train.info.name, "method": name, "ipc": ipc, "settings": call.digests.get(of.name)}
        key["resolution"] = evaluation.resolution or exam.resolution
        there = [row for row in rows if key.items() <= row.items() and _as_often(row["recipe"], call.runs)]
        done = {(row["network"], row["pretrained"]): row for row in there}
        for row in (done[named] for named in networks.values() if named in done):
            if _as_often(call.runs, row["recipe"]):
                row |= call.about(of.name)  # so that one command is named for all that it can make
        left = [each for each, named in networks.items() if named not in done]
        if not left:
            continue
        # Rows of a method that was something else before are not of this table any more.
        rows = [row for row in rows if not _outdated(row, key)]
        n_sets, recipe = call.runs["sets"], {**call.recipe, **call.runs}
        n, made_of = (ipc or 0) * of.formation**2, {"n_real": len(exam.train)}
        if of.name in call.synthetic:
            settings = call.synthetic[of.name].model_copy(update={"data": exam.settings.data, "ipc": n})
            place = room / "sets" / f"{of.name}-{key['settings']}-ipc{n}"
            sets, made_of = drawn_sets(exam, opened, room, place, settings, n_sets)
        else:
            sets = real_sets(exam, of.name, n, n_sets)
        sets, stored = as_stored(exam, sets, of)
        told = {"recipe": recipe, "settings": key["settings"]} | stored | made_of | call.about(of.name)
        for network in left:
            asked = json.dumps([key, networks[network], recipe], sort_keys=True)
            kept = room / "trainings" / f"{sha256(asked.encode()).hexdigest()[:12]}.json"
            row = _score(exam, sets, key | {"network": network}, call.common, n_sets * call.runs["trainings"], kept)
            told["hardware"] = f"{judge}, compiled" if is_compiled(network, evaluation) else judge
            named = dict(zip(("network", "pretrained"), networks[network], strict=True))
            others = [each for each in rows if not (key | named).items() <= each.items()]  # one of fewer runs goes
            rows = with_references([*others, row | told])
            yield rows
            kept.unlink()
    yield rows


def _changes(common: Settings, settings: Settings) -> str | None:
    """The few settings in which a method differs from the default; None: none, or more than one would read."""
    default, own = (flatten(each.model_dump(mode="json", exclude=BESIDE)) for each in (common, settings))
    changed = [f"{key}={json.dumps(value)}" for key, value in own.items() if value != default[key]]
    return f"default, with {', '.join(changed)}" if 0 < len(changed) <= 4 else None


def _rows(kept: Path) -> list[Row]:
    if not kept.exists():
        return []
    try:
        rows: list[Row] = json.loads(kept.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "recipe" in row for row in rows):
            raise ValueError("they are of something else")
        return rows
    except ValueError as error:
        raise RunError(
            f"{kept} does not hold the rows of a scoreboard: expected a folder that `bench scoreboard` has made, or a "
            "new one; restore the file, or use another --out."
        ) from error


def _table(out: Path) -> list[Row]:
    """The rows of all datasets: each as its own file has them, or, without one, as the table had them."""
    rows = [row for kept in out.glob("*/scores.json") for row in _rows(kept)]
    own = {row["dataset"] for row in rows}
    rows += [row for row in _rows(out / "scores.json") if row["dataset"] not in own]
    return sorted(rows, key=lambda row: str(row["dataset"]))


def _gather(out: Path) -> list[Row]:
    """The table of all datasets, written anew: who writes it last has read what the others have written."""
    rows = _table(out)
    write_text(out / "scores.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write_table(rows, out)
    return rows


def _require_recipe(out: Path, recipe: dict[str, Any]) -> None:
    for row in _table(out):
        # What a row does not know of the recipe was not there yet, and is as it was then: the default.
        before = EvaluationSettings().model_dump(mode="json") | row["recipe"]
        differ = [f"{name} ({before.get(name)} → {value})" for name, value in recipe.items() if before[name] != value]
        if differ:
            raise RunError(
                f"{out} holds rows of another recipe: {', '.join(differ)}. Rows of two recipes cannot be compared: use "
                "another --out, or the same recipe."
            )


def _require_exam(out: Path, exam: Work, done: Sequence[Row]) -> None:
    """Make sure that rows which came without their exam were judged by as many scenes."""
    other = next((row for row in done if row["n_test"] != len(exam.test)), None)
    if other is not None:
        raise RunError(
            f"{out} holds rows of {other['dataset']} that {other['n_test']} test scenes have judged, and here are "
            f"{len(exam.test)}: give the --limit, --train-fraction and --split-file of before, or another --out."
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


def _captions_of(captioned: SceneFolder, folder: SceneFolder, room: Path) -> Path | None:
    """What a captions file says of these scenes, and of no other DATA's, as a file; None: nothing.

    Raises:
        RunError: something else was said when the exam was set, and generators may have learned it.
    """
    same = captioned.scenes == folder.scenes
    kept, said = room / "captions.jsonl", None if same else "".join(written(captioned.scenes))
    before = kept.read_bytes() if kept.exists() else None
    now = None if said is None else said.encode(errors="backslashreplace")
    if (room / "exam").exists() and before != now:
        raise RunError(f"{room} was begun with other --captions: give them again, or use another --out.")
    if said is None:
        return None
    write_text(kept, said)
    return kept


def _as_often(row: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a row is of as many sets and trainings as are asked for."""
    return all(row[name] >= asked[name] for name in ("sets", "trainings"))


def _outdated(row: Row, key: dict[str, Any]) -> bool:
    same = all(row[name] == key[name] for name in ("dataset", "method", "ipc"))
    return same and row.get("settings") != key["settings"]


@contextmanager
def _opened(source: str, root: Path, settings: Settings, **more: Any) -> Iterator[Work]:
    work = open_work(source, root, settings, **more)
    with closing(work.run):
        yield work


def _score(exam: Work, sets: Sequence[Labelled], key: dict[str, Any], common: Settings, n: int, kept: Path) -> Row:
    title = f"{key['network']} on {key['method']}" + (f", {key['ipc']} a class" if key["ipc"] else "")
    exam.run.reporter.start(title)
    row = score_method(
        key["method"],
        sets,
        at_size(exam, exam.test, exam.run / "cache", "test"),
        exam.train.classes,
        key["network"],
        common.evaluation.model_copy(update={"n_seeds": n}),
        dataset=key["dataset"],
        ipc=key["ipc"],
        base_seed=common.seed,
        hardware=exam.hardware,
        progress=exam.run.reporter.progress,
        kept=kept,
    )
    exam.run.reporter.end(title, row["seconds"], f"{100 * row['oa_mean']:.1f} %")
    return row


def _require_packable(exam: Work, ipc: int, k: int) -> None:
    least = min(exam.train.counts.values())
    if k > 1 and least < k**2 * ipc:
        raise DataError(
            f"A class of {exam.train.info.name} has {least} train scenes; +{k}x{k} at {ipc} images a class takes "
            f"{k**2 * ipc}: lower --ipc, or leave those methods out."
        )
