"""Which maps a step of training is given, and that they lie as their scenes lie."""

import numpy as np
import pytest
import torch

from terradistill.data.views import N_VIEWS, view, viewed
from terradistill.settings import MAPS
from terradistill.training.maps import MapTable, drawn_subsets


def test_dropout_rates_are_as_stated() -> None:
    given = drawn_subsets(10_000, 6, torch.Generator().manual_seed(0), 0.5, 0.1, 0.1)
    whole, none = (given.sum(1) == 6).float().mean(), (given.sum(1) == 0).float().mean()
    by_chance = 0.8 * 0.5**6
    assert float(whole) == pytest.approx(0.1 + by_chance, abs=0.01)
    assert float(none) == pytest.approx(0.1 + by_chance, abs=0.01)
    assert given.mean(0).tolist() == pytest.approx([0.1 + 0.8 * 0.5] * 6, abs=0.02)
    apart = drawn_subsets(10_000, 2, torch.Generator().manual_seed(1), 0.6, 0.0, 0.0)
    assert apart.mean(0).tolist() == pytest.approx([0.4, 0.4], abs=0.02)
    assert float((apart[:, 0] * apart[:, 1]).mean()) == pytest.approx(0.16, abs=0.02)


def test_maps_are_viewed_as_their_scenes_are() -> None:
    images = torch.arange(N_VIEWS * 3 * 4 * 4).view(N_VIEWS, 3, 4, 4)
    together = viewed(images, torch.arange(N_VIEWS))
    for number in range(N_VIEWS):
        assert torch.equal(together[number], view(images[number], number))


def test_planes_stand_in_the_place_of_their_map() -> None:
    planes = np.random.default_rng(0).integers(1, 256, (5, 4, 8, 8), dtype=np.uint8)
    table = MapTable(planes, ("edges", "segmentation"), dropout=0.0, keep_all=0.0, drop_all=0.0)
    maps, strengths = table.draw(np.array([3, 1]), torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    edges, regions = 3 * MAPS.index("edges"), 3 * MAPS.index("segmentation")
    for plane in range(edges, edges + 3):
        assert np.array_equal(maps[0, plane], planes[3, 0])
    assert np.array_equal(maps[1, regions : regions + 3], planes[1, 1:, :, ::-1])
    assert maps.sum() == maps[:, edges : edges + 3].sum() + maps[:, regions : regions + 3].sum()
    assert strengths.tolist() == [[0, 1, 0, 0, 0, 1]] * 2
