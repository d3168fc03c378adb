"""Where a generator is, and what its folder says that it has learned from."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from terradistill.errors import GeneratorError
from terradistill.files import write_text
from terradistill.shipped import GENERATORS

LEARNED_FROM = "learned_from.json"
EXTRAS = ("metadata_encoder", "map_adapter", "frame_adapter", "content_encoder", "weaker")
_PLACES = (".", "generator")  # of a generator in a folder that holds one


def locate_generator(source: str | Path) -> str:
    """The diffusers folder that `source` names (itself, `generator/` in a run folder, a shipped one), or its hub id.

    Raises:
        GeneratorError: it is neither.
    """
    if str(source) in GENERATORS and not any((Path(source) / each / "model_index.json").exists() for each in _PLACES):
        if not (GENERATORS[str(source)] / "model_index.json").exists():
            raise GeneratorError(
                f"This installation lacks the weights of {source}: reinstall TerraDistill, name another generator "
                "(--generator), or learn from DATA alone (--from-scratch)."
            )
        source = GENERATORS[str(source)]
    inside = Path(source) / "generator" / "model_index.json"
    folder = inside.parent if inside.exists() else Path(source)
    if folder.is_dir() and not (folder / "model_index.json").exists():
        raise GeneratorError(
            f"{source} holds no generator: expected a diffusers folder with model_index.json, "
            "or a run folder with generator/ in it."
        )
    if not folder.is_dir() and (str(source).count("/") != 1 or Path(source).parent.is_dir()):
        raise GeneratorError(
            f"There is no generator at {source}: give a folder, a hub id such as owner/name, "
            f"or {' or '.join(GENERATORS)}."
        )
    return str(folder)


def learned_from(source: str | Path) -> frozenset[str]:
    """Hashes of the scenes that a generator has learned from, as far as its folder says.

    Raises:
        GeneratorError: there is no such generator, or the list is damaged.
    """
    return learned_in(own_parts(locate_generator(source)))


def sources_of(source: str | Path) -> dict[str, str]:
    """Titles and licences of what a generator has learned from, as far as its folder says.

    Raises:
        GeneratorError: there is no such generator, or its list is damaged.
    """
    return sources_in(own_parts(locate_generator(source)))


def learned_in(folder: Path) -> frozenset[str]:
    """Hashes of the scenes that the parts in a folder have learned from, as far as it says.

    Raises:
        GeneratorError: the list is damaged.
    """
    return frozenset(_said(folder)["sha256"])


def sources_in(folder: Path) -> dict[str, str]:
    """Titles and licences of what they were of.

    Raises:
        GeneratorError: the list is damaged.
    """
    return {str(title): str(licence) for title, licence in _said(folder)["sources"].items()}


def listed(text: str, where: str) -> frozenset[str]:
    """Hashes in a list as `write_learned_from` writes it.

    Raises:
        GeneratorError: it is damaged; the message names `where`.
    """
    return frozenset(_parsed(text, where)["sha256"])


def write_learned_from(folder: Path, hashes: Iterable[str]) -> None:
    """Say in a folder which scenes went into it, by hashes of their pixels, so that no command lets them judge it."""
    if known := sorted(hashes):
        write_text(folder / LEARNED_FROM, json.dumps({"sha256": known}) + "\n")


def _said(folder: Path) -> dict[str, Any]:
    path = folder / LEARNED_FROM
    if not path.exists():
        return {"sha256": [], "sources": {}}
    return _parsed(path.read_text(encoding="utf-8", errors="replace"), str(path))


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
        return {"sha256": list(said["sha256"]), "sources": dict(said.get("sources", {}))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GeneratorError(
            f"{where} is not a list of the scenes that were learned from: "
            "mend it, or remove it if you know that no test scene is among them."
        ) from error


def own_parts(source: str) -> Path:
    """The folder with what stock pipelines do not know; fetched, for a hub id."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=[LEARNED_FROM, *(f"{name}/*" for name in EXTRAS)]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise GeneratorError(
            f"The generator {source} cannot be fetched ({str(error).splitlines()[0][:200]}): "
            "give a folder, or check the hub id and the network."
        ) from error
