"""The stages of the main job, in order, each from files to files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terradistill.config import EvaluationSettings
from terradistill.data.images import to_uint8
from terradistill.data.scenes import write_scene_folder
from terradistill.distillation.prototypes import choose_prototypes
from terradistill.distillation.work import Work
from terradistill.errors import RunError
from terradistill.evaluation.recipe import fit, repeatable
from terradistill.models.autoencoder import build_vae
from terradistill.models.downstream import build_network
from terradistill.models.generator import Generator, build_generator
from terradistill.models.latent_classifier import LatentClassifier
from terradistill.models.perceptual import Perceptual
from terradistill.run import Stage, replacing
from terradistill.sampling.guidance import classifier_free, towards_prototypes
from terradistill.sampling.sampler import Guidance, Request, sample
from terradistill.sampling.selection import best_of, margins
from terradistill.seeding import derive, noise
from terradistill.training.autoencoder import reconstruction_psnr, train_autoencoder
from terradistill.training.classifier import predict, train_latent_classifier
from terradistill.training.diffusion import repeats, train_diffusion
from terradistill.training.latents import encode_scenes


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


def encode(work: Work) -> None:
    """Encode the train scenes once: `latents/train.safetensors`."""
    from diffusers import AutoencoderKL

    run, settings = work.run, work.settings
    if run.done("encode"):
        return
    with run.stage("encode", "Encoding the train scenes") as stage:
        if settings.generator is None:
            vae = AutoencoderKL.from_pretrained(run / "autoencoder").to(work.hardware.device).eval()
            generator = Generator(vae, None, None, None, None)
        else:
            generator = work.generator()
        latents = encode_scenes(
            generator, work.pixels(), n_views=settings.diffusion.views, hardware=work.hardware, watch=stage
        )
        with stage.writes("latents/train.safetensors") as path:
            latents.save(path)
        stage.note = f"{latents.n_views} views"


def diffusion(work: Work) -> None:
    """Train the denoiser and its text encoder, or adapt those of a given generator: `generator/`."""
    from diffusers import AutoencoderKL

    run, settings = work.run, work.settings
    given, wanted = settings.generator, settings.diffusion
    if run.done("diffusion") or (given is not None and settings.finetune.steps == 0):
        return
    if run.done("decoder"):
        raise RunError(f"{run.root} holds a generator with a new decoder: give it as --generator, and another --out.")
    with run.stage("diffusion", "Training the generator" if given is None else "Adapting the generator") as stage:
        captions = work.captions()
        if given is None:
            vae = AutoencoderKL.from_pretrained(run / "autoencoder")
            texts = [text for several in captions for text in several]
            generator = build_generator(wanted, vae, work.resolution, texts, derive(settings.seed, "generator weights"))
        else:
            generator = Generator.load(given)
            wanted = settings.finetune.of(wanted)
        generator.to(work.hardware.device)
        train_diffusion(
            generator,
            work.latents(),
            captions,
            wanted,
            metadata=known_numbers(work, generator),
            repeats=repeats(work.train.labels, wanted.balance),
            text_encoder=given is None or settings.finetune.text_encoder,
            lora_rank=None if given is None else settings.finetune.lora_rank,
            seed=derive(settings.seed, "diffusion"),
            **_loop(work, stage),
        )
        with stage.writes("generator") as folder:
            generator.learned_from |= work.learned
            generator.save(folder)


def decoder(work: Work) -> None:
    """Train the decoder of the given generator on, by eye as well as by pixel: `generator/`. Its latents stay."""
    run, settings = work.run, work.settings
    if run.done("decoder"):
        return
    if run.done("diffusion"):
        raise RunError(f"{run.root} holds an adapted generator: give it as --generator, and another --out.")
    with run.stage("decoder", "Training the decoder") as stage:
        generator, pixels = Generator.load(str(settings.generator)).to(work.hardware.device), work.pixels()
        seed = derive(settings.seed, "decoder")
        network = _feature_network(work, stage.work / "features.safetensors", pixels, seed)
        train_autoencoder(
            generator.vae,
            pixels,
            settings.autoencoder,
            perceptual=Perceptual(network),
            seed=seed,
            **_loop(work, stage),
        )
        with stage.writes("generator") as folder:
            generator.learned_from |= work.learned
            generator.save(folder)
        stage.note = f"{reconstruction_psnr(generator.vae, pixels, work.hardware):.1f} dB on train scenes"


def _feature_network(work: Work, kept: Path, pixels: NDArray[np.uint8], seed: int) -> nn.Module:
    """A classifier of the train scenes, wanted for its features alone; read from `kept` after a kill."""
    device = work.hardware.device
    with repeatable(derive(seed, "features"), device):
        network = build_network("convnet3", len(work.train.classes), work.resolution).to(device)
        if kept.exists():
            network.load_state_dict(load_file(kept))
            return network
        fit(
            network,
            pixels,
            work.train.labels,
            work.resolution,
            EvaluationSettings(),  # not the run's own, which may change until the exam
            seed=seed,
            device=device,
            bf16=work.hardware.bf16,
        )
    with replacing(kept) as part:
        save_file(network.state_dict(), part)
    return network


def known_numbers(work: Work, generator: Generator) -> Tensor | None:
    """Metadata of the train scenes as the generator takes them, float32 (N, fields); None where it takes none."""
    numbers = generator.metadata_encoder
    if numbers is None:
        return None
    return numbers.table([numbers.sayable(row) for row in work.metadata()])


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
            hardware=work.hardware,
            watch=stage,
        )
        with stage.writes("classifier") as folder:
            model.save(folder)
        stage.note = f"{accuracy:.1%} of its validation scenes right"


def prototypes(work: Work) -> None:
    """Choose the real scenes that stand for each class: `prototypes.json`."""
    run, settings = work.run, work.settings
    if run.done("prototypes"):
        return
    with run.stage("prototypes", "Choosing prototypes") as stage:
        chosen = choose_prototypes(
            work.latents().means(),
            work.train.labels,
            settings.ipc,
            settings.prototypes,
            derive(settings.seed, "prototypes"),
        )
        scenes = work.train.scenes
        names = settings.export.keep_names
        rows = [
            {
                "class": work.train.classes[label],
                "sha256": [scenes[i].sha256 for i in members],
                "cluster_size": [int(size) for size in chosen.sizes[label]],
                **({"file_name": [scenes[i].name for i in members]} if names else {}),
            }
            for label, members in enumerate(chosen.indices)
        ]
        run.write_json("prototypes.json", rows)
        alone = int((chosen.sizes == 1).sum())
        stage.note = f"{chosen.indices.size} prototypes, {alone} of them alone in their cluster"


def prototype_indices(work: Work) -> NDArray[np.int64]:
    """The prototypes' places in the train split: int64 (n_classes, ipc)."""
    place = {scene.sha256: i for i, scene in enumerate(work.train.scenes)}
    rows = json.loads((work.run / "prototypes.json").read_text())
    return np.array([[place[sha] for sha in row["sha256"]] for row in rows], dtype=np.int64)


