"""`terradistill bench`: methods compared."""

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terradistill.cli.options import (
    Against,
    Captions,
    Config,
    Fraction,
    Limit,
    Out,
    Preset,
    Seed,
    Set,
    SplitFile,
    settings_from,
)
from terradistill.errors import ConfigError

if TYPE_CHECKING:
    from terradistill.settings import Settings

app = typer.Typer(help="Compare methods under one recipe.", no_args_is_help=True)


@app.command("scoreboard")
def bench_scoreboard(
    out: Annotated[Path, typer.Option("--out", help="Folder; the same command goes on with it.", show_default=False)],
    data: Annotated[list[str], typer.Option("--data", metavar="DATA", help="Real scenes; repeat for more.")],
    ipc: Annotated[str, typer.Option("--ipc", help="Images per class, such as 1,5,10,20.")] = "10",
    methods: Annotated[
        str, typer.Option("--methods", help="Presets, `default`, and kinds of real images.")
    ] = "default,dpd,text,random,feature-medoid,herding,full",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="NAME:[PRESET,]A.B=C[,...]",
            help="A method of your own: default, or a preset, with other settings; repeat.",
        ),
    ] = None,
    sets: Annotated[int, typer.Option("--seeds", min=1, help="Sets drawn of each method.")] = 3,
    trainings: Annotated[int, typer.Option("--trainings", min=1, help="Trainings on each set.")] = 2,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,
) -> None:
    """Score methods on datasets: one table, made by one recipe."""
    from terradistill import console
    from terradistill.config import presets
    from terradistill.distillation.comparison import compare, real_methods
    from terradistill.evaluation.method import Method

    variants = _variants(variant or [])

    def settings_of(method: str) -> "Settings":
        own, changes = variants.get(method, ([method], []))
        return settings_from(
            [*(preset or []), *own], config, [*(set_ or []), *changes], seed=seed,
            data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
        )  # fmt: skip

    known = (*presets(), *real_methods(), *variants)
    shadowed = sorted(set(variants) & {*presets(), *real_methods()})
    if shadowed:
        raise ConfigError(f"There is a method {shadowed[0]!r} already: give the variant another name.")
    odd = [name for name in _words(methods) if Method.read(name).name not in known]
    if odd:
        raise ConfigError(
            f"There is no method {odd[0]!r}: choose among {', '.join(known)}, with +2x2 or +soft after it or not."
        )
    with console.Rich() as reporter:
        rows = compare(
            data,
            out,
            settings_of,
            methods=list(dict.fromkeys([*_words(methods), *variants])),
            ipcs=_numbers(ipc),
            n_sets=sets,
            trainings=trainings,
            captions=captions,
            command=shlex.join(["terradistill", *sys.argv[1:]]),
            reporter=reporter,
        )
    console.print_scores(rows)
    made = {"table": out / "scoreboard.md", "picture": out / "scoreboard.png", "plots": out / "scoreboard.html"}
    console.print_made({name: path for name, path in made.items() if path.exists()})


@app.command("fidelity")
def bench_fidelity(
    scenes: Annotated[str, typer.Argument(metavar="SCENES", help="Scene folder to judge.")],
    against: Against,
    out: Out,
    features: Annotated[
        str, typer.Option("--features", help="own: of a network trained on the train split; inception: FID's.")
    ] = "own",
    clip: Annotated[str | None, typer.Option("--clip", help="Hub id or folder of a CLIP.")] = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,
) -> None:
    """Say how real a scene folder looks and how much of the real scenes it covers: KID, FID, coverage."""
    settings = settings_from(
        preset, config, set_, seed=seed,
        data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
    )  # fmt: skip
    from terradistill import console
    from terradistill.distillation.fidelity import fidelity

    if features not in ("own", "inception"):
        raise ConfigError(f"There are no features {features!r}: choose own or inception.")
    with console.Rich() as reporter:
        found = fidelity(
            scenes,
            against,
            out,
            settings,
            network="inception" if features == "inception" else "own",
            clip=clip,
            captions=captions,
            reporter=reporter,
        )
    console.print_fidelity(found)
    console.print_made({"fidelity": out / "fidelity.json"})


def _variants(texts: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Presets and overrides by the name of a variant: ``ten:dpd,sampling.candidates=10,sampling.prune=[0.5,0.6]``."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for text in texts:
        name, colon, said = text.partition(":")
        parts = [part.strip() for part in re.split(r",(?![^\[]*\])", said) if part.strip()]  # not inside of brackets
        if not colon or not re.fullmatch(r"[\w.-]+", name) or name in found or not parts:
            raise ConfigError(
                f"The variant {text!r} is not of the form NAME:PRESET,section.key=value,…: letters, digits, . _ and - "
                "in the name, each name once; the preset may be left out."
            )
        found[name] = [part for part in parts if "=" not in part], [part for part in parts if "=" in part]
    return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    words = _words(text)
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(f"--ipc {text!r} is no list of numbers: give images per class, such as 1,5,10.")
    return [int(word) for word in words]
