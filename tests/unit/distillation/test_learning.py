import numpy as np

from terradistill.distillation.learning import _middles


def test_the_middle_of_a_scene_has_its_scale() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 96, 3), dtype=np.uint8)
    assert np.array_equal(_middles(pixels, 64), pixels[:, 32:96, 16:80])
    assert np.array_equal(_middles(pixels[:, :64, :64], 64), pixels[:, :64, :64])
