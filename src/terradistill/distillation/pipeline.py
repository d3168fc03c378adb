"""The main job as a list of named steps. Run again after a crash, it goes on where it stood."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terradistill.data.maps import parse_maps, require_given, require_maps
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import Data, open_scenes
from terradistill.distillation import beside, drawing, learning, refining
from terradistill.distillation.audit import audit_stage
from terradistill.distillation.card import dataset_card, write_parquet
from terradistill.distillation.scoreboard import evaluate_stage
from terradistill.distillation.work import Work, open_work
from terradistill.errors import ConfigError
from terradistill.evaluation.harness import Row
from terradistill.files import write_text
from terradistill.report.page import write_report
from terradistill.run import Reporter
from terradistill.settings import Settings
from terradistill.team import Team
from terradistill.training.frames import seasonal


@dataclass(frozen=True)
class Distilled:
    """What `distill` made, and where.

    Attributes:
        run: the run folder.
        scenes: the distilled scene folder.
        scores: rows of the scoreboard; empty without evaluation.
        report: the HTML page.
    """

    run: Path
    scenes: SceneFolder
    scores: list[Row]
    report: Path


def distill(
    data: Data,
    out: str | Path,
    settings: Settings | None = None,
    *,
    captions: Path | None = None,
    evaluate: bool = True,
    reporter: Reporter | None = None,
    team: Team | None = None,
) -> Distilled:
    """Condense DATA into `settings.ipc` synthetic images a class, score them and write a report.

    Args:
        data: a folder of class folders, a zip of one, shards, a Hugging Face id, a catalogue name, or scenes that
            `open_scenes` has opened, perhaps some of them.
        out: run folder; an existing one with the same settings is gone on with.
        settings: see `terradistill.settings.Settings`; `load_settings` reads presets and files.
        captions: JSON lines with `file_name` and captions, for DATA that has them elsewhere.
        evaluate: train downstream networks and write the scoreboard.
        reporter: told of progress.
        team: this process's place among several that were given the same command; see `terradistill.team`.

    Raises:
        TerraDistillError: what was asked cannot be done; the message says what would help.
    """
    work = open_work(data, Path(out), settings or Settings(), captions=captions, reporter=reporter, team=team)
    with closing(work.run):
        learning.autoencoder(work)
        learning.encode(work)
        learning.classifier(work)
        learning.diffusion(work)
        drawing.prototypes(work)
        drawing.candidates(work)
        refining.refined(work)
        drawing.export(work)
        if evaluate:
            evaluate_stage(work)
            audit_stage(work)
        return publish(work)


def train(
    data: Data | Sequence[Data],
    out: str | Path,
    settings: Settings | None = None,
    *,
    until: str = "generator",
    captions: Path | None = None,
    reporter: Reporter | None = None,
    team: Team | None = None,
) -> Path:
    """The first steps of `distill` alone: train the autoencoder, the generator or the latent classifier on DATA.

    Or one that `distill` has not: train the decoder of a given generator on, or adapters beside it.

    Args:
        data: as for `distill`; a list is pooled, classes of different datasets staying apart.
        out: as for `distill`.
        settings: as for `distill`.
        until: "autoencoder", "generator", "classifier", "decoder", "adapter" or "enhancer".
        captions: as for `distill`.
        reporter: as for `distill`.
        team: as for `distill`.

    Returns:
        The folder of what was trained, inside `out`.
    """
    settings = settings or Settings()
    if settings.generator is not None and until == "autoencoder":
        raise ConfigError(
            f"The generator {settings.generator} brings its own autoencoder: train one with generator none."
        )
    if settings.generator is None and until in ("decoder", "adapter", "enhancer"):
        raise ConfigError(f"There is no generator to train the {until} of: name one with --generator.")
    if until == "adapter" and not settings.adapter.maps and not settings.adapter.content:
        raise ConfigError("An adapter learns maps or content images: give --maps, such as edges,lines, or --content.")
    if until == "adapter" and settings.adapter.maps:
        require_maps(settings.adapter.maps)
    least = 2 if until == "classifier" or settings.diffusion.consistency_weight else 1
    work = open_work(
        data, Path(out), settings, captions=captions, reporter=reporter, spare=2 - settings.ipc, least_classes=least,
        places=until == "enhancer" and settings.enhancer.real, team=team,
    )  # fmt: skip
    with closing(work.run):
        if until == "decoder":
            learning.decoder(work)
            return work.run / "generator"
        if until == "enhancer":
            beside.require_readable_frames(work)
            learning.encode(work, seasons=seasonal(settings.enhancer))
            beside.enhancer(work)
            return work.run / "generator"
        if until == "adapter":
            require_given(work.train, parse_maps(settings.adapter.maps) if settings.adapter.maps else {})
            learning.encode(work)
            beside.adapter(work)
            return work.run / "generator"
        learning.autoencoder(work)
        if until == "autoencoder":
            return work.run / "autoencoder"
        learning.encode(work)
        if until == "classifier":
            learning.classifier(work)
            return work.run / "classifier"
        if settings.diffusion.consistency_weight:
            learning.classifier(work)
        learning.diffusion(work)
        return work.run / "generator"


def publish(work: Work) -> Distilled:
    """Write what people look at, anew each time: dataset card, gallery, report."""
    run, settings = work.run, work.settings
    manifest: dict[str, Any] = run.manifest
    scores: list[Row] = run.read_json("scores.json", default=[])
    if not run.team.leads:
        return Distilled(run.root, open_scenes(run / "distilled"), scores, run / "report.html")
    audit: dict[str, Any] | None = run.read_json("audit.json", default=None)
    folder = run / "distilled"
    write_text(folder / "README.md", dataset_card(manifest, settings.model_dump(mode="json"), scores, audit))
    if settings.export.parquet:
        write_parquet(folder, run / "distilled.parquet")
    scenes = open_scenes(folder)
    return Distilled(run.root, scenes, scores, write_report(run.root, prototypes=_prototype_pixels(work)))


def _prototype_pixels(work: Work) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    if work.settings.export.hide_real:
        return None
    index = drawing.prototype_indices(work)
    pixels = work.pixels()[index.ravel()]
    return np.asarray(pixels).reshape(*index.shape, *pixels.shape[1:])
