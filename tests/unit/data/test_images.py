import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from terradistill.data import images
from terradistill.data.check import check_scenes
from terradistill.data.images import decode, is_scene_file, load_pixels, pixel_hash, resize, to_float, to_uint8
from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder
from terradistill.errors import DataError


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_lossless_formats_give_the_very_pixels(noise: Any, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(saved(Image.fromarray(noise(1)), kind, **options)), noise(1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "GIF"])
def test_every_mode_becomes_rgb(noise: Any, mode: str, kind: str) -> None:
    try:
        data = saved(Image.fromarray(noise(1)).convert(mode), kind)
    except (OSError, KeyError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    image = decode(data)
    assert image.shape == (12, 16, 3)
    assert image.dtype == np.uint8


def test_alpha_is_dropped_not_composited() -> None:
    pixels = np.full((4, 4, 4), (10, 20, 30, 0), dtype=np.uint8)
    assert decode(saved(Image.fromarray(pixels), "PNG")).reshape(-1, 3).tolist() == [[10, 20, 30]] * 16


def test_exif_orientation_is_ignored(noise: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(Image.fromarray(noise(1)), "JPEG", exif=exif)).shape == (12, 16, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_stretched(kind: str) -> None:
    ramp = np.linspace(1000, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    image = decode(saved(Image.fromarray(ramp), kind))
    assert image.shape == (64, 64, 3)
    assert np.all(image[..., 0] == image[..., 2])
    assert image.min() == 0
    assert image.max() == 255
    assert np.mean(image == 0) == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int16"])
@pytest.mark.parametrize("bands_first", [True, False])
@pytest.mark.parametrize("bands", [2, 3, 4, 13])
def test_multi_band_tiffs_give_their_first_three_bands(dtype: str, bands_first: bool, bands: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).uniform(100, 3000, (40, 50, bands)).astype(dtype)
    values[..., 0] += 2000
    stream = io.BytesIO()
    array = np.moveaxis(values, -1, 0) if bands_first else values
    tifffile.imwrite(
        stream,
        array,
        photometric="minisblack",
        planarconfig="separate" if bands_first else "contig",
        compression="zlib",
    )
    image = decode(stream.getvalue())
    assert image.shape == (40, 50, 3)
    if bands >= 3:
        assert image[..., 0].mean() > image[..., 1].mean() + 20
    else:
        assert np.array_equal(image[..., 0], image[..., 1])


def test_nan_becomes_black_and_constants_do_not_divide_by_zero() -> None:
    tifffile = pytest.importorskip("tifffile")
    for values in (np.full((8, 8), np.nan), np.full((8, 8), 7.0)):
        stream = io.BytesIO()
        tifffile.imwrite(stream, values.astype(np.float32))
        assert decode(stream.getvalue()).max() == 0


def test_8_bit_multi_band_values_are_kept() -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 256, (9, 10, 6), dtype=np.uint8)
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, photometric="minisblack", planarconfig="contig")
    assert np.array_equal(decode(stream.getvalue()), values[..., :3])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_truncated_images_are_refused(noise: Any, kind: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as another library may leave it
    data = saved(Image.fromarray(noise(1, 64, 64)), kind)
    with pytest.raises(DataError):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("data", [b"", b"hello", b"II*\x00" + b"\x00" * 40, b"\x89PNG\r\n\x1a\n" + b"\x07" * 99])
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        decode(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_before_they_unfold() -> None:
    with pytest.raises(DataError, match="9500 x 9500 pixels"):
        decode(saved(Image.new("1", (9_500, 9_500)), "PNG"))


def test_bands_may_be_pages() -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.arange(13 * 64, dtype=np.uint8).reshape(13, 8, 8), photometric="minisblack")
    assert decode(stream.getvalue())[0, 0].tolist() == [0, 64, 128]


def test_resize_crops_the_middle_and_keeps_the_right_size(noise: Any) -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    assert np.all(resize(image, 10) == 200)
    assert np.array_equal(resize(noise(1, 16, 16), 16), noise(1, 16, 16))
    assert resize(noise(1, 5, 7), 32).shape == (32, 32, 3)


def test_shrinking_averages_instead_of_picking() -> None:
    board = np.indices((128, 128)).sum(0) % 2 * 255
    small = resize(np.repeat(board[..., None], 3, -1).astype(np.uint8), 16)
    assert np.abs(small.astype(int) - 127).max() <= 4


def test_conversions_invert_each_other_for_every_value() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = to_float(values)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (float(tensor.min()), float(tensor.max())) == (-1, 1)
    assert np.array_equal(to_uint8(tensor), values)
    assert np.array_equal(to_uint8(tensor * 5)[values > 160], np.full((values > 160).sum(), 255))


def folder_of(data: dict[str, bytes]) -> SceneFolder:
    return SceneFolder(("a",), tuple(Scene(name, 0) for name in sorted(data)), DatasetInfo("x"), data.__getitem__)


def test_pixels_are_made_once_and_anew_when_the_scenes_change(
    noise: Any, encode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "BATCH", 2)
    folder, _ = check_scenes(folder_of({f"a/{i}.png": encode(noise(i, 8, 8)) for i in range(5)}))
    seen: list[tuple[int, int]] = []
    pixels = load_pixels(folder, 8, tmp_path / "x" / "pixels.npy", lambda done, total: seen.append((done, total)))
    assert np.array_equal(pixels, np.stack([noise(i, 8, 8) for i in range(5)]))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    left = [".pixels.npy.lock", "pixels.npy", "pixels.npy.key"]
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == left
    load_pixels(folder, 8, tmp_path / "x" / "pixels.npy", lambda done, total: seen.append((done, total)))
    assert len(seen) == 3
    assert load_pixels(folder, 4, tmp_path / "x" / "pixels.npy").shape == (5, 4, 4, 3)
    assert len(load_pixels(folder.subset([3]), 4, tmp_path / "x" / "pixels.npy")) == 1
    assert load_pixels(folder.subset([]), 4, tmp_path / "empty.npy").shape == (0, 4, 4, 3)


def test_files_that_were_not_checked_are_read_each_time(tmp_path: Path, noise: Any) -> None:
    files = {"a/1.png": saved(Image.fromarray(noise(1)), "PNG")}
    before = load_pixels(folder_of(files), 8, tmp_path / "pixels.npy").copy()
    files["a/1.png"] = saved(Image.fromarray(noise(2)), "PNG")
    assert not np.array_equal(load_pixels(folder_of(files), 8, tmp_path / "pixels.npy"), before)


def test_an_undecodable_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a/1\.png"):
        load_pixels(folder_of({"a/1.png": b"no image"}), 8, tmp_path / "pixels.npy")
    assert not (tmp_path / "pixels.npy").exists()


def test_hashes_tell_pixels_and_shapes_apart_not_formats(noise: Any) -> None:
    png, bmp = (pixel_hash(decode(saved(Image.fromarray(noise(1)), kind))) for kind in ("PNG", "BMP"))
    assert png == bmp != pixel_hash(noise(2))
    assert pixel_hash(np.zeros((2, 8, 3), np.uint8)) != pixel_hash(np.zeros((8, 2, 3), np.uint8))


def test_scene_files_are_told_by_their_ending() -> None:
    assert all(map(is_scene_file, ("a.JPG", "b/c.tif", "d.jpeg", "e.webp")))
    assert not any(map(is_scene_file, ("a.txt", "jpg", "b.npy", "metadata.jsonl")))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [3, 4])
def test_16_bit_colours_are_stretched_and_not_cut(planar: str, bands: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).uniform(0, 200, (40, 50, bands)).astype(np.uint16)
    values[..., 0] += 20
    stream = io.BytesIO()
    more = {"extrasamples": ["unassalpha"]} if bands == 4 else {}
    array = np.moveaxis(values, -1, 0) if planar == "separate" else values
    tifffile.imwrite(stream, array, photometric="rgb", planarconfig=planar, **more)
    image = decode(stream.getvalue())
    assert image.shape == (40, 50, 3)
    assert image.max() == 255
    assert image[..., 0].mean() > image[..., 1].mean() + 15


def test_no_data_is_black_and_does_not_stretch() -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    values[:8] = -9999
    for array in (values, np.stack([values] * 5)):
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, photometric="minisblack", extratags=[(42113, "s", 0, "-9999", True)])
        image = decode(stream.getvalue())
        assert image[:8].max() == 0
        assert 100 < image[8:].mean() < 155


def test_colours_of_16_bits_in_a_png_are_refused() -> None:
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(48) for _ in range(8))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    with pytest.raises(DataError, match="16 bits"):
        decode(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_axes_that_nobody_knows_are_one_sentence_or_an_image() -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    values = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
    tifffile.imwrite(stream, values, metadata={"axes": "SYXC"})
    assert decode(stream.getvalue()).shape == (32, 32, 3)
