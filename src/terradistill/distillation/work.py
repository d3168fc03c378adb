"""What the stages share: the run folder, the machine, and the scenes as they were split. Each stage is a function of
this, reads its inputs from the run folder and leaves its output there, so that any of them can be the first one after
a crash."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.config import flatten
from terradistill.data.annotations import annotate, parse_notes, written
from terradistill.data.captions import captions_of, class_prompt, shared_metadata
from terradistill.data.check import check_scenes, require_enough
from terradistill.data.images import load_pixels
from terradistill.data.pool import pool_scenes
from terradistill.data.scenes import DatasetInfo, SceneFolder, require_folder_names, resized_metadata
from terradistill.data.sources import Data, open_scenes, with_captions
from terradistill.data.splits import divide, limit_scenes, load_split, save_split
from terradistill.distillation.coresets import CORESETS
from terradistill.distillation.given import given_teacher
from terradistill.errors import ConfigError, DataError, GeneratorError, RunError, TerraDistillError
from terradistill.evaluation.recipe import repeatable
from terradistill.files import require_apart, write_text
from terradistill.hardware import Hardware, describe, find_hardware
from terradistill.models.autoencoder import require_fitting_crop
from terradistill.models.downstream import build_network, named_network, require_network
from terradistill.models.generator import Generator, require_fitting_levels
from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.models.places import learned_from, locate_generator, sources_of
from terradistill.run import Reporter, Run, provenance
from terradistill.sampling.guidance import PROTOTYPE_GUIDANCES
from terradistill.settings import DiffusionSettings, FinetuneSettings, Settings
from terradistill.team import Team
from terradistill.training.latents import LatentCache

# Settings of `diffusion` that shape a network, or its noise: a given generator brings its own.
FROM_SCRATCH = {
    *("block_channels", "attention_levels", "layers_per_block", "text_width", "text_layers", "text_heads"),
    *("vocabulary", "max_tokens", "prediction", "noise_shift"),
}


@dataclass
class Work:
    """One run in progress.

    Attributes:
        run: its folder.
        hardware: device and precision.
        train: the scenes that may be learned from.
        test: the scenes that only the evaluation opens.
        aside: the scenes that are on neither side because the given generator has learned from them.
        base: the folder of another run on the same scenes, whose latents, classifier and generator are used; None: its
            own.
    """

    run: Run
    hardware: Hardware
    train: SceneFolder
    test: SceneFolder
    aside: SceneFolder
    base: Path | None = None

    @property
    def settings(self) -> Settings:
        return self.run.settings

    @property
    def learned_in(self) -> Path:
        """Where latents, classifier and generator are."""
        return self.base or self.run.root

    @cached_property
    def resolution(self) -> int:
        """Side of the scenes worked on, pixels: the given generator's, or the setting."""
        if "resolution" not in self.run.manifest:
            given = self.settings.generator is not None
            self.run.describe(resolution=self.generator().resolution if given else self.settings.data.resolution)
        return int(self.run.manifest["resolution"])

    def pixels(self) -> NDArray[np.uint8]:
        """Train scenes at working size, uint8 (N, H, W, 3), memory-mapped."""
        return load_pixels(self.train, self.resolution, self.learned_in / "cache" / f"train-{self.resolution}.npy")

    def known_at(self, side: int) -> tuple[SceneFolder, Path]:
        """All scenes that an image may be a copy of, and where their pixels at a size are kept."""
        known = self.train.with_scenes([*self.train.scenes, *self.aside.scenes]) if len(self.aside) else self.train
        return known, self.learned_in / "cache" / f"{'known' if len(self.aside) else 'train'}-{side}.npy"

    def latents(self) -> LatentCache:
        return LatentCache.load(self.learned_in / "latents" / "train.npy")

    def generator(self) -> Generator:
        """The trained, adapted or given generator, ready to draw."""
        own = self.learned_in / "generator"
        source = self.settings.generator if self.settings.generator and not own.exists() else own
        return Generator.load(source).ready(self.hardware.device, low_memory=self.settings.sampling.low_memory)

    @property
    def learned(self) -> frozenset[str]:
        """Hashes of the train scenes."""
        return self.train.hashes

    def prompts(self) -> list[str]:
        """The prompt of each class."""
        shared = shared_metadata(self.train, self.metadata())
        template = self.settings.data.caption_template
        return [
            class_prompt(self.train, name, template, known)
            for name, known in zip(self.train.classes, shared, strict=True)
        ]

    def captions(self) -> list[list[str]]:
        """Captions of each train scene, to draw from: its own ones, and as often as `diffusion.class_share` says the
        prompt of its class, which is what will be asked for; or the template in its variants."""
        prompts, share = self.prompts(), self.settings.diffusion.class_share
        found = []
        own = captions_of(self.train, self.settings.data.caption_template, self.metadata())
        for scene, texts in zip(self.train.scenes, own, strict=True):
            prompt = prompts[scene.label]
            others = [text for text in dict.fromkeys(texts) if text != prompt] if scene.captions else []
            if not others:
                found.append(list(dict.fromkeys(texts)))
            elif share == 1:
                found.append([prompt])
            else:
                found.append([prompt] * round(share / (1 - share) * len(others)) + others)
        return found

    def metadata(self) -> list[dict[str, float]]:
        """What is known of each train scene; its ground sampling distance is that of the resized square."""
        return [resized_metadata(scene, self.train.info, self.resolution) for scene in self.train.scenes]


