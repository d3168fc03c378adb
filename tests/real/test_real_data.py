"""The data room and the autoencoder on real downloads; skipped where they are not at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from terradistill.data.captions import captions_of
from terradistill.data.check import check_scenes, require_enough
from terradistill.data.images import load_pixels, to_float
from terradistill.data.sources import open_scenes
from terradistill.data.splits import assert_disjoint, limit_scenes, load_split, save_split, split_scenes
from terradistill.hardware import find_hardware
from terradistill.models.autoencoder import build_vae
from terradistill.settings import AutoencoderSettings, DataSettings
from terradistill.training.autoencoder import train_autoencoder

DATA = Path(__file__).parents[2].parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA.parent.name}/{DATA.name}")
pytestmark = needs_data

EXPECTED = {
    "eurosat": (27_000, 10, "MIT"),
    "ucmerced": (2_100, 21, "public domain (USGS)"),
    "aid128": (10_000, 30, None),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_zip_goes_through_the_whole_room(name: str, tmp_path: Path) -> None:
    path = DATA / f"{name}.zip"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    n_images, n_classes, licence = EXPECTED[name]
    listed = open_scenes(path)
    assert (len(listed), len(listed.classes), listed.n_ignored) == (n_images, n_classes, 0)
    assert licence is None or listed.info.licence == licence

    folder, report = check_scenes(limit_scenes(listed, DataSettings(limit=40)))
    assert not report.unreadable
    assert not report.conflicting
    train, test = split_scenes(folder, 0.5, seed=0)
    require_enough(train, ipc=10)
    assert_disjoint(train, test)
    save_split(tmp_path / "split.json", train, test)
    assert load_split(tmp_path / "split.json", folder) == (train, test)
    assert load_pixels(train, 32, tmp_path / "pixels.npy").shape == (len(train), 32, 32, 3)


@pytest.mark.parametrize("name", ["ucmerced", "aid128"])
def test_captions_beside_a_zip_are_found_for_every_scene(name: str) -> None:
    if not (DATA / f"{name}_captions.jsonl").is_file():
        pytest.skip(f"{name}_captions.jsonl is absent")
    folder = open_scenes(DATA / f"{name}.zip")
    assert all(scene.captions for scene in folder.scenes)
    assert sum(map(len, captions_of(folder, "{class}"))) > len(folder)


def test_an_autoencoder_keeps_the_colours_of_real_scenes(tmp_path: Path) -> None:
    """Forest, sea and pasture differ in little but colour, which an autoencoder finds last."""
    if not (DATA / "eurosat.zip").is_file():
        pytest.skip("eurosat.zip is absent")
    train, test = split_scenes(limit_scenes(open_scenes(DATA / "eurosat.zip"), DataSettings(limit=40)), 0.5, seed=0)
    pixels = {side: load_pixels(scenes, 64, tmp_path / side) for side, scenes in (("train", train), ("test", test))}
    hardware = find_hardware()  # bfloat16 where it is fast: emulated it takes a quarter of an hour
    # Of bfloat16, machines round as they will: at 60 steps the lower of the two is 0.86 to 0.90, at 120 0.95.
    settings = AutoencoderSettings(steps=120, warmup_steps=20)
    vae = build_vae(settings, 64, seed=0).to(hardware.device)
    train_autoencoder(vae, pixels["train"], settings, seed=0, hardware=hardware)

    x = to_float(pixels["test"]).to(hardware.device)
    with torch.no_grad(), hardware.autocast():
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.float()
    for a, b in ((0, 2), (1, 2)):
        shown, kept = (F.avg_pool2d(image[:, a : a + 1] - image[:, b : b + 1], 8).flatten().cpu() for image in (x, y))
        assert np.corrcoef(shown, kept)[0, 1] > 0.9
