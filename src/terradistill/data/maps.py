"""Maps of scenes: what stands where, drawn from the scene by a filter, or given as files beside it.

A map is uint8, 0 where there is nothing: grey (H, W), or coloured (H, W, 3) for a segmentation.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from terradistill.data.arrays import write_array
from terradistill.data.detectors import DETECTORS, load_detector, require_detector
from terradistill.data.images import BATCH, decode, is_scene_file, n_threads
from terradistill.data.scenes import Scene, SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.data.vectors import VECTOR_FILES, WIDTH_M, road_rasters
from terradistill.errors import ConfigError, DataError, reason
from terradistill.files import replacing, require_apart, require_same
from terradistill.run import Progress
from terradistill.settings import MAPS

Array = NDArray[np.uint8]

# Colours of a segmentation, from the darkest region to the brightest.
PALETTE = np.array(
    [[31, 58, 95], [44, 120, 84], [140, 150, 60], [200, 140, 70], [180, 90, 120], [235, 225, 200]], np.uint8
)
NUMBERED, LEAST_SEEN = ("road", "segmentation"), 16  # maps that come as numbers of classes, and what those stay below
MADE_FROM, BY_HAND = "made_from", ""  # text in a map's PNG: the hash of the scene's file; in none of another program
REGIONS = 60  # of a scene, before those that look alike are joined


def edges(image: Array) -> Array:
    """Canny's edges (1986) of uint8 (H, W, 3)."""
    from skimage.feature import canny

    return np.asarray(canny(_grey(image), sigma=1.5) * np.uint8(255), np.uint8)


def lines(image: Array) -> Array:
    """Straight segments by the probabilistic Hough transform: a stand-in for the learned MLSD."""
    from skimage.draw import line
    from skimage.transform import probabilistic_hough_line

    side = min(image.shape[:2])
    found = probabilistic_hough_line(edges(image) > 0, threshold=side // 12, line_length=side // 8, line_gap=2, rng=0)
    drawn = np.zeros(image.shape[:2], np.uint8)
    for (x0, y0), (x1, y1) in found:
        drawn[line(y0, x0, y1, x1)] = 255
    return drawn


def sketch(image: Array) -> Array:
    """Strokes where brightness falls off, by an extended difference of Gaussians (Winnemöller et al. 2012)."""
    from skimage.filters import gaussian

    grey = _grey(image)
    dark = 0.96 * gaussian(grey, 1.6) - gaussian(grey, 1.0)
    return np.asarray((np.tanh(40 * dark.clip(0)) * 255).round(), np.uint8)


def segmentation(image: Array) -> Array:
    """Regions by SLIC superpixels (Achanta et al. 2012), joined by colour and numbered by brightness."""
    from skimage.color import rgb2lab
    from skimage.segmentation import slic
    from sklearn.cluster import KMeans

    regions = slic(image, n_segments=REGIONS, compactness=10, start_label=0)
    lab = rgb2lab(image).reshape(-1, 3)
    n = int(regions.max()) + 1
    totals = np.stack([np.bincount(regions.ravel(), lab[:, c], n) for c in range(3)], 1)
    # To whole units: what no eye tells apart is one colour.
    means = np.rint(totals / np.bincount(regions.ravel(), minlength=n)[:, None])
    clusters = KMeans(min(len(PALETTE), len(np.unique(means, axis=0))), n_init=3, random_state=0).fit(means)
    rank = np.argsort(np.argsort(clusters.cluster_centers_[:, 0]))
    return np.asarray(PALETTE[rank[clusters.labels_][regions]])


ANNOTATORS: dict[str, Callable[[Array], Array]] = {
    "lines": lines,
    "edges": edges,
    "sketch": sketch,
    "segmentation": segmentation,
}
"""What a filter can draw; roads have to be given, or come from a vector file; depths from a model."""


Source = Path | str | None
"""Where a map comes from: a folder of files, a detector by name, or None for the filter in `ANNOTATORS`."""


def parse_maps(names: Sequence[str]) -> dict[str, Source]:
    """``["edges", "lines:mlsd", "road=masks"]`` as map -> where it comes from.

    Raises:
        ConfigError: a map or detector that nobody knows, one twice, or one that nothing draws and that is not given.
    """
    found: dict[str, Source] = {}
    for text in names:
        name, given, folder = (piece.strip() for piece in text.partition("="))
        name, learned, detector = (name, "", "") if given else name.partition(":")
        if name not in MAPS or name in found:
            raise ConfigError(f"The map {text!r}: expected any of {', '.join(MAPS)}, each once.")
        if learned and (detector not in DETECTORS or DETECTORS[detector][0] != name):
            known = ", ".join(f"{each}:{key}" for key, (each, *_) in DETECTORS.items())
            raise ConfigError(f"No detector {detector!r} draws the map {name!r}: expected one of {known}.")
        if not given and not learned and name not in ANNOTATORS:
            raise ConfigError(f"No filter draws the map {name!r}: give its files, such as {name}=folder.")
        found[name] = Path(folder) if given else detector or None
    if not found:
        raise ConfigError(f"No maps were asked for: give some of {', '.join(MAPS)}.")
    return {name: found[name] for name in MAPS if name in found}


def _drawing(name: str, source: str | None) -> Callable[[Array], Array]:
    """What draws a map: a filter, or a detector."""
    if source is not None:
        return load_detector(source)
    require_annotators()
    return ANNOTATORS[name]


def require_maps(names: Sequence[str]) -> None:
    """What would be refused after hours is refused now: see `parse_maps`, `require_annotators`, `load_maps`."""
    for name, source in parse_maps(names).items():
        if isinstance(source, Path):
            _require_folder(name, source)
        elif source is not None:
            require_detector(source)
        else:
            require_annotators()


def _require_folder(name: str, folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"The folder {folder} of the map {name!r} is not there: give one with a file for each scene.")


def require_given(scenes: SceneFolder, wanted: Mapping[str, Source]) -> dict[str, list[Path]]:
    """The files of the maps that are given, one for each scene.

    Raises:
        DataError: a scene has no file in a given folder, or two, or one of another shape.
    """
    return {name: _files(name, source, scenes) for name, source in wanted.items() if isinstance(source, Path)}


def require_annotators() -> None:
    """Make sure that the filters are there.

    Raises:
        ConfigError: the extra `maps` is not installed.
    """
    from importlib.util import find_spec

    if find_spec("skimage") is None:
        raise ConfigError("Drawing maps needs scikit-image: pip install '.[maps]'.")


def load_maps(
    scenes: SceneFolder,
    wanted: Mapping[str, Source],
    pixels: Array,
    out: Path,
    progress: Progress | None = None,
) -> Array:
    """The maps of all scenes as one memory-mapped array, made once: uint8 (N, P, resolution, resolution).

    Args:
        scenes: checked scenes.
        wanted: as `parse_maps` gives them; a grey map has one plane, a segmentation three.
        pixels: the scenes, uint8 (N, resolution, resolution, 3).
        out: the `.npy` file.
        progress: called with scenes done and scenes in all.

    Raises:
        ConfigError: a filter is wanted and scikit-image is not installed.
        DataError: see `require_given`.
    """
    resolution = pixels.shape[1]
    given = require_given(scenes, wanted)
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for files in given.values() for file in files]
    key = sha256(repr((scenes.fingerprint, sorted(map(str, wanted.items())), resolution, stats)).encode()).hexdigest()
    key_file = out.with_name(out.name + ".key")
    if out.is_file() and key_file.is_file() and key_file.read_text(encoding="utf-8") == key:
        return np.asarray(np.load(out, mmap_mode="r"))
    drawn_by = {name: _drawing(name, source) for name, source in wanted.items() if not isinstance(source, Path)}

    def of(index: int) -> Array:
        planes = []
        for name in wanted:
            if name in given:
                drawn = read_map(given[name][index], name, resolution)
            else:
                drawn = drawn_by[name](np.asarray(pixels[index]))
            planes.append(drawn[None] if drawn.ndim == 2 else drawn.transpose(2, 0, 1))
        return np.concatenate(planes)

    first = of(0)
    key_file.unlink(missing_ok=True)
    with replacing(out) as part, ThreadPoolExecutor(n_threads()) as pool:

        def batches() -> Iterator[Array]:
            for start in range(0, len(scenes), BATCH):
                stop = min(start + BATCH, len(scenes))
                yield np.stack(list(pool.map(of, range(start, stop))))
                if progress:
                    progress(stop, len(scenes))

        write_array(part, len(scenes), batches(), np.empty((0, *first.shape), np.uint8))
    key_file.write_text(key, encoding="utf-8")
    return np.asarray(np.load(out, mmap_mode="r"))


