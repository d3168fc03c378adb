"""The data engine: are generated image-mask pairs worth anything to a network that segments real images?

OUT/tiles/       real pairs in tiles: train/<map>, test/<map>, masks/<map>
OUT/adapter/     the run that learned to draw after masks, from the train tiles alone
OUT/synthetic/   drawn scenes, and masks/ that they were drawn after
OUT/followed/    likewise, after the masks of the test tiles: do scenes follow masks that are new to the adapter?
OUT/engine.json  the table; engine.md and engine.png show it
"""

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from terradistill.data.arrays import evenly
from terradistill.data.images import decode, pixel_hash
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.data.views import N_VIEWS, viewed
from terradistill.distillation.pipeline import train
from terradistill.errors import ConfigError, DataError, GeneratorError, RunError
from terradistill.evaluation.metrics import paired
from terradistill.evaluation.segmentation import Pairs, fit_segmenter, iou, require_halvings, segmented
from terradistill.files import replacing, require_apart, write_text
from terradistill.generation.draw import generate
from terradistill.generation.orders import Order, Shown
from terradistill.hardware import describe, find_hardware
from terradistill.models.generator import Generator
from terradistill.models.places import learned_from
from terradistill.report.gallery import contact_sheet
from terradistill.run import Progress, Reporter, Run, provenance
from terradistill.seeding import derive, generator
from terradistill.settings import Settings

IMAGES, MASKS = "images", "masks"
SHOWN = 8  # columns of the picture
WHITE = 128  # of a mask, from here on