def open_work(
    data: Data | Sequence[Data],
    out: Path,
    settings: Settings,
    *,
    captions: Path | None = None,
    reporter: Reporter | None = None,
    spare: int = 2,
    least_classes: int = 2,
    seen: frozenset[str] = frozenset(),
    places: bool = False,
    team: Team | None = None,
    free: tuple[str, ...] = (),
) -> Work:
    """Read, check and split DATA, or take up a run where it stands.

    Args:
        data: see `terradistill.data.sources.open_scenes`; several are pooled.
        out: run folder.
        settings: of the run.
        captions: JSON lines with captions, instead of those beside DATA.
        reporter: told of progress.
        spare: train images a class that are needed beyond `settings.ipc`.
        least_classes: 1 where nothing is to be told apart.
        seen: hashes of scenes that must not judge, beside those that the given generator has learned from.
        places: divide places instead of images, see `split_places`.
        team: of processes at this run; None: this one alone.
        free: see `Run`.

    Raises:
        DataError: DATA cannot be used; the message says why and what would help.
        RunError: `out` holds another run, or lies inside DATA.
    """
    sources = [data] if isinstance(data, str | Path | SceneFolder) else list(data)
    for source in sources:
        if not isinstance(source, SceneFolder):
            require_apart(Path(out), source)
    fresh = not (Path(out) / "resolved.json").exists()
    run = Run(out, settings, reporter, team, free)
    try:
        hardware = find_hardware(settings.precision)
        train, test, aside = _scenes(
            run, sources, captions, hardware, seen, places, spare=spare, least_classes=least_classes
        )
    except BaseException as error:
        # A folder that holds nothing but wrong settings would only be in the way of the mended command.
        run.discard() if fresh and isinstance(error, TerraDistillError) else run.close()
        raise
    return Work(run, hardware, train, test, aside)