def candidate_seeds(work: Work) -> list[int]:
    """One seed a candidate, by class, prototype and candidate: more classes or candidates leave the others alone."""
    return [
        derive(work.settings.seed, "candidate", name, k, r)
        for name in work.train.classes
        for k in range(work.settings.ipc)
        for r in range(work.settings.sampling.candidates)
    ]


def candidates(work: Work) -> None:
    """Draw R candidates a prototype and keep the best: `latents/distilled.safetensors`."""
    run, settings = work.run, work.settings
    if run.done("candidates"):
        return
    wanted = settings.sampling
    with run.stage("candidates", "Drawing and selecting candidates") as stage:
        generator = work.generator()
        targets = work.latents().means(prototype_indices(work).ravel())
        labels = np.repeat(np.arange(len(work.train.classes)), settings.ipc)
        if wanted.target_jitter:
            seeds = [derive(settings.seed, "jitter", c, k) for c in work.train.classes for k in range(settings.ipc)]
            targets = targets + noise(seeds, targets.shape[1:]) / targets[0].numel() ** 0.5
        # Everything from here on is R rows a prototype, side by side.
        rows = np.repeat(np.arange(len(targets)), wanted.candidates)
        text = generator.embed([*work.prompts(), ""])
        known = known_numbers(work, generator)
        request = Request(
            text=text[:-1],
            prompt_of=torch.as_tensor(labels[rows]),
            seeds=candidate_seeds(work),
            metadata=known[prototype_indices(work).ravel()[rows]] if known is not None else None,
        )
        guidances: list[Guidance] = [
            classifier_free(wanted.cfg_scale, text[-1:]),
            towards_prototypes(
                targets[rows], generator.parameterisation, scale=wanted.prototype_scale, until=wanted.prototype_until
            ),
        ]
        drawn = sample(
            generator,
            request,
            steps=wanted.steps,
            hardware=work.hardware,
            scheduler=wanted.scheduler,
            guidances=guidances,
            batch_size=wanted.batch_size,
            progress=stage.progress,
        )
        judge = LatentClassifier.load(run / "classifier").to(work.hardware.device)
        scores = margins(predict(judge, drawn, work.hardware), torch.as_tensor(labels[rows]))
        best = best_of(scores, wanted.candidates)
        with stage.writes("latents/distilled.safetensors") as path:
            save_file({"latents": drawn[best], "margin": scores[best], "candidate": best}, path)
        right = float((scores[best] > 0).float().mean())
        stage.note = f"{len(best)} of {len(drawn)} kept, {right:.0%} of them judged as their class"


def export(work: Work) -> None:
    """Decode the chosen latents into a scene folder: `distilled/`."""
    run, settings = work.run, work.settings
    if run.done("export"):
        return
    with run.stage("export", "Writing the distilled scenes") as stage:
        generator = work.generator()
        chosen = load_file(run / "latents" / "distilled.safetensors")
        with work.hardware.autocast():
            parts = chosen["latents"].to(work.hardware.device).split(64)
            images = np.concatenate([to_uint8(generator.decode(part)) for part in parts])
        labels = np.repeat(np.arange(len(work.train.classes)), settings.ipc)
        prompts, seeds = work.prompts(), candidate_seeds(work)
        info, known = work.train.info, work.metadata()
        gsd_m = [known[i].get("gsd_m") for i in prototype_indices(work).ravel()]  # as the generator was told it
        rows = [
            {
                "prompt": prompts[label],
                "seed": seeds[int(candidate)],
                "prototype": place % settings.ipc,
                "candidate": int(candidate) % settings.sampling.candidates,
                "margin": round(float(margin), 4),
                **({"gsd_m": gsd_m[place]} if gsd_m[place] else {}),
            }
            for place, (label, candidate, margin) in enumerate(
                zip(labels, chosen["candidate"], chosen["margin"], strict=True)
            )
        ]
        with stage.writes("distilled") as folder:
            write_scene_folder(
                folder,
                work.train.classes,
                images,
                labels,
                rows,
                {
                    "name": f"{info.name}-distilled-ipc{settings.ipc}",
                    "title": f"{info.title}, distilled to {settings.ipc} images per class",
                    "readable": {name: work.train.readable(name) for name in work.train.classes},
                    "gsd_m": gsd_m[0] if len(set(gsd_m)) == 1 else None,
                    "licence": info.licence,
                    "citation": info.citation,
                    "made_by": "terradistill",
                },
            )
        stage.note = f"{len(labels)} images"
