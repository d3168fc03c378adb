"""The stages of the main job that learn, each from files to files: autoencoder, latents, classifier, generator."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.views import view
from terradistill.distillation.teacher import SIDE, trained_network
from terradistill.distillation.work import Work, metadata_fields, views_needed
from terradistill.errors import RunError
from terradistill.models.autoencoder import build_vae
from terradistill.models.generator import Generator, build_generator
from terradistill.models.latent_classifier import LatentClassifier
from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.models.perceptual import Perceptual
from terradistill.models.weaker import Weaker
from terradistill.run import Stage
from terradistill.seeding import derive
from terradistill.settings import DiffusionSettings
from terradistill.training.autoencoder import reconstruction_psnr, train_autoencoder
from terradistill.training.classifier import train_latent_classifier
from terradistill.training.diffusion import Consistency, parted, repeats, train_diffusion
from terradistill.training.frames import (
    SEASONAL,
    seasonal_view,
)
from terradistill.training.latents import LatentCache, encode_scenes

ALL = ("unet", "text_encoder", "metadata_encoder")
ENCODED = 512  # scenes in a piece of the encoding


def loop(work: Work, stage: Stage) -> dict[str, Any]:
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
            **loop(work, stage),
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
    require_own(work, "diffusion")
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
            **loop(work, stage),
        )
        if guide is not None and before is not None and generator.weaker is guide:
            guide.follow(before, generator)
        if not run.team.leads:
            return
        with stage.writes("generator") as folder:
            remember(work, generator)
            generator.save(folder)


def _begin_numbers(work: Work, generator: Generator) -> None:
    """Let a generator that takes no numbers learn them; at first they say nothing, exactly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(work.settings.seed, "metadata weights"))
        generator.metadata_encoder = MetadataEncoder(generator.time_width, work.settings.diffusion.gsd_max_m)


def _consistency(work: Work, wanted: DiffusionSettings) -> Consistency | None:
    if wanted.consistency_weight == 0:
        return None
    return Consistency(judge(work).requires_grad_(False), torch.as_tensor(work.train.labels), wanted)


def decoder(work: Work) -> None:
    """Train the decoder of the given generator on, by eye as well as by pixel: `generator/`. Its latents stay."""
    run, settings = work.run, work.settings
    if run.done("decoder"):
        return
    require_own(work, "decoder")
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
            **loop(work, stage),
        )
        with stage.writes("generator") as folder:
            remember(work, generator)
            generator.save(folder)
        stage.note = f"{reconstruction_psnr(generator.vae, pixels, work.hardware):.1f} dB on train scenes"


def _middles(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Squares from the middles of scenes (N, H, W, 3): less to learn from, at the same scale."""
    top, left = ((extent - side) // 2 for extent in pixels.shape[1:3])
    return pixels[:, top : top + side, left : left + side]


def remember(work: Work, generator: Generator) -> None:
    """Have a generator say what it has learned from now."""
    info = work.train.info
    generator.learned_from |= work.learned
    generator.sources = dict(generator.sources) | {info.title or info.name: info.licence or "not stated"}


def require_own(work: Work, stage: str) -> None:
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
            **loop(work, stage),
        )
        with stage.writes("classifier") as folder:
            model.save(folder)
        stage.note = f"{accuracy:.1%} of its validation scenes right"


def judge(work: Work) -> LatentClassifier:
    """The latent classifier, ready to judge."""
    return LatentClassifier.load(work.learned_in / "classifier").to(work.hardware.device)
