"""The stages that learn beside a generator, which stays as it is: adapters of maps and pictures, enhancers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.data.bands import BandScale, bands_note, bands_of, require_bands
from terradistill.data.maps import load_maps, parse_maps
from terradistill.data.sensor import Sensor
from terradistill.data.splits import places_of
from terradistill.distillation.learning import known_numbers, loop, remember, require_own
from terradistill.distillation.work import Work
from terradistill.models.content_encoder import ContentEncoder
from terradistill.models.control_nets import ControlNets
from terradistill.models.frame_adapter import FrameAdapter, require_scale
from terradistill.models.generator import Generator
from terradistill.models.map_adapter import MapAdapter
from terradistill.run import Stage
from terradistill.sections import SIMULATED, BesideSettings, EnhancerSettings
from terradistill.seeding import derive
from terradistill.training.diffusion import repeats, train_diffusion
from terradistill.training.frames import (
    BandTable,
    Coarser,
    FrameTable,
    OtherDay,
    OtherSeasons,
    RealDates,
    Simulation,
    others_of,
    season,
    seasonal,
    told_of,
)
from terradistill.training.maps import MapTable
from terradistill.training.told import Conditions


def adapter(work: Work) -> None:
    """Train adapters beside the given generator, which stays as it is: `generator/`."""
    run, wanted = work.run, work.settings.adapter
    if run.done("adapter"):
        return
    require_own(work, "adapter")
    maps = parse_maps(wanted.maps) if wanted.maps else {}
    with run.stage("adapter", "Training the adapter") as stage:
        generator = Generator.load(str(work.settings.generator)).to(work.hardware.device)
        parts, table = [], None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(work.settings.seed, "adapter weights"))
            if maps:
                if generator.map_adapter is not None:
                    before = ", ".join(generator.map_adapter.learned)
                    run.say(f"the given generator's adapter (for {before}) is replaced by a new one")
                planes = load_maps(work.train, maps, work.pixels(), run / "cache" / "maps.npy", stage.progress)
                table = MapTable(planes, tuple(maps), wanted.map_dropout, wanted.keep_all, wanted.drop_all)
                around, names = (generator.unet, generator.factor), tuple(maps)
                generator.map_adapter = (
                    MapAdapter(*around, wanted.widths, names)
                    if wanted.kind == "modulation"
                    else ControlNets(*around, names)
                )
                parts.append("map_adapter")
            if wanted.content:
                width = int(generator.text_encoder.config.hidden_size)
                generator.content_encoder = ContentEncoder(generator.latent_shape[0], width, generator.time_width)
                parts.append("content_encoder")
        _train_beside(work, stage, generator, wanted, parts, table, "adapter")


def enhancer(work: Work) -> None:
    """Train a frame adapter beside the given generator, which stays as it is: `generator/`."""
    run, wanted = work.run, work.settings.enhancer
    if run.done("enhancer"):
        return
    require_own(work, "enhancer")
    with run.stage("enhancer", "Training the enhancer") as stage:
        generator = Generator.load(str(work.settings.generator)).to(work.hardware.device)
        if generator.frame_adapter is not None:
            run.say(
                f"the given generator's enhancer (to {generator.frame_adapter.about['task']}) is replaced by a new one"
            )
        bands = _bands(work, generator) if wanted.bands else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(work.settings.seed, "enhancer weights"))
            adapter = FrameAdapter(
                generator.unet,
                generator.factor,
                bands=wanted.bands or ("R", "G", "B"),
                scale=wanted.ratio,
                middle=wanted.middle,
                temporal=wanted.task == "timelapse",
                days=wanted.days,
                told=told_of(wanted),
                about={
                    "task": wanted.task,
                    "n_frames": wanted.frames if wanted.task == "timelapse" else 1,
                    **_seen_in(wanted, bands),
                },
            )
        generator.frame_adapter = adapter
        table: Conditions
        if bands:
            table = BandTable(bands[0], adapter, wanted.noise)
        elif wanted.real:
            table = _real_dates(work, adapter)
        else:
            rows = work.metadata()
            table = FrameTable(work.pixels(), simulation_of(wanted), adapter, seasonal=seasonal(wanted), rows=rows)
        # Where class folders are dates, prompts do not name them, and images of a place are held out together.
        own = [list(scene.captions) or [""] for scene in work.train.scenes] if wanted.real else None
        places = places_of(work.train) if wanted.real else None
        _train_beside(work, stage, generator, wanted, ["frame_adapter"], table, "enhancer", own, places)


def _seen_in(wanted: EnhancerSettings, bands: tuple[Any, dict[str, Any]] | None) -> dict[str, Any]:
    """What an enhancer remembers of its frames."""
    if bands:
        return {"bands": bands[1]}
    return {"real": True} if wanted.real else {"simulated": {name: getattr(wanted, name) for name in SIMULATED}}


def _real_dates(work: Work, adapter: FrameAdapter) -> RealDates:
    """Other images of the places of the train scenes.

    Raises:
        DataError: a place has one alone.
    """
    wanted = work.settings.enhancer
    rows = [row | (season(row["month"], row.get("day", 15)) if "month" in row else {}) for row in work.metadata()]
    if unknown := [name for name in wanted.told if not any(name in row for row in rows)]:
        work.run.say(f"no image says its {', '.join(unknown)} in metadata.jsonl: nothing is learned of that")
    return RealDates(work.pixels(), places_of(work.train), rows, adapter, wanted.frames)


def _train_beside(
    work: Work,
    stage: Stage,
    generator: Generator,
    wanted: BesideSettings,
    parts: Sequence[str],
    conditions: Conditions | None,
    section: str,
    captions: list[list[str]] | None = None,
    places: list[str] | None = None,
) -> None:
    """Train parts beside a generator, and leave it with them: `generator/`. Without captions those of the scenes."""
    train_diffusion(
        generator.to(work.hardware.device),
        work.latents(),
        captions or work.captions(),
        wanted.of(work.settings.diffusion),
        metadata=known_numbers(work, generator),
        repeats=repeats(work.train.labels, work.settings.diffusion.balance),
        places=places,
        parts=parts,
        conditions=conditions,
        section=section,
        seed=derive(work.settings.seed, section),
        **loop(work, stage),
    )
    with stage.writes("generator") as folder:
        remember(work, generator)
        generator.save(folder)


def _bands(work: Work, generator: Generator) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Bands of the train scenes in the grid of the frames, and what has to be known to read others like them.

    Raises:
        DataError: DATA has no bands, or not these.
    """
    wanted, folder = work.settings.enhancer, Path(str(work.run.manifest["data"]["source"]))
    note = bands_note(folder)
    side = generator.resolution // wanted.ratio
    coarse = (bands_of(folder, scene.name).coarser(wanted.ratio) for scene in work.train.scenes)
    stacks = np.stack([image.stacked(wanted.bands, side, side) for image in coarse])
    scale = BandScale.of(wanted.bands, stacks)
    return scale.scaled(stacks), {**note, "mean": scale.mean, "std": scale.std}


def require_readable_frames(work: Work) -> None:
    """Refuse before anything is encoded what `FrameAdapter` and `RealDates` would refuse after it.

    Raises:
        GeneratorError, DataError: see there.
    """
    if work.run.done("enhancer", shared=True):
        return
    wanted = work.settings.enhancer
    require_scale(Generator.load(str(work.settings.generator)).factor, wanted.ratio)
    if wanted.real:
        others_of(places_of(work.train))
    if wanted.bands:
        folder = Path(str(work.run.manifest["data"]["source"]))
        require_bands(wanted.bands, bands_note(folder)["bands"], str(folder))


def simulation_of(wanted: EnhancerSettings) -> Simulation:
    """How frames come of scenes."""
    sensor = Sensor(wanted.ratio, wanted.blur, wanted.gain, wanted.offset, wanted.noise)
    if wanted.task == "super-resolve":
        return Coarser(sensor)
    if wanted.task == "fuse":
        return OtherDay(sensor, wanted.days, wanted.shift, wanted.clouds)
    return OtherSeasons(sensor, wanted.frames, wanted.clouds)
