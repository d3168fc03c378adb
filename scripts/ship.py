"""Put a trained generator into the package, in half precision, and have it draw the sample scenes.

    python scripts/ship.py [RUN] [--weaker RUN] [--name base-128]
    python scripts/ship.py --enhancer RUN [--name base-128]      instead, what `train enhancer` has trained beside it

RUN is a run folder or a generator folder. What was shipped before is replaced; without RUN, the sample scenes alone.
The denoiser of `--weaker`, an earlier training on the same latents, goes along to guide away from, coarsely rounded: a
wheel is to stay below the 100 MB that package indices take.
"""

import argparse
import json
import shutil
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from terradistill.config import load_settings
from terradistill.data.catalogue import CATALOGUE
from terradistill.generation.draw import generate
from terradistill.generation.orders import Order
from terradistill.models.generator import Generator
from terradistill.models.places import write_learned_from
from terradistill.models.weaker import Weaker
from terradistill.shipped import ENHANCERS, GENERATORS, SCENES

SOURCES = ("eurosat", "ucmerced", "aid")  # what it has learned from
PER_CLASS = 60
BITS = 3  # of the weaker self: rounded by 2.6 % (RMS), where its training and the stronger one differ by 48 %
KEPT = 2  # bits of an enhancer, for the wheel's sake: LPIPS is worse by 0.002 to 0.008 than with all ten
QUALITY = 90  # of WebP: about 6 kB an image of 128 x 128
SAMPLE = {  # class: (prompt, metres a pixel)
    "beach": ("a satellite image of beach", None),
    "desert": ("a satellite image of desert", None),
    "farmland": ("a satellite image of farmland", None),
    "forest": ("a satellite image of forest", 0.6),
    "harbor": ("a satellite image of harbor", 0.6),
    "houses": ("a satellite image of medium residential", 0.6),
    "industry": ("a satellite image of industrial", 5.0),
    "parking": ("a satellite image of parking lot", 0.6),
    "river": ("a satellite image of river", 5.0),
    "stadium": ("a satellite image of stadium", None),
}
CARD = """# Sample scenes

{n} scenes of {k} classes, drawn by the generator base-128 of this package from the prompts in `metadata.jsonl`,
uncurated. No image is a photograph; accuracies measured on them say nothing about real scenes. Licence: Apache-2.0.
"""


def ship(source: str, weaker: str | None, name: str) -> None:
    """Write the generator in float16."""
    generator = Generator.load(source)
    if weaker:
        less = Generator.load(weaker)
        generator.weaker = Weaker(less.unet, less.metadata_encoder)
        for parameter in generator.weaker.parameters():
            parameter.data = rounded(parameter.data, BITS)
        for parameter in unlearned(less):  # what says nothing need not be kept either
            parameter.data.zero_()
    known = [CATALOGUE[name].info for name in SOURCES]
    generator.sources = {info.title: info.licence or "not stated" for info in known}
    for parameter in unlearned(generator):  # to be learned by whoever adapts it, from somewhere: rounding will do
        parameter.data = rounded(parameter.data, BITS)
    for part in generator.networks:
        part.half()
    folder = GENERATORS[name]
    shutil.rmtree(folder, ignore_errors=True)
    generator.save(folder)
    say_sizes(folder)


def unlearned(generator: Generator) -> list[torch.nn.Parameter]:
    """Weights of the networks of numbers that a generator was never told: nothing that it draws depends on them."""
    if (encoder := generator.metadata_encoder) is None:
        return []
    fields = sorted(set(encoder.ranges) - set(encoder.learned))
    return [parameter for field in fields for parameter in encoder.networks[field].parameters()]


def ship_enhancer(source: str, name: str) -> None:
    """Write the frame adapter of a run, coarsely rounded, and the scenes that it has learned from beside `name`."""
    trained, base = Generator.load(source), Generator.load(name)
    pairs = zip(trained.unet.parameters(), base.unet.parameters(), strict=True)
    if trained.frame_adapter is None or not all(torch.equal(*pair) for pair in pairs):
        raise SystemExit(f"{source} holds no enhancer that was trained beside {name}.")
    folder = ENHANCERS[name][trained.frame_adapter.about["task"]]
    shutil.rmtree(folder, ignore_errors=True)
    for parameter in trained.frame_adapter.parameters():
        parameter.data = rounded(parameter.data, KEPT)
    trained.frame_adapter.half().save(folder / "frame_adapter")
    write_learned_from(folder, trained.learned_from - base.learned_from)
    say_sizes(folder)


def say_sizes(folder: Path) -> None:
    """Print what the weights in a folder weigh."""
    for path in sorted(folder.rglob("*.safetensors")):
        print(f"{path.relative_to(folder)}: {path.stat().st_size / 1e6:.1f} MB")


def rounded(weights: torch.Tensor, bits: int) -> torch.Tensor:
    """Weights with so many bits after their first: what is left of float16 packs well."""
    mantissa, exponent = torch.frexp(weights)
    return torch.ldexp((mantissa * 2 ** (bits + 1)).round() / 2 ** (bits + 1), exponent)


def draw(name: str) -> None:
    """Write the sample scenes as a zip of WebP images."""
    orders = [
        Order(prompt, folder, {} if gsd_m is None else {"gsd_m": gsd_m}) for folder, (prompt, gsd_m) in SAMPLE.items()
    ]
    archive = SCENES["sample"]
    with TemporaryDirectory() as made, zipfile.ZipFile(archive, "w") as out:
        scenes = generate(orders, Path(made) / "sample", Generator.load(name), n=PER_CLASS, settings=load_settings())
        for i, scene in enumerate(scenes.scenes):
            packed = BytesIO()
            Image.open(BytesIO(scenes.read(i))).save(packed, "WEBP", quality=QUALITY, method=6)
            _add(out, f"sample/{_webp(scene.name)}", packed.getvalue())
        rows = [json.loads(line) for line in (Path(made) / "sample" / "metadata.jsonl").read_text().splitlines()]
        lines = [json.dumps(row | {"file_name": _webp(row["file_name"])}) for row in rows]
        info = {
            "name": "sample",
            "title": "Sample scenes, drawn by base-128",
            "licence": "Apache-2.0",
            "made_by": "scripts/ship.py",
            "synthetic": True,
        }
        _add(out, "sample/metadata.jsonl", ("\n".join(lines) + "\n").encode())
        _add(out, "sample/dataset.json", json.dumps(info, indent=1).encode())
        _add(out, "sample/README.md", CARD.format(n=len(rows), k=len(SAMPLE)).encode())
    print(f"{archive.name}: {archive.stat().st_size / 1e6:.1f} MB")


def _webp(name: str) -> str:
    return str(Path(name).with_suffix(".webp"))


def _add(out: zipfile.ZipFile, name: str, data: bytes) -> None:
    out.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)  # one date: the same scenes, the same bytes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?")
    parser.add_argument("--weaker", metavar="RUN")
    parser.add_argument("--name", default="base-128", choices=GENERATORS)
    parser.add_argument("--enhancer", metavar="RUN")
    asked = parser.parse_args()
    if asked.enhancer:
        ship_enhancer(asked.enhancer, asked.name)
    else:
        if asked.run:
            ship(asked.run, asked.weaker, asked.name)
        draw(asked.name)
