"""In-painting: what a mask or clouds hide is drawn; all other pixels stay as they are, bit for bit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from terradistill.data.images import decode, is_scene_file, to_float, to_uint8
from terradistill.data.pictures import Picture, known_of, open_pictures
from terradistill.data.weather import cloud_cover, clouded
from terradistill.enhancing.canvas import (
    draw_large,
    encoded,
    filled,
    in_one_piece,
    multiple_of,
    padded,
    shown,
    tiles_of,
)
from terradistill.enhancing.results import Made, Piece, Results, asked_for, make_all, say_unheeded, together
from terradistill.errors import ConfigError, DataError
from terradistill.files import require_apart
from terradistill.generation.orders import require_numbers
from terradistill.hardware import Hardware, find_hardware
from terradistill.models.generator import Generator
from terradistill.run import Progress, Reporter, Silent
from terradistill.sampling.masking import keep_known
from terradistill.seeding import derive
from terradistill.seeding import generator as seeded
from terradistill.settings import Settings

FORGETFUL = ("dpm++", "sde-dpm++", "ddim", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")  # solvers
WHITE = 128  # of a mask, from here on
GUESSED = 0.4  # share of the steps, from interpolation on: the best by LPIPS of 0.3 to 1 (30 unseen scenes of AID)
REACH = 1  # latents around the hidden ones that are drawn too: an encoder's view of them is clouded


def inpaint(
    source: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    mask: Path | None = None,
    clouds: float | None = None,
    prompt: str = "",
    metadata: Mapping[str, float] | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Draw what is hidden in images.

    Args:
        source: an image file, a folder of them, or DATA.
        out: a folder; the same call goes on with it.
        settings: `generator`, `sampling`, `seed`.
        mask: an image of the same size, white where to draw; for several images a folder with one for each, by name.
        clouds: instead of a mask: hide this share of each image under simulated clouds, in (0, 1].
        prompt: what to draw; empty: whatever fits.
        metadata: numbers to tell the generator.
        reporter: told of progress.

    Returns:
        The folder: an image for each, `metadata.jsonl`, `before_after.png`.

    Raises:
        ConfigError: neither a mask nor clouds, or both; metadata that the generator has not learned.
        DataError: an image or mask that cannot be read, or does not fit.
    """
    settings, reporter = settings or Settings(), reporter or Silent()
    if (mask is None) == (clouds is None):
        raise ConfigError("Say what is hidden: give a mask, or a share of simulated clouds, and not both.")
    if clouds is not None and not 0 < clouds <= 1:
        raise ConfigError(f"Clouds over a share of {clouds:g}: expected more than 0 and at most 1.")
    if settings.generator is None:
        raise ConfigError("There is nothing to draw with: name a generator, such as --generator base-128.")
    require_repeatable(settings)
    require_apart(Path(out), source)
    pictures = {picture.name: picture for picture in open_pictures(source)}
    masks = {} if mask is None else _masks(mask, list(pictures.values()))
    for name, picture in pictures.items():
        size = picture.size()
        if name in masks:
            _require_fitting(masks[name], size)
    hardware, known = find_hardware(settings.precision), dict(metadata or {})
    generator = Generator.load(settings.generator)
    require_numbers(generator, known)
    told = generator.metadata_encoder.table([known]) if known and generator.metadata_encoder else None
    asked = asked_for("inpaint", settings, generator, clouds=clouds, prompt=prompt, metadata=known)
    say_unheeded(generator, prompt, pictures.values(), reporter)
    generator.ready(hardware.device, low_memory=settings.sampling.low_memory)
    notes = known_of(list(pictures.values()))

    def given(name: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if clouds is None:
            return pictures[name].pixels(), _read_mask(masks[name])
        return _under_clouds(pictures[name].pixels(), clouds, derive(settings.seed, "clouds", name))

    pieces = [
        Piece(name, [picture.read, *([masks[name].read_bytes] if name in masks else [])])
        for name, picture in pictures.items()
    ]
    sizes = [picture.size() for picture in pictures.values()]
    blocks = together(pieces, [size if in_one_piece(generator, size) else None for size in sizes])
    steps = reporter.progress if len(blocks) == 1 else None

    def make(block: Sequence[Piece]) -> list[Made]:
        seeds = [derive(settings.seed, "inpaint", piece.name) for piece in block]
        images, hidden = (np.stack(each) for each in zip(*[given(piece.name) for piece in block], strict=True))
        made = fill_hidden(generator, images, hidden, prompt, seeds, settings, hardware, metadata=told, progress=steps)
        more = {**known, "simulated": "clouds"} if clouds is not None else known
        rows = [
            {**notes[piece.name], "prompt": prompt, "seed": seed, "hidden": round(float(of.mean()), 4), **more}
            for piece, seed, of in zip(block, seeds, hidden, strict=True)
        ]
        return list(zip(made, rows, strict=True))

    def before(piece: Piece) -> NDArray[np.uint8]:
        image, hidden = given(piece.name)
        return image if clouds is not None else np.where(hidden[..., None], np.uint8(255), image)

    of_classes = any("/" in name for name in pictures)
    results = Results(Path(out), asked, generator, source, pictures.values(), of_classes=of_classes)
    return make_all(results, blocks, make, before, "In-painting", reporter)


def require_repeatable(settings: Settings) -> None:
    """Make sure that the solver steps from where the last prediction was made.

    Raises:
        ConfigError: it remembers latents of its own, which repeated steps leave behind.
    """
    if settings.enhance.repeats > 1 and settings.sampling.scheduler not in FORGETFUL:
        raise ConfigError(
            f"{settings.sampling.scheduler} cannot repeat a step: choose sampling.scheduler among "
            f"{', '.join(FORGETFUL)}, or set enhance.repeats to 1."
        )


def fill_hidden(
    generator: Generator,
    images: NDArray[np.uint8],
    hidden: NDArray[np.bool_],
    prompt: str,
    seeds: Sequence[int],
    settings: Settings,
    hardware: Hardware,
    *,
    metadata: Tensor | None = None,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Images (n, H, W, 3) with their hidden pixels, bool (n, H, W), drawn: one, or several that are a tile each."""
    factor, multiple, (height, width) = generator.factor, multiple_of(generator), hidden.shape[1:]
    pairs = list(zip(images, hidden, strict=True))
    known = torch.cat([encoded(generator, padded(filled(*pair), multiple), hardware) for pair in pairs])
    # What is beyond the edges is neither hidden nor shown: it may become what it likes.
    covered = torch.from_numpy(np.stack([padded(each, multiple) for each in hidden]))[:, None].float()
    drawn = F.max_pool2d(F.max_pool2d(covered, factor), 2 * REACH + 1, 1, REACH)
    size, side = (known.shape[2], known.shape[3]), generator.latent_shape[1]
    places = [(y, x) for y, x in tiles_of(generator, size) if drawn[0, 0, y : y + side, x : x + side].any()]
    latents = draw_large(
        generator,
        prompt,
        seeds,
        size,
        settings.sampling,
        hardware,
        metadata=metadata,
        places=places,
        start=known,
        strength=settings.enhance.strength or (1.0 if prompt else GUESSED),
        guidances=[
            keep_known(
                known,
                drawn,
                generator.parameterisation,
                seeds=[derive(seed, "again") for seed in seeds],
                repeats=settings.enhance.repeats,
            )
        ],
        progress=progress,
    )
    made = shown(generator, latents, hardware)[:, :height, :width]
    return np.where(hidden[..., None], made, images)


def _masks(given: Path, pictures: list[Picture]) -> dict[str, Path]:
    """The mask file of each picture."""
    if not given.exists():
        raise DataError(f"There is no mask {given}: give an image, white where to draw.")
    if given.is_file():
        if len(pictures) > 1:
            raise DataError(f"One mask and {len(pictures)} images: give a folder with a mask for each, by name.")
        return {pictures[0].name: given}
    found = [path for path in sorted(given.rglob("*")) if is_scene_file(path.name) and not path.name.startswith(".")]
    files = {str(path.relative_to(given).with_suffix("")): path for path in found}
    if len(files) < len(found):
        raise DataError(f"{given} has two masks for one image: keep one of each name, whatever its ending.")
    lacking = [picture.name for picture in pictures if picture.name not in files]
    if lacking:
        raise DataError(f"{given} has no mask for {lacking[0]}: expected {lacking[0]}.png.")
    return {picture.name: files[picture.name] for picture in pictures}


def _require_fitting(mask: Path, size: tuple[int, int]) -> None:
    hidden = _read_mask(mask)
    if hidden.shape != size:
        raise DataError(
            f"The mask {mask} has {hidden.shape[1]} x {hidden.shape[0]} pixels and its image {size[1]} x {size[0]}: "
            "expected the same."
        )
    if not hidden.any():
        raise DataError(f"The mask {mask} hides nothing: expected white (255) where to draw.")


def _read_mask(path: Path) -> NDArray[np.bool_]:
    try:
        return np.asarray(decode(path.read_bytes()).max(2) >= WHITE)
    except (OSError, DataError) as error:
        raise DataError(f"The mask {path} cannot be read ({error}): give a PNG or JPEG file.") from error


def _under_clouds(image: NDArray[np.uint8], share: float, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An image under simulated clouds, and where any cloud is."""
    thickness = cloud_cover(1, image.shape[0], image.shape[1], share, seeded(seed))
    given = to_uint8(clouded(to_float(image[None]), thickness))[0]
    return given, (thickness[0, 0] > 0).numpy()
