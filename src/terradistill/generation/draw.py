"""Scenes to order: orders in, a scene folder and a contact sheet out."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.images import decode, resize, to_float
from terradistill.data.maps import read_map
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.data.writing import SceneWriter
from terradistill.errors import ConfigError, DataError
from terradistill.generation.asked import asked_for
from terradistill.generation.orders import Order, require_numbers
from terradistill.hardware import Hardware, find_hardware
from terradistill.models.control import Control
from terradistill.models.generator import Generator
from terradistill.models.places import write_learned_from
from terradistill.report.gallery import write_gallery
from terradistill.run import Progress
from terradistill.sampling.guidance import chunked, guided_as, reporting
from terradistill.sampling.sampler import Guidance, Request, decoded, sample
from terradistill.seeding import derive
from terradistill.settings import MAPS, SamplingSettings, Settings

WRITERS = 4  # threads that compress images while the next ones are drawn


def generate(
    orders: Sequence[Order],
    out: str | Path,
    generator: Generator,
    *,
    n: int = 16,
    seed: int | None = None,
    size: int | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    step_progress: Progress | None = None,
) -> SceneFolder:
    """Draw `n` images of each order.

    They are written to `OUT.part` as they are drawn: the same call goes on with what a stopped one has left there, and
    another one is refused.

    Args:
        orders: what to draw, orders of one folder one after the other; image i of a folder depends on its order and
            (seed, folder, i) alone.
        out: a new or empty folder; `<folder>/*.png`, `metadata.jsonl`, `gallery.png` and copies of the maps and
            pictures go there, with the hashes of the scenes that the generator has learned from; `dataset.json` says
            with what they were drawn, and the licences of those scenes.
        generator: what draws.
        n: images an order, where it does not say itself.
        seed: another seed, other images; None: that of the settings.
        size: side of the images, pixels, a multiple of the generator's factor; None: the generator's own.
        settings: of sampling and precision.
        progress: called with images done and images in all.
        step_progress: called with denoising steps done and steps in all, for few images at once.

    Raises:
        ConfigError: nothing was ordered, a condition that the generator has not learned, or a size that it cannot draw.
        DataError: metadata out of range, a file that is no image, or a folder name that is none.
        RunError: `out` is not empty, or another call has begun to fill it.
    """
    settings, out = settings or Settings(), Path(out)
    n, seed = int(n), settings.seed if seed is None else int(seed)
    if not orders:
        raise ConfigError("Nothing was ordered: give a prompt, such as --prompt 'a satellite image of a river'.")
    folders = _folders(orders)
    _require_learned(orders, generator)
    side = _side(generator, size)
    _require_sound(orders, generator, side)
    of = [k for k, order in enumerate(orders) for _ in range(order.n or n)]
    places = list(_numbered(folders[k] for k in of))
    classes = sorted(set(folders))
    wanted = [[folder, order.n or n, order.made_of()] for folder, order in zip(folders, orders, strict=True)]
    asked = asked_for("generate", settings, generator, "sampling", orders=wanted, seed=seed, size=side)
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of[folder] for folder, _ in places]
    seeds = [derive(seed, "order", folder, i) for folder, i in places]
    hardware, batch = find_hardware(settings.precision), settings.sampling.batch_size
    steps = [] if step_progress is None else [reporting(step_progress)]
    with closing(SceneWriter(out, classes, labels, asked)) as writer, ThreadPoolExecutor(WRITERS) as pool:
        generator = generator.ready(hardware.device, low_memory=settings.sampling.low_memory)
        lacking, done, within = set(writer.lacking()), 0, chunked(2 * batch)  # doubled by classifier-free guidance
        written: list[Future[None]] = []
        for block in _blocks([_counts(orders[k]) for k in of], batch):
            if not lacking.isdisjoint(block):
                drawn = Counter(of[i] for i in block)
                images = draw(
                    generator,
                    [orders[k] for k in drawn],
                    [seeds[i] for i in block],
                    list(drawn.values()),
                    settings.sampling,
                    hardware,
                    size=side,
                    guidances=steps,
                    within=within,
                )
                for future in written:
                    future.result()  # a full disk is told of a block later at the latest
                written = [pool.submit(writer.keep, i, image) for i, image in zip(block, images, strict=True)]
            done += len(block)
            if progress:
                progress(done, len(of))
        for future in written:
            future.result()
        write_learned_from(writer.part, generator.learned_from)
        pictures = {name: sorted((writer.part / name).glob("*.png")) for name in dict.fromkeys(folders)}
        write_gallery(pictures, writer.part / "gallery.png")
        told = _told(orders, writer.part)
        rows = [{**told[k], "seed": own} for k, own in zip(of, seeds, strict=True)]
        writer.finish(rows, _card(asked, generator))
    return open_scenes(out)


def _card(asked: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
    """What `dataset.json` says: how scenes were drawn, and the licences of what their generator has learned from."""
    card = {"title": "Scenes made to order", "made_by": "terradistill generate", "synthetic": True}
    licences = "; ".join(f"{licence} ({title})" for title, licence in generator.sources.items())
    drawn_with = {key: value for key, value in asked.items() if key != "orders"}
    return card | {"drawn_with": drawn_with} | ({"licence": licences} if licences else {})


def _told(orders: Sequence[Order], folder: Path) -> list[dict[str, Any]]:
    """What each order says of its images. Its maps and pictures are copied beside them: sets are handed on."""
    kept = {}
    for path, shown in {shown.path: shown for order in orders for shown in order.shown()}.items():
        kept[path] = f"condition-{shown.digest()}{path.suffix.lower()}"
        copyfile(path, folder / kept[path])
    return [order.row(kept) for order in orders]


def _blocks(pictured: Sequence[bool], most: int) -> Iterator[list[int]]:
    """Numbers of images that are drawn together, always the same; those after a content image apart from the others.

    The tokens of no picture would change images without one.
    """
    for kind in (False, True):
        own = [i for i, shown in enumerate(pictured) if shown == kind]
        yield from (own[first : first + most] for first in range(0, len(own), most))


def draw(
    generator: Generator,
    orders: Sequence[Order],
    seeds: Sequence[int],
    counts: Sequence[int],
    wanted: SamplingSettings,
    hardware: Hardware,
    *,
    size: int | None = None,
    progress: Progress | None = None,
    guidances: Sequence[Guidance] = (),
    within: Guidance | None = None,
) -> NDArray[np.uint8]:
    """Images uint8 (sum of counts, H, W, 3) of orders, side by side, each from its own seed; `guidances` come last.

    All of the orders have a content image that counts, or none has. `within` keeps steps to what memory holds; None: it
    is found out anew.
    """
    side = _side(generator, size)
    numbers, of = generator.metadata_encoder, torch.arange(len(orders)).repeat_interleave(torch.tensor(counts))
    told = any(order.metadata for order in orders)
    text = generator.embed([*(order.prompt for order in orders), ""])
    if any(_counts(order) for order in orders):
        text = torch.cat([text, _pictures(generator, orders)], 1)
    request = Request(
        text=text[:-1],
        prompt_of=of,
        seeds=seeds,
        metadata=numbers.table([order.metadata for order in orders])[of] if numbers and told else None,
        control=_after_maps(generator, orders, side, of, hardware) if any(order.maps for order in orders) else None,
        size=(side // generator.factor, side // generator.factor),
    )
    latents = sample(
        generator,
        request,
        wanted,
        hardware=hardware,
        guidances=[
            *guided_as(
                wanted,
                generator,
                request,
                text[-1:],
                within or chunked(2 * wanted.batch_size),  # doubled by classifier-free guidance
                hardware,
                shown=torch.tensor([order.heeds() for order in orders])[of],
            ),
            *guidances,
        ],
        progress=progress,
    )
    return decoded(generator, latents, hardware)


def _require_learned(orders: Sequence[Order], generator: Generator) -> None:
    for order in orders:
        require_numbers(generator, order.metadata)
        for what, how, asked, part in (
            ("maps", "--maps", order.maps, generator.map_adapter),
            ("content images", "--content", order.content, generator.content_encoder),
        ):
            if asked and part is None:
                raise ConfigError(
                    f"This generator has not learned {what}: train an adapter first (terradistill train adapter {how})."
                )
        if generator.map_adapter is not None:
            known = generator.map_adapter.learned
            odd = [name for name in order.maps if name not in known]
            if odd:
                raise ConfigError(f"This generator has not learned the map {odd[0]!r}: expected {', '.join(known)}.")


def _require_sound(orders: Sequence[Order], generator: Generator, side: int) -> None:
    """Read every condition once: what is wrong with the last order should be known before the first is drawn."""
    if generator.metadata_encoder is not None:
        generator.metadata_encoder.table([order.metadata for order in orders])
    for path, name in sorted({(shown.path, name) for order in orders for name, shown in order.maps.items()}):
        read_map(path, name, side)
    for path in sorted({order.content.path for order in orders if order.content is not None}):
        _picture(path, side)


def _picture(path: Path, side: int) -> NDArray[np.uint8]:
    """A content image (side, side, 3).

    Raises:
        DataError: there is none at `path`.
    """
    try:
        return resize(decode(path.read_bytes()), side)
    except OSError as error:
        raise DataError(f"The picture {path} cannot be read ({error.strerror}): give a PNG or JPEG.") from error
    except DataError as error:
        raise DataError(f"The picture {path}: {error}") from error


def _side(generator: Generator, size: int | None) -> int:
    """Of the images, pixels."""
    side = size or generator.resolution
    if side % generator.factor or side < 2 * generator.factor:
        raise ConfigError(f"Images of {side} pixels a side: expected a multiple of {generator.factor}.")
    return side


def _counts(order: Order) -> bool:
    """Whether the order's content image says anything."""
    return order.content is not None and order.content.strength > 0


