"""Scenes to order, drawn by the tiny generator of a whole run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import terradistill as td
from terradistill.data.images import decode
from terradistill.data.writing import SceneWriter
from terradistill.errors import DataError, RunError
from terradistill.generation import draw
from terradistill.generation.orders import Order, orders_like, parse_metadata
from tests.conftest import terradistill, tiny_settings


@pytest.fixture(scope="module")
def told(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that has learned metadata."""
    return td.train(drawn, tmp_path_factory.mktemp("told") / "run", tiny_settings(diffusion__metadata=True))


Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch


def test_prompts_become_a_scene_folder_and_a_contact_sheet(
    finished: td.Distilled, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    out = tmp_path / "made"
    command = ["generate", "--generator", str(finished.run), "--prompt", "a river, seen from above", "--n", "3"]
    code, said = terradistill(*command, "--preset", "tiny", "--out", str(out), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, said
    scenes = td.open_scenes(out)
    assert scenes.classes == ("a-river-seen-from-above",)
    assert len(scenes) == 3
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in rows} == {"a river, seen from above"}
    assert len({row["seed"] for row in rows}) == 3
    card = json.loads((out / "dataset.json").read_text())
    assert card["drawn_with"]["seed"] == 0
    assert card["drawn_with"]["sampling.steps"] == tiny_settings().sampling.steps
    learned = json.loads((finished.run / "generator" / "learned_from.json").read_text())["sources"]
    assert card["licence"] == "; ".join(f"{licence} ({title})" for title, licence in learned.items())
    with Image.open(out / "gallery.png") as sheet:
        assert sheet.width > 3 * 32


def test_a_prompt_that_is_cut_is_told(finished: td.Distilled) -> None:
    generator = td.Generator.load(finished.run)
    long = " ".join(["river"] * 200)
    cut = f"1 of the prompts have over {generator.tokenizer.model_max_length} tokens, and their end is not heard: "
    assert generator.unheard(["a river", long]) == f"{cut}{long[:60]!r}."
    room = generator.tokenizer.model_max_length
    lengths = [len(generator.tokenizer(" ".join(["river"] * n)).input_ids) for n in range(room)]
    full = " ".join(["river"] * lengths.index(room))
    assert not generator.unheard([full])
    assert generator.unheard([f"{full} river"]).startswith("The prompt has over")


def test_an_image_depends_on_its_seed_alone(finished: td.Distilled, tmp_path: Path) -> None:
    generator, tiny = td.Generator.load(finished.run), tiny_settings()
    alone = td.generate([Order("a forest", "forest")], tmp_path / "a", generator, n=2, seed=4, settings=tiny)
    orders = [Order("a river", "river"), Order("a forest", "forest")]
    among = td.generate(orders, tmp_path / "b", generator, n=3, seed=4, settings=tiny)
    assert [scene.name for scene in among.scenes][:3] == [f"forest/forest_{i:04d}.png" for i in range(3)]
    for i in range(2):
        assert abs(decode(alone.read(i)).astype(int) - decode(among.read(i)).astype(int)).max() <= 1


def test_half_the_precision_gives_nearly_the_same(finished: td.Distilled, tmp_path: Path) -> None:
    generator, made = td.Generator.load(finished.run), {}
    for precision in ("fp32", "fp16"):
        tiny = tiny_settings().model_copy(update={"precision": precision})
        scenes = td.generate([Order("a river", "river")], tmp_path / precision, generator, n=3, settings=tiny)
        made[precision] = np.stack([decode(scenes.read(i)) for i in range(3)]).astype(float)
    assert 0 < np.abs(made["fp32"] - made["fp16"]).mean() < 2


def test_a_stopped_call_goes_on_with_what_is_drawn(
    finished: td.Distilled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, tiny = td.Generator.load(finished.run), tiny_settings(sampling__batch_size=2)
    orders = [Order("a river", "river"), Order("a forest", "forest", n=2)]
    whole = td.generate(orders, tmp_path / "whole", generator, n=3, settings=tiny)

    drawn: list[int] = []
    draw_now = draw.draw

    def draw_a_little(*arguments: Any, **options: Any) -> Any:
        drawn.append(len(arguments[2]))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw_now(*arguments, **options)

    monkeypatch.setattr(draw, "draw", draw_a_little)
    with pytest.raises(KeyboardInterrupt):
        td.generate(orders, tmp_path / "made", generator, n=3, settings=tiny)
    assert not (tmp_path / "made").exists()
    with pytest.raises(td.TerraDistillError, match="made with another seed"):
        td.generate(orders, tmp_path / "made", generator, n=3, seed=1, settings=tiny)
    made = td.generate(orders, tmp_path / "made", generator, n=3, settings=tiny)
    assert drawn == [2, 2, 1, 1], "what was drawn is not drawn again"
    assert [made.read(i) for i in range(5)] == [whole.read(i) for i in range(5)]
    assert not (tmp_path / "made.part").exists()
    files = {path.name for path in (tmp_path / "made").iterdir()}
    assert files == {"river", "forest", "gallery.png", "metadata.jsonl", "dataset.json", "learned_from.json"}


def test_what_is_wrong_with_the_last_order_is_known_before_the_first_is_drawn(told: Path, tmp_path: Path) -> None:
    orders = [Order("a river", "river"), Order("a forest", "forest", {"month": 13})]
    with pytest.raises(DataError, match="month"):
        td.generate(orders, tmp_path / "made", td.Generator.load(told), n=1, settings=tiny_settings())
    assert not any(tmp_path.iterdir())


def test_one_call_at_a_time_fills_a_folder(tmp_path: Path) -> None:
    first = SceneWriter(tmp_path / "made", ["river"], [0, 0], {"seed": 1})
    with pytest.raises(RunError, match="Another process is at work"):
        SceneWriter(tmp_path / "made", ["river"], [0], {"seed": 2})
    first.keep(0, np.zeros((8, 8, 3), np.uint8))
    first.close()
    assert SceneWriter(tmp_path / "made", ["river"], [0, 0], {"seed": 1}).lacking() == [1]


def test_prompts_of_one_folder_share_it_and_no_image_is_twice(finished: td.Distilled, tmp_path: Path) -> None:
    orders = [
        Order("a wide river", "river", n=2),
        Order("river"),
        Order("a narrow river", "river", n=1),
        Order("a wide river", "river", n=1),
    ]
    made = td.generate(orders, tmp_path / "a", td.Generator.load(finished.run), n=1, settings=tiny_settings())
    assert made.classes == ("river", "river-0")
    rows = [json.loads(line) for line in (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()]
    of_river = sorted((row["file_name"], row["prompt"]) for row in rows if row["label"] == "river")
    assert [prompt for _, prompt in of_river] == ["a wide river", "a wide river", "a narrow river", "a wide river"]
    assert len({row["seed"] for row in rows}) == len({made.read(i) for i in range(len(made))}) == 5


def test_every_class_of_a_dataset_in_its_words_and_at_its_resolution(
    drawn: Path, told: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    out, scenes = tmp_path / "made", td.open_scenes(drawn)
    command = ["generate", "--generator", str(told), "--like", str(drawn), "--n", "2", "--set-metadata", "month=7"]
    code, said = terradistill(*command, "--preset", "tiny", "--out", str(out), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, said
    assert td.open_scenes(out).classes == scenes.classes
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert {(row["gsd_m"], row["month"]) for row in rows} == {(scenes.info.gsd_m, 7.0)}
    generator = td.Generator.load(told)
    assert orders_like(scenes, "{class}", generator)[0].prompt == scenes.readable(scenes.classes[0])
    smaller = td.Generator.load("base-128")  # draws 128 pixels of what has 32
    assert smaller.resolution == 4 * generator.resolution
    found = orders_like(scenes, "{class} at {gsd} m", smaller)[0]
    assert found.prompt == f"{scenes.readable(scenes.classes[0])} at {rows[0]['gsd_m'] / 4:g} m", (
        "in words as in numbers: of the image that is drawn"
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "Nothing was ordered"),
        (["--prompt", "a river", "--set-metadata", "gsd_m"], "not of the form gsd_m=10"),
        (["--prompt", "a river", "--set-metadata", "height=3"], "no metadata field 'height'"),
        (["--prompt", "a river", "--set-metadata", "gsd_m=3"], "has not learned metadata"),
        (["--prompt", "a river", "--out", "tests"], "is not empty"),
    ],
)
def test_wrong_orders_are_one_sentence(
    more: list[str], says: str, finished: td.Distilled, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    command = ["generate", "--generator", str(finished.run), "--out", str(tmp_path / "made"), *more]
    code, said = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert says in " ".join(said.split())
    assert "Traceback" not in said
    assert not (tmp_path / "made").exists()


def test_metadata_out_of_range_is_refused(told: Path, tmp_path: Path) -> None:
    with pytest.raises(td.TerraDistillError, match="metadata field gsd_m is 50"):
        td.generate([Order("a river", metadata={"gsd_m": 50})], tmp_path / "a", td.Generator.load(told))
    for name, least in (("gsd_m", "0.001"), ("month", "1"), ("day", "1")):  # 0 is how some tables say unknown
        with pytest.raises(td.TerraDistillError, match=f"{name}=0: expected at least {least}"):
            td.generate([Order("a river", metadata={name: 0})], tmp_path / "a", td.Generator.load(told))
    assert parse_metadata(" gsd_m=10, month = 7 ") == {"gsd_m": 10.0, "month": 7.0}


def test_orders_may_say_nothing_at_all(told: Path, tmp_path: Path) -> None:
    generator, tiny = td.Generator.load(told), tiny_settings()
    assert generator.metadata_encoder is not None
    torch.manual_seed(0)
    for parameter in generator.metadata_encoder.parameters():  # a few steps have taught it next to nothing
        torch.nn.init.normal_(parameter, std=1.0)

    def made(name: str, *orders: Order) -> list[np.ndarray]:
        scenes = td.generate(orders, tmp_path / name, generator, n=1, seed=4, settings=tiny)
        return [decode(scenes.read(i)).astype(int) for i in range(len(scenes))]

    empty, july = made("one told", Order(""), Order("", metadata={"month": 7}))
    first, second = made("none told", Order(""), Order(""))  # of the same seeds
    assert all(image.std() > 1 for image in (empty, july, first, second))
    assert abs(empty - first).max() <= 1
    assert abs(july - second).max() > 5