def read_map(path: Path, name: str, side: int) -> Array:
    """A map from an image file: its central square, as that of its scene, at a side: grey, or colours (segmentation).

    Raises:
        DataError: the file is no image, or one of more than 8 bits a pixel, or holds nothing but 0 and 1.
    """
    try:
        with Image.open(path) as opened:
            image: Image.Image = opened
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # `convert` would cut them off at 255
                raise DataError(f"The map {path} has more than 8 bits a pixel: save it as grey from 0 to 255.")
            if image.has_transparency_data:  # where it is transparent there is nothing
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
            drawn = image.convert("RGB" if name == "segmentation" else "L")
    except DataError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise DataError(f"The map {path} cannot be read ({reason(error)}): give a PNG or JPEG file.") from error
    most = int(np.asarray(drawn).max(initial=0))
    if most == 1 or (name in NUMBERED and 0 < most < LEAST_SEEN):
        raise DataError(
            f"The map {path} holds numbers from 0 to {most}, which is black and nearly black: save it from 0 to 255"
            f"{', a colour a region' if name == 'segmentation' else ''}."
        )
    short = min(drawn.size)
    left, top = (drawn.width - short) // 2, (drawn.height - short) // 2
    drawn = drawn.crop((left, top, left + short, top + short))
    kind = Image.Resampling.NEAREST if name == "segmentation" else Image.Resampling.BOX
    return np.asarray(drawn.resize((side, side), kind))


def _files(name: str, folder: Path, scenes: SceneFolder) -> list[Path]:
    """The map file of each scene: by its path without the ending, else by its bare name where that is unique.

    Raises:
        DataError: a scene has none or two, or one that is shaped otherwise.
    """
    _require_folder(name, folder)
    files = [path for path in sorted(folder.rglob("*")) if is_scene_file(path.name)]
    by_path: dict[str, Path] = {}
    for path in files:
        stem = str(PurePosixPath(*path.relative_to(folder).with_suffix("").parts))
        if stem in by_path:
            raise DataError(f"{folder} has two maps for {stem}: {by_path[stem].name} and {path.name}; leave one there.")
        by_path[stem] = path
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(path.stem, []).append(path)
    bare = Counter(PurePosixPath(scene.name).stem for scene in scenes.scenes)
    found = []
    for scene in scenes.scenes:
        stem = str(PurePosixPath(scene.name).with_suffix(""))
        name_alone = PurePosixPath(scene.name).stem
        alone = by_name.get(name_alone, []) if bare[name_alone] == 1 else []
        if stem in by_path or len(alone) == 1:
            found.append(by_path.get(stem) or alone[0])
            _require_shape(found[-1], scene)
        else:
            raise DataError(f"{folder} has no map for {scene.name}: expected {stem}.png.")
    return found


