"""The images of a method, as the scoreboard's networks see them: drawn by a generator, or chosen among real ones."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.data.formation import packed, unpacked
from terradistill.data.images import resize
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.distillation import drawing, learning, refining
from terradistill.distillation.coresets import CORESETS
from terradistill.distillation.originality import Originality
from terradistill.distillation.rded import stitched_crops
from terradistill.distillation.scoreboard import coreset, labelled, pick, random_sets
from terradistill.distillation.teacher import SIDE as TAUGHT_AT
from terradistill.distillation.teacher import as_column, soft_labels, teach, teacher_network
from terradistill.distillation.work import Work, generator_hash, seen_by
from terradistill.errors import RunError
from terradistill.evaluation.harness import Labelled
from terradistill.evaluation.method import Method
from terradistill.models.places import write_learned_from
from terradistill.run import FREE, Run
from terradistill.seeding import derive
from terradistill.settings import Settings

Opened = AbstractContextManager[Work]

# What the exam, its coresets among it, depends on.
EXAM = ("generator", "precision", "data", "autoencoder", "diffusion", "evaluation", "seed")
# What is learned depends on these sections alone: methods that agree in them share a generator.
LEARNED = ("generator", "precision", "data", "autoencoder", "diffusion", "finetune", "classifier", "seed")


def only(settings: Settings, *sections: str) -> Settings:
    """These sections of the settings; the others as they are by default."""
    drawing = {"low_memory": settings.sampling.low_memory}  # which encodes too
    return Settings(ipc=1, sampling=drawing, **{name: getattr(settings, name) for name in sections})


def unasked(*sections: str) -> tuple[str, ...]:
    """All other settings, which may be other ones in a later version: beginnings of names, as `Run` takes them."""
    fields = Settings.model_fields
    return tuple(name if name == "ipc" else f"{name}." for name in fields if name not in sections)


# What no set depends on.
BESIDE = {"data", "evaluation", "export", "engine", "adapter", "enhancer", "enhance", "classify", "ipc"}


def digest(settings: Settings) -> str:
    """What a synthetic method is, beside data, exam and number of images."""
    told = settings.model_dump(mode="json", exclude=BESIDE) | {"generator": generator_hash(settings.generator)}
    for section, key in (name.split(".") for name in FREE if name.startswith("sampling.")):
        del told[section][key]
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def drawn_sets(
    exam: Work, opened: Callable[..., Opened], room: Path, place: Path, settings: Settings, n_sets: int
) -> tuple[list[Labelled], dict[str, Any]]:
    """Sets of a synthetic method, by one generator; from how many of the scenes (`n_real`) that has learned, how many
    of all drawn images are near-copies of them (`copies`), and which, as ``set/class/file`` (`flagged`)."""
    base = only(settings, *LEARNED)
    learned = json.dumps(base.model_dump(mode="json", include=set(LEARNED)), sort_keys=True)
    root = room / "generators" / sha256(learned.encode()).hexdigest()[:8]
    sets = []
    with opened(root, base, free=unasked(*LEARNED)) as work:
        known = work.learned | seen_by(settings.generator)
        same = {scene.sha256 for scene in work.train.scenes} == {scene.sha256 for scene in exam.train.scenes}
        if not same or any(not scene.hashes.isdisjoint(known) for scene in exam.test.scenes):
            raise RunError(f"{root} learns from another split than {exam.run.root} tests on: use another --out.")
        for stage in (learning.autoencoder, learning.encode, learning.classifier, learning.diffusion):
            stage(work)
        original, flagged = Originality(work), list[str]()
        for i in range(n_sets):
            folder = place.with_name(f"{place.name}-{i}")
            drawn = _draw(work, folder, settings.model_copy(update={"seed": settings.seed + i}))
            sets.append(at_size(exam, drawn, folder / "cache", "distilled"))
            copies = original.copies(sets[-1].images, sets[-1].labels)
            flagged += [f"{i}/{drawn.scenes[k].name}" for k in np.flatnonzero(copies)]
        return sets, {"n_real": len(original.labels), "copies": len(flagged), "flagged": flagged}


def _draw(work: Work, root: Path, settings: Settings) -> SceneFolder:
    """One set, drawn with the generator, latents and classifier of another run."""
    run = Run(root, settings, work.run.reporter)
    with closing(run):
        run.describe(**{key: value for key, value in work.run.manifest.items() if key != "stages"})
        drawn = replace(work, run=run, base=work.run.root)
        for stage in (drawing.prototypes, drawing.candidates, refining.refined, drawing.export):
            stage(drawn)
    # What a run folder says of what was learned from, so that the set can be audited and judged by itself.
    shutil.copy(work.run / "split.json", root / "split.json")
    write_learned_from(root / "distilled", work.learned | work.generator().learned_from)
    return open_scenes(root / "distilled")


def real_sets(exam: Work, method: str, ipc: int, n_sets: int) -> list[Labelled]:
    train = at_size(exam, exam.train, exam.run / "cache", "train")
    if method == "full":
        return [train]
    if method == "random":
        return random_sets(train, ipc, exam.settings.seed, n_sets)
    if method == "rded" or CORESETS[method].taught:
        teach(exam)
    else:
        learning.autoencoder(exam)
        learning.encode(exam)
    if method == "rded":
        return _rded_sets(exam, train, ipc, n_sets)
    return [pick(train, coreset(exam, method, ipc))]


def _rded_sets(exam: Work, train: Labelled, ipc: int, n_sets: int) -> list[Labelled]:
    network, side = teacher_network(exam), train.images.shape[1]
    return [
        Labelled(
            *stitched_crops(
                train.images,
                train.labels,
                ipc,
                network,
                side,
                seen_at=TAUGHT_AT,
                seed=derive(exam.settings.seed, "rded", i),
                device=exam.hardware.device,
            )
        )
        for i in range(n_sets)
    ]


def as_stored(exam: Work, sets: Sequence[Labelled], method: Method) -> tuple[list[Labelled], dict[str, int]]:
    """Sets as a network sees them, and the bytes of what is stored of the first one: `bytes` of all, of which
    `label_bytes` are soft labels."""
    sets, k = list(sets), method.formation
    if k > 1:
        sets = [pick(each, np.argsort(each.labels, kind="stable")) for each in sets]
        images = [packed(each.images, k) for each in sets]
    else:
        images = [each.images for each in sets]
    stored = {"bytes": sum(map(_png_bytes, images[0]))}
    if k > 1:
        side = sets[0].images.shape[1]
        cells = [np.stack([resize(cell, side) for cell in unpacked(each, k)]) for each in images]
        sets = [replace(each, images=seen) for each, seen in zip(sets, cells, strict=True)]
    if method.soft:
        sets = [replace(each, soft=soft_labels(exam, each.images)) for each in sets]
        column = [line for each in sets[:1] if each.soft is not None for line in as_column(each.soft)]
        stored["label_bytes"] = sum(len(json.dumps(line)) for line in column)
        stored["bytes"] += stored["label_bytes"]
    return sets, stored


def _png_bytes(image: NDArray[np.uint8]) -> int:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return len(file.getvalue())


def at_size(exam: Work, scenes: SceneFolder, cache: Path, name: str) -> Labelled:
    """Scenes at the size that the networks see."""
    return labelled(scenes, exam.settings.evaluation.resolution or exam.resolution, cache, name)
