"""What stands behind the page: requests in, pictures and an archive out; limits that no page can talk it out of."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill.data.images import decode, resize
from terradistill.data.maps import ANNOTATORS, require_annotators
from terradistill.data.scenes import SceneFolder
from terradistill.errors import ConfigError, DataError
from terradistill.generation.draw import generate
from terradistill.generation.orders import Order, Shown, require_whole
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator
from terradistill.run import Progress
from terradistill.settings import Settings

MOST_IMAGES = 16
MOST_STEPS = 50
MOST_LETTERS = 500
MOST_MEGABYTES = 10
MOST_PIXELS = 16_000_000  # of an upload
KEPT = 20  # results; older ones are thrown away


@dataclass(frozen=True)
class Asked:
    """One press of the button.

    Attributes:
        prompt: what to draw.
        metadata: numbers that are known.
        map_name: which map is given; empty: none.
        map_image: the map as drawn or uploaded, uint8 (H, W) or (H, W, 3); None: none.
        map_filter: the map is a picture, of which the filter of that name draws the map.
        map_strength: of the map.
        content: file of a picture to look like; None: none.
        content_strength: of the picture.
        n: images.
        steps: of the sampler.
        guidance: scale of autoguidance, or of classifier-free guidance where that acts; 0: as the settings say.
        seed: another seed, other images.
    """

    prompt: str
    metadata: Mapping[str, float] = field(default_factory=dict)
    map_name: str = ""
    map_image: NDArray[np.uint8] | None = None
    map_filter: bool = False
    map_strength: float = 1.0
    content: Path | None = None
    content_strength: float = 1.0
    n: int = 4
    steps: int = 20
    guidance: float = 0.0  # as the settings say
    seed: int = 0


@dataclass(frozen=True)
class Made:
    """What came of it.

    Attributes:
        images: PNG files.
        archive: a zip of the scene folder, with `metadata.jsonl`.
        note: in a line, for under the pictures.
    """

    images: list[Path]
    archive: Path
    note: str


class Workshop:
    """A generator that draws for one at a time."""

    def __init__(self, source: str, folder: Path, settings: Settings | None = None) -> None:
        """`source`: the generator. `folder`: where results lie while the page is open."""
        self.source, self.folder, self.settings = source, folder, settings or Settings()
        self.hardware = find_hardware(self.settings.precision)
        self.generator = Generator.load(source).ready(
            self.hardware.device, low_memory=self.settings.sampling.low_memory
        )
        self._busy, self._count = Lock(), 0

    def make(self, asked: Asked, progress: Progress | None = None) -> Made:
        """Draw what was asked for.

        Args:
            asked: checked here, whatever the page did.
            progress: called with denoising steps done and steps in all.

        Raises:
            ConfigError: out of the limits, or nothing that the generator has learned; one sentence for the page.
            DataError: an upload that is no image, or too large.
        """
        _require_modest(asked)
        with self._busy:
            self._count += 1
            room = self.folder / f"{self._count:05d}"
            room.mkdir(parents=True)
            began = time.monotonic()
            try:
                scenes = self._drawn(asked, room, progress)
                archive = Path(shutil.make_archive(str(room / f"scenes-{self._count}"), "zip", room / "scenes"))
            except BaseException:
                shutil.rmtree(room, ignore_errors=True)
                raise
            seconds = time.monotonic() - began
            for old in sorted(self.folder.iterdir())[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        images = [room / "scenes" / scene.name for scene in scenes.scenes]
        noun = "image" if len(images) == 1 else "images"
        note = f"{len(images)} {noun}, {asked.steps} steps, seed {asked.seed}, {seconds:.1f} s"
        if cut := self.generator.unheard([asked.prompt]):
            note += f". {cut}"
        return Made(images, archive, note)

    def _drawn(self, asked: Asked, room: Path, progress: Progress | None) -> SceneFolder:
        """The scene folder, with the files of its conditions."""
        order = self._order(asked, room)
        sampling = self.settings.sampling.model_copy(update={"steps": asked.steps})
        if asked.guidance:
            weaker = self.generator.weaker is not None and sampling.autoguidance != 1
            scale = "autoguidance" if weaker and not order.heeds() and asked.guidance > 1 else "cfg_scale"
            sampling = sampling.model_copy(update={"autoguidance": 1.0, scale: asked.guidance})
        return generate(
            [order],
            room / "scenes",
            self.generator,
            n=asked.n,
            seed=asked.seed,
            settings=self.settings.model_copy(update={"sampling": sampling}),
            step_progress=progress,
        )

    def _order(self, asked: Asked, room: Path) -> Order:
        maps, content = {}, None
        if asked.map_name and asked.map_image is not None:
            drawn = asked.map_image
            if asked.map_filter:
                if asked.map_name not in ANNOTATORS:
                    raise ConfigError(f"No filter draws the map {asked.map_name!r}: draw it, or choose another.")
                require_annotators()
                side = self.generator.resolution
                photograph = np.asarray(Image.fromarray(drawn).convert("RGB"))
                drawn = ANNOTATORS[asked.map_name](resize(photograph, side))
            Image.fromarray(drawn).save(room / f"{asked.map_name}.png")
            maps[asked.map_name] = Shown(room / f"{asked.map_name}.png", asked.map_strength)
        if asked.content is not None:
            small = Image.fromarray(_read(asked.content))
            small.save(room / "content.png")
            content = Shown(room / "content.png", asked.content_strength)
        prompt = asked.prompt.strip()
        return Order(prompt, "", asked.metadata, maps, content)


def _require_modest(asked: Asked) -> None:
    if not asked.prompt.strip() and asked.map_image is None and asked.content is None:
        raise ConfigError("Say what to draw, such as: a satellite image of a river.")
    require_whole(asked.prompt)
    if len(asked.prompt) > MOST_LETTERS:
        raise ConfigError(f"The prompt has {len(asked.prompt)} letters: expected at most {MOST_LETTERS}.")
    for name, value, most in (("images", asked.n, MOST_IMAGES), ("steps", asked.steps, MOST_STEPS)):
        if not 1 <= value <= most:
            raise ConfigError(f"{value} {name}: expected 1 to {most}.")
    strengths = {"guidance": (asked.guidance,), "strength": (asked.map_strength, asked.content_strength)}
    for name, strength in ((name, value) for name, values in strengths.items() for value in values):
        if not 0 <= strength <= 10:
            raise ConfigError(f"A {name} of {strength:g}: expected 0 to 10.")
    if not 0 <= asked.seed < 2**31:
        raise ConfigError(f"The seed {asked.seed}: expected a whole number from 0 to {2**31 - 1}.")
    if asked.map_image is not None and asked.map_image.shape[0] * asked.map_image.shape[1] > MOST_PIXELS:
        raise DataError(f"The map has more than {MOST_PIXELS // 10**6} million pixels: give a smaller one.")


def require_modest_picture(file: Path | BinaryIO, what: str) -> None:
    """Look at an upload's header, before anything is unpacked.

    Raises:
        DataError: it is no image, or too large.
    """
    try:
        with Image.open(file) as image:
            size = image.size
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"The {what} cannot be read: give a PNG or JPEG file.") from error
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(f"The {what} has more than {MOST_PIXELS // 10**6} million pixels: give a smaller one.")


def _read(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size > MOST_MEGABYTES * 10**6:
        raise DataError(f"The picture has more than {MOST_MEGABYTES} MB: give a smaller one.")
    require_modest_picture(path, "picture")
    return decode(path.read_bytes())
