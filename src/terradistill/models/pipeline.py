"""Opens the parts of a diffusers pipeline folder, and refuses what is no plain text-to-image model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from terradistill.errors import GeneratorError, reason
from terradistill.hardware import out_of_memory

PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
# What libraries raise of damaged folders.
DAMAGED = (OSError, ValueError, AttributeError, ImportError, TypeError, KeyError, RuntimeError, SafetensorError)


def open_parts(folder: str, source: str | Path) -> dict[str, Any]:
    """`PARTS` of a folder or hub id; `source` is what messages call it.

    Raises:
        GeneratorError: it cannot be opened, or needs or gives something else than a model from text to images.
    """
    with opening(source):
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(
            folder, local_files_only=Path(folder).is_dir(), use_safetensors=True, safety_checker=None
        )
    parts: dict[str, Any] = {name: getattr(pipeline, name, None) for name in PARTS}
    missing = [name for name, part in parts.items() if part is None]
    if missing:
        raise GeneratorError(f"The generator {source} has no {', '.join(missing)}: expected a text-to-image one.")
    unet = parts["unet"].config
    if getattr(unet, "addition_embed_type", None) not in (None, "text") or not hasattr(
        parts["scheduler"], "alphas_cumprod"
    ):
        raise GeneratorError(
            f"The generator {source} needs more inputs than a prompt (SDXL, flow matching): "
            "expected one built like Stable Diffusion 1 or 2."
        )
    latent = parts["vae"].config.latent_channels
    if not unet.in_channels == unet.out_channels == latent:
        raise GeneratorError(
            f"The UNet of {source} takes {unet.in_channels} channels and gives {unet.out_channels}, for latents of "
            f"{latent}: expected a plain text-to-image one, not one for in-painting or upscaling, say."
        )
    if len(parts["tokenizer"]) < 3:  # a beginning and an end, and nothing between them
        raise GeneratorError(f"The tokenizer of {source} has no words: give a complete diffusers folder.")
    return parts


def open_tokenizer(folder: Path, source: str | Path) -> Any:
    """The tokenizer alone.

    Raises:
        GeneratorError: it cannot be opened.
    """
    with opening(source):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def opening(source: str | Path) -> Iterator[None]:
    """What goes wrong inside is a `GeneratorError` that says so of `source`."""
    try:
        with quietly():
            yield
    except DAMAGED as error:
        if out_of_memory(error):
            raise
        raise GeneratorError(
            f"The generator {source} cannot be loaded ({reason(error)}): give a complete diffusers folder, "
            "or check the hub id and the network."
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """No bars and no advice of the libraries: one progress bar at a time is ours, and the advice is for programmers."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries: tuple[Any, ...] = (of_diffusers, of_transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
