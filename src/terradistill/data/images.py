"""Pixels: from encoded bytes to uint8 RGB, to squares, to tensors in [-1, 1], and back. The one place that converts."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from terradistill.data.arrays import mapped, write_array
from terradistill.data.scenes import SceneFolder
from terradistill.errors import DataError, reason
from terradistill.files import alone, replacing, write_text
from terradistill.run import Progress

if TYPE_CHECKING:
    from torch import Tensor

SCENE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")
MAX_PIXELS = 89_478_485  # a quarter of a GiB of RGB, where Pillow begins to warn of decompression bombs
STRETCH_PERCENTILES = (2.0, 98.0)
BATCH = 512  # images in flight while a folder is read: bounds the memory

TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
PNG_MAGIC, PNG_COLOURS = b"\x89PNG\r\n\x1a\n", (2, 4, 6)  # of several samples a pixel: RGB, grey or RGB with alpha
SAMPLES, BITS, NO_DATA = 277, 258, 42113  # tags of TIFF, the last one GDAL's


def is_scene_file(name: str) -> bool:
    """Whether the ending is one of `SCENE_SUFFIXES`; the content decides later."""
    return name.lower().endswith(SCENE_SUFFIXES)


def n_threads() -> int:
    """Decoding threads: Pillow frees the interpreter lock while it decodes."""
    return min(8, os.cpu_count() or 1)


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decodes JPEG, PNG, WebP, TIFF, BMP or the first frame of a GIF.

    - 8-bit grey, 1-bit, palette and CMYK images become RGB.
    - Alpha is dropped, not composited: in Earth observation it masks "no data", and a white ground would invent pixels.
    - EXIF orientation is ignored: masks, coordinates and captions refer to the pixels as stored.
    - 16-bit grey and 16-bit or float multi-band images are stretched linearly from their 2nd-98th percentile, over the
      first three bands together so that hues survive, to 0-255 [ours]; pixels that are not finite, or that the TIFF
      calls "no data", become 0.
    - Of more than three bands the first three are taken, of two the first.

    Args:
        data: the file's bytes.

    Returns:
        uint8, shape (height, width, 3).

    Raises:
        DataError: empty, truncated, damaged, of an unknown format, above `MAX_PIXELS`, or a PNG of 16-bit colours.
    """
    if not data:
        raise DataError("The image file is empty (0 bytes).")
    if ImageFile.LOAD_TRUNCATED_IMAGES:  # another library may have set it: half an image must not pass for a whole one
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data)) as image:
            _refuse_huge(image.width, image.height)
            if data.startswith(PNG_MAGIC) and data[24] == 16 and data[25] in PNG_COLOURS:
                raise DataError(
                    "The PNG has colours of 16 bits, of which 8 would be read: save it as TIFF or in 8 bits."
                )
            if _is_beyond_pillow(image):
                return _decode_tiff(data)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
                return _to_rgb8(np.asarray(image), _number(tags.get(NO_DATA)))
            return np.array(image.convert("RGBA").convert("RGB") if image.mode == "PA" else image.convert("RGB"))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"The image has more than the {MAX_PIXELS} pixels that are accepted; cut it into tiles."
        ) from error
    except UnidentifiedImageError as error:
        if data.startswith(TIFF_MAGIC):
            return _decode_tiff(data)
        raise DataError("The file is no image in a known format (JPEG, PNG, WebP, TIFF, BMP, GIF).") from error
    except Exception as error:  # damaged files make Pillow's parsers raise nearly anything
        raise DataError(f"The image is truncated or damaged ({reason(error)}).") from error


def is_rgb_tiff(data: bytes) -> bool:
    """Whether a TIFF has three bands of 8 bits, whatever it calls them: GDAL writes grey with two more, unasked."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages.first
            return len(tiff.pages) == 1 and page.dtype == np.uint8 and page.samplesperpixel == 3
    except Exception:  # tifffile raises nearly anything
        return False


def _is_beyond_pillow(image: Image.Image) -> bool:
    """Whether a TIFF holds more than what Pillow shows of it: bands as samples or as pages, or more bits of several."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode in ("1", "P"):
        return False
    if len(image.getbands()) > 1:
        return bool(max(image.tag_v2.get(BITS, (8,))) > 8)
    return bool(image.tag_v2.get(SAMPLES, 1) > 1 or getattr(image, "n_frames", 1) > 1)


def _decode_tiff(data: bytes) -> NDArray[np.uint8]:
    """TIFFs beyond Pillow: many bands, 16 bits a band, floats."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            series = tiff.series[0]
            axes = dict(zip(series.axes, series.shape, strict=True))
            _refuse_huge(axes["X"], axes["Y"])
            if series.nbytes > 16 * MAX_PIXELS:
                raise DataError(f"The TIFF unpacks to {series.nbytes / 2**20:.0f} MiB; cut it into tiles.")
            array, order = series.asarray(), series.axes
            tag = tiff.pages.first.tags.get(NO_DATA)
            # Of stacks beyond (band, y, x) the first is taken; the bands are whatever axis is left.
            while array.ndim > 3:
                extra = min((axis in "SC", i) for i, axis in enumerate(order) if axis not in "YX")[1]
                array, order = array.take(0, axis=extra), order[:extra] + order[extra + 1 :]
            if array.ndim == 3:
                bands = next(i for i, axis in enumerate(order) if axis not in "YX")
                array = np.moveaxis(array, bands, -1)
            return _to_rgb8(array, None if tag is None else _number(tag.value))
    except DataError:
        raise
    except Exception as error:  # tifffile, too, raises nearly anything
        raise DataError(f"The TIFF cannot be read ({reason(error)}).") from error


def _number(text: Any) -> float | None:
    """What GDAL's tag says, as far as it is a number."""
    try:
        return float(str(text).strip().rstrip("\0"))
    except ValueError:
        return None


