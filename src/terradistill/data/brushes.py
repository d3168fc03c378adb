"""Brushes for drawn scenes: fractal grounds, and grids of cells that paint many small things at once."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = NDArray[np.float64]  # (side, side)
Mask = NDArray[np.bool_]  # (side, side)
Picture = NDArray[np.float64]  # (side, side, 3), about 0..1


class Ground:
    """One scene while it is being painted.

    Args:
        rng: the scene's own stream.
        side: of the canvas, pixels.
        month: 1-12; vegetation is greenest in June.

    Attributes:
        u, v: coordinates after a random turn, (side, side); the centre is 0 and a side is 1 long.
    """

    def __init__(self, rng: np.random.Generator, side: int, month: int) -> None:
        self.rng, self.side = rng, side
        self.green = 0.5 - 0.5 * np.cos(2 * np.pi * month / 12)
        y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
        turn = rng.uniform(0, 2 * np.pi)
        self.u = x * np.cos(turn) + y * np.sin(turn)
        self.v = y * np.cos(turn) - x * np.sin(turn)
        self.picture: Picture = np.zeros((side, side, 3))

    def noise(self, roughness: float = 2.0) -> Plane:
        """Fractal noise of mean 0 and deviation 1; amplitudes fall as frequency ** -roughness, 0 is white."""
        frequency = np.hypot(np.fft.fftfreq(self.side)[:, None], np.fft.rfftfreq(self.side)) * self.side
        spectrum = np.fft.rfft2(self.rng.standard_normal((self.side, self.side)))
        field = np.fft.irfft2(spectrum / np.maximum(frequency, 1) ** roughness, s=(self.side, self.side))
        plane: Plane = (field - field.mean()) / field.std()
        return plane

    def paint(self, colour: ArrayLike, mask: Plane | Mask | float = 1.0, grain: float = 0.0) -> None:
        """Lays a colour, (3,) or (side, side, 3), over the picture where the mask (0..1) says."""
        layer = np.broadcast_to(np.asarray(colour, dtype=float), self.picture.shape)
        if grain:
            layer = layer * (1 + grain * self.noise(0.6)[..., None])
        weight = np.broadcast_to(np.clip(np.asarray(mask, dtype=float), 0, 1), (self.side, self.side))[..., None]
        self.picture = self.picture * (1 - weight) + layer * weight

    def shade(self, factor: Plane | float) -> None:
        """Brightens or darkens."""
        self.picture = self.picture * (factor if isinstance(factor, float) else factor[..., None])

    def vegetation(self, lush: float = 0.5) -> Picture:
        """Grass and shrubs: mottled, between dry and green by season and lushness."""
        green = np.clip(0.25 + 0.45 * self.green + 0.4 * (lush - 0.5) + 0.14 * self.noise(1.4), 0, 1)[..., None]
        dry, fresh = np.array((0.58, 0.53, 0.36)), np.array((0.27, 0.41, 0.19))
        mottled: Picture = (dry * (1 - green) + fresh * green) * (1 + 0.05 * self.noise(0.5)[..., None])
        return mottled

    def crowns(self, pitch: float, mask: Plane | Mask | float, jitter: float = 0.35, size: float = 0.62) -> None:
        """Trees, one a cell, lit from one side and casting a shadow to the other."""
        for layer in range(2 if jitter else 1):  # a second, shifted layer fills the gaps of the first
            cells = self.cells(self.u / pitch + 0.5 * layer, self.v / pitch + 0.5 * layer)
            a, b = cells.a + cells.table(-jitter, jitter), cells.b + cells.table(-jitter, jitter)
            radius = size * cells.table(0.35, 0.75)
            reach = np.hypot(a, b) / radius
            self.paint((0.08, 0.11, 0.07), (np.hypot(a - 0.16, b - 0.16) < radius) * 0.55 * mask)
            light = np.clip(1.05 - 0.55 * reach - 0.35 * (a + b) / radius, 0.35, 1.5)
            tint = np.stack([cells.table(0.17, 0.31), cells.table(0.27, 0.40), cells.table(0.12, 0.19)], axis=-1)
            tint = tint * (0.85 + 0.25 * self.green) + np.array((0.10, 0.02, 0.0)) * (1 - self.green)
            self.paint(tint * light[..., None], (reach < 1) * mask)

    def cells(self, x: Plane, y: Plane) -> "Cells":
        """A grid of this scene's own stream."""
        return Cells(self.rng, x, y)

    def water(self, mask: Plane | Mask | float, depth: Plane | float = 0.5) -> None:
        """Blue-green, darker where deep, with faint ripples."""
        deep = np.clip(depth, 0, 1) * np.ones((self.side, self.side))
        colour = np.array((0.27, 0.41, 0.42)) * (1 - deep[..., None]) + np.array((0.08, 0.19, 0.28)) * deep[..., None]
        self.paint(colour, mask, grain=0.03)


class Cells:
    """A grid over the scene: where in its cell a pixel lies, and random numbers that all pixels of a cell share.

    Args:
        rng: where the tables come from.
        x, y: coordinates in cells, (side, side): the whole part is the cell, the rest the place in it.

    Attributes:
        a, b: place in the cell, -0.5..0.5, (side, side).
    """

    def __init__(self, rng: np.random.Generator, x: Plane, y: Plane) -> None:
        i, j = np.floor(x).astype(int), np.floor(y).astype(int)
        self.a, self.b = x - i - 0.5, y - j - 0.5
        self._rng, self._i, self._j = rng, i - i.min(), j - j.min()
        self._shape = (int(self._i.max()) + 1, int(self._j.max()) + 1)

    def table(self, low: float, high: float) -> Plane:
        """A uniform number for each cell, spread over its pixels."""
        plane: Plane = self._rng.uniform(low, high, self._shape)[self._i, self._j]
        return plane

    def some(self, share: float) -> Mask:
        """True in this share of the cells."""
        return self.table(0, 1) < share

    def colour(self, palette: ArrayLike, spread: float = 0.06) -> Picture:
        """A colour of the palette for each cell, a little lighter or darker."""
        colours = np.asarray(palette)
        choice = self._rng.integers(len(colours), size=self._shape)[self._i, self._j]
        picture: Picture = colours[choice] * (1 + self.table(-spread, spread)[..., None])
        return picture


def box(a: Plane, b: Plane, half_a: ArrayLike, half_b: ArrayLike) -> Mask:
    """Where |a| and |b| are below the halves."""
    inside: Mask = (np.abs(a) < half_a) & (np.abs(b) < half_b)
    return inside


def step(x: Plane, at: float, width: float) -> Plane:
    """0 below `at`, 1 above `at + width`, smooth between."""
    t = np.clip((x - at) / width, 0, 1)
    smooth: Plane = t * t * (3 - 2 * t)
    return smooth
