"""Shards give back the scenes that went in, and nothing hostile is read."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terradistill.data.drawn import draw_scenes
from terradistill.data.images import decode
from terradistill.data.shards import write_shards
from terradistill.data.sources import open_scenes
from terradistill.errors import DataError, RunError


def tar(path: Path, **files: bytes | str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            about = tarfile.TarInfo(name.replace("__", "/").replace("_DOT_", "."))
            content = data.encode() if isinstance(data, str) else data
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture
def png(noise: Any, encode: Any) -> bytes:
    return bytes(encode(noise(0, 8, 8)))


def test_scenes_come_back_from_shards_as_they_were(tmp_path: Path) -> None:
    scenes = open_scenes(draw_scenes(tmp_path / "scenes", per_class=5, size=16, n_classes=3))
    assert write_shards(scenes, tmp_path / "a", per_shard=4) == 4
    write_shards(scenes, tmp_path / "b", per_shard=4)
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())
    again = open_scenes(tmp_path / "a")
    assert again.classes == scenes.classes
    assert again.scenes == scenes.scenes, "names, labels, captions and numbers"
    assert again.info.licence == scenes.info.licence
    assert all(np.array_equal(decode(again.read(i)), decode(scenes.read(i))) for i in range(len(scenes)))
    assert len(open_scenes(tmp_path / "a" / "scenes-000000.tar")) == 4
    with pytest.raises(RunError, match="not empty"):
        write_shards(scenes, tmp_path / "a")


def test_shards_of_others_say_their_classes_in_many_ways(tmp_path: Path, png: bytes) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"title": "Mine", "classes": ["field", "river"]}))
    tar(folder / "0.tar", **{"000_DOT_png": png, "000_DOT_cls": "1", "000_DOT_txt": "a bend"})
    tar(folder / "1.tar", **{"000_DOT_png": png, "000_DOT_json": json.dumps({"label": "field", "month": 7})})
    tar(folder / "2.tar", **{"river__9_DOT_png": png, "alone_DOT_txt": "of no image"})
    scenes = open_scenes(folder)
    assert scenes.info.title == "Mine"
    assert [scenes.classes[scene.label] for scene in scenes.scenes] == ["field", "river", "river"]
    assert [scene.name for scene in scenes.scenes] == ["field/000.png", "river/000.png", "river/9.png"]
    assert scenes.scenes[0].metadata == {"month": 7.0}
    assert scenes.scenes[1].captions == ("a bend",)


def test_names_stay_apart(tmp_path: Path, png: bytes, noise: Any, encode: Any) -> None:
    """Classes that are numbers, names that differ in their endings, shards of one name in two folders."""
    for i, name in enumerate(("1/a.png", "1/a.bmp", "2/a.b.png", "2/a-b.png", "10/a.png")):
        (tmp_path / "scenes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scenes" / name).write_bytes(encode(noise(i, 8, 8)))
    scenes = open_scenes(tmp_path / "scenes")
    write_shards(scenes, tmp_path / "shards")
    again = open_scenes(tmp_path / "shards")
    assert again.counts == scenes.counts == {"1": 2, "10": 1, "2": 2}
    pixels = [sorted(decode(each.read(i)).tobytes() for i in range(5)) for each in (scenes, again)]
    assert pixels[0] == pixels[1]

    for side in ("train", "val"):
        (tmp_path / "split" / side).mkdir(parents=True)
        tar(tmp_path / "split" / side / "0.tar", **{"0_DOT_mask_DOT_png": b"", "0_DOT_png": png, "0_DOT_cls": "river"})
    scenes = open_scenes(tmp_path / "split")
    assert [scene.name for scene in scenes.scenes] == ["river/train-0-0.png", "river/val-0-0.png"]
    assert scenes.read(0) == png


def test_what_is_wrong_with_a_shard_is_said(tmp_path: Path, png: bytes) -> None:
    with pytest.raises(DataError, match="says one"):
        open_scenes(tar(tmp_path / "none.tar", **{"000_DOT_png": png}))
    with pytest.raises(DataError, match="says one"):
        open_scenes(tar(tmp_path / "escape.tar", **{"000_DOT_png": png, "000_DOT_cls": "../x"}))
    with pytest.raises(DataError, match="not valid JSON"):
        open_scenes(tar(tmp_path / "json.tar", **{"a__0_DOT_png": png, "a__0_DOT_json": "{"}))
    (tmp_path / "no.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="not a readable tar"):
        open_scenes(tmp_path / "no.tar")
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a/0.png"))
    with pytest.raises(DataError, match="not compressed"):
        open_scenes(tmp_path / "zipped.tar")
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        link = tarfile.TarInfo("a/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="no plain file"):
        open_scenes(tmp_path / "link.tar")
    with pytest.raises(DataError, match="several images"):
        open_scenes(tar(tmp_path / "two.tar", **{"a__0_DOT_png": png, "a__0_DOT_jpg": png}))
    back = tar(tmp_path / "back.tar", **{"a__0_DOT_png": png, "b__0_DOT_png": png})
    block = bytearray(back.read_bytes())
    block[124:136] = b"\xff" * 12  # a size of -1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    back.write_bytes(block)
    with pytest.raises(DataError, match=r"accepted|not a readable"):
        open_scenes(back)
    damaged = tar(tmp_path / "damaged.tar", **{"a__0_DOT_png": png, "b__0_DOT_png": png})
    block = bytearray(damaged.read_bytes())
    block[block.index(b"b/0.png") + 150] ^= 7  # of the second header's checksum
    damaged.write_bytes(block)
    with pytest.raises(DataError, match="damaged or cut off"):
        open_scenes(damaged)
    whole = tar(tmp_path / "whole.tar", **{"a__0_DOT_png": png, "b__1_DOT_png": png})
    scenes = open_scenes(whole)
    whole.write_bytes(whole.read_bytes()[:1100])
    with pytest.raises(DataError, match="cut off"):
        scenes.read(1)
