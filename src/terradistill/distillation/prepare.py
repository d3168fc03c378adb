"""`data prepare`: DATA as clean, square, split scene folders."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from terradistill.data.check import CheckReport, check_scenes
from terradistill.data.images import load_pixels
from terradistill.data.scenes import resized_metadata
from terradistill.data.sources import open_scenes
from terradistill.data.splits import divide, limit_scenes, save_split
from terradistill.data.writing import write_scene_folder
from terradistill.errors import RunError
from terradistill.files import replacing, require_apart
from terradistill.run import Progress
from terradistill.settings import DataSettings


def prepare(
    data: str | Path,
    out: str | Path,
    settings: DataSettings | None = None,
    *,
    captions: Path | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check and split DATA, and write `out/train`, `out/test` (scene folders of square PNG) and `out/split.json`.

    Args:
        data: as for `distill`.
        out: a new or empty folder.
        settings: resolution, split, limit and what to do with unreadable images.
        captions: JSON lines with `file_name` and captions.
        progress: called with images done and images in all.

    Raises:
        DataError: DATA cannot be used.
        RunError: `out` is not empty, or lies inside DATA.
    """
    settings, out = settings or DataSettings(), Path(out).expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty: give a new folder for --out.")
    require_apart(out, data)
    scenes = limit_scenes(open_scenes(data, captions=captions), settings)
    scenes, report = check_scenes(scenes, on_corrupt=settings.on_corrupt, progress=progress)
    train, test = divide(scenes, settings, dropped=report.dropped)
    with replacing(out) as part:
        for name, side in (("train", train), ("test", test)):
            cache = part / ".pixels"
            pixels = load_pixels(side, settings.resolution, cache / f"{name}.npy", progress=progress)
            rows = [
                {"source": scene.name, "made_from": scene.made_from or scene.sha256}
                | ({"captions": list(scene.captions)} if scene.captions else {})
                | resized_metadata(scene, side.info, settings.resolution)
                for scene in side.scenes
            ]
            gsd_m = {row.get("gsd_m") for row in rows}
            info = asdict(side.info) | {
                "made_by": "terradistill data prepare",
                "gsd_m": gsd_m.pop() if len(gsd_m) == 1 else None,
            }
            write_scene_folder(part / name, side.classes, pixels, side.labels, rows, info)
            shutil.rmtree(cache)
        # The split names the scenes as they are here, so that `--split-file OUT/split.json` works on OUT.
        sides = [check_scenes(open_scenes(part / name))[0] for name in ("train", "test")]
        train, test = (
            side.with_scenes(replace(scene, name=f"{name}/{scene.name}") for scene in side.scenes)
            for name, side in zip(("train", "test"), sides, strict=True)
        )
        save_split(part / "split.json", train, test, seed=settings.split_seed, train_fraction=settings.train_fraction)
    return report
