"""`terradistill data`: check, prepare, caption and draw scene datasets."""

from pathlib import Path
from typing import Annotated

import typer

from terradistill.cli.options import (
    Bands,
    Captions,
    Data,
    Fraction,
    Limit,
    NewFolder,
    SplitFile,
    settings_from,
)
from terradistill.errors import ConfigError

app = typer.Typer(help="Check, prepare, describe, cut or pack a scene dataset.", no_args_is_help=True)


@app.command("check")
def data_check(
    data: Data,
    ipc: Annotated[int, typer.Option("--ipc", help="Images per class that will be asked for.")] = 10,
    limit: Limit = None,
    train_fraction: Fraction = None,
    captions: Captions = None,
) -> None:
    """Read every image of DATA; list what is corrupt, doubled or too few."""
    settings = settings_from(None, None, None, data__limit=limit, data__train_fraction=train_fraction).data
    from terradistill import console
    from terradistill.data.check import check_scenes, require_enough
    from terradistill.data.sources import open_scenes
    from terradistill.data.splits import divide, limit_scenes

    scenes = limit_scenes(open_scenes(data, captions=captions), settings)
    with console.Rich() as reporter:
        reporter.start("Reading and checking scenes")
        scenes, report = check_scenes(scenes, progress=reporter.progress)
    console.print_check(scenes, report)
    require_enough(divide(scenes, settings)[0], ipc)


@app.command("prepare")
def data_prepare(
    data: Data,
    out: NewFolder,
    resolution: Annotated[int | None, typer.Option("--resolution", help="Side of the square scenes, pixels.")] = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,
) -> None:
    """Write DATA as clean, square scene folders OUT/train and OUT/test."""
    settings = settings_from(
        None, None, None, data__resolution=resolution,
        data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
    )  # fmt: skip
    from terradistill import console
    from terradistill.distillation.prepare import prepare

    with console.Rich() as reporter:
        reporter.start("Preparing scenes")
        report = prepare(data, out, settings.data, captions=captions, progress=reporter.progress)
    for line in report.summary():
        print(line)
    console.print_made({"train": out / "train", "test": out / "test", "split": out / "split.json"})


@app.command("caption")
def data_caption(
    data: Data,
    model: Annotated[str, typer.Option("--model", help="Hub id or folder of an image-text-to-text model.")],
    out: Annotated[Path, typer.Option("--out", help="JSON lines for --captions; added to.", show_default=False)],
    instruction: Annotated[str | None, typer.Option("--prompt", help="What to ask of the model.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Scenes at a time.")] = 8,
) -> None:
    """Have a vision-language model describe every scene of DATA."""
    from terradistill import console
    from terradistill.data.sources import open_scenes
    from terradistill.distillation.captioning import write_captions
    from terradistill.hardware import find_hardware
    from terradistill.models.captioner import INSTRUCTION, Captioner

    hardware = find_hardware()
    open_scenes(data)  # a mistyped name is found before a model is fetched
    captioner = Captioner.load(model, hardware, instruction=instruction or INSTRUCTION)
    if instruction and not captioner.instruction:
        raise ConfigError(f"{model} describes what it sees and cannot be asked: leave --prompt out.")
    with console.Rich() as reporter:
        reporter.start("Describing scenes")
        write_captions(data, out, captioner, batch_size=batch_size, progress=reporter.progress)
    console.print_made({"captions": out})


@app.command("annotate")
def data_annotate(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder; a folder a map is made in it.", show_default=False)],
    maps: Annotated[str, typer.Option("--maps", help="Such as edges,lines,road=ROADS.geojson.")] = "edges",
    road_width_m: Annotated[
        float, typer.Option("--road-width", min=0, help="Of the roads of a GeoJSON file, metres.")
    ] = 8.0,
) -> None:
    """Draw maps of every scene of DATA: edges, lines, sketches, regions by filters, roads from a GeoJSON file."""
    from terradistill import console
    from terradistill.data.maps import annotate

    with console.Rich() as reporter:
        reporter.start("Drawing maps")
        made = annotate(
            data, [name for name in maps.split(",") if name.strip()], out, reporter.progress, road_width_m=road_width_m
        )
    console.print_made(made)


@app.command("cut")
def data_cut(
    scene: Annotated[
        Path,
        typer.Argument(metavar="SCENE", help="An .npz file of arrays (h, w), a band each, or of several; a GeoTIFF."),
    ],
    out: NewFolder,
    side: Annotated[int, typer.Option("--side", min=8, help="Of the squares, finest pixels.")] = 128,
    stride: Annotated[int | None, typer.Option("--stride", min=1, help="Between them; else the side.")] = None,
    rgb: Annotated[str, typer.Option("--rgb", help="Bands that the pictures show.")] = "B4,B3,B2",
    bands: Bands = None,
) -> None:
    """Cut a scene of many bands into scenes to learn from."""
    from terradistill import console
    from terradistill.data.bands import cut_scenes, parse_bands

    shown = [name.strip() for name in rgb.split(",") if name.strip()]
    if len(shown) != 3:
        raise ConfigError(f"--rgb {rgb!r}: expected three bands, such as B4,B3,B2.")
    count = cut_scenes(scene, out, side=side, stride=stride or side, rgb=shown, named=parse_bands(bands or []))
    print(f"{count} scenes")
    console.print_made({"scenes": out})


@app.command("pack")
def data_pack(
    data: Data,
    out: NewFolder,
    by: Annotated[int, typer.Option("--by", min=2, max=9, help="Scenes along a side of an image.")] = 2,
) -> None:
    """Put BY x BY scenes of DATA, such as a distilled set, into each image; what is made is DATA too."""
    from terradistill import console
    from terradistill.data.formation import pack_scenes
    from terradistill.data.sources import open_scenes
    from terradistill.distillation.scoreboard import learned_by
    from terradistill.models.places import write_learned_from

    with console.Rich() as reporter:
        reporter.start("Packing scenes")
        count = pack_scenes(open_scenes(data), out, by, reporter.progress)
    write_learned_from(out, learned_by(Path(data)))
    print(f"{count} images of {by * by} scenes")
    console.print_made({"scenes": out})


@app.command("shards")
def data_shards(
    data: Data,
    out: NewFolder,
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="Scenes a tar.")] = 1000,
    captions: Captions = None,
) -> None:
    """Pack DATA, such as a distilled set, as WebDataset shards, which are DATA too."""
    from terradistill import console
    from terradistill.data.shards import write_shards
    from terradistill.data.sources import open_scenes
    from terradistill.distillation.scoreboard import learned_by
    from terradistill.models.places import write_learned_from

    with console.Rich() as reporter:
        reporter.start("Packing scenes")
        count = write_shards(open_scenes(data, captions=captions), out, per_shard=per_shard, progress=reporter.progress)
    write_learned_from(out, learned_by(Path(data)))
    print(f"{count} shard{'' if count == 1 else 's'}")
    console.print_made({"shards": out})


@app.command("draw")
def data_draw(
    out: NewFolder,
    per_class: Annotated[int, typer.Option("--per-class", help="Images a class.")] = 40,
    classes: Annotated[int, typer.Option("--classes", help="Number of classes, at most 10.")] = 6,
    size: Annotated[int, typer.Option("--size", help="Side, pixels.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Seed.")] = 0,
) -> None:
    """Draw a scene dataset to try things on: fields, forests, rivers, roofs, from a seed."""
    from terradistill import console
    from terradistill.data.drawn import draw_scenes

    draw_scenes(out, per_class=per_class, size=size, seed=seed, n_classes=classes)
    console.print_made({"scenes": out})
