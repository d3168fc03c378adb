"""Contact sheets: many small scenes on one calm page, one row a class."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from terradistill.files import replacing

PAPER = (251, 250, 247)
INK = (28, 37, 41)
ELLIPSIS = "…"
MOST_COLUMNS = 20
OF_ONE, MOST_OF_ONE = 8, 64  # columns and images of a sheet of a single class
MOST_SIDE = 128


def contact_sheet(
    images: NDArray[np.uint8],
    columns: int,
    *,
    pad: int = 2,
    labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """Lays images out row by row, with an optional name at the left of each row.

    Args:
        images: uint8 scenes of shape (n, height, width, 3).
        columns: images a row; the last row may be shorter.
        pad: pixels between neighbouring images.
        labels: one name a row; long ones are broken into lines, and cut where the row is full.
        scale: whole-number enlargement; pixels stay square.

    Returns:
        An RGB image.

    Raises:
        ValueError: if there are no images, they are not uint8 NHWC, or the labels do not count the rows.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"expected uint8 images of shape (n, height, width, 3), got {images.dtype} {images.shape}")
    n_rows = -(-len(images) // columns)
    if labels is not None and len(labels) != n_rows:
        raise ValueError(f"expected one label a row, got {len(labels)} labels for {n_rows} rows")
    height, width = images.shape[1] * scale, images.shape[2] * scale
    font = _font(max(11, min(24, round(height * 0.2))))
    margin, gutter = 12 + 2 * pad, 12 + 2 * pad

    # A name may take two and a half images of room: more would push the scenes off the page.
    room = max(140, round(2.5 * width))
    names = [_broken(label, font, room, max(1, round(height / (1.4 * font.size)))) for label in labels or ()]
    left = margin + max((round(font.getlength(line)) + gutter for name in names for line in name), default=0)

    def along(n: int, side: int) -> int:
        return n * (side + pad) - pad

    size = (left + along(columns, width) + margin, margin + along(n_rows, height) + margin)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        y = margin + row * (height + pad)
        draw.text((margin, y + height / 2), "\n".join(name), fill=INK, font=font, anchor="lm")
    for place, pixels in enumerate(images):
        row, column = divmod(place, columns)
        tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(tile, (left + column * (width + pad), margin + row * (height + pad)))
    return sheet


def write_gallery(files: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Saves one contact sheet of images on disk, a row a class; classes without images are left out.

    Args:
        files: class name to image files, of which the first `MOST_COLUMNS` are shown, of a single class the first
            `MOST_OF_ONE` in rows of `OF_ONE`; the first image's size holds for all, but no tile is wider or higher
            than `MOST_SIDE` pixels.
        out: PNG to write, whole or not at all.
    """
    shown = [(name, paths[:MOST_COLUMNS]) for name, paths in files.items() if paths]
    if not shown:
        return
    if len(shown) == 1:
        (name, _), paths = shown[0], next(filter(None, files.values()))[:MOST_OF_ONE]
        rows = [paths[start : start + OF_ONE] for start in range(0, len(paths), OF_ONE)]
        shown = [(name if row == 0 else "", part) for row, part in enumerate(rows)]
    columns = max(len(paths) for _, paths in shown)
    with Image.open(shown[0][1][0]) as first:
        width, height = (min(side, MOST_SIDE) for side in first.size)
    images = np.full((len(shown), columns, height, width, 3), PAPER, np.uint8)
    for row, (_, paths) in enumerate(shown):
        for column, path in enumerate(paths):
            with Image.open(path) as image:
                images[row, column] = np.asarray(image.convert("RGB").resize((width, height)))
    sheet = contact_sheet(
        images.reshape(-1, height, width, 3), columns, labels=[name for name, _ in shown], scale=2 if width <= 64 else 1
    )
    with replacing(out) as temporary:
        sheet.save(temporary, "PNG")


def side_by_side(rows: Mapping[str, Sequence[NDArray[np.uint8]]], out: Path, most: int = 256) -> None:
    """Saves images of any size in rows with a name each, column by column the same place; as PNG.

    Args:
        rows: name to images, as many in each row.
        out: the file.
        most: no image is shown larger than this, pixels.
    """
    every = [image for images in rows.values() for image in images]
    side = min(most, max(max(image.shape[:2]) for image in every))
    tiles = np.full((len(every), side, side, 3), PAPER, np.uint8)
    for tile, image in zip(tiles, every, strict=True):
        ratio = side / max(image.shape[:2])
        height, width = (max(1, round(length * ratio)) for length in image.shape[:2])
        tile[:height, :width] = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    sheet = contact_sheet(tiles, len(every) // len(rows), labels=list(rows))
    with replacing(out) as temporary:
        sheet.save(temporary, "PNG")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which travels with matplotlib: the same letters on every machine, accents and Greek included."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _broken(text: str, font: ImageFont.FreeTypeFont, room: int, most: int) -> list[str]:
    """Lines that fit the room, at most so many, broken at spaces and hyphens."""
    lines = [""]
    for piece in re.split(r"(?<=[\s-])", " ".join(text.split())):
        full = lines[-1] and font.getlength((lines[-1] + piece).rstrip()) > room
        if full and len(lines) < most:
            lines.append(piece)
        else:
            lines[-1] += piece
    return [_shorten(line.rstrip(), font, room) for line in lines]


def _shorten(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + ELLIPSIS) > room:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS
