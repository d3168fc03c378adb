"""A local web page where one makes scenes to order."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terradistill.data.maps import PALETTE
from terradistill.errors import ConfigError, DataError, TerraDistillError
from terradistill.settings import Settings
from terradistill.studio.workshop import (
    MOST_IMAGES,
    MOST_LETTERS,
    MOST_MEGABYTES,
    MOST_STEPS,
    Asked,
    Workshop,
    require_modest_picture,
)

# Field of the metadata encoder -> what it is called, lowest, highest, step, where the slider stands at first.
SLIDERS = {
    "gsd_m": ("metres a pixel", 0.1, 10.0, 0.1, 1.0),
    "month": ("month", 1, 12, 1, 7),
    "year": ("year", 1980, 2100, 1, 2020),
    "day": ("day of the month", 1, 31, 1, 15),
    "cloud_fraction": ("share of clouds", 0.0, 1.0, 0.01, 0.0),
    "lat": ("latitude", -90, 90, 0.1, 46.5),
    "lon": ("longitude", -180, 180, 0.1, 6.6),
}
EXAMPLES = (
    "a satellite image of a river",
    "a satellite image of dense residential",
    "a satellite image of farmland",
    "a satellite image of a harbor",
)
CSS = """
.gradio-container { max-width: 76rem !important; margin: 0 auto; }
#title h1 { font-weight: 500; letter-spacing: -.01em; margin-bottom: 0; }
#title p { opacity: .75; margin-top: .2rem; }
#gallery .grid-wrap { overflow-y: auto; }
#note { min-height: 1.6rem; opacity: .8; }
"""


def build_page(workshop: Workshop) -> Any:
    """The page (a gradio `Blocks`), with the controls that the workshop's generator has learned to heed."""
    import gradio as gr

    generator = workshop.generator
    told, mapped = generator.metadata_encoder is not None, generator.map_adapter is not None
    pictured, settings = generator.content_encoder is not None, workshop.settings.sampling
    learned = generator.metadata_encoder.learned if generator.metadata_encoder is not None else ()
    gsd_max = generator.metadata_encoder.gsd_max_m if generator.metadata_encoder is not None else 10.0
    with gr.Blocks(title="TerraDistill studio", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# TerraDistill studio\n\nScenes to order, drawn by `{workshop.source}`.", elem_id="title")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompt = gr.Textbox(
                    label="What to draw", placeholder=EXAMPLES[0], lines=2, elem_id="prompt", max_length=MOST_LETTERS
                )
                button = gr.Button("Draw", variant="primary", elem_id="draw")
                gr.Examples([[text] for text in EXAMPLES], [prompt], label="For example")
                numbers: list[Any] = []
                with gr.Accordion("What is known of the place", open=False, visible=told):
                    for name, (label, low, high, step, at) in SLIDERS.items():
                        with gr.Column(visible=name in learned):
                            numbers.append(gr.Checkbox(False, label=label, elem_id=f"knows-{name}"))
                            top = gsd_max if name == "gsd_m" else high
                            ends = (min(low, top), top, min(at, top))
                            numbers.append(gr.Slider(*ends, step=step, show_label=False, container=False, elem_id=name))
                with gr.Accordion("A map to follow", open=False, visible=mapped):
                    known = generator.map_adapter.learned if generator.map_adapter is not None else ()
                    map_name = gr.Dropdown(["none", *known], value="none", label="What it shows", elem_id="map-name")
                    regions = [bytes(colour).hex() for colour in PALETTE] if "segmentation" in known else []
                    colours: list[Any] = ["#ffffff", "#000000", *(f"#{colour}" for colour in regions)]
                    gr.Markdown("Draw it in white, or upload it.")
                    canvas: Any = gr.ImageEditor(
                        show_label=False,  # the tools would lie over it
                        type="numpy",
                        image_mode="RGBA",
                        sources=("upload",),
                        brush=gr.Brush(colors=colours, default_size=8, color_mode="fixed"),
                        layers=False,
                        canvas_size=(256, 256),
                        value={"background": np.zeros((256, 256, 3), np.uint8), "layers": [], "composite": None},
                        elem_id="canvas",
                    )
                    filtered = gr.Checkbox(False, label="It is a photograph: find the map in it by a filter")
                    map_strength = gr.Slider(0, 2, 1, step=0.05, label="How closely to follow it")
                with gr.Accordion("A picture to look like", open=False, visible=pictured):
                    content: Any = gr.Image(
                        type="filepath",
                        image_mode=None,  # the file as it is: it is looked at before it is unpacked
                        sources=["upload"],
                        label="Picture",
                        height=180,
                        elem_id="content",
                    )
                    content_strength = gr.Slider(0, 2, 1, step=0.05, label="How much to look like it")
                with gr.Row():
                    n = gr.Slider(1, MOST_IMAGES, 4, step=1, label="Images", elem_id="n")
                    steps = gr.Slider(
                        1, MOST_STEPS, min(settings.steps, MOST_STEPS), step=1, label="Steps", elem_id="steps"
                    )
                with gr.Row():
                    scale = gr.Slider(0, 10, 0, step=0.1, label="Guidance", info="0: as usual", elem_id="guidance")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed")
            with gr.Column(scale=3, min_width=380):
                gallery = gr.Gallery(
                    label="Scenes", columns=2, object_fit="contain", height=710, format="png", elem_id="gallery"
                )
                note = gr.Markdown("", elem_id="note")
                download = gr.DownloadButton("Download with metadata", interactive=False, elem_id="download")

        def make(*given: Any, progress: Any = gr.Progress()) -> tuple[list[str], str, Any]:  # noqa: B008 - gradio's way
            try:
                asked = _asked(given)
                made = workshop.make(asked, lambda done, total: progress((done, total), desc="Drawing", unit="steps"))
            except TerraDistillError as error:
                raise gr.Error(str(error), duration=12, print_exception=False) from error
            return (
                [str(path) for path in made.images],
                made.note,
                gr.DownloadButton(value=str(made.archive), interactive=True),
            )

        inputs = [prompt, map_name, canvas, filtered, map_strength, content, content_strength]
        inputs += [n, steps, scale, seed, *numbers]
        # One at a time, and one press at a time: impatience queues nothing.
        how: dict[str, Any] = {"concurrency_limit": 1, "trigger_mode": "once", "api_visibility": "private"}
        gr.on([button.click, prompt.submit], make, inputs, [gallery, note, download], **how)
        canvas.convert_and_format_image = _looked_at(canvas.convert_and_format_image, "map")
        content.preprocess = _looked_at(content.preprocess, "picture")
        for slider in (map_strength, content_strength, n, steps, scale, *numbers):
            slider.preprocess = _unless_empty(slider.preprocess)
    page.queue(max_size=16, default_concurrency_limit=1)
    return page


