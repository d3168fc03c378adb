"""Planted copies are found, real scenes are left alone."""

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from terradistill.evaluation import copies
from terradistill.evaluation.copies import SIDE, flagged, likeness, thresholds, twins


def scenes(n: int, seed: int, contrast: float) -> NDArray[np.uint8]:
    """Smooth random textures with a little grain, alike in colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, 8, 8, 3))
    large = np.stack([np.asarray([np.kron(c, np.ones((8, 8))) for c in image.transpose(2, 0, 1)]) for image in coarse])
    fine = rng.normal(size=(n, 3, SIDE, SIDE))
    pixels = 110 + contrast * (large + 0.5 * fine)
    return pixels.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def recompressed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    kept = io.BytesIO()
    Image.fromarray(image).save(kept, "JPEG", quality=75)
    return np.asarray(Image.open(kept))


def noised(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(9).normal(scale=4, size=image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


PLANTED = {
    "exact": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "turned": lambda image: np.rot90(image),
    "recompressed": recompressed,
    "noised": noised,
    "brighter": lambda image: (image.astype(int) + 15).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("contrast", [30.0, 6.0])
@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_copy_is_found_and_named(kind: str, contrast: float) -> None:
    train, test, fresh = (scenes(n, seed, contrast) for n, seed in ((60, 0), (60, 1), (20, 2)))
    made = fresh.copy()
    made[3] = PLANTED[kind](train[17])
    found = likeness(made, train)
    assert np.flatnonzero(flagged(found, thresholds(likeness(test, train)))).tolist() == [3]
    assert 17 in found.nearest[3].tolist()


def test_hardly_any_real_scene_is_flagged() -> None:
    train, test, more = (scenes(n, seed, 20.0) for n, seed in ((80, 0), (300, 1), (300, 2)))
    most = thresholds(likeness(test, train))
    assert flagged(likeness(test, train), most).float().mean() <= 0.01
    assert flagged(likeness(more, train), most).float().mean() <= 0.03


def test_scenes_are_not_compared_with_themselves() -> None:
    train = scenes(10, 0, 20.0)
    assert (likeness(train, train).value > 0.999).all()
    assert (likeness(train, train, itself=np.arange(10)).value[:, 2] < 0.9).all()


def test_one_scene_that_occurs_twice_does_not_hide_the_copies_of_others() -> None:
    real, unseen = scenes(60, 0, 40.0), scenes(30, 1, 40.0)
    unseen[0] = real[3][:, ::-1]
    found = likeness(unseen, real)
    assert twins(found).tolist() == [True] + [False] * 29
    assert flagged(likeness(real[17:18], real), thresholds(found)).tolist() == [True]
    assert not flagged(likeness(scenes(20, 2, 40.0), real), thresholds(found)).any()


def test_many_images_are_compared_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made, train = scenes(7, 3, 20.0), scenes(9, 4, 20.0)
    whole, within = likeness(made, train), likeness(train, train, itself=np.arange(9))
    monkeypatch.setattr(copies, "COMPARED", 4)
    for before, after in ((whole, likeness(made, train)), (within, likeness(train, train, itself=np.arange(9)))):
        torch.testing.assert_close(after.value, before.value)
        assert torch.equal(after.nearest, before.nearest)
