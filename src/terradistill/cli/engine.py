"""`terradistill engine`: made pairs, and what they are worth."""

from typing import Annotated

import typer

from terradistill.cli.options import Beside, Config, Out, Preset, Seed, Set, settings_from

app = typer.Typer(help="Generate image-mask pairs, and say what they are worth.", no_args_is_help=True)


@app.command("roads")
def engine_roads(
    pairs: Annotated[str, typer.Argument(metavar="PAIRS", help="Folder or zip with images/ and masks/ (white: road).")],
    out: Out,
    generator: Beside = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
) -> None:
    """Draw scenes after road masks; train segmentation on real, drawn and all pairs; test on held-out real ones."""
    settings = settings_from(preset, config, set_, generator=generator, seed=seed)
    from terradistill import console
    from terradistill.engine import data_engine

    with console.Rich() as reporter:
        found = data_engine(pairs, out, settings, name="road", reporter=reporter)
    console.print_engine(found)
    console.print_made({"table": out / "engine.md", "picture": out / "engine.png"})