def _to_rgb8(array: NDArray[Any], no_data: float | None = None) -> NDArray[np.uint8]:
    """(H, W) or (H, W, bands) of any real dtype to (H, W, 3) uint8; 8-bit values are kept, others stretched."""
    if array.ndim == 2:
        array = array[..., None]
    array = array[..., :3] if array.shape[-1] >= 3 else array[..., :1]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        values = array.astype(np.float32)
        finite = np.isfinite(values)
        if no_data is not None:
            finite &= values != np.float32(no_data)
        low, high = np.percentile(values[finite], STRETCH_PERCENTILES) if finite.any() else (0.0, 0.0)
        scaled = (values - low) / max(high - low, np.finfo(np.float32).tiny) * 255
        array = np.where(finite, scaled.clip(0, 255).round(), 0).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _refuse_huge(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"The image has {width} x {height} pixels; at most {MAX_PIXELS} are accepted. Cut it into tiles."
        )


def resize(image: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Crops the central square and resamples it with an antialiasing Lanczos filter.

    Args:
        image: uint8, shape (height, width, 3).
        resolution: side wanted, pixels.

    Returns:
        uint8, shape (resolution, resolution, 3); the very pixels when the size is right already.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    if (height, width) == (resolution, resolution):
        return image
    left, top = (width - side) // 2, (height - side) // 2
    middle = Image.fromarray(image[top : top + side, left : left + side])
    square = middle.resize((resolution, resolution), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(square)


def load_pixels(folder: SceneFolder, resolution: int, out: Path, progress: Progress | None = None) -> NDArray[np.uint8]:
    """All scenes as one memory-mapped array, made once and used again while folder and resolution stay the same.

    Scenes that have not been checked are read each time: their names say nothing of what is in their files now.

    Args:
        folder: scenes, checked or not.
        resolution: side of the squares, pixels.
        out: the `.npy` file; `<out>.key` beside it says what it was made from.
        progress: called with (done, total).

    Returns:
        Read-only uint8, shape (n, resolution, resolution, 3), in the order of the folder.

    Raises:
        DataError: an image cannot be read or decoded.
    """
    shape = (len(folder), resolution, resolution, 3)
    key = f"{folder.fingerprint} {resolution}" if all(scene.sha256 for scene in folder.scenes) else ""
    if (pixels := _kept(out, key, shape)) is None:
        with alone(out):  # of several processes one makes it
            if (pixels := _kept(out, key, shape)) is None:
                _write_pixels(folder, resolution, out, key, progress)
                pixels = mapped(out)
    return pixels


def _kept(out: Path, key: str, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    key_file = _key_file(out)
    if not (key and out.is_file() and key_file.is_file() and key_file.read_text(encoding="utf-8") == key):
        return None
    pixels: NDArray[np.uint8] = mapped(out)
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _key_file(out: Path) -> Path:
    return out.with_name(out.name + ".key")


def _write_pixels(folder: SceneFolder, resolution: int, out: Path, key: str, progress: Progress | None) -> None:
    def one(index: int) -> NDArray[np.uint8]:
        scene = folder.scenes[index]
        try:
            image = decode(folder.read(index))
        except DataError as error:
            raise DataError(f"{scene.name}: {error}") from error
        if scene.sha256 and pixel_hash(image) != scene.sha256:
            raise DataError(
                f"{scene.name!r} is not the image that was checked; it has changed. Start anew in another place."
            )
        return resize(image, resolution)

    # The key goes first and comes last: a crash in between only means that the array is made again.
    _key_file(out).unlink(missing_ok=True)
    with replacing(out) as part, ThreadPoolExecutor(n_threads()) as pool:

        def batches() -> Iterator[NDArray[np.uint8]]:
            for start in range(0, len(folder), BATCH):
                stop = min(start + BATCH, len(folder))
                yield np.stack(list(pool.map(one, range(start, stop))))
                if progress:
                    progress(stop, len(folder))

        write_array(part, len(folder), batches(), np.empty((0, resolution, resolution, 3), np.uint8))
    write_text(_key_file(out), key)


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """SHA-256 of the decoded pixels and their shape: the same picture in two formats has one hash."""
    return sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def to_float(images: NDArray[np.uint8]) -> "Tensor":
    """uint8 (n, height, width, 3) to float32 (n, 3, height, width) in [-1, 1]."""
    import torch

    tensor = torch.from_numpy(np.array(images, dtype=np.uint8))  # a copy: memory-mapped arrays are read-only
    return tensor.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def to_uint8(images: "Tensor") -> NDArray[np.uint8]:
    """(n, 3, height, width) in [-1, 1], values outside clipped, to uint8 (n, height, width, 3); inverts `to_float`."""
    import torch

    scaled = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
