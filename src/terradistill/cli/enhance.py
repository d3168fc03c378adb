"""`terradistill enhance`: other resolutions, other dates, missing pieces."""

from pathlib import Path
from typing import Annotated

import typer

from terradistill.cli.options import Bands, Config, Drawing, Metadata, Out, Preset, Seed, Set, settings_from

app = typer.Typer(help="Fill in, sharpen, fuse or move images in time.", no_args_is_help=True)

Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="An image (PNG, JPEG, GeoTIFF), a folder of them, or DATA.")
]
Trained = Annotated[
    str | None,
    typer.Option("--generator", help="Run of train enhancer, or a generator with one.", show_default=False),
]
Sharpener = Annotated[
    str | None,
    typer.Option("--generator", help="Run of train enhancer, or a generator with one.", show_default="base-128"),
]
Prompt = Annotated[str, typer.Option("--prompt", help="What the images show.")]


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
    prompt: Prompt = "",
    set_metadata: Metadata = None,
    generator: Drawing = None,
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


@app.command("super-resolve")
def enhance_super_resolve(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="As for the others, or a file of bands.")],
    out: Out,
    scale: Annotated[int | None, typer.Option("--scale", help="What the enhancer has learned.")] = None,
    prompt: Prompt = "",
    free: Annotated[
        bool, typer.Option("--free", help="What is drawn need not be the given image when made coarse again.")
    ] = False,
    bands: Bands = None,
    generator: Sharpener = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
) -> None:
    """Draw images at several times their resolution, tile by tile."""
    settings = settings_from(preset, config, set_, generator=generator, seed=seed)
    from terradistill import console
    from terradistill.data.bands import parse_bands
    from terradistill.enhancing.super_resolve import super_resolve

    named = parse_bands(bands or [])
    with console.Rich() as reporter:
        made = super_resolve(
            source, out, settings, scale=scale, prompt=prompt, faithful=not free, bands=named, reporter=reporter
        )
    console.print_made({"images": made, "before and after": made / "before_after.png"})


@app.command("fuse")
def enhance_fuse(
    source: Input,
    out: Out,
    day: Annotated[
        str | None, typer.Option("--date", help="Of what is drawn, such as 2021-07-04; else the newest.")
    ] = None,
    prompt: Prompt = "",
    generator: Trained = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
) -> None:
    """Draw one fine image a place from coarse ones of several dates."""
    settings = settings_from(preset, config, set_, generator=generator, seed=seed)
    from terradistill import console
    from terradistill.enhancing.fuse import fuse_dates

    with console.Rich() as reporter:
        made = fuse_dates(source, out, settings, day=day, prompt=prompt, reporter=reporter)
    console.print_made({"images": made, "before and after": made / "before_after.png"})


@app.command("timelapse")
def enhance_timelapse(
    source: Input,
    out: Out,
    dates: Annotated[str, typer.Option("--dates", help="Such as 2021-01,2021-04,2021-07-15.", show_default=False)],
    prompt: Prompt = "",
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Draw each after so many; else as many as were learned.")
    ] = None,
    generator: Trained = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
) -> None:
    """Draw a place at other dates, each after the images nearest to it in time."""
    settings = settings_from(preset, config, set_, generator=generator, seed=seed)
    from terradistill import console
    from terradistill.enhancing.timelapse import timelapse

    wanted = [word.strip() for word in dates.split(",") if word.strip()]
    with console.Rich() as reporter:
        made = timelapse(source, out, settings, days=wanted, prompt=prompt, frames=frames, reporter=reporter)
    console.print_made({"images": made, "picture": made / "timelapse.png"})
