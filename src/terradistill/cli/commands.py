"""The command line: parse, call, print. Heavy imports wait until a command needs them, so `--help` is quick."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM, signal
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from typing import Annotated, NoReturn

import typer

from terradistill.cli import bench, classify, data, engine, enhance, train
from terradistill.cli.options import (
    Against,
    Captions,
    Config,
    Data,
    Drawing,
    Fraction,
    FromScratch,
    GeneratorOption,
    HideReal,
    Limit,
    Metadata,
    NewFolder,
    Out,
    Preset,
    Seed,
    Set,
    Shard,
    SplitFile,
    settings_from,
)
from terradistill.errors import ConfigError, TerraDistillError

SHARING = ("distill", "train")  # commands that several processes may be launched for
app = typer.Typer(
    name="terradistill",
    help="Condense a remote-sensing scene dataset into a tiny, realistic, synthetic one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(engine.app, name="engine")
app.add_typer(enhance.app, name="enhance")
app.add_typer(classify.app, name="classify")


@app.callback(invoke_without_command=True)
def _begin(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    command, launched = context.invoked_subcommand, os.environ.get("WORLD_SIZE", "1")
    alone = command is None or command in (*SHARING, "doctor") or "--help" in sys.argv
    if launched != "1" and "RANK" in os.environ and not alone:
        raise ConfigError(
            f"By WORLD_SIZE {launched} processes were launched together, but only {' and '.join(SHARING)} share their "
            f"work: start {command} by itself, or unset WORLD_SIZE."
        )
    if version:
        from terradistill import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def distill(
    data: Data,
    out: Out,
    ipc: Annotated[int | None, typer.Option("--ipc", help="Images per class.", show_default="10")] = None,
    generator: GeneratorOption = None,
    from_scratch: FromScratch = False,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,
    hide_real: HideReal = False,
    keep_names: Annotated[bool, typer.Option("--keep-names", help="Write the prototypes' file names.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write distilled.parquet too.")] = False,
    no_eval: Annotated[bool, typer.Option("--no-eval", help="Skip the scoreboard and the audit.")] = False,
    shard: Shard = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with estimated times; write nothing.")
    ] = False,
) -> None:
    """Condense DATA into a few synthetic images a class, score them and write a report."""
    settings = settings_from(
        preset, config, set_, from_scratch=from_scratch, generator=generator, ipc=ipc, seed=seed,
        data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
        export__hide_real=hide_real or None, export__keep_names=keep_names or None, export__parquet=parquet or None,
    )  # fmt: skip
    from terradistill import console

    if dry_run:
        from terradistill.distillation.plan import plan

        console.print_plan(plan(data, settings, captions=captions, evaluate=not no_eval), out)
        return
    from terradistill.distillation.pipeline import distill as run
    from terradistill.team import find_team

    team = console.heard(find_team(shard))
    with console.Rich() as reporter:
        made = run(data, out, settings, captions=captions, evaluate=not no_eval, reporter=reporter, team=team)
    console.print_scores(made.scores)
    console.print_made(
        {"distilled scenes": made.run / "distilled", "gallery": made.run / "gallery.png", "report": made.report}
    )


@app.command()
def generate(
    out: NewFolder,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="What to draw; repeat for more.")] = None,
    like: Annotated[str | None, typer.Option("--like", metavar="DATA", help="Every class of DATA instead.")] = None,
    requests: Annotated[
        Path | None, typer.Option("--requests", help="JSON lines: prompt, n, gsd_m, month, …, maps, content.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Images a prompt, class or request.")] = 16,
    size: Annotated[int | None, typer.Option("--size", help="Side of the images, pixels.")] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="NAME=FILE[:STRENGTH]", help="Such as road=mask.png:0.8; repeat for more."),
    ] = None,
    content: Annotated[
        str | None, typer.Option("--content", metavar="FILE[:STRENGTH]", help="A picture to look like.")
    ] = None,
    set_metadata: Metadata = None,
    generator: Drawing = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
) -> None:
    """Draw scenes to order: a scene folder and a contact sheet."""
    settings = settings_from(preset, config, set_, generator=generator, seed=seed)
    if settings.generator is None:
        raise ConfigError("There is nothing to draw with: name a generator, such as --generator base-128.")
    from terradistill import console
    from terradistill.data.sources import open_scenes
    from terradistill.generation import orders as written
    from terradistill.generation.draw import generate as draw
    from terradistill.models.generator import Generator

    drawing = Generator.load(settings.generator)
    orders = [written.Order(text) for text in prompt or []]
    if requests is not None:
        orders += written.read_requests(requests)
    if like is not None:
        orders += written.orders_like(open_scenes(like), settings.data.caption_template, drawing)
    maps, picture = written.parse_maps(map_ or []), written.parse_shown(content) if content else None
    orders = written.completed(orders, written.parse_metadata(set_metadata or ""), maps, picture)
    with console.Rich() as reporter:
        reporter.start("Drawing")
        draw(
            orders,
            out,
            drawing,
            n=n,
            size=size,
            settings=settings,
            progress=reporter.progress,
        )
    if cut := drawing.unheard([order.prompt for order in orders]):
        print(cut)
    console.print_made({"scenes": out, "gallery": out / "gallery.png"})


@app.command()
def evaluate(
    scenes: Annotated[str, typer.Argument(metavar="SCENES", help="Scene folder to judge as a training set.")],
    against: Against,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder to keep the scores in.")] = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,
) -> None:
    """Score a scene folder as a training set, beside random real images and the full train split."""
    settings = settings_from(
        preset, config, set_, seed=seed,
        data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
    )  # fmt: skip
    from terradistill import console
    from terradistill.distillation.scoreboard import evaluate as run

    with TemporaryDirectory() as nowhere, console.Rich() as reporter:
        rows = run(scenes, against, out or Path(nowhere) / "run", settings, captions=captions, reporter=reporter)
    console.print_scores(rows)
    if out is not None:
        console.print_made({"scores": out / "scores.json"})


@app.command()
def audit(
    scenes: Annotated[str, typer.Argument(metavar="SCENES", help="Scene folder to audit.")],
    against: Against,
    out: Annotated[Path, typer.Option("--out", help="Folder for audit.json and audit.png.", show_default=False)],
    config: Config = None,
    set_: Set = None,
    split_file: SplitFile = None,
    hide_real: HideReal = False,
) -> None:
    """Look for near-copies of real scenes in a scene folder, and for traces of what was learned from."""
    settings = settings_from(None, config, set_, data__split_file=split_file, export__hide_real=hide_real or None)
    from terradistill import console
    from terradistill.distillation.audit import audit as run

    with console.Rich() as reporter:
        found = run(scenes, against, out, settings, reporter=reporter)
    console.print_audit(found)
    pictures = {} if hide_real else {"most alike": out / "audit.png"}
    console.print_made({"audit": out / "audit.json", **pictures})


@app.command()
def studio(
    generator: Drawing = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Default: the first free one.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Open a web page, on this machine alone, where one makes scenes to order."""
    settings = settings_from(preset, config, set_, generator=generator)
    if settings.generator is None:
        raise ConfigError("There is nothing to draw with: name a generator, such as --generator base-128.")
    from time import sleep

    from terradistill import console
    from terradistill.studio.page import opened

    with opened(settings.generator, port=port, browser=not no_browser, settings=settings) as address:
        console.print_address(address)
        with suppress(KeyboardInterrupt):
            while True:
                sleep(3600)


