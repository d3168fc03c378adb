"""Super-resolution: images drawn after coarser ones of any size, tile by tile."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from terradistill.data.bands import (
    NOTE,
    TIFF,
    BandImage,
    BandScale,
    bands_file,
    bands_note,
    bands_of,
    read_bands,
    require_bands,
    to_rgb,
)
from terradistill.data.images import MAX_PIXELS, to_float, to_uint8
from terradistill.data.pictures import Picture, known_of, open_pictures
from terradistill.data.sensor import blurred
from terradistill.enhancing.canvas import draw_large, in_one_piece, padded, shown, tiles_of
from terradistill.enhancing.enhancer import Enhancer, open_enhancer
from terradistill.enhancing.results import Made, Piece, Results, asked_for, make_all, say_unheeded, together
from terradistill.errors import ConfigError, DataError
from terradistill.files import require_apart
from terradistill.models.control import Control
from terradistill.run import Progress, Reporter, Silent
from terradistill.seeding import derive
from terradistill.settings import SamplingSettings, Settings

BACK = 3  # times that what a sensor lacks is added [ours]


def super_resolve(
    source: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    scale: int | None = None,
    prompt: str = "",
    faithful: bool = True,
    bands: Mapping[str, Sequence[str]] | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Draw images at several times their resolution.

    Args:
        source: an image file, a folder of them, DATA, what `data cut` left, an `.npz` file of bands, or a GeoTIFF of
            bands.
        out: a folder; the same call goes on with it.
        settings: `generator` (with an enhancer for this task), `sampling`, `seed`.
        scale: what the enhancer must have learned; None: whatever it has.
        prompt: what they show; may be empty.
        faithful: what is drawn, seen by the sensor that the enhancer has learned from, is the given image.
        bands: of the arrays of a file of bands; see `read_bands`.
        reporter: told of progress.

    Returns:
        The folder: an image for each, `metadata.jsonl`, `before_after.png`.

    Raises:
        ConfigError: the generator has not learned it, or not at this scale.
        DataError: an image cannot be read.
    """
    settings, reporter = settings or Settings(), reporter or Silent()
    require_apart(Path(out), source)
    enhancer = open_enhancer(settings, "super-resolve")
    frames, ratio = _frames(source, enhancer, bands), enhancer.adapter.scale
    if scale not in (None, ratio):
        raise ConfigError(
            f"This enhancer draws at {ratio} times the resolution, and not at {scale}: train one with terradistill "
            f"train enhancer DATA --scale {scale}."
        )
    for name, frame in frames.items():
        height, width = frame.size
        if height * width * ratio**2 > MAX_PIXELS:
            raise DataError(
                f"{name} would have {width * ratio} x {height * ratio} pixels: at most {MAX_PIXELS} are drawn; cut it "
                "into tiles."
            )
    asked = asked_for("super-resolve", settings, enhancer.generator, scale=ratio, prompt=prompt, faithful=faithful)
    asked |= {"bands": {array: list(names) for array, names in bands.items()}} if bands else {}
    given = [frame.picture for frame in frames.values() if frame.picture is not None]
    say_unheeded(enhancer.generator, prompt, given, reporter)
    notes = known_of(given, ratio)

    pieces = [Piece(name, [frame.data]) for name, frame in frames.items()]
    sizes = [(frame.size[0] * ratio, frame.size[1] * ratio) for frame in frames.values()]
    blocks = together(pieces, [size if in_one_piece(enhancer.generator, size) else None for size in sizes])
    steps = reporter.progress if len(blocks) == 1 else None

    def make(block: Sequence[Piece]) -> list[Made]:
        seeds = [derive(settings.seed, "super-resolve", piece.name) for piece in block]
        read = [frames[piece.name].read() for piece in block]
        drawn = sharpened(
            enhancer, np.stack([frame for frame, _ in read]), prompt, seeds, settings.sampling, progress=steps
        )
        if faithful:
            drawn = agreeing(drawn, np.stack([given for _, given in read]), ratio, enhancer.blur)
        rows = [
            {**notes.get(piece.name, {}), "prompt": prompt, "seed": seed, "scale": ratio}
            for piece, seed in zip(block, seeds, strict=True)
        ]
        return list(zip(drawn, rows, strict=True))

    def before(piece: Piece) -> NDArray[np.uint8]:
        return bicubic(frames[piece.name].read()[1], ratio)

    of_classes = any("/" in name for name in frames)
    results = Results(Path(out), asked, enhancer.generator, source, given, of_classes=of_classes, scale=ratio)
    return make_all(results, blocks, make, before, "Super-resolving", reporter, ("given", "drawn"))


@dataclass(frozen=True)
class _Frame:
    """What is super-resolved: a picture, or a file of bands.

    Attributes:
        data: all that it may be drawn after.
        size: height and width.
        read: bands (C, h, w) from -1 to 1, and what they look like, uint8 (h, w, 3).
        picture: where it is one.
    """

    data: Callable[[], bytes]
    size: tuple[int, int]
    read: Callable[[], tuple[NDArray[np.float32], NDArray[np.uint8]]]
    picture: Picture | None = None


