"""The frames that a frame adapter is shown of the scenes that it learns from: simulated, or other images of a place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.images import to_float
from terradistill.data.sensor import Sensor, in_month, shifted
from terradistill.data.views import N_VIEWS, view, viewed
from terradistill.data.weather import cloud_cover, clouded
from terradistill.errors import DataError
from terradistill.models.frame_adapter import FrameAdapter
from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.sections import EnhancerSettings

DAYS_A_MONTH = 365.25 / 12
MONTHS = 12  # that simulated targets are encoded in, the middle of each
CLOUDS_KNOWN = 0.5  # share of simulated frames of which it is said how cloudy they are [ours]
TURNS = 2  # views of each scene in each month: 24 encodings a scene are enough to keep
Known = list[list[dict[str, float]]]  # of B scenes, T frames


@dataclass(frozen=True)
class Shown:
    """Frames of B scenes.

    Attributes:
        frames: float (B, T, C, H, W).
        known: what is known of each.
        target: what is known of the scenes that are drawn.
    """

    frames: Tensor
    known: Known
    target: Sequence[Mapping[str, float]]


class Simulation(Protocol):
    """Frames of scenes, by chance."""

    def show(self, images: Tensor, looks: Tensor, rng: torch.Generator, most: bool) -> Shown:
        """Of scenes (B, 3, H, W) in [-1, 1], as a summer's day shows them.

        Args:
            images: turned and flipped already.
            looks: int64 (B,), in the middle of which month each scene is drawn, from 0; 0 where the task knows none.
            rng: the chance.
            most: as many frames as there may be, instead of a number by chance.
        """


@dataclass(frozen=True)
class Coarser:
    """One frame by a coarser sensor: what super-resolution learns from."""

    sensor: Sensor

    def show(self, images: Tensor, looks: Tensor, rng: torch.Generator, most: bool) -> Shown:  # noqa: ARG002
        n = len(images)
        return Shown(self.sensor.see(images, rng)[:, None], [[{}] for _ in range(n)], [{}] * n)


@dataclass(frozen=True)
class OtherDay:
    """One frame by a coarser sensor, some days before or after: what fusion learns from (SatDiffMoE).

    Attributes:
        sensor: that took it.
        days: at most between the frame and what is drawn.
        shift: deviation of its place, in pixels of the scene.
        clouds: share of the frames that are cloudy, and of such a frame that is hidden, at most.
    """

    sensor: Sensor
    days: float = 180.0
    shift: float = 1.0
    clouds: float = 0.3

    def show(self, images: Tensor, looks: Tensor, rng: torch.Generator, most: bool) -> Shown:  # noqa: ARG002
        n = len(images)
        days = self.days * (2 * torch.rand(n, generator=rng) - 1)
        target = looks + 0.5
        x = in_month(images, 1 + target + days / DAYS_A_MONTH)
        x = shifted(x, self.shift * torch.randn(n, 2, generator=rng))
        frames = self.sensor.see(clouded(x, _clouds(x, self.clouds, rng)), rng)
        return Shown(frames[:, None], [[{"days": float(day)}] for day in days], [{"month": float(m)} for m in target])


@dataclass(frozen=True)
class OtherSeasons:
    """One to a few frames of other months: what drawing another date learns from.

    Attributes:
        sensor: that took them; of scale 1.
        frames: at most.
        clouds: as for `OtherDay`.
    """

    sensor: Sensor
    frames: int = 3
    clouds: float = 0.3

    def show(self, images: Tensor, looks: Tensor, rng: torch.Generator, most: bool) -> Shown:
        n = len(images)
        count = self.frames if most else int(torch.randint(1, self.frames + 1, (), generator=rng))
        months = MONTHS * torch.rand(n, count, generator=rng)
        x = in_month(images.repeat_interleave(count, 0), 1 + months.flatten())
        clouds = _clouds(x, self.clouds, rng)
        frames = self.sensor.see(clouded(x, clouds), rng).unflatten(0, (n, count))
        known = [[{"month": float(month)} for month in row] for row in months]
        told = torch.rand(n, count, generator=rng) < CLOUDS_KNOWN
        for i, j in told.nonzero().tolist():
            known[i][j]["cloud_fraction"] = float(clouds[i * count + j].mean())
        return Shown(frames, known, [{"month": int(look) + 0.5} for look in looks])


def told_of(wanted: EnhancerSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What frames, and what is drawn, are told of: fields of `MetadataEncoder`. What is drawn is clear."""
    if wanted.task == "super-resolve":
        return (), ()
    if wanted.task == "fuse":
        return ("days",), ("month",)
    return wanted.told, tuple(name for name in wanted.told if name != "cloud_fraction")


