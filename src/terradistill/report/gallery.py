"""Contact sheets: many small scenes on one calm page, one row a class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from terradistill.run import replacing

PAPER = (251, 250, 247)
INK = (28, 37, 41)
ELLIPSIS = "…"
MOST_COLUMNS = 20
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
        labels: one name a row; long ones are cut with an ellipsis.
        scale: whole-number enlargement; pixels stay square.

    Returns:
        An RGB image.

    Raises:
        ValueError: if there are no images, they are not uint8 NHWC, or the labels do not count the rows.
    """
    _check(images)
    n_rows = -(-len(images) // columns)
    rows = [images[row * columns : (row + 1) * columns] for row in range(n_rows)]
    return _sheet([rows], [columns], pad=pad, labels=labels, headings=None, scale=scale)


def pairs_sheet(
    prototypes: NDArray[np.uint8],
    distilled: NDArray[np.uint8],
    *,
    pad: int = 2,
    labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """Real prototypes at the left, the images distilled from them at the right; one row a class.

    Args:
        prototypes: uint8 scenes of shape (n_classes, n_prototypes, height, width, 3).
        distilled: uint8 scenes of shape (n_classes, ipc, height, width, 3), of the same height and width.
        pad: pixels between neighbouring images.
        labels: one name a class.
        scale: whole-number enlargement.

    Returns:
        An RGB image.

    Raises:
        ValueError: if the two arrays do not fit each other.
    """
    if prototypes.ndim != 5 or distilled.ndim != 5 or len(prototypes) != len(distilled):
        raise ValueError(f"expected (n_classes, n, H, W, 3) twice, got {prototypes.shape} and {distilled.shape}")
    if prototypes.shape[2:] != distilled.shape[2:]:
        raise ValueError(f"expected images of one size, got {prototypes.shape[2:]} and {distilled.shape[2:]}")
    blocks = [list(prototypes), list(distilled)]
    columns = [prototypes.shape[1], distilled.shape[1]]
    return _sheet(blocks, columns, pad=pad, labels=labels, headings=("real prototypes", "distilled"), scale=scale)


def write_gallery(files: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Saves one contact sheet of images on disk, a row a class; classes without images are left out.

    Args:
        files: class name to image files, of which the first `MOST_COLUMNS` are shown; the first image's size holds
            for all, but no tile is wider or higher than `MOST_SIDE` pixels.
        out: PNG to write, whole or not at all.
    """
    shown = {name: paths[:MOST_COLUMNS] for name, paths in files.items() if paths}
    if not shown:
        return
    columns = max(map(len, shown.values()))
    with Image.open(next(iter(shown.values()))[0]) as first:
        width, height = (min(side, MOST_SIDE) for side in first.size)
    images = np.full((len(shown), columns, height, width, 3), PAPER, np.uint8)
    for row, paths in enumerate(shown.values()):
        for column, path in enumerate(paths):
            with Image.open(path) as image:
                images[row, column] = np.asarray(image.convert("RGB").resize((width, height)))
    sheet = contact_sheet(
        images.reshape(-1, height, width, 3), columns, labels=list(shown), scale=2 if width <= 64 else 1
    )
    with replacing(out) as temporary:
        sheet.save(temporary, "PNG")


def _sheet(
    blocks: Sequence[Sequence[NDArray[np.uint8]]],
    columns: Sequence[int],
    *,
    pad: int,
    labels: Sequence[str] | None,
    headings: Sequence[str] | None,
    scale: int,
) -> Image.Image:
    """Draws blocks side by side; a block is a list of rows, a row an array of images."""
    n_rows = len(blocks[0])
    if not n_rows:
        raise ValueError("expected at least one image, got none")
    if labels is not None and len(labels) != n_rows:
        raise ValueError(f"expected one label a row, got {len(labels)} labels for {n_rows} rows")
    for block in blocks:
        for images in block:
            _check(images)
    height, width = blocks[0][0].shape[1] * scale, blocks[0][0].shape[2] * scale
    font = _font(max(11, min(24, round(height * 0.2))))
    margin, gutter = 12 + 2 * pad, 24 + 4 * pad

    # A name may take two and a half images of room: more would push the scenes off the page.
    room = max(140, round(2.5 * width))
    names = [_shorten(label, font, room) for label in labels or ()]
    label_width = max((round(font.getlength(name)) for name in names), default=0) + (gutter // 2 if names else 0)
    block_widths = [n * (width + pad) - pad for n in columns]
    lefts = [margin + label_width + sum(block_widths[:i]) + i * gutter for i in range(len(blocks))]
    top = margin + (round(font.size * 1.8) if headings else 0)

    size = (lefts[-1] + block_widths[-1] + margin, top + n_rows * (height + pad) - pad + margin)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for left, heading in zip(lefts, headings or (), strict=False):
        draw.text((left, margin), heading, fill=INK, font=font)
    tops = [top + i * (height + pad) for i in range(n_rows)]
    for y, name in zip(tops, names, strict=False):
        draw.text((margin, y + height / 2), name, fill=INK, font=font, anchor="lm")
    for left, block in zip(lefts, blocks, strict=True):
        for y, images in zip(tops, block, strict=True):
            for column, pixels in enumerate(images):
                tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(tile, (left + column * (width + pad), y))
    return sheet


def _check(images: NDArray[np.uint8]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"expected uint8 images of shape (n, height, width, 3), got {images.dtype} {images.shape}")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which travels with matplotlib: the same letters on every machine, accents and Greek included."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _shorten(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + ELLIPSIS) > room:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS
