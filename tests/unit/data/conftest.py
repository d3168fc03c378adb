"""Small scenes, drawn for the tests: two classes of coloured noise, each image different."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Encode = Callable[..., bytes]
MakeFolder = Callable[..., Path]


def noise_image(seed: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode_image(image: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def noise() -> Callable[..., NDArray[np.uint8]]:
    return noise_image


@pytest.fixture
def encode() -> Encode:
    return encode_image


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder({"river": 3, "train/forest": 2}) writes so many different PNG files in each folder."""

    def make(counts: dict[str, int], name: str = "scenes") -> Path:
        seed = 0
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                seed += 1
                (tmp_path / name / folder / f"{i:02d}.png").write_bytes(encode_image(noise_image(seed)))
        return tmp_path / name

    return make