def _pictures(generator: Generator, orders: Sequence[Order]) -> Tensor:
    """Tokens of the content images, and of none for the prompts without and for the empty one: (orders + 1, 4, D)."""
    encoder = generator.content_encoder
    if encoder is None:
        raise ConfigError("This generator has not learned content images: train an adapter first.")
    device = next(encoder.parameters()).device
    tokens = [encoder.none.detach()] * (len(orders) + 1)
    for i, order in enumerate(orders):
        if order.content is not None and _counts(order):
            image = _picture(order.content.path, generator.resolution)
            latents = generator.encode(to_float(image[None]).to(device))[0]
            tokens[i] = encoder(latents, order.content.strength)[0]
    return torch.stack(tokens).float()


def _after_maps(
    generator: Generator, orders: Sequence[Order], side: int, of: Tensor, hardware: Hardware
) -> Callable[[Tensor], Control]:
    """What the map adapter reads for images by number; `of` says which order each is of."""
    adapter, (maps, strengths) = generator.map_adapter, _maps(orders, side)
    assert adapter is not None  # or the order was refused

    def control(rows: Tensor) -> Control:
        # Of each order of the batch once, however many images it has.
        several, place = of[rows].unique(return_inverse=True)
        read = adapter.control(maps[several].to(hardware.device), strengths[several].to(hardware.device))
        return read.rows(place.to(hardware.device))

    return control