def _require_shape(path: Path, scene: Scene) -> None:
    """Both are cut to their central squares, which show the same place where the shapes are the same."""
    try:
        with Image.open(path) as image:  # the header alone
            width, height = image.size
    except Exception:  # `read_map` says what is wrong with it
        return
    if scene.width and abs(width * scene.height - height * scene.width) > max(width * scene.height, 1) // 50:
        raise DataError(
            f"{path} is {width} x {height} pixels and {scene.name} {scene.width} x {scene.height}: "
            "expected the same shape."
        )


def annotate(
    data: str | Path,
    names: Sequence[str],
    out: Path,
    progress: Progress | None = None,
    *,
    road_width_m: float = WIDTH_M,
) -> dict[str, Path]:
    """Draw maps of every scene of DATA at its own size: `OUT/<map>/<class>/<file>.png`.

    Args:
        data: as everywhere.
        names: of the maps, as for `parse_maps`; ``road=FILE`` draws the lines of a GeoJSON file onto GeoTIFF scenes.
        out: a folder; maps of the same scenes that are there already are left, so that an interrupted call goes on, and
            so are maps that another program has saved.
        progress: called with scenes done and scenes in all.
        road_width_m: of the lines of such a file, metres.

    Returns:
        Map -> its folder.

    Raises:
        ConfigError: a map that nothing draws, or what draws it is not installed.
        DataError: a scene cannot be read, or says no place for the roads.
        RunError: `out` lies inside DATA, or holds maps that were drawn otherwise.
    """
    wanted = parse_maps(names)
    require_apart(out, data)
    scenes = open_scenes(data)
    drawn_by: dict[str, Callable[[bytes], Array]] = {}
    for name, source in wanted.items():
        asked: dict[str, Any] = {"detector": source}
        if not isinstance(source, Path):
            drawn_by[name] = _of_bytes(_drawing(name, source))
        elif name == "road" and source.suffix.lower() in VECTOR_FILES:
            drawn_by[name] = road_rasters(source, road_width_m)
            asked = {"roads": sha256(source.read_bytes()).hexdigest(), "width_m": road_width_m}
        else:
            raise ConfigError(f"The map {name!r} is given, so there is nothing to draw: leave it out.")
        require_same(out / name / "asked.json", asked, f"What is in {out / name}")
    stems = Counter(PurePosixPath(scene.name).with_suffix("") for scene in scenes.scenes)
    if (twice := stems.most_common(1)[0])[1] > 1:
        raise DataError(f"{twice[1]} scenes are named {twice[0]} but for their endings: their maps would be one file.")

    def draw(index: int) -> None:
        stem = PurePosixPath(scenes.scenes[index].name).with_suffix(".png")
        data = scenes.read(index)
        made_from = sha256(data).hexdigest()
        note = PngInfo()
        note.add_text(MADE_FROM, made_from)
        for name in wanted:
            if _drawn_from(out / name / stem) in (made_from, BY_HAND):
                continue
            try:
                drawn = drawn_by[name](data)
            except DataError as error:
                raise DataError(f"{scenes.scenes[index].name}: {error}") from error
            with replacing(out / name / stem) as part:
                Image.fromarray(drawn).save(part, "PNG", pnginfo=note)

    with ThreadPoolExecutor(n_threads()) as pool:
        for done, _ in enumerate(pool.map(draw, range(len(scenes)))):
            if progress:
                progress(done + 1, len(scenes))
    return {name: out / name for name in wanted}


def _drawn_from(path: Path) -> str | None:
    """Hash of the scene that the map there was drawn of, or `BY_HAND`; None: there is none, or nothing that opens."""
    try:
        with Image.open(path) as image:
            return str(image.info.get(MADE_FROM, BY_HAND))
    except OSError:
        return None


def _of_bytes(draw: Callable[[Array], Array]) -> Callable[[bytes], Array]:
    return lambda data: draw(decode(data))


def _grey(image: Array) -> NDArray[np.float64]:
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]) / 255)
