"""Scenes to order: prompts in, a scene folder and a contact sheet out."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from terradistill.config import SamplingSettings, Settings
from terradistill.data.annotations import METADATA_FIELDS
from terradistill.data.captions import class_prompt
from terradistill.data.check import check_scenes
from terradistill.data.scenes import SceneFolder, require_folder_names, write_scene_folder
from terradistill.data.sources import open_scenes
from terradistill.errors import ConfigError, RunError
from terradistill.hardware import Hardware, find_hardware
from terradistill.models.generator import LEARNED_FROM, Generator
from terradistill.report.gallery import write_gallery
from terradistill.run import Progress
from terradistill.sampling.guidance import classifier_free
from terradistill.sampling.sampler import Request, decoded, sample
from terradistill.seeding import derive


@dataclass(frozen=True)
class Order:
    """What to draw.

    Attributes:
        prompt: a caption.
        folder: the class folder that the images go to; empty: made from the prompt.
        metadata: numbers to tell the generator, such as ``{"gsd_m": 0.6}``.
    """

    prompt: str
    folder: str = ""
    metadata: Mapping[str, float] = field(default_factory=dict)


def orders_like(scenes: SceneFolder, template: str, generator: Generator) -> list[Order]:
    """One order a class, in the words and at the ground sampling distance of a real dataset.

    Args:
        scenes: a few of them are read for their size, since metres a pixel follow resizing.
        template: see `class_prompt`.
        generator: says how large its images are, and whether it has learned metadata.
    """
    known = {}
    if generator.metadata_encoder is not None and scenes.info.gsd_m is not None:
        some = np.unique(np.linspace(0, len(scenes) - 1, 32).astype(int)).tolist()
        sides = [min(scene.width, scene.height) for scene in check_scenes(scenes.subset(some))[0].scenes]
        known = generator.metadata_encoder.sayable(
            {"gsd_m": scenes.info.gsd_m * np.median(sides) / generator.resolution}
        )
    return [Order(class_prompt(scenes, name, template), name, known) for name in scenes.classes]


def parse_metadata(text: str) -> dict[str, float]:
    """Numbers written as ``gsd_m=10,month=7``.

    Raises:
        ConfigError: another form, or a field that nobody knows.
    """
    known: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            known[name] = float(value)
        except ValueError:
            raise ConfigError(f"The metadata {part!r} is not of the form gsd_m=10: give name=number.") from None
        if name not in METADATA_FIELDS:
            raise ConfigError(f"There is no metadata field {name!r}: choose among {', '.join(METADATA_FIELDS)}.")
    return known


def generate(
    orders: Sequence[Order],
    out: str | Path,
    generator: Generator,
    *,
    n: int = 16,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> SceneFolder:
    """Draw `n` images of each order.

    Args:
        orders: what to draw; image i of an order depends on (seed, its folder, i) alone.
        out: a new or empty folder; `<folder>/*.png`, `metadata.jsonl` and `gallery.png` go there, with the
            hashes of the scenes that the generator has learned from.
        generator: what draws.
        n: images an order.
        seed: another seed, other images.
        settings: of sampling and precision.
        progress: called with images done and images in all.

    Raises:
        ConfigError: nothing was ordered, or metadata of a generator that has learned none.
        DataError: metadata out of range, or a folder name that is none.
        RunError: `out` is not empty.
    """
    settings, out = settings or Settings(), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty: give a new folder for --out.")
    if not orders:
        raise ConfigError("Nothing was ordered: give a prompt, such as --prompt 'a satellite image of a river'.")
    folders = _folders(orders)
    require_folder_names(folders)
    hardware = find_hardware(settings.precision)
    images = _draw(
        generator.to(hardware.device).frozen(), orders, folders, n, seed, settings.sampling, hardware, progress
    )
    rows = [
        {"prompt": order.prompt, "seed": derive(seed, "order", folder, i), **order.metadata}
        for order, folder in zip(orders, folders, strict=True)
        for i in range(n)
    ]
    classes = sorted(folders)
    labels = np.repeat([classes.index(folder) for folder in folders], n)
    info = {"name": out.name, "title": "Scenes made to order", "made_by": "terradistill generate"}
    write_scene_folder(out, classes, images, labels, rows, info)
    if generator.learned_from:  # so that `evaluate` can refuse an exam with these scenes
        (out / LEARNED_FROM).write_text(json.dumps({"sha256": sorted(generator.learned_from)}))
    write_gallery({name: sorted((out / name).glob("*.png")) for name in folders}, out / "gallery.png")
    return open_scenes(out)


def _draw(
    generator: Generator,
    orders: Sequence[Order],
    folders: Sequence[str],
    n: int,
    seed: int,
    wanted: SamplingSettings,
    hardware: Hardware,
    progress: Progress | None,
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    numbers = generator.metadata_encoder
    told = [name for order in orders for name in order.metadata]
    if told and numbers is None:
        raise ConfigError(f"This generator has not learned metadata, so {told[0]} would mean nothing: leave it out.")
    text = generator.embed([*(order.prompt for order in orders), ""])
    request = Request(
        text=text[:-1],
        prompt_of=torch.arange(len(orders)).repeat_interleave(n),
        seeds=[derive(seed, "order", folder, i) for folder in folders for i in range(n)],
        metadata=numbers.table([o.metadata for o in orders]).repeat_interleave(n, 0) if numbers and told else None,
    )
    latents = sample(
        generator,
        request,
        steps=wanted.steps,
        hardware=hardware,
        scheduler=wanted.scheduler,
        guidances=[classifier_free(wanted.cfg_scale, text[-1:])],
        batch_size=wanted.batch_size,
        progress=progress,
    )
    return decoded(generator, latents, hardware)


def _folders(orders: Sequence[Order]) -> list[str]:
    """A folder name for each order: its own, else the prompt's words; numbered where two would share one."""
    plain = [order.folder or "-".join(re.findall(r"[^\W_]+", order.prompt.lower()))[:60] or "scene" for order in orders]
    return [name if plain.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(plain)]
