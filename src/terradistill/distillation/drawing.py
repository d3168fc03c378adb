"""The stages of the main job that choose and draw, each from files to files: prototypes, candidates, export."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from torch import Tensor

from terradistill.data.aggregation import medoid_caption, telling_phrases, within
from terradistill.data.arrays import evenly, mapped, write_array
from terradistill.data.writing import write_scene_folder
from terradistill.distillation.choosing import chosen
from terradistill.distillation.clusters import pooled_features
from terradistill.distillation.learning import judge, known_numbers
from terradistill.distillation.pool import Pool
from terradistill.distillation.prototypes import Prototypes, choose_prototypes, prototype_latents
from terradistill.distillation.teacher import as_column, soft_labels, teach
from terradistill.distillation.work import Work
from terradistill.models.generator import Generator
from terradistill.models.latent_classifier import LatentClassifier
from terradistill.sampling.guidance import PROTOTYPE_GUIDANCES, chunked, guided_as
from terradistill.sampling.sampler import Guidance, Prune, Request, decoded, sample_some
from terradistill.sampling.selection import margins
from terradistill.seeding import derive, noise
from terradistill.training.classifier import embed, predict

SHOWN = 200  # scenes of a class in the report's picture of the clusters
PIECE = 200  # candidates that are drawn before they are kept, at most


def prototypes(work: Work) -> None:
    """Choose what stands for each class: `prototypes.json`, `latents/prototypes.safetensors`."""
    run, settings = work.run, work.settings
    if run.done("prototypes"):
        return
    wanted, labels = settings.prototypes, work.train.labels
    with run.stage("prototypes", "Choosing prototypes") as stage:
        latents = work.latents()
        kept, batches = stage.work / "features.npy", latents.batches()
        if wanted.space == "latent":
            write_array(kept, len(labels), (pooled_features(part, wanted.pool) for part in batches))
        else:
            model = judge(work)
            write_array(kept, len(labels), (embed(model, part, work.hardware).numpy() for part in batches))
        features = mapped(kept)
        chosen = choose_prototypes(features, labels, settings.ipc, wanted, derive(settings.seed, "prototypes"))
        with stage.writes("latents/prototypes.safetensors") as path:
            save_file({"latents": prototype_latents(latents.means, labels, chosen, wanted.rule)}, path)
        scenes, names = work.train.scenes, settings.export.keep_names
        prompts = _prompts(work, chosen.clusters)
        rows = [
            {
                "class": work.train.classes[label],
                "sha256": [scenes[i].sha256 for i in members],
                "cluster_size": [int(size) for size in chosen.sizes[label]],
                "prompt": prompts[label],
                **({"file_name": [scenes[i].name for i in members]} if names else {}),
            }
            for label, members in enumerate(chosen.indices)
        ]
        run.write_json("clusters.json", _projections(work, features, chosen))
        run.write_json("prototypes.json", rows)
        alone, out = int((chosen.sizes == 1).sum()), int((chosen.clusters < 0).sum())
        stage.note = f"{chosen.indices.size} prototypes, {alone} of them alone in their cluster, {out} scenes left out"


def _projections(work: Work, features: NDArray[np.float32], chosen: Prototypes) -> list[dict[str, Any]]:
    """The clusters of each class in the two directions in which they differ most: for the report."""
    projections = []
    for label, name in enumerate(work.train.classes):
        member = np.flatnonzero(work.train.labels == label)
        flat = np.zeros((len(member), 2))
        if len(member) > 2:
            n = min(2, features.shape[1])
            flat[:, :n] = PCA(n, random_state=0).fit_transform(features[member])
        some = evenly(SHOWN, len(member))
        shown = np.union1d(some, np.flatnonzero(np.isin(member, chosen.indices[label])))
        projections.append(
            {
                "name": name,
                "xy": np.round(flat[shown], 3).tolist(),
                "cluster": chosen.clusters[member[shown]].tolist(),
                "prototypes": np.flatnonzero(np.isin(member[shown], chosen.indices[label])).tolist(),
            }
        )
    return projections


def _prompts(work: Work, clusters: NDArray[np.int64]) -> list[list[str]]:
    """A prompt for each cluster of each class."""
    settings, of_class = work.settings, work.prompts()
    if settings.prototypes.prompt == "class":
        return [[prompt] * settings.ipc for prompt in of_class]
    said: list[list[str]] = [[] for _ in range(len(of_class) * settings.ipc)]
    for scene, cluster in zip(work.train.scenes, clusters, strict=True):
        if cluster >= 0:
            said[scene.label * settings.ipc + cluster] += scene.captions
    if not any(said):
        work.run.say("the scenes have no captions of their own, so every prompt is the class's")
    tokenizer = work.generator().tokenizer
    most = tokenizer.model_max_length

    def length(text: str) -> int:
        return len(tokenizer(text).input_ids)

    if settings.prototypes.prompt == "medoid":
        fitting = [[text for text in texts if length(text) <= most] for texts in said]
        prompts = [medoid_caption(texts or [of_class[k // settings.ipc]]) for k, texts in enumerate(fitting)]
    else:
        found = enumerate(telling_phrases(said))
        prompts = [within(of_class[k // settings.ipc], phrases, length, most) for k, phrases in found]
    return [prompts[k : k + settings.ipc] for k in range(0, len(prompts), settings.ipc)]


def prototype_prompts(work: Work) -> list[str]:
    """The prompt of each prototype, class after class."""
    return [
        prompt
        for row in json.loads((work.run / "prototypes.json").read_text(encoding="utf-8"))
        for prompt in row["prompt"]
    ]


def prototype_indices(work: Work) -> NDArray[np.int64]:
    """The prototypes' places in the train split: int64 (n_classes, ipc)."""
    place = {scene.sha256: i for i, scene in enumerate(work.train.scenes)}
    rows = json.loads((work.run / "prototypes.json").read_text(encoding="utf-8"))
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
    if run.done("candidates", shared=True):
        return
    wanted = settings.sampling
    with run.stage("candidates", "Drawing and selecting candidates") as stage:
        generator = work.generator()
        targets = load_file(run / "latents" / "prototypes.safetensors")["latents"]
        labels = np.repeat(np.arange(len(work.train.classes)), settings.ipc)
        if wanted.target_jitter:
            seeds = [derive(settings.seed, "jitter", c, k) for c in work.train.classes for k in range(settings.ipc)]
            targets = targets + noise(seeds, targets.shape[1:]) / targets[0].numel() ** 0.5
        # Everything from here on is R rows a prototype, side by side.
        rows, seeds = np.repeat(np.arange(len(targets)), wanted.candidates), candidate_seeds(work)
        drawer, model = _Drawer(work, generator, targets), judge(work)
        # Of one size whatever the batches, so that another one may go on; the candidates of a prototype in one.
        size = max(1, PIECE // wanted.candidates) * wanted.candidates
        batches = [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]

        def make(number: int, path: Path) -> None:
            batch = batches[number]
            prune = _halving(work, model, labels[np.unique(rows[batch])]) if wanted.prune else None  # rows are sorted
            latents, left = drawer.draw(rows[batch], seeds[batch], prune)
            save_file({"latents": latents, "left": left + batch.start}, path)
            stage.progress(batch.stop, len(rows))

        pieces = stage.pieces([f"{batch.start:07d}-{batch.stop:07d}.safetensors" for batch in batches], make)
        if pieces is None:
            return
        parts = [load_file(piece) for piece in pieces]
        drawn, left = (torch.cat([part[key] for part in parts]) for key in ("latents", "left"))
        n_drawn, rows, seeds = len(rows), rows[left.numpy()], [seeds[k] for k in left]

        def draw(i: NDArray[np.int64]) -> Tensor:
            return drawer.draw(rows[i], [seeds[k] for k in i])[0]

        kept, latents, copies = chosen(work, generator, drawn, seeds, draw, stage.work / "real.npy")
        scores = margins(predict(model, latents, work.hardware), torch.as_tensor(labels))
        kept_seeds = torch.tensor([seeds[k] for k in kept])
        with stage.writes("latents/distilled.safetensors") as path:
            save_file({"latents": latents, "margin": scores, "candidate": left[kept], "seed": kept_seeds}, path)
        right = float((scores > 0).float().mean())
        stage.note = f"{len(kept)} of {n_drawn} kept, {right:.0%} of them judged as their class"
        if copies:
            stage.note += f", {copies} of them near-copies of train scenes"


class _Drawer:
    """What is the same for all candidates: prompts, numbers and prototypes."""

    def __init__(self, work: Work, generator: Generator, targets: Tensor) -> None:
        self.wanted, self.hardware = work.settings.sampling, work.hardware
        self.generator, self.targets = generator, targets
        prompts, known = prototype_prompts(work), known_numbers(work, generator)
        distinct = list(dict.fromkeys(prompts))
        self.prompt_of = torch.tensor([distinct.index(prompt) for prompt in prompts])
        self.text = generator.embed([*distinct, ""])
        self.metadata = None if known is None else known[prototype_indices(work).ravel()]
        self.prompts, self.led = prompts, self.wanted.start == "prototype" or self.wanted.prototype_scale > 0
        self.pool = None if work.base is None else Pool(work.base / "drawn", self.wanted)
        self.chunks = chunked(2 * self.wanted.batch_size)  # doubled by classifier-free guidance

    def draw(self, rows: NDArray[np.int64], seeds: Sequence[int], prune: Prune | None = None) -> tuple[Tensor, Tensor]:
        """Latents for prototypes by number, each of its seed, and which of `rows` they are, but for pruned ones."""
        if self.pool is None or prune is not None:
            return self._draw(rows, seeds, prune)
        asked = [self._drawn_from(row, seed) for row, seed in zip(rows, seeds, strict=True)]
        latents = self.pool.get(asked, lambda k: self._draw(rows[k], [seeds[i] for i in k])[0])
        return latents, torch.arange(len(rows))

    def _drawn_from(self, row: np.int64, seed: int) -> list[object]:
        """All that a candidate depends on, beside the generator and how it draws."""
        numbers = None if self.metadata is None else self.metadata[row].numpy().tobytes().hex()
        target = sha256(self.targets[row].numpy().tobytes()).hexdigest() if self.led else None
        return [self.prompts[row], seed, numbers, target]

    def _draw(self, rows: NDArray[np.int64], seeds: Sequence[int], prune: Prune | None = None) -> tuple[Tensor, Tensor]:
        wanted, targets = self.wanted, self.targets[rows]
        request = Request(
            text=self.text[:-1],
            prompt_of=self.prompt_of[rows],
            seeds=seeds,
            metadata=None if self.metadata is None else self.metadata[rows],
            start=targets if wanted.start == "prototype" else None,
            strength=wanted.strength,
        )
        guide = PROTOTYPE_GUIDANCES[wanted.prototype_guidance]
        guidances: list[Guidance] = [
            *guided_as(wanted, self.generator, request, self.text[-1:], self.chunks, self.hardware),
            guide(targets, self.generator.parameterisation, wanted.prototype_scale, wanted.prototype_until),
        ]
        return sample_some(
            self.generator,
            request,
            prune,
            wanted,
            hardware=self.hardware,
            guidances=guidances,
            # All at once where some are given up on the way, so that those left still fill the denoiser's batches.
            batch_size=len(rows) if prune else None,
        )


def _halving(work: Work, model: LatentClassifier, labels: NDArray[np.int64]) -> Prune:
    """Of the candidates of each prototype of a batch, whose classes these are, the surer half goes on, as the latent
    classifier judges what they will be."""
    wanted, groups = work.settings.sampling, torch.as_tensor(labels)

    def keep(rows: Tensor, z0: Tensor) -> Tensor:
        prototypes = rows // wanted.candidates
        scores = margins(predict(model, z0, work.hardware), groups[prototypes])
        go_on = torch.zeros(len(rows), dtype=torch.bool)
        for prototype in prototypes.unique():
            here = (prototypes == prototype).nonzero()[:, 0]
            go_on[here[scores[here].topk(-(-len(here) // 2)).indices]] = True
        return go_on

    return Prune(wanted.prune, keep)


def export(work: Work) -> None:
    """Decode the chosen latents into a scene folder: `distilled/`."""
    run, settings = work.run, work.settings
    if run.done("export"):
        return
    if settings.export.soft_labels and settings.evaluation.teacher is None:
        teach(work)  # a stage of its own, before this one
    with run.stage("export", "Writing the distilled scenes") as stage:
        generator = work.generator()
        chosen = load_file(run / "latents" / "distilled.safetensors")
        moved = run / "latents" / "refined.safetensors"
        latents = load_file(moved)["latents"] if settings.sampling.refine_rounds else chosen["latents"]
        images = decoded(generator, latents, work.hardware)
        soft = as_column(soft_labels(work, images)) if settings.export.soft_labels else None
        labels = np.repeat(np.arange(len(work.train.classes)), settings.ipc)
        prompts = prototype_prompts(work)
        info, known = work.train.info, work.metadata()
        # Of each image, the prototype that it was led to.
        prototype = (chosen["candidate"] // settings.sampling.candidates).tolist()
        indices = prototype_indices(work).ravel()
        gsd_m = [known[indices[k]].get("gsd_m") for k in prototype]  # as the generator was told it
        rows = [
            {
                "prompt": prompts[prototype[place]],
                "seed": int(seed),
                "prototype": prototype[place] % settings.ipc,
                "candidate": int(candidate) % settings.sampling.candidates,
                "margin": round(float(margin), 4),
                **({"gsd_m": gsd_m[place]} if gsd_m[place] else {}),
                **({} if soft is None else {"soft_labels": soft[place]}),
            }
            for place, (candidate, margin, seed) in enumerate(
                zip(chosen["candidate"], chosen["margin"], chosen["seed"], strict=True)
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
                    "synthetic": True,
                },
            )
        stage.note = f"{len(labels)} images"