def data_engine(
    pairs: str | Path, out: str | Path, settings: Settings, *, name: str = "road", reporter: Reporter | None = None
) -> dict[str, Any]:
    """Generate pairs after real masks, and train segmentation networks on real pairs, on drawn ones, and on both.

    Args:
        pairs: a folder or zip with `images/` and `masks/`, a mask for each image by its name; white is what is sought.
        out: run folder; the same command goes on with it.
        settings: `generator`, `adapter`, `sampling`, and `engine` for all else.
        name: the map that masks are to the generator.
        reporter: told of progress.

    Returns:
        `rows` (one for each set that networks were trained on: `pairs`, `iou` of each seed, mean and deviation), a
        `verdict`, and `adherence`: IoU of unseen masks with what the networks that learned from real pairs find in
        scenes drawn after them, beside that with the masks of other scenes. Also in `engine.json`.

    Raises:
        ConfigError: no generator is named, or the segmentation network halves tiles that cannot be.
        DataError: an image has no mask, or is smaller than a tile.
        RunError: `out` was begun with other pairs.
    """
    if settings.generator is None:
        raise ConfigError("There is nothing to draw with: name a generator, such as --generator base-128.")
    out, wanted = Path(out), settings.engine
    require_apart(out, pairs)
    side, scenes = Generator.load(settings.generator).resolution, open_scenes(pairs)
    require_halvings(wanted.widths, side)
    tiles = _tiles_of(scenes, side, wanted.test_fraction, learned_from(settings.generator))
    shown = sha256(json.dumps([[pair.stem, pair.part, pair.shown] for pair in tiles]).encode()).hexdigest()
    run = Run(out, settings, reporter)
    with closing(run):
        if run.manifest.get("pairs", shown) != shown:
            raise RunError(f"{out} was begun with other pairs than {pairs}: give the same again, or a new --out.")
        hardware = find_hardware(settings.precision)
        if "pairs" not in run.manifest:
            run.describe(**provenance(), device=describe(hardware), pairs=shown, source=str(pairs))
        if not run.done("tiles"):
            with run.stage("tiles", "Cutting tiles") as stage:
                counts = _write_tiles(scenes, tiles, out / "tiles", side, name)
                stage.note = f"{counts[0]} to learn from, {counts[1]} to test on, {side} pixels"
        learned = settings.model_copy(
            update={
                "adapter": settings.adapter.model_copy(
                    update={"maps": (*settings.adapter.maps, f"{name}={out / 'tiles' / MASKS}")}
                ),
                "data": settings.data.model_copy(update={"train_fraction": 0.95}),
            }
        )
        adapted = train(out / "tiles" / "train", out / "adapter", learned, until="adapter", reporter=reporter)
        real, test = (_tiles(out / "tiles", part, name) for part in ("train", "test"))
        if not run.done("draw"):
            with run.stage("draw", "Drawing pairs") as stage:
                drawing = Generator.load(adapted)
                masks = _turned(real.masks, max(1, round(len(real) * wanted.drawn_per_real)), settings.seed)
                draw_after = partial(_draw_after, drawing, name, settings)
                draw_after(masks, out / "synthetic", stage.progress)
                draw_after(test.masks, out / "followed", stage.progress)
                stage.note = f"{len(masks)} pairs, {len(test)} after test masks"
        drawn, followed = _drawn(out / "synthetic", name), _drawn(out / "followed", name)
        both = Pairs(np.concatenate([real.images, drawn.images]), np.concatenate([real.masks, drawn.masks]))
        result: dict[str, Any] = run.read_json("engine.json", default={"rows": []})
        for kind, part in (("real", real), ("drawn", drawn), ("real and drawn", both)):
            if any(row["learned_from"] == kind for row in result["rows"]):
                continue
            title = f"Segmenting, learned from {kind}"
            run.reporter.start(title)
            began = time.monotonic()
            scores, follows = [], []
            for i in range(wanted.n_seeds):
                seed = derive(settings.seed, "engine", i)
                network = fit_segmenter(part, wanted, seed=seed, hardware=hardware, progress=run.reporter.progress)
                scores.append(iou(segmented(network, test.images, hardware), test.masks))
                if kind == "real":
                    follows.append(segmented(network, followed.images, hardware))
            if follows:
                result["adherence"] = _adherence(follows, followed.masks)
            spread = statistics.stdev(scores) if len(scores) > 1 else None
            row: dict[str, Any] = {
                "learned_from": kind,
                "pairs": len(part),
                "iou": scores,
                "iou_mean": statistics.fmean(scores),
            }
            result["rows"].append(row | {"iou_std": spread})
            run.reporter.end(title, time.monotonic() - began, f"IoU {100 * row['iou_mean']:.1f} %")
            run.write_json("engine.json", result)
        result |= {"n_test": len(test), "verdict": verdict(result["rows"])}
        run.write_json("engine.json", result)
        write_text(out / "engine.md", _markdown(result))
        _picture(drawn, test, out / "engine.png")
    return result


def verdict(rows: list[dict[str, Any]]) -> str:
    """What the table says, in a sentence: seeds are paired, a difference counts beyond its 95 % interval."""
    scores = {row["learned_from"]: np.array(row["iou"]) for row in rows}
    gain, half = paired(100 * (scores["real and drawn"] - scores["real"]))
    n = len(rows[0]["iou"])
    if n == 1:
        told = f"{gain:+.1f}".replace("-", "−")
        return f"One training of each cannot tell: {told} points of IoU with drawn pairs beside the real ones."
    told = f"{gain:+.1f} ± {half:.1f} points of IoU (95 % of {n} trainings on one drawn set)".replace("-", "−")
    if abs(gain) <= half:
        return f"No clear difference: drawn pairs beside the real ones change {told}."
    return f"Drawn pairs beside the real ones {'help' if gain > 0 else 'harm'}: {told}."


