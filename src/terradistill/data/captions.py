"""Captions: what people wrote of a scene, or a template filled with what is known of it."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from string import Formatter

from terradistill.data.annotations import METADATA_FIELDS
from terradistill.data.scenes import SceneFolder
from terradistill.errors import ConfigError

# What braces may hold: the class, the ground sampling distance, and the other numbers that are known of a scene.
PLACES = ("class", "gsd", *(name for name in METADATA_FIELDS if name != "gsd_m"))
MOST_OPTIONAL = 6  # parts in brackets: each doubles the captions
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")


def captions_of(
    folder: SceneFolder, template: str, metadata: Sequence[Mapping[str, float]] | None = None
) -> list[list[str]]:
    """All captions of each scene, at least one.

    Args:
        folder: scenes.
        template: used for a scene without captions of its own, in every variant; see `class_prompt`.
        metadata: what is known of each scene, in place of its own; as it is resized, its metres a pixel are others.

    Returns:
        One list a scene, in the folder's order; of a template, the longest variant first.

    Raises:
        ConfigError: the template is malformed, or asks for a number that is unknown.
    """
    _check(template)
    known = [scene.metadata for scene in folder.scenes] if metadata is None else metadata

    @cache
    def filled(label: int, row: tuple[tuple[str, float], ...]) -> list[str]:
        return _variants(folder, template, folder.classes[label], dict(row))

    return [
        list(scene.captions) or list(filled(scene.label, tuple(sorted(row.items()))))  # to each its own
        for scene, row in zip(folder.scenes, known, strict=True)
    ]


def class_prompt(
    folder: SceneFolder, class_name: str, template: str, metadata: Mapping[str, float] | None = None
) -> str:
    """The template filled for a whole class, with all that is known of it.

    Args:
        folder: says how the class reads in words, and the dataset's ground sampling distance.
        class_name: one of the folder's classes.
        template: text with {class} and perhaps {gsd} (metres), {month} and other metadata fields. Parts in brackets,
            such as ``a satellite image [of {class}] [at {gsd} m]``, are left out where a number in them is unknown,
            and at random while training (DiffusionSat).
        metadata: what is known of all its scenes; see `shared_metadata`.

    Raises:
        ConfigError: see `captions_of`.
    """
    _check(template)
    return _variants(folder, template, class_name, metadata or {})[0]


def shared_metadata(folder: SceneFolder, rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The numbers that all scenes of a class have in common, for each class of a folder; `rows` are of its scenes."""
    shared: list[dict[str, float] | None] = [None] * len(folder.classes)
    for scene, row in zip(folder.scenes, rows, strict=True):
        before = shared[scene.label]
        shared[scene.label] = dict(row) if before is None else dict(before.items() & row.items())
    return [row or {} for row in shared]


def _check(template: str) -> None:
    try:
        places = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ConfigError(
            f"The caption template {template!r} has unbalanced braces; expected text such as 'an image of {{class}}'."
        ) from error
    unknown = sorted(places - set(PLACES))
    if unknown:
        known = ", ".join(f"{{{place}}}" for place in PLACES)
        raise ConfigError(f"The caption template {template!r} has {{{unknown[0]}}}; only {known} are known.")
    if "class" not in places:
        raise ConfigError(
            f"The caption template {template!r} lacks {{class}}; without it all classes would read alike."
        )
    optional = _OPTIONAL.findall(template)
    if re.search(r"[\[\]]", _OPTIONAL.sub("", template)):
        raise ConfigError(f"The caption template {template!r} has unbalanced or nested brackets.")
    if len(optional) > MOST_OPTIONAL:
        raise ConfigError(
            f"The caption template {template!r} has {len(optional)} parts in brackets: expected at most "
            f"{MOST_OPTIONAL}, since each doubles the captions."
        )


def _variants(folder: SceneFolder, template: str, class_name: str, metadata: Mapping[str, float]) -> list[str]:
    """The filled template with its parts in brackets, and with every choice of them left out."""
    known = {name: f"{value:g}" for name, value in metadata.items() if name != "gsd_m"}
    gsd_m = metadata.get("gsd_m", folder.info.gsd_m)
    words = {"class": folder.readable(class_name), **known} | ({} if gsd_m is None else {"gsd": f"{gsd_m:g}"})
    choices: list[tuple[str, ...]] = []
    for i, part in enumerate(_OPTIONAL.split(template)):
        filled = _fill(part, words)
        if i % 2:  # what stood in brackets
            choices.append(("",) if filled is None else (filled, ""))
        elif filled is None:
            raise ConfigError(
                f"The caption template {template!r} asks for a number that is unknown of {folder.info.name!r}, or not "
                "the same for a whole class: give it in dataset.json or metadata.jsonl, or put that part in [brackets]."
            )
        else:
            choices.append((filled,))
    return list(dict.fromkeys(" ".join("".join(parts).split()) for parts in product(*choices)))


def _fill(part: str, words: Mapping[str, str]) -> str | None:
    """A part with its places filled; None where one of them is unknown."""
    pieces = []
    for text, field, _, _ in Formatter().parse(part):
        pieces.append(text)
        if field is not None:
            if field not in words:
                return None
            pieces.append(words[field])
    return "".join(pieces)
