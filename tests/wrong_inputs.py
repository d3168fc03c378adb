"""Wrong DATA, one row a kind: the library and the command line must answer each with one clear sentence.

A row's function makes the input below a temporary folder and returns the arguments to give, by the names of
`ARGUMENTS`, and under "says" the value that the message must name.
"""

import io
import json
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARGUMENTS = ("data", "captions", "split", "split_file", "on_corrupt", "template", "ipc")

MakeInput = Callable[[Path], dict[str, Any]]


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def good_folder(root: Path, n_images: int = 12, classes: tuple[str, ...] = ("forest", "river")) -> Path:
    """A small folder with nothing wrong in it."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(n_images):
            (root / name / f"{i:02d}.png").write_bytes(png(zlib.crc32(name.encode()) + i))
    return root


def _zip(path: Path, members: dict[str | zipfile.ZipInfo, bytes] | None = None) -> Path:
    """A good zip with further members."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for k, name in enumerate(("forest", "river")):
            for i in range(12):
                archive.writestr(f"{name}/{i:02d}.png", png(1000 * k + i))
        for member, data in (members or {}).items():
            archive.writestr(member, data)
    return path


def _missing_path(tmp: Path) -> dict[str, Any]:
    return {"data": tmp / "nowhere", "says": "nowhere"}


def _missing_zip(tmp: Path) -> dict[str, Any]:
    return {"data": tmp / "nowhere.zip", "says": "nowhere.zip"}


def _empty_folder(tmp: Path) -> dict[str, Any]:
    (tmp / "empty").mkdir()
    return {"data": tmp / "empty", "says": "no images"}


def _empty_name(_: Path) -> dict[str, Any]:
    return {"data": "", "says": "''"}


def _not_a_zip(tmp: Path) -> dict[str, Any]:
    (tmp / "scenes.csv").write_text("a,b\n1,2\n")
    return {"data": tmp / "scenes.csv", "says": "scenes.csv"}


def _empty_file(tmp: Path) -> dict[str, Any]:
    (tmp / "scenes.zip").write_bytes(b"")
    return {"data": tmp / "scenes.zip", "says": "scenes.zip"}


