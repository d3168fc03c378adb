"""`terradistill enhance`: other resolutions, other dates, missing pieces."""

from pathlib import Path
from typing import Annotated

import typer

from terradistill.cli.options import Config, Out, Preset, Seed, Set, settings_from

app = typer.Typer(help="Fill in, sharpen, fuse or move images in time.", no_args_is_help=True)

Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="An image (PNG, JPEG, GeoTIFF), a folder of them, or DATA.")
]
GeneratorOption = Annotated[
    str | None,
    typer.Option("--generator", help="Name, folder, run folder or hub id of what draws.", show_default="base-128"),
]
Metadata = Annotated[
    str | None, typer.Option("--set-metadata", metavar="A=B,C=D", help="Numbers, such as gsd_m=10,month=7.")
]


@app.command("inpaint")
def enhance_inpaint(
    source: Input,
    out: Out,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="White where to draw; for several images a folder of masks.")
    ] = None,
    clouds: Annotated[
        float | None, typer.Option("--clouds", help="Instead: hide this share under simulated clouds.")
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", help="What to draw.")] = "",
    set_metadata: Metadata = None,
    generator: GeneratorOption = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
) -> None:
    """Draw what a mask hides; all other pixels stay as they are."""
    settings = settings_from(preset, config, set_, generator=generator, seed=seed)
    from terradistill import console
    from terradistill.enhancing.inpaint import inpaint
    from terradistill.generation.orders import parse_metadata

    with console.Rich() as reporter:
        made = inpaint(
            source,
            out,
            settings,
            mask=mask,
            clouds=clouds,
            prompt=prompt,
            metadata=parse_metadata(set_metadata or ""),
            reporter=reporter,
        )
    console.print_made({"images": made, "before and after": made / "before_after.png"})