def _scenes(
    run: Run,
    sources: Sequence[Data],
    captions: Path | None,
    hardware: Hardware,
    seen: frozenset[str],
    places: bool,
    **least: int,
) -> tuple[SceneFolder, SceneFolder, SceneFolder]:
    settings = run.settings.data
    data = " + ".join(source.info.name if isinstance(source, SceneFolder) else str(source) for source in sources)
    opened = [open_scenes(source) for source in sources]
    opened = opened if captions is None else with_captions(opened, captions)
    scenes = pool_scenes([limit_scenes(folder, settings, places=places) for folder in opened])
    del opened  # scenes as they were before the check: as many again
    if run.done("read"):
        # The split holds what the check found; the source must still be the same.
        if run.manifest["data"]["source"] != data:
            raise RunError(
                f"{run.root} was made from {run.manifest['data']['source']}, not from {data}: use another --out."
            )
        train, test = load_split(run / "split.json", scenes)
        train = _with_kept_notes(run, train)
        if run.manifest.get("generator") != generator_hash(run.settings.generator):
            raise RunError(
                f"{run.settings.generator} is not the generator that {run.root} was begun with: restore it, or use "
                "another --out."
            )
        _require_usable(run.settings, train, test, **least)  # what was asked of the folder before may have been less
        found = {row.pop("name"): row for row in run.read_json("aside.json", default=[])}
        kept = [replace(scene, **found[scene.name]) for scene in scenes.scenes if scene.name in found]
        return train, test, scenes.with_scenes(kept)
    with run.stage("read", "Reading and checking scenes") as stage:
        scenes, report = check_scenes(scenes, on_corrupt=settings.on_corrupt, progress=stage.progress)
        seen = seen | seen_by(run.settings.generator)
        train, test = divide(scenes, settings, dropped=report.dropped, seen=seen, places=places)
        sides = {scene.name for part in (train, test) for scene in part.scenes}
        aside = scenes.subset(
            i for i, scene in enumerate(scenes.scenes) if not scene.hashes.isdisjoint(seen) and scene.name not in sides
        )
        _require_usable(run.settings, train, test, **least)
        info = scenes.info
        run.describe(
            **provenance(),
            device=describe(hardware),
            generator=generator_hash(run.settings.generator),
            generator_sources={} if run.settings.generator is None else sources_of(run.settings.generator),
            data={
                **asdict(info),
                "source": data,
                "classes": list(scenes.classes),
                "readable": {name: scenes.readable(name) for name in scenes.classes},
                "n_train": len(train),
                "n_test": len(test),
                "bytes_train": sum(len(train.read(i)) for i in range(len(train))),
                "check": report.to_json(),
            },
        )
        write_text(run / "captions.jsonl", written(train.scenes))
        save_split(run / "split.json", train, test, seed=settings.split_seed, train_fraction=settings.train_fraction)
        stage.note = f"{len(train)} train, {len(test)} test, {len(scenes.classes)} classes"
        for line in report.summary():
            run.say(line)
        if len(aside):
            told = ("name", "sha256", "width", "height")
            run.write_json("aside.json", [{key: getattr(scene, key) for key in told} for scene in aside.scenes])
            run.say(
                f"{len(aside)} images are on neither side: the generator has learned from them, so they cannot judge"
            )
        elif info.title in run.manifest["generator_sources"]:
            run.say(
                f"the generator has learned from {info.title}, and recognises none of these images: at another size or "
                "compressed anew, scenes that it has learned from may judge unnoticed (--from-scratch: none do)"
            )
        for line in _unused(run.settings):
            run.say(line)
    return train, test, aside


def _unused(settings: Settings) -> list[str]:
    """Settings that differ from their defaults and have no effect, with what would have one."""
    if settings.generator is None:
        return []
    own, default = (flatten(each.model_dump(mode="json")) for each in (settings, Settings()))
    adapting = set(FinetuneSettings.model_fields)
    lines = []
    for key in own:
        section, _, name = key.rpartition(".")
        if own[key] == default[key] or (section != "diffusion" and key != "data.resolution"):
            continue
        if section == "diffusion" and name in DiffusionSettings.model_fields and name not in FROM_SCRATCH | adapting:
            continue
        instead = f"finetune.{name} has" if name in adapting else "only --from-scratch has"
        lines.append(f"{key} has no effect where a generator is adapted; {instead} one")
    return lines


def _require_usable(settings: Settings, train: SceneFolder, test: SceneFolder, **least: int) -> None:
    require_enough(train, settings.ipc, **least)
    require_feasible(settings, train)
    given_teacher(settings, train.classes, test)  # refused now rather than by the audit, which comes last
    _refuse_seen(settings.generator, test)


def _with_kept_notes(run: Run, train: SceneFolder) -> SceneFolder:
    # The captions, numbers and words that the run began with, whatever lies beside DATA today.
    kept = parse_notes((run / "captions.jsonl").read_bytes(), "captions.jsonl")
    bare = [replace(scene, captions=(), metadata={}) for scene in train.scenes]
    train = train.with_scenes(annotate(bare, kept)[0])
    known = {each.name for each in fields(DatasetInfo)}
    info = {name: value for name, value in run.manifest["data"].items() if name in known}
    return replace(train, info=replace(train.info, **info))


def generator_hash(generator: str | None) -> str | None:
    """A hash of the denoiser of a generator folder, and of a weaker one; of a hub id, the id."""
    if generator is None or not (folder := Path(locate_generator(generator)) / "unet").is_dir():
        return generator
    return weights_hash([folder, folder.parent / "weaker" / "unet"])


