"""Aerial scenes drawn by a program, for demonstrations and tests: nobody's data, so they may go anywhere.

Each scene is painted at three times its size from a random stream of its own and averaged down, which antialiases
every edge. Repeated things (roofs, crowns, cars, boats) are painted all at once: a grid of cells, one thing in each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terradistill.data.brushes import Ground, box, step
from terradistill.data.writing import write_scene_folder
from terradistill.errors import ConfigError
from terradistill.seeding import numpy_generator

OVERSAMPLING = 3
GSD_M = 1.0  # what the sizes of houses and cars stand for, in a scene of 64 pixels

_ASPHALT, _CONCRETE, _SAND, _SOIL = (0.36, 0.36, 0.38), (0.66, 0.65, 0.62), (0.80, 0.72, 0.55), (0.50, 0.41, 0.31)
_CROPS = ((0.33, 0.48, 0.20), (0.47, 0.58, 0.27), (0.76, 0.70, 0.40), (0.60, 0.50, 0.35), (0.25, 0.40, 0.18))
_FALLOW = ((0.66, 0.61, 0.45), (0.55, 0.52, 0.33), (0.45, 0.36, 0.27))
_ROOFS = ((0.62, 0.33, 0.25), (0.53, 0.40, 0.33), (0.47, 0.46, 0.47), (0.70, 0.60, 0.50), (0.40, 0.32, 0.30))
_METAL = ((0.82, 0.83, 0.84), (0.60, 0.64, 0.69), (0.42, 0.52, 0.66), (0.70, 0.45, 0.36), (0.74, 0.72, 0.66))
_PAINT = ((0.92, 0.92, 0.92), (0.15, 0.16, 0.18), (0.70, 0.16, 0.14), (0.20, 0.30, 0.55), (0.75, 0.75, 0.72))
_HULLS = ((0.93, 0.93, 0.92), (0.88, 0.89, 0.90), (0.35, 0.45, 0.60), (0.80, 0.76, 0.68))


def _farmland(g: Ground) -> str:
    strips = np.cumsum(g.rng.uniform(0.14, 0.34, 14)) - 1.2
    strip = np.searchsorted(strips, g.u + 0.01 * g.noise(2.4))
    row_colours = np.array(_CROPS if g.rng.random() < 0.3 + 0.6 * g.green else _CROPS[2:] + _FALLOW)
    edges = np.abs(g.u[..., None] - strips).min(-1)
    for k in np.unique(strip):
        here = strip == k
        cuts = np.cumsum(g.rng.uniform(0.2, 0.6, 10)) - 1.2
        part = np.searchsorted(cuts, g.v)
        along = g.u if g.rng.random() < 0.5 else g.v
        rows = 1 + g.rng.uniform(0.02, 0.10) * np.sin(2 * np.pi * along * g.rng.uniform(18, 40))
        shades = row_colours[g.rng.integers(len(row_colours), size=11)] * g.rng.uniform(0.88, 1.12, (11, 1))
        g.paint(shades[part] * rows[..., None], here, grain=0.04)
        edges = np.where(here, np.minimum(edges, np.abs(g.v[..., None] - cuts).min(-1)), edges)
    g.paint((0.62, 0.56, 0.43), edges < g.rng.uniform(0.005, 0.011))
    if hedge := g.rng.random() < 0.4:
        g.crowns(0.035, (edges < 0.022) & (g.noise(2.0) > 0.2))
    return f"{g.rng.choice(['a patchwork of fields', 'fields of different crops'])}{' with hedges' if hedge else ''}"


def _forest(g: Ground) -> str:
    g.paint((0.13, 0.19, 0.10))
    clearing = g.noise(2.6) > g.rng.uniform(1.5, 2.6)
    g.crowns(g.rng.uniform(0.06, 0.10), 1.0, size=0.85)
    g.shade(1 + 0.10 * g.noise(2.2))
    g.paint(g.vegetation(0.6), clearing)
    return f"a forest with {'a clearing' if clearing.any() else 'dense crowns'} seen from above"


def _river(g: Ground) -> str:
    g.paint(g.vegetation(g.rng.uniform(0.2, 0.9)))
    g.crowns(0.06, g.noise(2.4) > g.rng.uniform(-0.2, 1.2))
    waves = [(g.rng.uniform(0.03, 0.13) / k, k, g.rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)]
    centre = sum(size * np.sin(2 * np.pi * k * 0.9 * g.u + phase) for size, k, phase in waves)
    slope = sum(size * 2 * np.pi * k * 0.9 * np.cos(2 * np.pi * k * 0.9 * g.u + phase) for size, k, phase in waves)
    away = np.abs(g.v - centre) / np.sqrt(1 + slope**2)
    width = g.rng.uniform(0.055, 0.13) * (1 + 0.15 * np.sin(5 * g.u))
    bank = g.rng.uniform(0.008, 0.035)
    g.paint(
        _SAND if g.rng.random() < 0.5 else (0.45, 0.42, 0.30),
        1 - step(away + 0.006 * g.noise(1.2), width + bank / 2, bank),
    )
    depth = g.rng.uniform(0.1, 0.9)
    g.water(1 - step(away, width - 0.008, 0.016), depth * (1 - 0.7 * (away / width) ** 2))
    course = "winding" if waves[0][0] > 0.07 else "gently curved"
    return f"a {course} river {'with broad banks' if bank > 0.02 else 'through green land'}"


def _residential(g: Ground) -> str:
    g.paint(g.vegetation(0.55))
    lot, deep, street_width = g.rng.uniform(0.13, 0.18), g.rng.uniform(0.16, 0.21), 0.07
    block = street_width + 2 * deep  # a street, then two rows of lots back to back
    blocks = g.v / block + g.rng.random()
    across = blocks % 1 * block
    street, second = across < street_width, across >= street_width + deep
    place = np.clip((across - street_width) / deep - second, 0, 0.999)  # in the row of lots, 0..1
    lots = g.cells(g.u / lot + g.rng.random(), 2 * np.floor(blocks) + second + place)
    there = lots.some(0.93) & ~street
    to_street = lots.b * np.where(second, 1, -1)  # both rows turn their fronts to a street
    g.crowns(0.07, g.noise(1.2) > 0.5, size=0.6)
    g.paint(_CONCRETE, there & box(lots.a - 0.36, to_street - 0.3, 0.06, 0.25))
    half_a, half_b = lots.table(0.24, 0.34), lots.table(0.20, 0.30)
    a, b = lots.a + lots.table(-0.06, 0.06), lots.b + lots.table(-0.10, 0.10)
    g.paint((0.10, 0.11, 0.10), 0.7 * (there & box(a - 0.09, b - 0.09, half_a, half_b)))
    along = half_a * lot > half_b * deep  # the ridge runs along the longer side
    lit = np.where(along, b, a) < 0
    hip = np.where(along, np.abs(a) / half_a, np.abs(b) / half_b) > 0.7
    roof = lots.colour(_ROOFS) * (np.where(lit, 1.18, 0.80) * np.where(hip, 0.92, 1.0))[..., None]
    g.paint(roof, there & box(a, b, half_a, half_b))
    pools = there & lots.some(g.rng.uniform(0, 0.4)) & (np.hypot(lots.a + 0.2, 1.3 * (to_street + 0.4)) < 0.13)
    g.paint((0.30, 0.68, 0.78), pools)
    g.paint(_ASPHALT, street, grain=0.04)
    return (
        f"houses {'with gardens and pools ' if pools.any() else ''}along {g.rng.choice(['quiet', 'parallel'])} streets"
    )


def _desert(g: Ground) -> str:
    phase = (g.u * g.rng.uniform(3, 7) + g.rng.uniform(0.3, 0.8) * g.noise(2.6)) % 1
    rise = np.where(phase < 0.75, phase / 0.75, (1 - phase) / 0.25)  # long windward slope, short slip face
    height = rise * np.clip(0.7 + 0.5 * g.noise(2.2), 0.1, 1.6) + 0.5 * g.noise(2.6)
    height = height + 0.012 * np.sin(2 * np.pi * (g.u * 36 + g.noise(2.2)))
    slope = sum(np.gradient(height)) * g.side / 192  # lit from the corner
    tone = np.clip(0.62 - g.rng.uniform(3.0, 5.0) * slope + 0.02 * g.noise(0.8), 0, 1)[..., None]
    warm = g.rng.uniform(-0.05, 0.05) * np.array((1, 0, -1))
    g.paint(np.array((0.55, 0.39, 0.25)) * (1 - tone) + np.array((0.90, 0.76, 0.55)) * tone + warm)
    return f"{g.rng.choice(['sand dunes', 'long dunes', 'wind-blown dunes'])} in a desert"


def _harbour(g: Ground) -> str:
    g.water(1.0, 0.55 + 0.15 * g.noise(2.0))
    pitch, length = g.rng.uniform(0.22, 0.30), g.rng.uniform(0.5, 0.75)
    away = g.v + 0.5 - g.rng.uniform(0.2, 0.4)  # from the quay
    columns = g.u / pitch + g.rng.random()
    from_pier = np.abs(columns % 1 - 0.5)
    at_pier = (away > 0) & (away < length)
    berths = g.cells(2 * columns, away / 0.055)  # two rows of boats for each pier
    here = at_pier & berths.some(g.rng.uniform(0.6, 0.95))
    long, wide = berths.table(0.10, 0.155), berths.table(0.24, 0.36)
    bow = (from_pier - 0.06 - long) / long
    hull = bow**2 + (berths.b / wide) ** 2
    g.paint((0.04, 0.09, 0.13), here & (bow**2 + ((berths.b - 0.14) / wide) ** 2 < 1))
    g.paint(berths.colour(_HULLS), here & (hull < 1))
    g.paint((0.45, 0.40, 0.34), here & (hull < 0.18) & berths.some(0.6))
    g.paint((0.70, 0.66, 0.58), at_pier & (from_pier < 0.055))
    g.paint(_CONCRETE, away < 0, grain=0.04)
    sheds = g.cells(g.u / 0.17 + g.rng.random(), (away + 0.03) / 0.15)
    half_a, half_b = sheds.table(0.2, 0.42), sheds.table(0.2, 0.36)
    shed = (away < -0.03) & sheds.some(0.7)
    g.paint((0.25, 0.25, 0.26), shed & box(sheds.a - 0.06, sheds.b - 0.06, half_a, half_b))
    g.paint(sheds.colour(_METAL), shed & box(sheds.a, sheds.b, half_a, half_b))
    return f"boats moored at {g.rng.choice(['the piers of a harbour', 'long piers', 'the piers of a marina'])}"


def _highway(g: Ground) -> str:
    g.paint(g.vegetation(g.rng.uniform(0.2, 0.8)))
    g.crowns(0.06, g.noise(2.4) > g.rng.uniform(0.4, 1.6))
    bend = g.rng.uniform(-0.5, 0.5)
    across = g.v - bend * g.u**2 - g.rng.uniform(-0.12, 0.12)
    half, median = g.rng.uniform(0.095, 0.13), 0.012
    if g.rng.random() < 0.35:
        g.paint(_ASPHALT, np.abs(g.u - 0.25 - 0.4 * g.v) < 0.035, grain=0.04)
    g.paint((0.62, 0.58, 0.47), np.abs(across) < half + 0.022)
    g.paint(np.array(_ASPHALT) * g.rng.uniform(0.85, 1.25), np.abs(across) < half, grain=0.04)
    lane = (half - median) / 3
    lanes = np.floor((np.abs(across) - median) / lane)
    offset = (np.abs(across) - median) / lane % 1
    g.paint((0.88, 0.88, 0.86), (np.abs(across) < half) & (lanes > 0) & (offset < 0.10) & (g.u * 14 % 1 < 0.5))
    g.paint((0.88, 0.88, 0.86), np.abs(np.abs(across) - half + 0.005) < 0.003)
    g.paint(g.vegetation(0.4), np.abs(across) < median)
    cars = g.cells(g.u / 0.11 + lanes * 0.37, np.sign(across) * (lanes + 1) + 0.5)
    a, b = cars.a + cars.table(-0.2, 0.2), offset - 0.55
    here = cars.some(g.rng.uniform(0.2, 0.6)) & (np.abs(across) > median) & (lanes < 3)
    long = np.where(cars.some(0.15), 0.30, 0.19)
    g.paint((0.12, 0.12, 0.13), here & box(a - 0.03, b - 0.12, long, 0.30))
    g.paint(cars.colour(_PAINT), here & box(a, b, long, 0.30))
    course = "curved" if abs(bend) > 0.2 else "straight"
    return f"cars on a {course} highway {'through green land' if g.green > 0.5 else 'through dry land'}"


def _lake(g: Ground) -> str:
    g.paint(g.vegetation(g.rng.uniform(0.2, 0.9)))
    g.crowns(0.06, g.noise(2.2) > g.rng.uniform(-0.8, 0.8))
    stretch = g.rng.uniform(0.7, 1.4)
    level = (
        g.rng.uniform(0.26, 0.36)
        + 0.055 * g.noise(2.4)
        - np.hypot((g.u + g.rng.uniform(-0.1, 0.1)) * stretch, g.v / stretch)
    )
    shore = g.rng.uniform(0.01, 0.04)
    g.paint(_SAND if g.rng.random() < 0.5 else (0.42, 0.42, 0.28), step(level, -shore, 0.01))
    g.water(step(level, 0, 0.012), step(level, 0, g.rng.uniform(0.1, 0.3)))
    kind = g.rng.choice(["small", "calm", "round"])
    return f"a {kind} lake {'with a broad shore' if shore > 0.025 else 'in the countryside'}"


def _industrial(g: Ground) -> str:
    g.paint(np.array(_CONCRETE) * g.rng.uniform(0.75, 1.0), grain=0.05)
    g.paint(g.vegetation(0.4), g.noise(2.4) > 1.3)
    pitch = g.rng.uniform(0.30, 0.42)
    halls = g.cells(g.u / pitch / 1.35 + g.rng.random(), g.v / pitch + g.rng.random())
    half_a, half_b = halls.table(0.30, 0.43), halls.table(0.26, 0.40)
    there = halls.some(0.92)
    g.paint((0.16, 0.16, 0.17), there & box(halls.a - 0.045, halls.b - 0.06, half_a, half_b), grain=0.02)
    ribs = 1 + 0.06 * np.sign(np.sin(2 * np.pi * halls.a * halls.table(6, 16)))
    g.paint(halls.colour(_METAL) * ribs[..., None], there & box(halls.a, halls.b, half_a, half_b), grain=0.015)
    vents = g.cells(g.u / 0.05, g.v / 0.05)
    roof = there & box(halls.a, halls.b, half_a - 0.08, half_b - 0.08)
    g.paint((0.45, 0.46, 0.48), roof & box(vents.a, vents.b, 0.2, 0.2) & vents.some(0.12))
    trucks = g.cells(g.u / 0.055, g.v / 0.026)
    yard = ~box(halls.a - 0.03, halls.b - 0.03, half_a + 0.07, half_b + 0.07) & trucks.some(0.18)
    g.paint(trucks.colour(_PAINT), yard & box(trucks.a, trucks.b, 0.38, 0.34))
    return (
        f"{g.rng.choice(['large industrial halls', 'warehouses', 'factory buildings'])} with flat roofs on paved ground"
    )


def _orchard(g: Ground) -> str:
    g.paint(_SOIL if g.rng.random() < 0.6 else g.vegetation(0.5), grain=0.06)
    g.shade(1 + 0.05 * np.sin(2 * np.pi * g.u * 30))
    pitch = g.rng.uniform(0.075, 0.12)
    track = np.abs(g.v - g.rng.uniform(-0.3, 0.3)) < 0.022
    g.crowns(pitch, ~track, jitter=0.0, size=g.rng.uniform(0.55, 0.75))
    g.paint((0.66, 0.57, 0.43), track, grain=0.03)
    return f"an orchard with trees in {g.rng.choice(['straight rows', 'a regular grid', 'even rows'])}"


@dataclass(frozen=True)
class _Class:
    paint: Callable[[Ground], str]  # paints the scene and says what is to be seen
    readable: str


DRAWN_CLASSES: dict[str, _Class] = {
    "farmland": _Class(_farmland, "farmland"),
    "forest": _Class(_forest, "forest"),
    "river": _Class(_river, "river"),
    "residential": _Class(_residential, "residential area"),
    "desert": _Class(_desert, "desert"),
    "harbour": _Class(_harbour, "harbour"),
    "highway": _Class(_highway, "highway"),
    "lake": _Class(_lake, "lake"),
    "industrial": _Class(_industrial, "industrial area"),
    "orchard": _Class(_orchard, "orchard"),
}


def draw_scene(class_name: str, size: int, seed: int, index: int) -> tuple[NDArray[np.uint8], str, int]:
    """One scene; it depends on its arguments alone.

    Args:
        class_name: a key of `DRAWN_CLASSES`.
        size: side, pixels.
        seed: of the whole set.
        index: which scene of the class.

    Returns:
        uint8 image of shape (size, size, 3), its caption, and its month (1-12).
    """
    rng = numpy_generator(seed, "drawn", class_name, index)
    month = int(rng.integers(1, 13))
    ground = Ground(rng, size * OVERSAMPLING, month)
    caption = DRAWN_CLASSES[class_name].paint(ground)
    small = ground.picture.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean(axis=(1, 3))
    # The sensor and the air: haze, exposure, a trace of noise.
    haze = rng.uniform(0.0, 0.10)
    small = (small * (1 - haze) + haze * np.array((0.75, 0.80, 0.86))) * rng.uniform(0.92, 1.10)
    small = small + 0.008 * rng.standard_normal(small.shape)
    return (small.clip(0, 1) * 255).round().astype(np.uint8), caption, month


def draw_scenes(out: Path, *, per_class: int = 40, size: int = 64, seed: int = 0, n_classes: int = 6) -> Path:
    """Writes a scene folder of drawn scenes, with captions and months.

    Args:
        out: a folder that does not exist yet, or is empty.
        per_class: scenes of each class.
        size: side, pixels.
        seed: another seed, other scenes.
        n_classes: the first so many of `DRAWN_CLASSES`.

    Returns:
        `out`.

    Raises:
        ConfigError: a number out of range.
        DataError: `out` is not empty.
    """
    if not 1 <= n_classes <= len(DRAWN_CLASSES):
        raise ConfigError(f"n_classes is {n_classes}; expected 1 to {len(DRAWN_CLASSES)}, as many as can be drawn.")
    if per_class < 1 or size < 16:
        raise ConfigError(f"per_class is {per_class} and size is {size}; expected at least 1 and at least 16 pixels.")
    names = sorted(list(DRAWN_CLASSES)[:n_classes])
    drawn = [draw_scene(name, size, seed, index) for name in names for index in range(per_class)]
    write_scene_folder(
        out,
        names,
        np.stack([image for image, _, _ in drawn]),
        np.repeat(np.arange(n_classes), per_class),
        [{"caption": caption, "gsd_m": GSD_M * 64 / size, "month": month} for _, caption, month in drawn],
        {
            "name": "drawn",
            "title": "Scenes drawn by TerraDistill",
            "readable": {name: DRAWN_CLASSES[name].readable for name in names},
            "gsd_m": GSD_M * 64 / size,
            "licence": "Apache-2.0",
            "made_by": f"terradistill, draw_scenes(seed={seed})",
            "synthetic": True,
        },
    )
    return out
