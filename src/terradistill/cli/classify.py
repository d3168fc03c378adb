"""`terradistill classify`: classifiers of scenes, with or without self-distillation."""

import time
from pathlib import Path
from typing import Annotated

import typer

from terradistill.cli.options import (
    Captions,
    Config,
    Fraction,
    Limit,
    NewFolder,
    Out,
    Pooled,
    Preset,
    Seed,
    Set,
    SplitFile,
    settings_from,
)

app = typer.Typer(help="Train a classifier of scenes, ask it, hand it on.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Run of classify train, or a classifier folder.")]


@app.command("train")
def classify_train(
    data: Pooled,
    out: Out,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="DATA", help="Learn from all of a scene folder; real scenes judge."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help="resnet18, convnext-atto, timm:NAME, …", show_default="resnet18-stem2"),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="ce, byot, logit-sd or dsd (DSDNet).", show_default="dsd")
    ] = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Seed = None,
    limit: Limit = None,
    train_fraction: Fraction = None,
    split_file: SplitFile = None,
    captions: Captions = None,  # noqa: ARG001 - scenes with captions are welcome, which are not looked at
) -> None:
    """Train on the train scenes of DATA, test on the others, and write a report.

    With --against, learn from all of one scene folder, such as a distilled one, and test on real scenes.
    """
    settings = settings_from(
        preset, config, set_, seed=seed, classify__network=network, classify__method=method,
        data__limit=limit, data__train_fraction=train_fraction, data__split_file=split_file,
    )  # fmt: skip
    from terradistill import console
    from terradistill.classification.learn import train_classifier

    with console.Rich() as reporter:
        model = train_classifier(data, out, settings, against=against, reporter=reporter)
    console.print_made({"classifier": model, "scores": out / "scores.json", "report": out / "report.html"})


@app.command("predict")
def classify_predict(
    model: Model,
    source: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images (PNG, JPEG, GeoTIFF), folders of them, or DATA.")
    ],
    out: Annotated[Path, typer.Option("--out", help="A .csv or .jsonl file.", show_default=False)],
    window: Annotated[
        int | None, typer.Option("--window", min=8, help="Cut large images into squares of so many pixels.")
    ] = None,
) -> None:
    """Say what images show: a row each, with calibrated probabilities."""
    from terradistill import console
    from terradistill.classification.predict import predict_scenes

    with console.Rich() as reporter:
        reporter.start("Classifying")
        began = time.monotonic()
        lost: list[str] = []
        count = predict_scenes(model, source, out, window=window, progress=reporter.progress, unreadable=lost.append)
        reporter.end("Classifying", time.monotonic() - began, f"{count} rows")
        if lost:
            reporter.say(f"images that cannot be read, and have no row: {len(lost)}, such as {lost[0]}")
    console.print_made({"predictions": out})


@app.command("export")
def classify_export(
    model: Model,
    out: NewFolder,
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="Write model.onnx too, checked.")] = True,
) -> None:
    """Write the plain backbone: safetensors, and ONNX that gives the same logits."""
    from terradistill import console
    from terradistill.classification.export import export_classifier

    console.print_made(export_classifier(model, out, onnx=onnx))