def weights_hash(folders: Sequence[Path]) -> str:
    """A hash of the weights in folders, those in one of them by name."""
    digest = sha256()
    for path in [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as file:
            digest.update(file_digest(file, "sha256").digest())
    return digest.hexdigest()


def require_feasible(settings: Settings, train: SceneFolder) -> None:
    # What a late stage would refuse is refused now, before hours are spent on the early ones.
    require_folder_names(train.classes)
    known = shared_metadata(train, [resized_metadata(scene, train.info, 1) for scene in train.scenes])
    template = settings.data.caption_template
    prompts = [class_prompt(train, name, template, row) for name, row in zip(train.classes, known, strict=True)]
    require_known("sampling.prototype_guidance", [settings.sampling.prototype_guidance], PROTOTYPE_GUIDANCES)
    require_known("evaluation.methods", settings.evaluation.methods, ("distilled", "random", *CORESETS, "full"))
    for network in settings.evaluation.networks:
        require_network(network, pretrained=settings.evaluation.pretrained)
        if named_network(network, pretrained=settings.evaluation.pretrained)[1]:  # its weights are fetched now
            with repeatable(0, torch.device("cpu")):
                build_network(network, 2, 64, pretrained=settings.evaluation.pretrained)
    if settings.generator is not None:
        _require_readable(settings, train, prompts)
    else:
        factor = 2 ** (len(settings.autoencoder.block_channels) - 1)
        require_fitting_levels(settings.diffusion, factor, settings.data.resolution)
        require_fitting_crop(settings.autoencoder, settings.data.resolution)
        if settings.diffusion.metadata:
            _require_in_range(MetadataEncoder(8, settings.diffusion.gsd_max_m), settings, train)


def _require_readable(settings: Settings, train: SceneFolder, prompts: list[str]) -> None:
    """Make sure that a given generator can be told of the classes and numbers of the scenes."""
    generator = Generator.reader(str(settings.generator))
    if generator.metadata_encoder is not None:
        _require_in_range(generator.metadata_encoder, settings, train)
    elif settings.diffusion.metadata:
        _require_in_range(MetadataEncoder(8, settings.diffusion.gsd_max_m), settings, train)
    if generator.tokenizer is None:
        return  # on the hub, or incomplete: found out when it is opened
    # Classes of pooled datasets may well have the same words; different ones should not look the same.
    read: dict[tuple[int, ...], str] = {}
    for prompt, tokens in zip(prompts, generator.tokens(prompts).tolist(), strict=True):
        twin = read.setdefault(tuple(tokens), prompt)
        if twin != prompt:
            raise DataError(
                f"To the generator {settings.generator} {twin!r} and {prompt!r} read alike: give the classes names "
                'of few English words ("readable" in dataset.json), or learn from DATA alone (--from-scratch).'
            )


def _require_in_range(encoder: MetadataEncoder, settings: Settings, train: SceneFolder) -> None:
    fields, side = metadata_fields(settings, encoder), settings.data.resolution
    encoder.table([encoder.sayable(resized_metadata(scene, train.info, side), fields) for scene in train.scenes])


def metadata_fields(settings: Settings, encoder: MetadataEncoder) -> Collection[str]:
    """The numbers that a generator is told of: all while it learns them, else those that it has learned."""
    return encoder.ranges if settings.diffusion.metadata else encoder.learned


def views_needed(settings: Settings, n_train: int) -> int:
    """How many views of each scene are encoded: no more than are drawn once."""
    if settings.generator is None:
        return settings.diffusion.views
    wanted = settings.finetune.of(settings.diffusion, n_train)
    draws = max(wanted.steps * wanted.batch_size, settings.classifier.max_steps * settings.classifier.batch_size)
    return min(settings.diffusion.views, max(1, -(-draws // n_train)))


def require_known(setting: str, names: Iterable[str], known: Collection[str]) -> None:
    """Make sure that a setting names what there is.

    Raises:
        ConfigError: it does not.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"The setting {setting} names {name!r}: expected {', '.join(known)}.")


def seen_by(generator: str | None) -> frozenset[str]:
    """Hashes of the scenes that a given generator has learned from, as far as they are known."""
    return frozenset() if generator is None else learned_from(generator)


def _refuse_seen(generator: str | None, test: SceneFolder) -> None:
    # A generator that has learned from test scenes would make every number below worthless.
    seen = seen_by(generator)
    shared = sum(not scene.hashes.isdisjoint(seen) for scene in test.scenes)
    if shared:
        raise GeneratorError(
            f"The generator {generator} has learned from {shared} of the {len(test)} test scenes: "
            "use the split it was trained with (--set data.split_file=RUN/split.json), or another generator."
        )
