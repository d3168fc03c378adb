"""The studio, as someone uses it: in a real browser, patiently and not."""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

import terradistill as td
from terradistill.studio.workshop import MOST_PIXELS, Asked, Made, Workshop
from tests.conftest import tiny_settings

Driver = Any
ASKED = Asked("a river", n=2, steps=3)
WHITE = np.full((8, 8), 255, np.uint8)


@pytest.fixture(scope="module")
def workshop(adapted: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(str(adapted), tmp_path_factory.mktemp("workshop"), tiny_settings())


def test_what_is_asked_is_drawn_and_packed_with_its_conditions(workshop: Workshop, tmp_path: Path) -> None:
    mask, steps = np.zeros((50, 50), np.uint8), list[tuple[int, int]]()
    mask[20:30] = 255
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "look.png")
    asked = replace(ASKED, map_name="edges", map_image=mask, map_strength=0.7, content=tmp_path / "look.png", seed=5)
    made = workshop.make(asked, lambda done, total: steps.append((done, total)))
    assert len(made.images) == 2
    assert all(path.exists() for path in made.images)
    assert steps[-1] == (3, 3)
    assert made.note.startswith("2 images, 3 steps, seed 5")
    with zipfile.ZipFile(made.archive) as archive:
        rows = [json.loads(line) for line in archive.read("metadata.jsonl").splitlines()]
        names = archive.namelist()
    assert [row["map_edges_strength"] for row in rows] == [0.7, 0.7]
    drawn_after = {row[kind] for row in rows for kind in ("map_edges", "content")}
    assert len(drawn_after) == 2
    assert drawn_after <= set(names)
    again = workshop.make(asked)
    assert [path.read_bytes() for path in again.images] == [path.read_bytes() for path in made.images]
    other = workshop.make(replace(asked, seed=6))
    assert [path.read_bytes() for path in other.images] != [path.read_bytes() for path in made.images]


def test_every_control_says_what_its_label_does(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from terradistill.studio.page import SLIDERS, build_page

    asked = list[Asked]()
    monkeypatch.setattr(workshop, "make", lambda given, _: asked.append(given) or Made([], Path("x.zip"), ""))
    page = build_page(workshop)
    (press, *_) = [each for each in page.fns.values() if each.name == "make"]
    canvas = np.zeros((4, 4, 4), np.uint8)
    canvas[:2, :2], canvas[2:, 2:] = (255, 255, 255, 255), (255, 255, 255, 0)
    told = {name: float(number) for number, name in enumerate(SLIDERS, 1)}
    said: dict[str, Any] = {
        "What to draw": "a road",
        "What it shows": "edges",
        "canvas": {"composite": canvas},
        "It is a photograph: find the map in it by a filter": True,
        "How closely to follow it": 0.25,
        "Picture": "look.png",
        "How much to look like it": 0.75,
        "Images": 3,
        "Steps": 11,
        "Guidance": 4.5,
        "Seed": 6,
        **{f"knows-{name}": name != "year" for name in SLIDERS},
        **told,
    }
    press.fn(*[said[each.elem_id if each.elem_id in said else each.label] for each in press.inputs])
    drawn = asked[0].map_image
    assert drawn is not None
    assert drawn[:2, :2].all()
    assert drawn.sum() == 255 * 12, "nothing is drawn where it is transparent"
    told.pop("year")
    wanted = Asked("a road", told, "edges", drawn, True, 0.25, Path("look.png"), 0.75, 3, 11, 4.5, 6)
    assert asked == [wanted]


def test_a_photograph_becomes_a_map_by_a_filter(workshop: Workshop) -> None:
    photograph = np.full((60, 60, 3), 40, np.uint8)
    photograph[20:40, 20:40] = 220
    made = workshop.make(replace(ASKED, map_name="edges", map_image=photograph, map_filter=True))
    with Image.open(made.images[0].parents[2] / "edges.png") as drawn:
        assert 0 < (np.asarray(drawn) > 0).mean() < 0.3


@pytest.mark.parametrize(
    ("weaker", "more", "scales"),
    [
        (True, {}, (3.0, None)),
        (True, {"guidance": 3.0}, (3.0, None)),
        (True, {"map_name": "edges", "map_image": WHITE, "guidance": 3.0}, (1.0, 3.0)),
        (True, {"map_name": "edges", "map_image": WHITE, "guidance": 5.0, "map_strength": 0.0}, (5.0, None)),
        (True, {"guidance": 5.0}, (5.0, None)),
        (True, {"guidance": 1.0}, (1.0, 1.0)),
        (True, {"guidance": 5.0, "map_name": "edges", "map_image": WHITE}, (1.0, 5.0)),
        (False, {}, (3.0, None)),
        (False, {"guidance": 5.0}, (1.0, 5.0)),
    ],
)
def test_the_slider_sets_the_guidance_that_acts(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    weaker: bool,
    more: dict[str, Any],
    scales: tuple[float, float | None],
) -> None:
    asked = []

    def generate(*_: Any, settings: td.Settings, **__: Any) -> None:
        asked.append((settings.sampling.autoguidance, settings.sampling.cfg_scale))
        raise InterruptedError("seen enough")

    monkeypatch.setattr("terradistill.studio.workshop.generate", generate)
    monkeypatch.setattr(workshop.generator, "weaker", object() if weaker else None)
    monkeypatch.setattr(workshop, "settings", td.Settings())
    with pytest.raises(InterruptedError):
        workshop.make(replace(ASKED, **more))
    assert asked == [scales]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"prompt": "  "}, "Say what to draw"),
        ({"prompt": "x" * 501}, "at most 500"),
        ({"prompt": "a \ud800 river"}, "half a character"),
        ({"n": 17}, "expected 1 to 16"),
        ({"steps": 0}, "expected 1 to 50"),
        ({"guidance": float("nan")}, "expected 0 to 10"),
        ({"seed": -1}, "whole number"),
        ({"metadata": {"gsd_m": 1.0}}, "has not learned metadata"),
        ({"map_name": "road", "map_image": np.ones((8, 8), np.uint8)}, "has not learned the map 'road'"),
        ({"map_name": "edges", "map_image": np.zeros((1, MOST_PIXELS + 1), np.uint8)}, "million pixels"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(workshop: Workshop, more: dict[str, Any], says: str) -> None:
    rooms = len(list(workshop.folder.iterdir()))
    with pytest.raises(td.TerraDistillError, match=says):
        workshop.make(replace(ASKED, **more))
    assert len(list(workshop.folder.iterdir())) == rooms, "what was refused leaves nothing"


def test_an_upload_that_is_no_picture_or_too_large_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (5000, 4000)).save(tmp_path / "wide.png")
    (tmp_path / "heavy.png").write_bytes(os.urandom(10_000_001))
    for name, says in (("text", "cannot be read"), ("wide", "million pixels"), ("heavy", "more than 10 MB")):
        with pytest.raises(td.TerraDistillError, match=says):
            workshop.make(replace(ASKED, content=tmp_path / f"{name}.png"))


