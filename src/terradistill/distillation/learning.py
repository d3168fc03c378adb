"""The stages of the main job that learn, each from files to files: autoencoder, latents, classifier, generator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.bands import BandScale, bands_note, bands_of, require_bands
from terradistill.data.maps import load_maps, parse_maps
from terradistill.data.sensor import Sensor
from terradistill.data.splits import places_of
from terradistill.data.views import view
from terradistill.distillation.teacher import SIDE, trained_network
from terradistill.distillation.work import Work, metadata_fields, views_needed
from terradistill.errors import RunError
from terradistill.models.autoencoder import build_vae
from terradistill.models.content_encoder import ContentEncoder
from terradistill.models.control_nets import ControlNets
from terradistill.models.frame_adapter import FrameAdapter, require_scale
from terradistill.models.generator import Generator, build_generator
from terradistill.models.latent_classifier import LatentClassifier
from terradistill.models.map_adapter import MapAdapter
from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.models.perceptual import Perceptual
from terradistill.models.weaker import Weaker
from terradistill.run import Stage
from terradistill.sections import BesideSettings, EnhancerSettings
from terradistill.seeding import derive
from terradistill.settings import DiffusionSettings
from terradistill.training.autoencoder import reconstruction_psnr, train_autoencoder
from terradistill.training.classifier import train_latent_classifier
from terradistill.training.diffusion import Consistency, parted, repeats, train_diffusion
from terradistill.training.frames import (
    SEASONAL,
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
    seasonal_view,
    told_of,
)
from terradistill.training.latents import LatentCache, encode_scenes
from terradistill.training.maps import MapTable
from terradistill.training.told import Conditions

SIMULATED = ("blur", "gain", "offset", "noise", "shift", "clouds", "days")  # what a model remembers of its frames
ALL = ("unet", "text_encoder", "metadata_encoder")
ENCODED = 512  # scenes in a piece of the encoding


def _loop(work: Work, stage: Stage) -> dict[str, Any]:
    """What every training loop is given: where to compute, where to leave its checkpoint, whom to tell."""
    return {
        "hardware": work.hardware,
        "checkpoint": stage.work / "checkpoint.safetensors",
        "checkpoint_seconds": work.settings.checkpoint_seconds,
        "watch": stage,
    }


def autoencoder(work: Work) -> None:
    """Train the autoencoder: `autoencoder/`."""
    run, settings = work.run, work.settings
    if settings.generator is not None or run.done("autoencoder"):
        return
    with run.stage("autoencoder", "Training the autoencoder") as stage:
        pixels = work.pixels()
        vae = build_vae(settings.autoencoder, work.resolution, derive(settings.seed, "autoencoder weights"))
        vae.to(work.hardware.device)
        train_autoencoder(
            vae,
            pixels,
            settings.autoencoder,
            seed=derive(settings.seed, "autoencoder"),
            **_loop(work, stage),
        )
        with stage.writes("autoencoder") as folder:
            vae.save_pretrained(folder, safe_serialization=True)
        stage.note = f"{reconstruction_psnr(vae, pixels, work.hardware):.1f} dB on train scenes"


def encode(work: Work, *, seasons: bool = False) -> None:
    """Encode the train scenes once: `latents/train.npy`. With `seasons` in simulated ones too.

    Raises:
        RunError: the run has encoded them otherwise.
    """
    from diffusers import AutoencoderKL

    run, settings = work.run, work.settings
    if run.done("encode", shared=True):
        if (LatentCache.load(run / "latents" / "train.npy").n_views == len(SEASONAL)) != seasons:
            raise RunError(f"The scenes of {run.root} are encoded for another task: give another folder for --out.")
        return
    with run.stage("encode", "Encoding the train scenes") as stage:
        if settings.generator is None:
            vae = AutoencoderKL.from_pretrained(run / "autoencoder").to(work.hardware.device).eval()
            generator = Generator(vae, None, None, None, None)
        else:
            generator = work.generator()
        pixels, n_views = work.pixels(), len(SEASONAL) if seasons else views_needed(settings, len(work.train))

        def make(number: int, path: Path) -> None:
            scenes = pixels[number * ENCODED : (number + 1) * ENCODED]
            encode_scenes(
                generator,
                scenes,
                n_views=n_views,
                look=(lambda x, k: seasonal_view(x, SEASONAL[k])) if seasons else view,
                hardware=work.hardware,
            ).save(path)
            stage.progress(number * ENCODED + len(scenes), len(pixels))

        kind = f"{'seasons' if seasons else 'views'}-{n_views}"
        pieces = stage.pieces([f"{kind}-{start:08d}.npy" for start in range(0, len(pixels), ENCODED)], make)
        if pieces is None:
            return
        with stage.writes("latents/train.npy") as path:
            LatentCache.join(pieces, path)
        stage.note = f"{n_views} views"


def diffusion(work: Work) -> None:
    """Train the denoiser and its text encoder, or adapt those of a given generator: `generator/`."""
    from diffusers import AutoencoderKL

    run, settings = work.run, work.settings
    given, wanted = settings.generator, settings.diffusion
    if given is not None:
        if settings.finetune.steps == 0:
            return
        wanted = settings.finetune.of(wanted, len(work.train))
    team = run.team.trains(len(parted(wanted.batch_size, wanted.accumulate)))
    if run.done("diffusion", shared=team.size > 1):
        return
    _require_own(work, "diffusion")
    with run.stage("diffusion", "Training the generator" if given is None else "Adapting the generator") as stage:
        captions = work.captions()
        if given is None:
            vae = AutoencoderKL.from_pretrained(run / "autoencoder")
            texts = [text for several in captions for text in several]
            generator = build_generator(wanted, vae, work.resolution, texts, derive(settings.seed, "generator weights"))
        else:
            generator = Generator.load(given)
            if settings.diffusion.metadata and generator.metadata_encoder is None:
                _begin_numbers(work, generator)
        generator.to(work.hardware.device)
        guide = generator.weaker
        before = None if guide is None else Weaker.like(generator)
        train_diffusion(
            generator,
            work.latents(),
            captions,
            wanted,
            metadata=known_numbers(work, generator),
            repeats=repeats(work.train.labels, wanted.balance),
            parts=ALL if given is None or settings.finetune.adapts_text else ("unet", "metadata_encoder"),
            lora_rank=None if given is None else settings.finetune.lora_rank,
            lora_layers=settings.finetune.lora_layers,
            consistency=_consistency(work, wanted),
            section="diffusion" if given is None else "finetune",
            seed=derive(settings.seed, "diffusion"),
            team=team,
            **_loop(work, stage),
        )
        if guide is not None and before is not None and generator.weaker is guide:
            guide.follow(before, generator)
        if not run.team.leads:
            return
        with stage.writes("generator") as folder:
            _remember(work, generator)
            generator.save(folder)


def _begin_numbers(work: Work, generator: Generator) -> None:
    """Let a generator that takes no numbers learn them; at first they say nothing, exactly."""
    width = int(generator.unet.time_embedding.linear_2.out_features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(work.settings.seed, "metadata weights"))
        generator.metadata_encoder = MetadataEncoder(width, work.settings.diffusion.gsd_max_m)


def _consistency(work: Work, wanted: DiffusionSettings) -> Consistency | None:
    if wanted.consistency_weight == 0:
        return None
    return Consistency(judge(work).requires_grad_(False), torch.as_tensor(work.train.labels), wanted)


def decoder(work: Work) -> None:
    """Train the decoder of the given generator on, by eye as well as by pixel: `generator/`. Its latents stay."""
    run, settings = work.run, work.settings
    if run.done("decoder"):
        return
    _require_own(work, "decoder")
    with run.stage("decoder", "Training the decoder") as stage:
        generator, pixels = Generator.load(str(settings.generator)).to(work.hardware.device), work.pixels()
        seed, side = derive(settings.seed, "decoder"), min(SIDE, work.resolution)
        network = trained_network(
            _middles(pixels, side),
            work.train.labels,
            len(work.train.classes),
            side,
            work.hardware,
            seed=seed,
            kept=stage.work / f"features-{side}.safetensors",
            progress=stage.progress,
        )
        train_autoencoder(
            generator.vae,
            pixels,
            settings.autoencoder,
            perceptual=Perceptual(network),
            seed=seed,
            **_loop(work, stage),
        )
        with stage.writes("generator") as folder:
            _remember(work, generator)
            generator.save(folder)
        stage.note = f"{reconstruction_psnr(generator.vae, pixels, work.hardware):.1f} dB on train scenes"


def _middles(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Squares from the middles of scenes (N, H, W, 3): less to learn from, at the same scale."""
    top, left = ((extent - side) // 2 for extent in pixels.shape[1:3])
    return pixels[:, top : top + side, left : left + side]


def adapter(work: Work) -> None:
    """Train adapters beside the given generator, which stays as it is: `generator/`."""
    run, wanted = work.run, work.settings.adapter
    if run.done("adapter"):
        return
    _require_own(work, "adapter")
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
                generator.content_encoder = ContentEncoder(generator.latent_shape[0], width)
                parts.append("content_encoder")
        _train_beside(work, stage, generator, wanted, parts, table, "adapter")


def enhancer(work: Work) -> None:
    """Train a frame adapter beside the given generator, which stays as it is: `generator/`."""
    run, wanted = work.run, work.settings.enhancer
    if run.done("enhancer"):
        return
    _require_own(work, "enhancer")
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
        _train_beside(work, stage, generator, wanted, ["frame_adapter"], table, "enhancer")


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
) -> None:
    """Train parts beside a generator, and leave it with them: `generator/`."""
    train_diffusion(
        generator.to(work.hardware.device),
        work.latents(),
        work.captions(),
        wanted.of(work.settings.diffusion),
        metadata=known_numbers(work, generator),
        repeats=repeats(work.train.labels, work.settings.diffusion.balance),
        parts=parts,
        conditions=conditions,
        section=section,
        seed=derive(work.settings.seed, section),
        **_loop(work, stage),
    )
    with stage.writes("generator") as folder:
        _remember(work, generator)
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


