"""Are the distilled images copies? Distances to the nearest train scene, beside those of real test scenes.

    python bench/nearest.py RUN

Mean absolute difference of pixels, 0 to 255, over the eight views of each train scene of the class. A copy has a
distance near 0; a new scene of the class is about as far from the train scenes as a test scene is.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from terradistill.data.images import load_pixels
from terradistill.data.sources import open_scenes
from terradistill.data.views import N_VIEWS, view


def nearest(images: torch.Tensor, train: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image's nearest train scene in any view; uint8 (n, 3, H, W) and (m, 3, H, W) -> distances, indices (n,)."""
    size = images[0].numel()
    flat = images.float().flatten(1)
    views = [torch.cdist(flat, view(train, number).float().flatten(1), p=1).min(1) for number in range(N_VIEWS)]
    distances, of_view = torch.stack([found.values for found in views]).min(0)
    return distances / size, torch.stack([found.indices for found in views]).gather(0, of_view[None])[0]


def table(rows: dict[str, list[float]], to: str) -> None:
    """Print the smallest, the 5 % quantile and the median of each row."""
    print(f"{'':10} {'smallest':>9} {'5 %':>7} {'median':>7}   distance to the nearest {to} of the class")
    for name, values in rows.items():
        print(f"{name:10} {min(values):9.2f} {np.quantile(values, 0.05):7.2f} {np.median(values):7.2f}")


def main(run: Path) -> None:
    distilled = open_scenes(run / "distilled")
    side = json.loads((run / "manifest.json").read_text())["resolution"]
    split = json.loads((run / "split.json").read_text())
    pixels = {name: np.load(run / "cache" / f"{name}-{side}.npy", mmap_mode="r") for name in ("train", "test")}
    labels = {name: np.array([scene["name"].split("/")[-2] for scene in split[name]]) for name in pixels}
    made = load_pixels(distilled, side, run / "cache" / f"distilled-{side}.npy")

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)

    rows: dict[str, list[float]] = {"distilled": [], "test": []}
    for label, name in enumerate(distilled.classes):
        train = tensor(pixels["train"][labels["train"] == name])
        test = pixels["test"][labels["test"] == name][:50]
        rows["distilled"] += nearest(tensor(made[distilled.labels == label]), train)[0].tolist()
        rows["test"] += nearest(tensor(test), train)[0].tolist()
    table(rows, "train scene")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