def test_uploads_are_looked_at_before_they_are_unpacked(workshop: Workshop, tmp_path: Path) -> None:
    from gradio import Error, FileData
    from gradio.components.image_editor import EditorData
    from gradio.data_classes import ImageData

    from terradistill.studio.page import build_page

    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (5000, 4000)).save(tmp_path / "wide.png")
    parts = {block.elem_id: block for block in build_page(workshop).blocks.values() if getattr(block, "elem_id", "")}
    for name, says in (("text", "cannot be read"), ("wide", "million pixels")):
        path = str(tmp_path / f"{name}.png")
        with pytest.raises(Error, match=f"The map .*{says}"):
            parts["canvas"].preprocess(EditorData(background=FileData(path=path), composite=FileData(path=path)))
        with pytest.raises(Error, match=f"The picture .*{says}"):
            parts["content"].preprocess(ImageData(path=path))
    assert parts["n"].preprocess(None) is None, "an emptied slider is no traceback"
    assert parts["n"].preprocess(3) == 3


def test_old_results_are_thrown_away(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terradistill.studio.workshop.KEPT", 2)
    small = Workshop(str(adapted), tmp_path, tiny_settings())
    for seed in range(4):
        small.make(replace(ASKED, n=1, steps=1, seed=seed))
    assert len(list(tmp_path.iterdir())) == 2


# In a browser; sockets reach this machine and nothing else.
LOCAL = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts what is downloaded."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Chromium without a window; what the continuous integration installs."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium with its driver on this machine")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "window-size=1300,1000"),
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(adapted: Path) -> Iterator[str]:
    from terradistill.studio.page import opened

    with opened(str(adapted), settings=tiny_settings()) as found:
        yield found


def until(what: Callable[[], Any], seconds: float = 30) -> Any:
    """What a function gives as soon as it gives anything."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := what():
                return found
        except Exception:  # the page is being redrawn
            pass
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def find(browser: Driver, css: str) -> list[Any]:
    return list(browser.find_elements("css selector", css))


def pictures(browser: Driver) -> set[str]:
    return {image.get_attribute("src") for image in find(browser, "#gallery img") if image.get_attribute("src")}


def panel(browser: Driver, words: str) -> None:
    """Open a part of the page."""
    for label in until(lambda: [item for item in find(browser, "button") if words in item.text]):
        label.click()


def pressed(browser: Driver, prompt: str, clicks: int = 1) -> set[str]:
    """The pictures that are there before any is drawn."""
    box = until(lambda: find(browser, "#prompt textarea"))[0]
    box.clear()
    box.send_keys(prompt)
    before = pictures(browser)
    for _ in range(clicks):
        find(browser, "#draw")[0].click()
    return before


def drawn_by(browser: Driver, prompt: str) -> set[str]:
    before = pressed(browser, prompt)
    return set(until(lambda: pictures(browser) - before, 30))


@LOCAL
def test_the_studio_listens_on_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")


@LOCAL
def test_a_scene_is_made_in_a_browser(browser: Driver, address: str) -> None:
    browser.get(address)
    began = time.monotonic()
    assert drawn_by(browser, "a river")
    assert time.monotonic() - began < 30
    assert "4 images" in until(lambda: find(browser, "#note")[0].text)
    assert until(lambda: find(browser, "#download"))[0].is_enabled()
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    foreign = [name for name in asked if name.startswith("http") and not name.startswith(address)]
    assert asked
    assert not foreign, "nothing is asked of the network"


@LOCAL
def test_the_shipped_generator_draws_within_half_a_minute(browser: Driver) -> None:
    from terradistill.studio.page import opened

    with opened("base-128") as address:
        browser.get(address)
        images = until(lambda: find(browser, "#n input[type=number]"))[0]
        images.send_keys(Keys.CONTROL, "a")
        images.send_keys("1", Keys.TAB)
        panel(browser, "known of the place")
        until(lambda: find(browser, "#knows-gsd_m input")[0].is_displayed())
        find(browser, "#knows-gsd_m input")[0].click()
        began = time.monotonic()
        assert drawn_by(browser, "a satellite image of a harbor")
        assert time.monotonic() - began < 30
        assert "1 image," in until(lambda: find(browser, "#note")[0].text)


@LOCAL
def test_it_survives_impatience_and_a_refresh(browser: Driver, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, make, clicked = [], Workshop.make, Event()

    def counted(self: Workshop, *given: Any) -> Any:
        made.append(1)
        assert clicked.wait(60)
        return make(self, *given)

    monkeypatch.setattr(Workshop, "make", counted)
    browser.get(address)
    before = pressed(browser, "a forest", clicks=10)
    clicked.set()
    assert until(lambda: pictures(browser) - before)
    time.sleep(1)
    assert len(made) == 1, "one press at a time"
    find(browser, "#draw")[0].click()
    browser.refresh()
    assert drawn_by(browser, "a meadow")


@LOCAL
def test_an_empty_prompt_is_answered(browser: Driver, address: str) -> None:
    browser.get(address)
    until(lambda: find(browser, "#draw"))[0].click()
    assert until(lambda: "Say what to draw" in browser.page_source)
    assert drawn_by(browser, "a river")


@LOCAL
def test_an_uploaded_map_is_followed_and_progress_is_live(
    browser: Driver, address: str, downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 18:22] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    seen, made, make = Event(), list[Asked](), Workshop.make

    def watched(self: Workshop, asked: Asked, progress: Callable[[int, int], None]) -> Made:
        made.append(asked)
        progress(1, 3)
        assert seen.wait(60)
        return make(self, asked, progress)

    monkeypatch.setattr(Workshop, "make", watched)
    browser.get(address)
    panel(browser, "map to follow")
    until(lambda: find(browser, "#map-name input"))[0].send_keys(Keys.CONTROL, "a")
    find(browser, "#map-name input")[0].send_keys("edges", Keys.ENTER)
    until(lambda: find(browser, "#canvas input[type=file]"))[0].send_keys(str(tmp_path / "mask.png"))
    time.sleep(2)
    before = pressed(browser, "a road")
    assert until(lambda: "Drawing" in browser.page_source), "how far it is"
    seen.set()
    assert until(lambda: pictures(browser) - before)
    assert made[0].map_name == "edges"
    drawn = made[0].map_image
    assert drawn is not None
    assert np.array_equal(drawn.max(-1) > 127, mask > 127), "what was uploaded, pixel for pixel"
    find(browser, "#download")[0].click()
    (archive,) = until(lambda: list(downloads.glob("*.zip")))
    with zipfile.ZipFile(archive) as packed:
        rows = [json.loads(line) for line in packed.read("metadata.jsonl").splitlines()]
        assert rows[0]["map_edges"] in packed.namelist()


@LOCAL
def test_a_huge_upload_is_refused_and_the_page_lives(browser: Driver, address: str, tmp_path: Path) -> None:
    browser.get(address)
    pixels = np.random.default_rng(0).integers(0, 256, (2200, 2200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "huge.png")
    assert (tmp_path / "huge.png").stat().st_size > 10_000_000
    panel(browser, "picture to look like")
    until(lambda: find(browser, "#content input[type=file]"))[0].send_keys(str(tmp_path / "huge.png"))
    assert until(lambda: "exceed the maximum allowed size" in browser.page_source)
    browser.get(address)
    assert drawn_by(browser, "a river")