def seasonal(wanted: EnhancerSettings) -> bool:
    """Whether scenes are drawn in any month, simulated."""
    return wanted.task != "super-resolve" and not wanted.real


def season(month: float, day: float) -> dict[str, float]:
    """A day of a month, both from 1, as enhancers are told it: how far the year is, in months from 0 to 12."""
    return {"month": month - 1 + (day - 1) / 31}


def _clouds(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Clouds (n, 1, H, W) for images (n, C, H, W), over such a share of them, with as much of each hidden at most."""
    n, _, height, width = images.shape
    cloudy = torch.rand(n, generator=rng) < share
    cover = share * float(torch.rand((), generator=rng))
    return cloud_cover(n, height, width, cover, rng) * cloudy.view(-1, 1, 1, 1)


def seasonal_view(images: Tensor, number: int) -> Tensor:
    """Views of (B, 3, H, W) that differ in the season too: number // 8 is the month from 0, the rest that of `view`."""
    return in_month(view(images, number % N_VIEWS), torch.full((len(images),), 1.5 + number // N_VIEWS))


SEASONAL = tuple(N_VIEWS * month + turn for month in range(MONTHS) for turn in range(TURNS))
"""The views of `seasonal_view` that are encoded."""


def tables(
    reader: FrameAdapter, known: Sequence[Sequence[Mapping[str, float]]], target: Sequence[Mapping[str, float]]
) -> tuple[Tensor, Tensor]:
    """What an adapter can be told of frames (B, T, fields) and of what is drawn (B, fields), of all that is known.

    What is out of a field's range is taken for unknown: one odd scene should not end a training.
    """

    def told(encoder: MetadataEncoder, rows: Sequence[Mapping[str, float]]) -> Tensor:
        ends = encoder.ranges.items()
        return encoder.table(
            [{name: row[name] for name, (low, high) in ends if low <= row.get(name, nan) <= high} for row in rows]
        )

    return torch.stack([told(reader.of_frame, rows) for rows in known]), told(reader.of_target, target)


@dataclass(frozen=True)
class FrameTable:
    """Frames of N scenes, made as they are needed.

    Attributes:
        pixels: uint8 (N, H, W, 3), at the size that is drawn; may be memory-mapped.
        simulation: makes the frames.
        reader: the adapter, which knows how to tell numbers.
        seasonal: views are places in `SEASONAL`.
        rows: what is known of each scene, beside what the simulation says; None: nothing.
        adapter: its name in the generator.
    """

    pixels: NDArray[np.uint8]
    simulation: Simulation
    reader: FrameAdapter
    seasonal: bool = False
    rows: Sequence[Mapping[str, float]] | None = None
    adapter: str = "frame_adapter"

    def draw(self, index: NDArray[np.int64], views: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Frames (B, T, C, H, W), what is known of them (B, T, fields) and of what is drawn (B, fields)."""
        return self._shown(index, views, rng, most=False)

    def whole(self, index: NDArray[np.int64], views: Tensor) -> tuple[Tensor, ...]:
        """As `draw`, with all frames and always the same."""
        return self._shown(index, views, torch.Generator().manual_seed(0), most=True)

    def _shown(
        self, index: NDArray[np.int64], views: Tensor, rng: torch.Generator, *, most: bool
    ) -> tuple[Tensor, ...]:
        numbers = torch.tensor(SEASONAL)[views] if self.seasonal else views
        images = viewed(to_float(np.asarray(self.pixels[index])), numbers % N_VIEWS)
        shown = self.simulation.show(images, numbers // N_VIEWS, rng, most)
        # What a scene says of clouds is not what is simulated over it.
        rows = [{} if self.rows is None else self.rows[i] for i in index]
        own = [{name: value for name, value in row.items() if name != "cloud_fraction"} for row in rows]
        known = [[{**row, **frame} for frame in rows] for row, rows in zip(own, shown.known, strict=True)]
        target = [{**row, **drawn} for row, drawn in zip(own, shown.target, strict=True)]
        return shown.frames, *tables(self.reader, known, target)


def others_of(places: Sequence[str]) -> list[list[int]]:
    """Of each scene the others of its place, as numbers.

    Raises:
        DataError: a scene is the only one of its place.
    """
    of_place: dict[str, list[int]] = {}
    for i, place in enumerate(places):
        of_place.setdefault(place, []).append(i)
    if lone := [place for place, several in of_place.items() if len(several) < 2]:
        raise DataError(
            f"Of {len(lone)} places there is one image alone, such as {lone[0]}: every class folder needs an image of "
            "each place, by its name."
        )
    return [[j for j in of_place[place] if j != i] for i, place in enumerate(places)]


class RealDates:
    """Frames of N scenes that are real: the other images of their places, as many as there are."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        places: Sequence[str],
        rows: Sequence[Mapping[str, float]],
        reader: FrameAdapter,
        frames: int,
        adapter: str = "frame_adapter",
    ) -> None:
        """Find the frames of each scene.

        Args:
            pixels: uint8 (N, H, W, 3), at the size that is drawn; may be memory-mapped.
            places: of each scene; see `places_of`.
            rows: what is known of each; of its date, see `season`.
            reader: the adapter, which knows how to tell numbers.
            frames: of a scene, at most.
            adapter: its name in the generator.

        Raises:
            DataError: a scene is the only one of its place.
        """
        self._others = others_of(places)
        self.pixels, self.rows, self.reader, self.frames, self.adapter = pixels, rows, reader, frames, adapter

    def draw(self, index: NDArray[np.int64], views: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """As `FrameTable.draw`; as many frames of all scenes as the one has that has fewest."""
        most = min(self.frames, *(len(self._others[i]) for i in index))
        count = int(torch.randint(1, most + 1, (), generator=rng))
        chosen = [[own[k] for k in torch.randperm(len(own), generator=rng)[:count]] for own in self._of(index)]
        return self._shown(index, chosen, views)

    def whole(self, index: NDArray[np.int64], views: Tensor) -> tuple[Tensor, ...]:
        """As `FrameTable.whole`."""
        most = min(self.frames, *(len(self._others[i]) for i in index))
        return self._shown(index, [own[:most] for own in self._of(index)], views)

    def _of(self, index: NDArray[np.int64]) -> list[list[int]]:
        return [self._others[i] for i in index]

    def _shown(self, index: NDArray[np.int64], chosen: list[list[int]], views: Tensor) -> tuple[Tensor, ...]:
        count = len(chosen[0])
        flat = np.array(chosen).ravel()
        images = viewed(to_float(np.asarray(self.pixels[flat])), views.repeat_interleave(count))
        known = [[self.rows[j] for j in own] for own in chosen]
        return images.unflatten(0, (len(chosen), count)), *tables(self.reader, known, [self.rows[i] for i in index])


@dataclass(frozen=True)
class BandTable:
    """Bands of N scenes as single frames, taken as they were: nothing is simulated but a little noise.

    Attributes:
        planes: float (N, C, h, w) from -1 to 1, see `BandScale`.
        reader: the adapter.
        noise: deviation of a pixel.
        adapter: its name in the generator.
    """

    planes: NDArray[np.float32]
    reader: FrameAdapter
    noise: float = 0.0
    adapter: str = "frame_adapter"

    def draw(self, index: NDArray[np.int64], views: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """As `FrameTable.draw`."""
        frames, *known = self.whole(index, views)
        return frames + self.noise * torch.randn(frames.shape, generator=rng), *known

    def whole(self, index: NDArray[np.int64], views: Tensor) -> tuple[Tensor, ...]:
        """As `FrameTable.whole`."""
        frames = viewed(torch.from_numpy(np.array(self.planes[index], np.float32)), views)[:, None]
        rows: list[dict[str, float]] = [{}] * len(index)
        return frames, self.reader.of_frame.table(rows)[:, None], self.reader.of_target.table(rows)
