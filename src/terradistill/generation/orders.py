"""What to draw: prompts, numbers, maps and pictures, from the command line or from a file of requests."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from terradistill.data.annotations import LEAST, METADATA_FIELDS, is_finite
from terradistill.data.arrays import evenly
from terradistill.data.captions import class_prompt
from terradistill.data.check import check_scenes
from terradistill.data.scenes import SceneFolder, resized_metadata
from terradistill.errors import ConfigError
from terradistill.models.generator import Generator
from terradistill.settings import MAPS

MOST = 1_000_000  # images of an order


@dataclass(frozen=True)
class Shown:
    """An image file that is a condition, and how much it counts.

    Attributes:
        path: a map, or a content image.
        strength: 0 is not at all, 1 as it was learned.
    """

    path: Path
    strength: float = 1.0

    def digest(self) -> str:
        """Of what is in the file, wherever it lies."""
        return sha256(self.path.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Order:
    """What to draw.

    Attributes:
        prompt: a caption; may be empty.
        folder: the class folder that the images go to; empty: made from the prompt.
        metadata: numbers to tell the generator, such as ``{"gsd_m": 0.6}``.
        maps: name -> map file, such as ``{"road": Shown(Path("mask.png"), 0.8)}``.
        content: a picture that the images should look like.
        n: how many images; None: as many as the call says.
    """

    prompt: str
    folder: str = ""
    metadata: Mapping[str, float] = field(default_factory=dict)
    maps: Mapping[str, Shown] = field(default_factory=dict)
    content: Shown | None = None
    n: int | None = None

    def shown(self) -> list[Shown]:
        """Its maps and its content image."""
        return [*self.maps.values(), *([self.content] if self.content else [])]

    def heeds(self) -> bool:
        """Whether any of these says anything: such images are guided without a weaker self."""
        return any(shown.strength > 0 for shown in self.shown())

    def row(self, kept: Mapping[Path, str]) -> dict[str, Any]:
        """Every condition, as columns of `metadata.jsonl`; `kept` says where each file lies from there."""
        row: dict[str, Any] = {"prompt": self.prompt, **self.metadata}
        for name, shown in self.maps.items():
            row |= {f"map_{name}": kept[shown.path], f"map_{name}_strength": shown.strength}
        if self.content is not None:
            row |= {"content": kept[self.content.path], "content_strength": self.content.strength}
        return row

    def made_of(self) -> dict[str, Any]:
        """All that its images are made of, as JSON holds it: files by their hashes, wherever they lie."""

        maps = {name: [shown.digest(), shown.strength] for name, shown in self.maps.items()}
        content = None if self.content is None else [self.content.digest(), self.content.strength]
        return {"prompt": self.prompt, "metadata": dict(self.metadata), "maps": maps, "content": content}


def require_numbers(generator: Generator, metadata: Mapping[str, float]) -> None:
    """Make sure that a generator can be told numbers.

    Raises:
        ConfigError: it has not learned one of them, or one is too small to be meant.
    """
    for name, value in metadata.items():
        if name in LEAST and value < LEAST[name]:
            raise ConfigError(f"{name}={value:g}: expected at least {LEAST[name]:g}; leave out what is unknown.")
    if metadata and generator.metadata_encoder is None:
        name = next(iter(metadata))
        raise ConfigError(f"This generator has not learned metadata, so {name} would mean nothing: leave it out.")
    learned = generator.metadata_encoder.learned if generator.metadata_encoder is not None else ()
    if odd := [name for name in metadata if name not in learned]:
        raise ConfigError(
            f"This generator has not learned {odd[0]}: it knows {', '.join(learned) or 'no numbers'}; leave it out."
        )


def orders_like(scenes: SceneFolder, template: str, generator: Generator) -> list[Order]:
    """One order a class, in the words and at the ground sampling distance of a real dataset.

    Args:
        scenes: a few of them are read for their size, since metres a pixel follow resizing.
        template: see `class_prompt`.
        generator: says how large its images are, and whether it has learned metadata.
    """
    some = evenly(32, len(scenes)).tolist()
    checked, _ = check_scenes(scenes.subset(some))
    rows = [resized_metadata(scene, scenes.info, generator.resolution) for scene in checked.scenes]
    sizes = [row["gsd_m"] for row in rows if "gsd_m" in row]
    known = {"gsd_m": float(np.median(sizes))} if sizes else {}
    told = {} if generator.metadata_encoder is None else generator.metadata_encoder.sayable(known)
    return [Order(class_prompt(scenes, name, template, known), name, told) for name in scenes.classes]


def parse_metadata(text: str) -> dict[str, float]:
    """Numbers written as ``gsd_m=10,month=7``.

    Raises:
        ConfigError: another form, or a field that nobody knows.
    """
    known: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            known[name] = float(value)
        except ValueError:
            raise ConfigError(f"The metadata {part!r} is not of the form gsd_m=10: give name=number.") from None
        if name not in METADATA_FIELDS:
            raise ConfigError(f"There is no metadata field {name!r}: choose among {', '.join(METADATA_FIELDS)}.")
    return known


def parse_shown(text: str) -> Shown:
    """A file and perhaps its strength, written as ``mask.png:0.8``.

    Raises:
        ConfigError: there is no such file, or the strength is negative or no number.
    """
    path, colon, strength = text.rpartition(":")
    if colon and not Path(text).exists() and re.fullmatch(r"[-+.\deE]*|nan|inf", strength):
        try:
            shown = Shown(Path(path), float(strength))
        except ValueError:
            raise ConfigError(f"The strength {strength!r} in {text!r} is no number: give one such as 0.8.") from None
    else:
        shown = Shown(Path(text))
    if not 0 <= shown.strength <= 10:
        raise ConfigError(f"The strength of {shown.path} is {shown.strength:g}: expected a number from 0 to 10.")
    if not shown.path.is_file():
        raise ConfigError(f"There is no file {shown.path}: give an image, such as mask.png or mask.png:0.8.")
    return shown


def parse_maps(texts: Sequence[str]) -> dict[str, Shown]:
    """Maps written as ``road=mask.png:0.8``.

    Raises:
        ConfigError: another form, a map that nobody knows, twice the same, or see `parse_shown`.
    """
    maps: dict[str, Shown] = {}
    for text in texts:
        name, equals, shown = (piece.strip() for piece in text.partition("="))
        if not equals or name not in MAPS or name in maps:
            raise ConfigError(f"The map {text!r}: expected name=file, each of {', '.join(MAPS)} at most once.")
        maps[name] = parse_shown(shown)
    return maps


def read_requests(path: Path) -> list[Order]:
    """Orders from JSON lines: `prompt`, and perhaps `folder`, `n`, metadata fields, `maps` and `content`.

    `maps` is name -> file, and files may have strengths, as on the command line. They are looked for beside `path`.

    Raises:
        ConfigError: the file cannot be read, or a line is malformed; the line is named.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"The requests {path} cannot be read ({error}): give a file of JSON lines.") from error
    orders = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            orders.append(_order(json.loads(line.decode("utf-8-sig")), path.parent))
        except (ConfigError, ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
        except OSError as error:  # a name that no file can have
            raise ConfigError(f"{path}, line {number}: {error.strerror}: give the name of a file.") from error
    return orders


def require_whole(text: str) -> None:
    """Refuse what no file and no tokenizer takes.

    Raises:
        ConfigError: the text has half a character, a lone surrogate.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f"{text[:60]!r} has half a character (a lone surrogate): write it anew.")


def _order(row: Any, root: Path) -> Order:
    known = {"prompt", "folder", "n", "maps", "content", *METADATA_FIELDS}
    if not isinstance(row, dict) or not isinstance(row.get("prompt", ""), str):
        raise ConfigError('expected an object such as {"prompt": "a satellite image of a river"}.')
    odd = sorted(set(row) - known)
    if odd:
        raise ConfigError(f"there is no {odd[0]!r} in a request: expected {', '.join(sorted(known))}.")
    for name in ("prompt", "folder", "content"):
        if not isinstance(row.get(name), str | None):
            raise ConfigError(f"{name} is {row[name]!r}: expected text.")
        require_whole(row.get(name) or "")
    n = row.get("n")
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST):
        raise ConfigError(f"n is {n!r}: expected a whole number from 1 to {MOST:,}.")
    numbers = {name: row[name] for name in METADATA_FIELDS if row.get(name) is not None}
    if odd := [name for name, value in numbers.items() if not is_finite(value)]:
        raise ConfigError(f"{odd[0]} is {numbers[odd[0]]!r}: expected a number.")
    maps = row.get("maps")
    if not isinstance(maps, dict | None):
        raise ConfigError(f'maps is {maps!r}: expected an object such as {{"road": "mask.png:0.8"}}.')
    content = row.get("content")
    return Order(
        row.get("prompt", ""),
        row.get("folder") or "",
        {name: float(value) for name, value in numbers.items()},
        parse_maps([f"{name}={_beside(root, str(file))}" for name, file in (maps or {}).items()]),
        None if content is None else parse_shown(_beside(root, content)),
        n,
    )


def _beside(root: Path, file: str) -> str:
    return file if Path(file).is_absolute() else str(root / file)


def completed(
    orders: Sequence[Order], metadata: Mapping[str, float], maps: Mapping[str, Shown], content: Shown | None
) -> list[Order]:
    """Orders with what is asked of all of them; an order's own maps and content go first, the shared numbers last."""
    return [
        replace(
            order,
            metadata={**order.metadata, **metadata},
            maps={**maps, **order.maps},
            content=order.content or content,
        )
        for order in orders
    ]