@contextmanager
def opened(
    source: str, *, port: int | None = None, browser: bool = False, settings: Settings | None = None
) -> Iterator[str]:
    """The page on this machine alone, while the block runs; gives its address.

    Args:
        source: the generator.
        port: None: the first free one from 7860 on.
        browser: open it in the default browser.
        settings: of sampling and precision.

    Raises:
        ConfigError: the extra `studio` is not installed, or the port is taken.
        GeneratorError: the generator cannot be loaded.
    """
    if find_spec("gradio") is None:
        raise ConfigError("The studio needs gradio: pip install '.[studio]'.")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    with TemporaryDirectory(prefix="terradistill-studio-") as folder:
        uploads = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        page = build_page(Workshop(source, Path(folder) / "made", settings))
        # The fonts of the machine: nothing is fetched.
        theme = gr.themes.Soft(
            primary_hue="teal", neutral_hue="stone", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        )
        try:
            _, address, _ = page.launch(
                server_name="127.0.0.1",
                server_port=port,
                share=False,
                inbrowser=browser,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                max_file_size=f"{MOST_MEGABYTES}mb",
                allowed_paths=[folder],
                theme=theme,
                css=CSS,
                footer_links=[],
                ssr_mode=False,
            )
        except (OSError, ValueError) as error:  # gradio says both: taken ports, and proxies that hide this machine
            raise ConfigError(
                f"The page cannot be opened ({str(error).splitlines()[0]}): give another --port, or unset the proxy."
            ) from error
        try:
            yield str(address)
        finally:
            page.close()
            os.environ.pop("GRADIO_TEMP_DIR")
            if uploads is not None:  # of a page that is still open
                os.environ["GRADIO_TEMP_DIR"] = uploads


def _looked_at(unpack: Callable[..., Any], what: str) -> Callable[..., Any]:
    """As a component of gradio unpacks an upload, but for what is no image or too large: it looks too late."""
    import gradio as gr

    def look(file: Any, *given: Any, **more: Any) -> Any:
        if file is not None:
            try:
                require_modest_picture(BytesIO(file) if isinstance(file, bytes) else Path(file.path), what)
            except DataError as error:
                raise gr.Error(str(error), duration=12, print_exception=False) from error
        return unpack(file, *given, **more)

    return look


def _unless_empty(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """As a slider reads its number, or None where it has been emptied, which it has no sentence for."""
    return lambda number: None if number is None else read(number)


def _on_black(drawn: Any) -> NDArray[np.uint8] | None:
    """Where a drawing, uint8 (H, W, 4), is transparent there is nothing: uint8 (H, W, 3)."""
    if drawn is None:
        return None
    pixels = np.asarray(drawn, np.uint8)
    if pixels.shape[2] == 3:
        return pixels
    return ((pixels[..., :3] * pixels[..., 3:].astype(np.uint16) + 127) // 255).astype(np.uint8)


def _asked(given: Sequence[Any]) -> Asked:
    """What the controls say, in the order of `inputs`."""
    prompt, map_name, canvas, filtered, map_strength, content, content_strength, n, steps, scale, seed, *numbers = given
    drawn = None if canvas is None else _on_black(canvas.get("composite"))
    named = str(map_name or "none")
    if named != "none" and (drawn is None or not drawn.any()):
        raise ConfigError(f"The map {named!r} is empty: draw or upload one, or choose none.")
    if any(value is None for value in (n, steps, scale, seed, map_strength, content_strength)):
        raise ConfigError("Images, steps, guidance, seed and strengths each need a number.")
    known = {
        name: float(numbers[2 * i + 1])
        for i, name in enumerate(SLIDERS)
        if numbers[2 * i] and numbers[2 * i + 1] is not None
    }
    return Asked(
        prompt=str(prompt or ""),
        metadata=known,
        map_name="" if named == "none" else named,
        map_image=None if named == "none" else drawn,
        map_filter=bool(filtered),
        map_strength=float(map_strength),
        content=None if content is None else Path(content),
        content_strength=float(content_strength),
        n=int(n),
        steps=int(steps),
        guidance=float(scale),
        seed=int(seed),
    )