def _broken_zip(tmp: Path) -> dict[str, Any]:
    data = _zip(tmp / "scenes.zip").read_bytes()
    (tmp / "scenes.zip").write_bytes(data[: len(data) // 2])
    return {"data": tmp / "scenes.zip", "says": "scenes.zip"}


def _zip_bomb(tmp: Path) -> dict[str, Any]:
    return {"data": _zip(tmp / "scenes.zip", {"river/bomb.png": bytes(8 * 2**20)}), "says": "river/bomb.png"}


def _zip_declares_too_much(tmp: Path) -> dict[str, Any]:
    path = _zip(tmp / "scenes.zip", {f"river/big{i}.png": b"x" for i in range(40)})
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:  # the central directory: declared sizes are at offset 24
        struct.pack_into("<I", data, at + 24, 2**31)
        at += 4
    path.write_bytes(data)
    return {"data": path, "says": "128.0 GiB"}


def _zip_escapes(tmp: Path) -> dict[str, Any]:
    return {"data": _zip(tmp / "scenes.zip", {"../../river/evil.png": png()}), "says": "../../river/evil.png"}


def _zip_absolute(tmp: Path) -> dict[str, Any]:
    return {"data": _zip(tmp / "scenes.zip", {zipfile.ZipInfo("/etc/evil.png"): png()}), "says": "/etc/evil.png"}


def _zip_symlink(tmp: Path) -> dict[str, Any]:
    member = zipfile.ZipInfo("river/link.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return {"data": _zip(tmp / "scenes.zip", {member: b"/etc/passwd"}), "says": "river/link.png"}


def _zip_encrypted(tmp: Path) -> dict[str, Any]:
    path = _zip(tmp / "scenes.zip")
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1  # the encryption flag of the first member
    path.write_bytes(data)
    return {"data": path, "says": "encrypted"}


def _one_class(tmp: Path) -> dict[str, Any]:
    return {"data": good_folder(tmp / "scenes", classes=("river",)), "says": "'river'"}


def _too_few(tmp: Path) -> dict[str, Any]:
    good_folder(tmp / "scenes")
    good_folder(tmp / "scenes", n_images=4, classes=("lake",))
    return {"data": tmp / "scenes", "ipc": 3, "says": "'lake' (2)"}


def _one_image(tmp: Path) -> dict[str, Any]:
    good_folder(tmp / "scenes")
    good_folder(tmp / "scenes", n_images=1, classes=("lake",))
    return {"data": tmp / "scenes", "says": "'lake'"}


def _class_folders_without_images(tmp: Path) -> dict[str, Any]:
    for name in ("forest", "river"):
        (tmp / "scenes" / name).mkdir(parents=True)
    return {"data": tmp / "scenes", "says": "0 files"}


def _all_corrupt(tmp: Path) -> dict[str, Any]:
    for path in good_folder(tmp / "scenes").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    return {"data": tmp / "scenes", "says": "forest/00.png"}


def _text_files(tmp: Path) -> dict[str, Any]:
    for path in good_folder(tmp / "scenes").rglob("*.png"):
        path.rename(path.with_suffix(".txt"))
    return {"data": tmp / "scenes", "says": "24 files but no images"}


def _images_without_classes(tmp: Path) -> dict[str, Any]:
    (tmp / "scenes").mkdir()
    for i in range(12):
        (tmp / "scenes" / f"{i}.png").write_bytes(png(i))
    return {"data": tmp / "scenes", "says": "12 images but no class folders"}


def _malformed_metadata(tmp: Path) -> dict[str, Any]:
    good_folder(tmp / "scenes")
    (tmp / "scenes" / "metadata.jsonl").write_text('{"file_name": "river/00.png"}\n{"file_name": \n')
    return {"data": tmp / "scenes", "says": "metadata.jsonl, line 2"}


def _metadata_not_numeric(tmp: Path) -> dict[str, Any]:
    good_folder(tmp / "scenes")
    (tmp / "scenes" / "metadata.jsonl").write_text('{"file_name": "river/00.png", "lon": "east"}\n')
    return {"data": tmp / "scenes", "says": "'east'"}


def _malformed_card(tmp: Path) -> dict[str, Any]:
    good_folder(tmp / "scenes")
    (tmp / "scenes" / "dataset.json").write_text("licence: MIT")
    return {"data": tmp / "scenes", "says": "dataset.json"}


def _captions_without_names(tmp: Path) -> dict[str, Any]:
    (tmp / "said.jsonl").write_text('{"image": "river/00.png", "caption": "a river"}\n')
    return {"data": good_folder(tmp / "scenes"), "captions": tmp / "said.jsonl", "says": "file_name"}


def _captions_missing(tmp: Path) -> dict[str, Any]:
    return {"data": good_folder(tmp / "scenes"), "captions": tmp / "said.jsonl", "says": "said.jsonl"}


def _captions_of_others(tmp: Path) -> dict[str, Any]:
    (tmp / "said.jsonl").write_text('{"file_name": "canal/77.png", "caption": "a canal"}\n')
    return {"data": good_folder(tmp / "scenes"), "captions": tmp / "said.jsonl", "says": "none of the 24 scenes"}


def _upstream_split_missing(tmp: Path) -> dict[str, Any]:
    return {"data": good_folder(tmp / "scenes"), "split": "test", "says": "'test'"}


def _split(tmp: Path, train: list[str], test: list[str], says: str) -> dict[str, Any]:
    (tmp / "split.json").write_text(json.dumps({"train": train, "test": test}))
    return {"data": good_folder(tmp / "scenes"), "split_file": tmp / "split.json", "says": says}


_FOREST, _RIVER = ([f"{name}/{i:02d}.png" for i in range(12)] for name in ("forest", "river"))


def _split_unknown_name(tmp: Path) -> dict[str, Any]:
    return _split(tmp, [*_FOREST[:6], *_RIVER[:6], "river/99.png"], [*_FOREST[6:], *_RIVER[6:]], "river/99.png")


def _split_overlap(tmp: Path) -> dict[str, Any]:
    return _split(tmp, [*_FOREST[:7], *_RIVER[:6]], [*_FOREST[6:], *_RIVER[6:]], "forest/06.png")


def _split_missing_class(tmp: Path) -> dict[str, Any]:
    return _split(tmp, [*_FOREST[:6], *_RIVER], _FOREST[6:], "'river'")


def _split_missing_file(tmp: Path) -> dict[str, Any]:
    return {"data": good_folder(tmp / "scenes"), "split_file": tmp / "no-split.json", "says": "no-split.json"}


def _split_malformed(tmp: Path) -> dict[str, Any]:
    (tmp / "split.json").write_text("train,test\n")
    return {"data": good_folder(tmp / "scenes"), "split_file": tmp / "split.json", "says": "split.json"}


def _unknown_name(_: Path) -> dict[str, Any]:
    return {"data": "marsscenes", "says": "'marsscenes'"}


def _url(_: Path) -> dict[str, Any]:
    return {"data": "https://example.org/scenes.zip", "says": "https://example.org/scenes.zip"}


def _hub_unreachable(_: Path) -> dict[str, Any]:
    return {"data": "no-such-owner/no-such-scenes", "says": "no-such-owner/no-such-scenes"}


def _catalogue_unreachable(_: Path) -> dict[str, Any]:
    return {"data": "eurosat", "says": "https://github.com/phelber/EuroSAT"}


def _broken_saved_dataset(tmp: Path) -> dict[str, Any]:
    (tmp / "saved").mkdir()
    (tmp / "saved" / "dataset_dict.json").write_text("{}")
    return {"data": tmp / "saved", "says": "saved"}


def _corrupt_refused(tmp: Path) -> dict[str, Any]:
    good_folder(tmp / "scenes")
    (tmp / "scenes" / "river" / "05.png").write_bytes(png(5)[:100])
    return {"data": tmp / "scenes", "on_corrupt": "refuse", "says": "river/05.png"}


def _huge_image(tmp: Path) -> dict[str, Any]:
    """40,000 x 40,000 pixels declared in a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    good_folder(tmp / "scenes")
    (tmp / "scenes" / "river" / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )
    return {"data": tmp / "scenes", "on_corrupt": "refuse", "says": "river/huge.png"}


def _template_without_class(tmp: Path) -> dict[str, Any]:
    return {"data": good_folder(tmp / "scenes"), "template": "a satellite image", "says": "'a satellite image'"}


def _template_with_unknown_place(tmp: Path) -> dict[str, Any]:
    return {"data": good_folder(tmp / "scenes"), "template": "{class} in {country}", "says": "{country}"}


def _template_without_resolution(tmp: Path) -> dict[str, Any]:
    return {"data": good_folder(tmp / "scenes"), "template": "{class} at {gsd} m", "says": "{gsd}"}


WRONG_DATA: list[tuple[str, MakeInput]] = [
    ("missing path", _missing_path),
    ("missing zip", _missing_zip),
    ("empty folder", _empty_folder),
    ("empty name", _empty_name),
    ("file that is no zip", _not_a_zip),
    ("empty file", _empty_file),
    ("broken zip", _broken_zip),
    ("zip bomb", _zip_bomb),
    ("zip that declares too much", _zip_declares_too_much),
    ("zip with ..", _zip_escapes),
    ("zip with an absolute path", _zip_absolute),
    ("zip with a link", _zip_symlink),
    ("encrypted zip", _zip_encrypted),
    ("one class", _one_class),
    ("too few images", _too_few),
    ("a class of one image", _one_image),
    ("zero images", _class_folders_without_images),
    ("all corrupt", _all_corrupt),
    ("text files", _text_files),
    ("images without classes", _images_without_classes),
    ("malformed metadata", _malformed_metadata),
    ("metadata that is no number", _metadata_not_numeric),
    ("malformed card", _malformed_card),
    ("captions without file_name", _captions_without_names),
    ("captions file missing", _captions_missing),
    ("captions of other scenes", _captions_of_others),
    ("upstream split missing", _upstream_split_missing),
    ("split with an unknown name", _split_unknown_name),
    ("split with an overlap", _split_overlap),
    ("split without a class", _split_missing_class),
    ("split file missing", _split_missing_file),
    ("split file malformed", _split_malformed),
    ("unknown name", _unknown_name),
    ("web address", _url),
    ("hub not reachable", _hub_unreachable),
    ("catalogue not reachable", _catalogue_unreachable),
    ("broken saved dataset", _broken_saved_dataset),
    ("corrupt image refused", _corrupt_refused),
    ("huge image refused", _huge_image),
    ("template without class", _template_without_class),
    ("template with an unknown place", _template_with_unknown_place),
    ("template without resolution", _template_without_resolution),
]
