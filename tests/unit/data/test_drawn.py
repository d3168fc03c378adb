from pathlib import Path

import numpy as np
import pytest

from terradistill.data.check import check_scenes
from terradistill.data.drawn import DRAWN_CLASSES, draw_scene, draw_scenes
from terradistill.data.sources import open_scenes
from terradistill.errors import ConfigError


def test_drawn_scenes_are_a_scene_folder(tmp_path: Path) -> None:
    folder, report = check_scenes(open_scenes(draw_scenes(tmp_path / "drawn", per_class=3, size=16, n_classes=4)))
    assert report.n_kept == 12
    assert report.sizes == {"16 x 16": 12}
    assert folder.counts == {"farmland": 3, "forest": 3, "residential": 3, "river": 3}
    assert folder.info.licence == "Apache-2.0"
    assert folder.readable("residential") == "residential area"
    assert all(scene.captions and 1 <= scene.metadata["month"] <= 12 for scene in folder.scenes)


def test_a_scene_depends_on_its_own_seed_alone(tmp_path: Path) -> None:
    few = open_scenes(draw_scenes(tmp_path / "few", per_class=1, size=16, n_classes=2, seed=5))
    more = open_scenes(draw_scenes(tmp_path / "more", per_class=2, size=16, n_classes=3, seed=5))
    assert few.read(0) == more.read(0)
    assert not np.array_equal(draw_scene("river", 16, 5, 0)[0], draw_scene("river", 16, 6, 0)[0])


@pytest.mark.parametrize("name", DRAWN_CLASSES)
def test_every_class_can_be_drawn_and_varies(name: str) -> None:
    images, captions = zip(*(draw_scene(name, 32, 0, i)[:2] for i in range(6)), strict=True)
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 and image.std() > 5 for image in images)
    assert np.abs(images[0].astype(int) - images[1]).mean() > 3
    assert len(set(captions)) > 1


def test_the_classes_can_be_told_apart() -> None:
    """The nearest class by colour statistics alone is right far more often than one in ten."""

    def features(name: str, i: int) -> np.ndarray:
        image = draw_scene(name, 32, 0, i)[0].astype(float)
        edges = [np.abs(np.diff(image, axis=axis)).mean() for axis in (0, 1)]
        return np.concatenate([image.mean((0, 1)), image.std((0, 1)), np.sort(edges)])

    seen = {name: np.stack([features(name, i) for i in range(8)]) for name in DRAWN_CLASSES}
    scale = np.concatenate(list(seen.values())).std(0)
    centres = np.stack([rows[:5].mean(0) for rows in seen.values()])
    right = [
        np.argmin((((row - centres) / scale) ** 2).sum(1)) == label
        for label, rows in enumerate(seen.values())
        for row in rows[5:]
    ]
    assert np.mean(right) > 0.6


@pytest.mark.parametrize("options", [{"n_classes": 0}, {"n_classes": 99}, {"per_class": 0}, {"size": 4}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(options.values())))):
        draw_scenes(tmp_path / "x", **options)
