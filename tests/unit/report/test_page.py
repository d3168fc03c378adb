import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terradistill.errors import RunError
from terradistill.report.page import write_report

MakeRun = Callable[..., Path]


class Page(HTMLParser):
    """What a browser would see: tags, their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\xa0", " ")

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def test_report_is_whole(make_run: MakeRun) -> None:
    prototypes = np.zeros((3, 2, 16, 16, 3), np.uint8)
    run = make_run()
    page = read(write_report(run, prototypes=prototypes))
    assert "6 synthetic images train convnet3 to 60.0 ± 1.0 % overall accuracy" in page.text
    assert "IOR +10.0 points" in page.text
    assert "Synthetic does not mean private" in page.text
    assert "duplicates" in page.text.lower()
    assert len(page.named("img")) == 3 * 2 * 2
    assert (
        page.named("img")[0]["title"] == "“a satellite image of <script>alert(1)” · seed 7 · candidate 1 · margin 0.250"
    )
    assert len(page.named("svg")) == 5
    assert Image.open(run / "gallery.png").format == "PNG"
    assert not list(run.glob(".*"))
    assert "a CPU, torch 2.9, 2 threads, fp32" in page.text


def test_a_report_of_scenes_that_were_drawn_says_so(make_run: MakeRun) -> None:
    run = make_run()
    assert "synthetic themselves" not in read(write_report(run)).text
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"]["synthetic"] = True
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "The scenes of Toy <b>scenes</b> are synthetic themselves" in read(write_report(run)).text


def test_every_prompt_is_told_once(make_run: MakeRun) -> None:
    run = make_run()
    rows = [{"class": "river", "prompt": ["a wide river"] * 2}, {"class": "lake", "prompt": ["a lake", "a pond"]}]
    (run / "prototypes.json").write_text(json.dumps(rows))
    text = read(write_report(run)).text
    assert text.count("a wide river") == 1
    assert "a lake; a pond" in text


def test_report_asks_nothing_of_the_network(make_run: MakeRun) -> None:
    page = read(write_report(make_run()))
    assert not page.named("script")
    assert not page.named("link")
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.named("img"))
    loaded = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "xlink:href")]
    assert all(value and value.startswith(("data:", "#")) for value in loaded)


def test_untrusted_names_stay_text(make_run: MakeRun) -> None:
    path = write_report(make_run())
    page = read(path)
    assert "<script" not in path.read_text("utf-8")
    assert not page.named("b")
    assert not page.named("a"), "a javascript: address must not become a link"
    assert "<script>alert(1)" in page.text
    assert 'a "quoted" & $x_1$ class' in page.text
    assert "Toy <b>scenes</b>" in page.text


@pytest.mark.parametrize("missing", ["scores.json", "metrics.jsonl", "distilled/metadata.jsonl"])
def test_missing_pieces_are_left_out(make_run: MakeRun, missing: str) -> None:
    run = make_run()
    (run / missing).unlink()
    text = read(write_report(run)).text
    assert ("has not been evaluated" in text) == (missing == "scores.json")
    assert ("Training, step by step" in text) == (missing != "metrics.jsonl")


def test_without_images_the_report_says_so(make_run: MakeRun) -> None:
    run = make_run()
    for path in (run / "distilled").glob("*/*.png"):
        path.unlink()
    assert "No images have been distilled yet" in read(write_report(run)).text
    assert not (run / "gallery.png").exists()


def test_sparse_manifest(make_run: MakeRun) -> None:
    run = make_run()
    (run / "scores.json").unlink()
    (run / "manifest.json").write_text(json.dumps({"data": {"name": "toy", "classes": ["river"]}}))
    assert "toy, distilled to 2 images a class" in read(write_report(run)).text


def test_hide_real_wins(make_run: MakeRun) -> None:
    run = make_run()
    settings = json.loads((run / "resolved.json").read_text())
    settings["export"]["hide_real"] = True
    (run / "resolved.json").write_text(json.dumps(settings))
    page = read(write_report(run, prototypes=np.zeros((3, 2, 16, 16, 3), np.uint8)))
    assert len(page.named("img")) == 6


def test_the_audit_is_told_and_its_picture_hidden_with_the_real_scenes(make_run: MakeRun) -> None:
    run = make_run()
    band = {"auc": 0.56, "interval": [0.51, 0.6]}
    found = {"scenes": 6, "flagged": ["river/000.png"], "nn_ssim": {"made": 0.31, "unseen": 0.29}}
    (run / "audit.json").write_text(json.dumps(found | {"membership": {"n_learned": 5, "n_unseen": 5, "fine": band}}))
    Image.new("RGB", (64, 64)).save(run / "audit.png")
    shown = read(write_report(run, prototypes=np.zeros((3, 2, 16, 16, 3), np.uint8)))
    for said in ("1 of 6 images may be near-copies", "river/000.png", "0.56 (0.51 to 0.60)", "0.310; 0.290 for real"):
        assert said in shown.text
    assert len(shown.named("img")) == 13
    assert len(read(write_report(run)).named("img")) == 6


def test_many_large_images_stay_small_on_the_page(make_run: MakeRun) -> None:
    classes = tuple(f"class {i:02d} with a rather long name" for i in range(45))
    path = write_report(make_run(classes, ipc=3, side=136))
    assert len(read(path).named("img")) == 45 * 3
    assert path.stat().st_size < 15e6
    widths = re.findall(r'<svg[^>]* width="([\d.]+)"', path.read_text("utf-8"))
    assert max(map(float, widths)) < 1000


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"manifest\.json is missing"):
        write_report(tmp_path)


def test_broken_json_is_named(make_run: MakeRun) -> None:
    run = make_run()
    (run / "scores.json").write_text("[{")
    with pytest.raises(RunError, match=r"scores\.json is not valid JSON"):
        write_report(run)


def test_a_run_that_python_made_says_how_to_make_it_again(make_run: MakeRun) -> None:
    run = make_run()
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["command"] = None
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "terradistill distill DATA --config config.toml --out" in read(write_report(run)).text