def _adherence(found: Sequence[NDArray[np.bool_]], masks: NDArray[np.bool_]) -> dict[str, Any]:
    """What several networks find in drawn scenes, beside the masks of the scenes and those of others."""
    own = [iou(each, masks) for each in found]
    other = [iou(each, np.roll(masks, max(1, len(masks) // 2), axis=0)) for each in found]
    return {"scenes": len(masks), "iou": own, "shuffled": other}


@dataclass(frozen=True)
class _Pair:
    """An image and its mask, by their places in the folder, on which side they are, and a hash of what they show."""

    stem: str
    image: int
    mask: int
    part: str
    shown: str


def _tiles_of(scenes: SceneFolder, side: int, test_fraction: float, seen: frozenset[str]) -> list[_Pair]:
    """Every pair, looked at once before anything is written; the last ones by name are the test.

    Raises:
        DataError: an image without a mask, of another size, or too small; masks that show nothing; one image twice, to
            learn from and to judge.
        GeneratorError: the generator has learned from an image that is to judge.
    """
    by_stem: dict[str, dict[str, int]] = {IMAGES: {}, MASKS: {}}
    for i, scene in enumerate(scenes.scenes):
        folder = scenes.classes[scene.label]
        if folder in by_stem:
            stem = PurePosixPath(scene.name).stem
            if stem in by_stem[folder]:
                raise DataError(f"Two of {folder}/ are named {stem}: give each pair a name of its own.")
            by_stem[folder][stem] = i
    odd = sorted(set(by_stem[IMAGES]) ^ set(by_stem[MASKS]))
    if odd or not by_stem[IMAGES]:
        what = f"{odd[0]} is in one of them alone" if odd else "there are none"
        raise DataError(f"Pairs lie in {IMAGES}/ and {MASKS}/, under the same names: {what}.")
    stems = sorted(by_stem[IMAGES])
    if len(stems) < 2:
        raise DataError("There is one pair: expected at least two, one to learn from and one to judge.")
    n_test = max(1, round(test_fraction * len(stems)))
    found, white, learned = [], {"train": 0, "test": 0}, set[str]()
    for number, stem in enumerate(stems):
        part = "test" if number >= len(stems) - n_test else "train"
        places = by_stem[IMAGES][stem], by_stem[MASKS][stem]
        image, mask = (decode(scenes.read(i)) for i in places)
        if image.shape != mask.shape or min(image.shape[:2]) < side:
            raise DataError(
                f"{stem} is {image.shape[1]} x {image.shape[0]} and its mask {mask.shape[1]} x {mask.shape[0]} pixels: "
                f"expected the same, and at least {side}."
            )
        shown = {pixel_hash(each) for each in (image, *_cut(image, side)) if np.ptp(each)}  # black is black
        if part == "test" and shown & seen:
            raise GeneratorError(f"The generator has learned from {stem}, which is to judge: choose another generator.")
        if part == "test" and shown & learned:
            raise DataError(f"{stem}, which is to judge, shows what an image to learn from shows: leave one out.")
        learned |= shown if part == "train" else set()
        white[part] += int((mask >= WHITE).sum())
        found.append(_Pair(stem, *places, part, pixel_hash(image) + pixel_hash(mask)))
    if not all(white.values()):
        raise DataError(f"The masks show no white: expected 255 where there is something, in {MASKS}/.")
    return found


def _write_tiles(scenes: SceneFolder, pairs: Sequence[_Pair], out: Path, side: int, name: str) -> tuple[int, int]:
    """Cut every pair into tiles; how many there are to learn from and to judge."""
    counts = {"train": 0, "test": 0}
    said = {key: getattr(scenes.info, key) for key in ("name", "title", "licence", "citation", "url", "synthetic")}
    for part in counts:  # what is learned from tiles, and drawn after them, carries the licence of the pairs
        write_text(out / part / "dataset.json", json.dumps(said, ensure_ascii=False, indent=2) + "\n")
    for pair in pairs:
        image, mask = (decode(scenes.read(i)) for i in (pair.image, pair.mask))
        for k, tiles in enumerate(zip(_cut(image, side), _cut(mask, side), strict=True)):
            for kind, pixels in zip((pair.part, MASKS), tiles, strict=True):
                path = out / kind / name / f"{pair.stem}-{k:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary:
                    Image.fromarray(pixels).save(temporary, "PNG")
            counts[pair.part] += 1
    return counts["train"], counts["test"]


def _cut(image: NDArray[np.uint8], side: int) -> list[NDArray[np.uint8]]:
    """Tiles (side, side, ...) without overlap, spread evenly."""
    ys, xs = (np.linspace(0, length - side, length // side).round().astype(int) for length in image.shape[:2])
    return [image[y : y + side, x : x + side] for y in ys for x in xs]


def _tiles(root: Path, part: str, name: str) -> Pairs:
    files = sorted((root / part / name).glob("*.png"))
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    masks = np.stack([np.asarray(Image.open(root / MASKS / name / path.name).convert("L")) >= WHITE for path in files])
    return Pairs(images, masks)


def _turned(masks: NDArray[np.bool_], n: int, seed: int) -> NDArray[np.bool_]:
    """n of the masks, all of them equally often, turned and flipped."""
    rng = generator(seed, "masks")
    which = torch.cat([torch.randperm(len(masks), generator=rng) for _ in range(-(-n // len(masks)))])[:n]
    views = torch.randint(0, N_VIEWS, (n,), generator=rng)
    return viewed(torch.from_numpy(masks[which.numpy()])[:, None], views)[:, 0].numpy()


def _draw_after(
    drawing: Generator, name: str, settings: Settings, masks: NDArray[np.bool_], out: Path, progress: Progress
) -> None:
    """A scene after each mask."""
    folder, target = out / MASKS / name, out / "scenes"
    if (target / "metadata.jsonl").exists():  # drawn before
        return
    folder.mkdir(parents=True, exist_ok=True)
    orders = []
    for i, mask in enumerate(masks):
        path = folder / f"{name}_{i:04d}.png"
        with replacing(path) as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, "PNG")
        orders.append(Order(settings.engine.prompt, name, maps={name: Shown(path, settings.engine.strength)}, n=1))
    generate(orders, target, drawing, settings=settings, progress=progress)


def _drawn(out: Path, name: str) -> Pairs:
    files = sorted((out / "scenes" / name).glob("*.png"))
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    folder = out / MASKS / name
    return Pairs(images, np.stack([np.asarray(Image.open(folder / path.name)) >= WHITE for path in files]))


def _markdown(result: dict[str, Any]) -> str:
    lines = ["| learned from | pairs | IoU % |", "|---|---|---|"]
    for row in result["rows"]:
        spread = "" if row["iou_std"] is None else f" ± {100 * row['iou_std']:.1f}"
        lines.append(f"| {row['learned_from']} | {row['pairs']:,} | {100 * row['iou_mean']:.1f}{spread} |")
    told, own, other = result["adherence"], *(statistics.fmean(result["adherence"][k]) for k in ("iou", "shuffled"))
    follows = (
        f"In {told['scenes']} scenes drawn after the masks of the test pairs, networks that learned from real pairs "
        f"find what the mask shows: IoU {100 * own:.1f} %; with the masks of other scenes, {100 * other:.1f} %."
    )
    return "\n".join([*lines, "", f"{result['n_test']} real test pairs. {result['verdict']}", "", follows, ""])


def _picture(drawn: Pairs, test: Pairs, path: Path) -> None:
    """Drawn pairs above, real ones below: each scene over its mask."""

    def some(pairs: Pairs) -> list[NDArray[np.uint8]]:
        index = np.resize(evenly(SHOWN, len(pairs)), SHOWN)
        masks = np.repeat(pairs.masks[index][..., None], 3, 3).astype(np.uint8) * 255
        return [pairs.images[index], masks]

    rows = np.concatenate([*some(drawn), *some(test)])
    with replacing(path) as temporary:
        contact_sheet(rows, SHOWN, labels=["drawn", "after", "real", "mask"]).save(temporary, "PNG")