def _maps(orders: Sequence[Order], side: int) -> tuple[Tensor, Tensor]:
    """Maps uint8 (orders, 18, side, side) and their strengths (orders, 6)."""
    maps = torch.zeros(len(orders), 3 * len(MAPS), side, side, dtype=torch.uint8)
    strengths = torch.zeros(len(orders), len(MAPS))
    for i, order in enumerate(orders):
        for name, shown in order.maps.items():
            place = MAPS.index(name)
            drawn = torch.from_numpy(np.array(read_map(shown.path, name, side)))
            planes = drawn[None] if drawn.ndim == 2 else drawn.permute(2, 0, 1)
            maps[i, 3 * place : 3 * place + 3] = planes if shown.strength else 0
            strengths[i, place] = shown.strength
    return maps, strengths


def _folders(orders: Sequence[Order]) -> list[str]:
    """A folder name for each order: its own, which others may share, or its prompt's words, numbered if not unique."""
    own = {order.folder for order in orders if order.folder}
    words = ["-".join(re.findall(r"[^\W_]+", order.prompt.lower()))[:60] or "scene" for order in orders]
    times = Counter(name for name, order in zip(words, orders, strict=True) if not order.folder)
    taken = own | {name for name, n in times.items() if n == 1}
    names = []
    for name, order in zip(words, orders, strict=True):
        if order.folder:
            name = order.folder
        elif times[name] > 1 or name in own:
            name = next(numbered for k in itertools.count() if (numbered := f"{name}-{k}") not in taken)
            taken.add(name)
        names.append(name)
    return names


def _numbered(folders: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each folder with how often it came before."""
    before: Counter[str] = Counter()
    for folder in folders:
        yield folder, before[folder]
        before[folder] += 1
