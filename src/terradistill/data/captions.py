"""Captions: what people wrote of a scene, or a template filled with its class."""

from string import Formatter

from terradistill.data.scenes import SceneFolder
from terradistill.errors import ConfigError

_PLACES = ("class", "gsd")


def captions_of(folder: SceneFolder, template: str) -> list[list[str]]:
    """All captions of each scene, at least one.

    Args:
        folder: scenes.
        template: used for a scene without captions of its own; see `class_prompt`.

    Returns:
        One list a scene, in the folder's order.

    Raises:
        ConfigError: the template is malformed, or asks for a ground sampling distance that is unknown.
    """
    _check(template)
    return [
        list(scene.captions)
        or [_fill(folder, template, folder.classes[scene.label], scene.metadata.get("gsd_m", folder.info.gsd_m))]
        for scene in folder.scenes
    ]


def class_prompt(folder: SceneFolder, class_name: str, template: str) -> str:
    """The template filled for a whole class.

    Args:
        folder: says how the class reads in words, and the dataset's ground sampling distance.
        class_name: one of the folder's classes.
        template: text with {class} and perhaps {gsd}, the ground sampling distance in metres.

    Raises:
        ConfigError: see `captions_of`.
    """
    _check(template)
    return _fill(folder, template, class_name, folder.info.gsd_m)


def _check(template: str) -> None:
    try:
        places = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ConfigError(
            f"The caption template {template!r} has unbalanced braces; expected text such as 'an image of {{class}}'."
        ) from error
    unknown = sorted(places - set(_PLACES))
    if unknown:
        raise ConfigError(
            f"The caption template {template!r} has {{{unknown[0]}}}; only {{class}} and {{gsd}} are known."
        )
    if "class" not in places:
        raise ConfigError(
            f"The caption template {template!r} lacks {{class}}; without it all classes would read alike."
        )


def _fill(folder: SceneFolder, template: str, class_name: str, gsd_m: float | None) -> str:
    if gsd_m is None and any(field == "gsd" for _, field, _, _ in Formatter().parse(template)):
        raise ConfigError(
            f"The caption template {template!r} has {{gsd}}, but the resolution of {folder.info.name!r} is unknown; "
            "give gsd_m in dataset.json or leave {gsd} out."
        )
    words = {"class": folder.readable(class_name), "gsd": "" if gsd_m is None else f"{gsd_m:g}"}
    return "".join(text + (words[field] if field else "") for text, field, _, _ in Formatter().parse(template))
