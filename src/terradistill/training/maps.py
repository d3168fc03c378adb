"""The maps of the scenes to learn from, and which of them a step of training is given."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.views import viewed
from terradistill.settings import MAPS


@dataclass(frozen=True)
class MapTable:
    """Maps of N scenes, and how often they are left out.

    Attributes:
        planes: uint8 (N, P, H, W), grey maps one plane each and `segmentation` three; may be memory-mapped.
        names: the maps in `planes`, in their order there.
        dropout: share of the maps that a step is not given (CRS-Diff: 0.5 to 0.6), each drawn by itself.
        keep_all: share of the scenes that are given all of their maps (CRS-Diff: 0.1).
        drop_all: share of the scenes that are given none (CRS-Diff: 0.1).
        adapter: who is shown them, by the generator's name for it.
    """

    planes: NDArray[np.uint8]
    names: tuple[str, ...]
    dropout: float = 0.5
    keep_all: float = 0.1
    drop_all: float = 0.1
    adapter: str = "map_adapter"

    def draw(self, index: NDArray[np.int64], views: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Maps of scenes in the given views, uint8 (B, 18, H, W), and which of them are given, float (B, 6)."""
        given = drawn_subsets(len(index), len(self.names), rng, self.dropout, self.keep_all, self.drop_all)
        return self.of(index, views), self._placed(given)

    def of(self, index: NDArray[np.int64], views: Tensor) -> Tensor:
        """All maps of scenes in the given views: uint8 (B, 18, H, W)."""
        return expanded(viewed(torch.from_numpy(np.array(self.planes[index])), views), self.names)

    def whole(self, index: NDArray[np.int64], views: Tensor) -> tuple[Tensor, Tensor]:
        """As `draw`, with all of them given."""
        return self.of(index, views), self._placed(torch.ones(len(index), len(self.names)))

    def _placed(self, given: Tensor) -> Tensor:
        strengths = torch.zeros(len(given), len(MAPS))
        strengths[:, [MAPS.index(name) for name in self.names]] = given
        return strengths


def expanded(planes: Tensor, names: tuple[str, ...]) -> Tensor:
    """The planes of some maps, uint8 (B, P, H, W), as the eighteen that an adapter takes: uint8 (B, 18, H, W)."""
    maps = torch.zeros(len(planes), 3 * len(MAPS), *planes.shape[2:], dtype=torch.uint8)
    first = 0
    for name in names:
        n, place = n_planes(name), 3 * MAPS.index(name)
        maps[:, place : place + 3] = planes[:, first : first + n]
        first += n
    return maps


def n_planes(name: str) -> int:
    """Planes that a map is kept in: colours mean something in a segmentation alone."""
    return 3 if name == "segmentation" else 1


def drawn_subsets(
    n: int, n_maps: int, rng: torch.Generator, dropout: float, keep_all: float, drop_all: float
) -> Tensor:
    """Which of its maps each of n scenes is given: float (n, n_maps) of zeros and ones."""
    given = (torch.rand(n, n_maps, generator=rng) >= dropout).float()
    lot = torch.rand(n, generator=rng)
    given[lot < keep_all] = 1
    given[(lot >= keep_all) & (lot < keep_all + drop_all)] = 0
    return given
