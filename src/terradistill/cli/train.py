"""`terradistill train`: one part of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terradistill.cli.options import (
    Beside,
    Captions,
    Config,
    Fraction,
    FromScratch,
    GeneratorOption,
    Limit,
    Out,
    Pooled,
    Preset,
    Seed,
    Set,
    SplitFile,
    settings_from,
)

if TYPE_CHECKING:
    from terradistill.settings import Settings

app = typer.Typer(
    help="Train one part of a run, or what draws after maps, sharpens, or fuses beside a generator.",
    no_args_is_help=True,
)


def _train(part: str, made: str, data: list[str], out: Path, settings: "Settings", captions: Path | None) -> None:
    from terradistill import console
    from terradistill.distillation.pipeline import train
    from terradistill.team import find_team

    team = console.heard(find_team())
    with console.Rich() as reporter:
        folder = train(data, out, settings, until=part, captions=captions, reporter=reporter, team=team)
    console.print_made({made: folder})


def _train_command(part: str, says: str) -> None:
    def command(
        data: Pooled,
        out: Out,
        preset: Preset = None,
        config: Config = None,
        set_: Set = None,
        seed: Seed = None,
        limit: Limit = None,
        train_fraction: Fraction = None,
        split_file: SplitFile = None,
        captions: Captions = None,
        generator: GeneratorOption = None,
        from_scratch: FromScratch = False,
    ) -> None:
        # An autoencoder is there already wherever one starts from a generator.
        alone = from_scratch or (part == "autoencoder" and generator is None)
        settings = settings_from(
            preset, config, set_, from_scratch=alone, generator=generator, seed=seed,
            data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
        )  # fmt: skip
        _train(part, part, data, out, settings, captions)

    app.command(part, help=says)(command)


for _part, _says in (
    ("autoencoder", "Train the autoencoder on the train split of DATA."),
    ("generator", "Train the generator on the train split of DATA, and what it needs before."),
    (
        "classifier",
        "Train the latent classifier that helps to choose what is kept, and what it needs before; for a classifier of "
        "scenes see classify train.",
    ),
):
    _train_command(_part, _says)


@app.command("decoder")
def train_decoder(
    data: Pooled,
    out: Out,
    generator: Beside = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,
) -> None:
    """Train the decoder of a generator on, by eye as well as by pixel; its latents stay."""
    settings = settings_from(
        preset, config, set_, generator=generator, seed=seed,
        data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
    )  # fmt: skip
    _train("decoder", "generator with its decoder", data, out, settings, captions)


@app.command("adapter")
def train_adapter(
    data: Pooled,
    out: Out,
    maps: Annotated[
        str | None, typer.Option("--maps", help="Such as edges,lines,road=FOLDER; drawn by filters where no folder.")
    ] = None,
    content: Annotated[bool, typer.Option("--content", help="Learn from a content image too.")] = False,
    generator: Beside = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,
) -> None:
    """Train what draws scenes after maps or a picture, beside a generator that stays as it is."""
    wanted = None if maps is None else [name.strip() for name in maps.split(",") if name.strip()]
    settings = settings_from(
        preset, config, set_, generator=generator, seed=seed, adapter__maps=wanted, adapter__content=content or None,
        data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
    )  # fmt: skip
    _train("adapter", "generator with its adapter", data, out, settings, captions)


@app.command("enhancer")
def train_enhancer(
    data: Pooled,
    out: Out,
    task: Annotated[
        str | None,
        typer.Option("--task", help="super-resolve, fuse or timelapse.", show_default="super-resolve"),
    ] = None,
    scale: Annotated[int | None, typer.Option("--scale", help="Pixels drawn per pixel given.")] = None,
    generator: Beside = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,
) -> None:
    """Train what `enhance` uses beside a generator, on frames simulated from the scenes, or real ones."""
    settings = settings_from(
        preset, config, set_, generator=generator, seed=seed, enhancer__task=task, enhancer__scale=scale,
        data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
    )  # fmt: skip
    _train("enhancer", "generator with its enhancer", data, out, settings, captions)