def _remember(work: Work, generator: Generator) -> None:
    """Have a generator say what it has learned from now."""
    info = work.train.info
    generator.learned_from |= work.learned
    generator.sources = dict(generator.sources) | {info.title or info.name: info.licence or "not stated"}


def _require_own(work: Work, stage: str) -> None:
    """Make sure that no other stage has left its generator where this one leaves its own.

    Raises:
        RunError: one has.
    """
    kinds = {"diffusion": "an adapted", "decoder": "a newly decoded", "adapter": "a", "enhancer": "an enhancing"}
    for name, kind in kinds.items():
        if name != stage and any(done["name"] == name for done in work.run.manifest["stages"]):
            raise RunError(
                f"{work.run.root} holds {kind} generator (stage {name}): give it as --generator, and another --out."
            )


def known_numbers(work: Work, generator: Generator) -> Tensor | None:
    """Metadata of the train scenes as the generator takes them, float32 (N, fields); None where it takes none."""
    numbers = generator.metadata_encoder
    if numbers is None:
        return None
    fields = metadata_fields(work.settings, numbers)
    return numbers.table([numbers.sayable(row, fields) for row in work.metadata()])


def classifier(work: Work) -> None:
    """Train the latent classifier: `classifier/`."""
    run, settings = work.run, work.settings
    if run.done("classifier"):
        return
    with run.stage("classifier", "Training the latent classifier") as stage:
        model, accuracy = train_latent_classifier(
            work.latents(),
            work.train.labels,
            len(work.train.classes),
            settings.classifier,
            seed=derive(settings.seed, "classifier"),
            **_loop(work, stage),
        )
        with stage.writes("classifier") as folder:
            model.save(folder)
        stage.note = f"{accuracy:.1%} of its validation scenes right"


def judge(work: Work) -> LatentClassifier:
    """The latent classifier, ready to judge."""
    return LatentClassifier.load(work.learned_in / "classifier").to(work.hardware.device)