@app.command("settings")
def show_settings(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Part of a name, such as sampling or steps.")] = "",
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
) -> None:
    """List the settings with their values, as presets and files make them, and what they are."""
    settings = settings_from(preset, config, set_)
    from terradistill import console
    from terradistill.config import described

    rows = [row for row in described(settings) if name in row[0]]
    if not rows:
        raise ConfigError(f"No setting has {name!r} in its name: `terradistill settings` lists all of them.")
    console.print_settings(rows)


@app.command()
def doctor() -> None:
    """Say what this machine computes with, and what is missing."""
    from terradistill import console
    from terradistill.health import doctor as examine

    console.print_findings(examine())


# One progress bar at a time, ours; and no advice meant for programmers.
QUIET = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}


def main() -> None:
    """Entry point: 0 done, 2 the user's mistake in one sentence, 130 interrupted, 143 told to end, as schedulers do."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):  # a file name that is no UTF-8 is shown, not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if current_thread() is main_thread():
        signal(SIGTERM, _end)
    try:
        app()
    except SystemExit as ended:
        if ended.code in (130, 143):
            print("\nterradistill: interrupted; with --out, the same command goes on from here.", file=sys.stderr)
        raise
    except TerraDistillError as error:
        _give_up(str(error))
    except OSError as error:
        if error.errno == 28 or error.filename is not None:
            _give_up(f"{error.filename or 'The disk'}: {error.strerror}. Mend that, and run the same command again.")
        raise
    except Exception as error:
        # Two libraries have errors of their own for what is not a defect of ours.
        if "No space left" in str(error):
            _give_up("No space left on the disk: free some, and run the same command again; finished stages are kept.")
        from terradistill.hardware import out_of_memory

        if out_of_memory(error):
            _give_up(
                "The memory is full: with --set, lower sampling.batch_size or give sampling.low_memory=true (the same "
                "run goes on), or in a new --out lower the batch_size of finetune, diffusion or classify."
            )
        raise


def _end(*_: object) -> NoReturn:
    raise SystemExit(143)  # so that what tidies up and tells other processes has its turn


def _give_up(sentence: str) -> None:
    print(f"terradistill: {sentence}", file=sys.stderr)
    raise SystemExit(2) from None
