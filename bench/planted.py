"""Does the audit find copies, and does it leave other scenes alone?

    python bench/planted.py DATA [DATA ...] [--limit 300]

Ten copies of train scenes of each kind (exact, flipped, turned, recompressed, noised, enlarged a little) and half of
the held-out scenes are audited as if a generator had drawn them; the other half of the held-out scenes tells the audit
how like scenes are that are no copies. Noise of 4 is more than a calm lake's own contrast.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terradistill import audit
from terradistill.config import load_settings
from terradistill.data.check import check_scenes
from terradistill.data.images import load_pixels
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.data.splits import divide, limit_scenes
from terradistill.data.writing import write_scene_folder
from terradistill.models.places import write_learned_from
from terradistill.seeding import numpy_generator

COPIES = 10  # of each kind
HELD_OUT = "held out"
MOST = 128  # pixels of the images that are audited, or fewer where the scenes are smaller
Pixels = NDArray[np.uint8]


def recompressed(image: Pixels, quality: int = 75) -> Pixels:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def noised(image: Pixels, deviation: float = 2.0) -> Pixels:
    noise = numpy_generator(0, "planted").normal(0, deviation, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


def enlarged(image: Pixels, cut: float = 0.03) -> Pixels:
    side = len(image)
    edge = cut * side
    return np.asarray(Image.fromarray(image).resize((side, side), box=(edge, edge, side - edge, side - edge)))


KINDS: dict[str, Callable[[Pixels], Pixels]] = {
    "exact": lambda image: image,
    "flipped": lambda image: image[:, ::-1],
    "turned": lambda image: np.rot90(image),
    "recompressed": recompressed,
    "noised by 2 of 255": noised,
    "by 4": partial(noised, deviation=4.0),
    "enlarged by 6 %": enlarged,
}


def write(out: Path, classes: list[str], pixels: Pixels, of_class: list[str], kinds: Sequence[str] = ()) -> SceneFolder:
    rows = [{"kind": kind} for kind in kinds] or [{} for _ in of_class]
    write_scene_folder(out, classes, pixels, [classes.index(name) for name in of_class], rows, {"name": out.name})
    return open_scenes(out)


def judge(data: str, limit: int, overrides: list[str], folder: Path) -> str:
    settings = load_settings(None, overrides=overrides, data__limit=limit)
    train, test = divide(check_scenes(limit_scenes(open_scenes(data), settings.data))[0], settings.data)
    order = numpy_generator(0, "planted", "halves").permutation(len(test))
    judged, told = test.subset(np.sort(order[::2]).tolist()), test.subset(np.sort(order[1::2]).tolist())
    # At a larger size than their own, noise and compression would be averaged away before anybody looks.
    side = min(MOST, *(min(scene.width, scene.height) for scene in train.scenes))
    classes = [name for name in train.classes if judged.counts[name] and told.counts[name]]

    def of(scenes: SceneFolder, name: str) -> tuple[Pixels, list[str]]:
        keep = scenes.subset([i for i, scene in enumerate(scenes.scenes) if scenes.classes[scene.label] in classes])
        return load_pixels(keep, side, folder / f"{name}.npy"), [keep.classes[label] for label in keep.labels]

    (real, real_of), (other, other_of), (fresh, fresh_of) = of(train, "train"), of(told, "told"), of(judged, "judged")
    write(folder / "against", classes, np.concatenate([real, other]), [*real_of, *other_of])
    learned, _ = check_scenes(write(folder / "learned", classes, real, real_of))

    places = numpy_generator(0, "planted", "copies").permutation(len(real))[: COPIES * len(KINDS)]
    kinds = np.repeat(list(KINDS), COPIES)[: len(places)]
    planted = [np.ascontiguousarray(KINDS[kind](np.asarray(real[i]))) for kind, i in zip(kinds, places, strict=True)]
    write(
        folder / "made",
        classes,
        np.concatenate([np.stack(planted), fresh]),
        [*(real_of[i] for i in places), *fresh_of],
        [*kinds, *[HELD_OUT] * len(fresh)],
    )
    write_learned_from(folder / "made", [scene.sha256 for scene in learned.scenes])

    found = audit(folder / "made", folder / "against", folder / "audit", settings)
    rows = [json.loads(line) for line in (folder / "made" / "metadata.jsonl").read_text().splitlines()]
    kind_of, near = {row["file_name"]: row["kind"] for row in rows}, set(found["flagged"])
    every, flagged = Counter(kind_of.values()), Counter(kind for name, kind in kind_of.items() if name in near)
    counts = [f"{kind} {flagged[kind]} of {every[kind]}" for kind in KINDS]
    share = flagged[HELD_OUT] / every[HELD_OUT]
    return f"{', '.join(counts)}; flagged of held-out scenes {flagged[HELD_OUT]} of {every[HELD_OUT]} ({share:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+")
    parser.add_argument("--limit", type=int, default=300, help="scenes of a class")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    asked = parser.parse_args()
    for data in asked.data:
        with TemporaryDirectory() as made:
            print(f"{data}: copies found: {judge(data, asked.limit, asked.set, Path(made))}", flush=True)


if __name__ == "__main__":
    main()