def _frames(source: str | Path, enhancer: Enhancer, named: Mapping[str, Sequence[str]] | None) -> dict[str, _Frame]:
    """What to super-resolve, by name; all that an enhancer cannot read is refused here."""
    path, wanted = Path(source), enhancer.adapter.bands if "bands" in enhancer.adapter.about else ()
    if not wanted and (named or path.suffix == ".npz"):
        raise ConfigError("This enhancer reads pictures, no bands: give an image, or train one with enhancer.bands.")
    needed = [*wanted, *(enhancer.adapter.about["bands"]["rgb"] if wanted else ())]
    if path.suffix == ".npz" or (wanted and path.is_file() and path.suffix.lower() in TIFF):
        image = read_bands(path, named)
        require_bands(needed, image.planes, str(source))
        (picture,) = [None] if path.suffix == ".npz" else open_pictures(source)
        return {path.stem: _Frame(path.read_bytes, image.size, lambda: _scaled(enhancer, image), picture)}
    if named:
        raise ConfigError(f"--bands are those of an .npz file or a GeoTIFF of bands, and {source} is none.")
    known = bands_note(path)["bands"] if (path / NOTE).is_file() else ()
    if wanted and not known:
        raise ConfigError(
            f"This enhancer reads the bands {', '.join(wanted)}: give an .npz file or a GeoTIFF of them, or what "
            "terradistill data cut has made of one."
        )
    require_bands(needed, known, str(source))

    def pictured(picture: Picture) -> _Frame:
        def read() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
            if wanted:
                return _scaled(enhancer, bands_of(path, picture.file))
            image = picture.pixels()
            return to_float(image[None])[0].numpy(), image

        def data() -> bytes:
            return picture.read() + (bands_file(path, picture.file).read_bytes() if known else b"")

        return _Frame(data, picture.size(), read, picture)

    return {picture.name: pictured(picture) for picture in open_pictures(source)}


def _scaled(enhancer: Enhancer, image: BandImage) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The bands that an enhancer has learned, as it has learned them, and their picture."""
    note = enhancer.adapter.about["bands"]
    scale = BandScale.noted(enhancer.adapter.bands, note)
    planes = scale.scaled(image.stacked(scale.names, *image.size))
    return planes, to_rgb(image, note["rgb"], note["low"], note["high"])


def sharpened(
    enhancer: Enhancer,
    frames: NDArray[np.float32],
    prompt: str,
    seeds: Sequence[int],
    wanted: SamplingSettings,
    *,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Images (n, H * scale, W * scale, 3) after frames (n, C, H, W) from -1 to 1: one, or several of a tile each."""
    generator, scale = enhancer.generator, enhancer.adapter.scale
    height, width = frames.shape[2:]
    wide = np.stack([padded(np.moveaxis(frame, 0, -1), enhancer.multiple // scale) for frame in frames])
    coarse = torch.from_numpy(np.ascontiguousarray(np.moveaxis(wide, -1, 1))).to(enhancer.hardware.device)
    step = generator.factor // scale  # coarse pixels per latent
    size = (coarse.shape[2] // step, coarse.shape[3] // step)
    places, side = tiles_of(generator, size), generator.latent_shape[1] * step

    def read(tiles: Tensor) -> Control:
        return enhancer.control(tiles[:, None], [[{}]] * len(tiles), [{}] * len(tiles))

    small = read(coarse) if len(places) == 1 else None

    def control(numbers: Tensor) -> Control:
        if small is not None:
            return small.rows(numbers.to(coarse.device))
        # Read anew in each step: that is little beside the denoiser, and keeping it would grow with the image.
        corners = [places[int(k)] for k in numbers]
        return read(torch.stack([coarse[0, :, y * step :, x * step :][:, :side, :side] for y, x in corners]))

    hardware = enhancer.hardware
    latents = draw_large(generator, prompt, seeds, size, wanted, hardware, control=control, progress=progress)
    return shown(generator, latents, hardware)[:, : height * scale, : width * scale]


def agreeing(made: NDArray[np.uint8], coarse: NDArray[np.uint8], scale: int, blur: float = 0.0) -> NDArray[np.uint8]:
    """Images that were drawn, (n, H * scale, W * scale, 3), such that a sensor sees the coarse ones, (n, H, W, 3).

    What it lacks is added a few times (iterative back-projection, Irani and Peleg 1991): cut off at black and white,
    and blurred by the sensor, one time is not enough.

    Args:
        made: as drawn.
        coarse: as given.
        scale: pixels drawn per pixel given.
        blur: deviation of the sensor's point spread, in its own pixels.
    """
    drawn, given = (to_float(images) for images in (made, coarse))
    for _ in range(BACK):
        lacking = given - F.avg_pool2d(blurred(drawn, blur * scale), scale)
        drawn = (drawn + F.interpolate(lacking, scale_factor=scale, mode="bicubic", align_corners=False)).clamp(-1, 1)
    return np.asarray(to_uint8(drawn))


def bicubic(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) enlarged by interpolation alone."""
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.BICUBIC))
