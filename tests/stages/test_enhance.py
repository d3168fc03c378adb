"""Other resolutions, other dates, missing pieces: trained and drawn with on tiny models."""

import io
import json
import re
import runpy
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import terradistill as td
from terradistill.data.images import pixel_hash, to_float, to_uint8
from terradistill.data.pictures import Picture
from terradistill.data.sensor import Sensor
from terradistill.distillation.scoreboard import learned_by
from terradistill.enhancing import inpaint, results, super_resolve, timelapse
from terradistill.enhancing.canvas import filled, overlap
from terradistill.enhancing.enhancer import open_enhancer
from terradistill.enhancing.fuse import fused
from terradistill.enhancing.super_resolve import _frames, agreeing, bicubic, sharpened
from terradistill.enhancing.timelapse import Frame, at_date
from terradistill.errors import ConfigError, DataError, RunError
from terradistill.hardware import find_hardware
from terradistill.models.frame_adapter import FrameAdapter
from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.models.places import write_learned_from
from terradistill.run import Silent
from terradistill.sampling.tiling import corners
from terradistill.shipped import ENHANCERS
from terradistill.training import diffusion
from tests.conftest import terradistill, tiny_settings
from tests.unit.conftest import awake

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
BENCH = Path(__file__).parents[2] / "bench"
SUMMER = {"month": 6.5}
TASKS = {"super-resolve": 2, "fuse": 2, "timelapse": 1}


class Told(Silent):
    """What is said while something is made."""

    def __init__(self) -> None:
        self.texts = list[str]()

    def say(self, text: str) -> None:
        self.texts.append(text)


def trained(task: str, finished: td.Distilled, drawn: Path, out: Path) -> Path:
    settings = tiny_settings(
        generator=str(finished.run), enhancer__task=task, enhancer__scale=TASKS[task], enhancer__steps=6,
        enhancer__batch_size=8, enhancer__learning_rate=1e-3, enhancer__warmup_steps=1, data__limit=8,
        enhancer__blur=0.5, enhancer__noise=0.02,
    )  # fmt: skip
    return td.train(drawn, out, settings, until="enhancer")


@pytest.fixture(scope="module")
def runs(finished: td.Distilled, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run for each task."""
    root = tmp_path_factory.mktemp("enhancers")
    return {task: trained(task, finished, drawn, root / task) for task in TASKS}


def digest(folder: Path) -> str:
    assert any(folder.glob("*.safetensors"))
    return sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))).hexdigest()


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    grain = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("task", TASKS)
def test_the_generator_itself_stays_as_it_is(task: str, runs: dict[str, Path], finished: td.Distilled) -> None:
    for part in ("unet", "vae", "text_encoder"):
        assert digest(runs[task] / part) == digest(finished.run / "generator" / part)
    adapter = td.Generator.load(runs[task]).frame_adapter
    assert adapter is not None
    assert adapter.about["task"] == task
    assert any(layer.weight.any() for layer in adapter.skips), "something was learned"


@pytest.mark.parametrize("task", TASKS)
def test_an_enhancer_says_that_its_frames_were_simulated_and_how(task: str, runs: dict[str, Path]) -> None:
    adapter = td.Generator.load(runs[task]).frame_adapter
    assert adapter is not None
    assert adapter.about["simulated"] == {
        "blur": 0.5, "gain": 0.03, "offset": 0.02, "noise": 0.02, "shift": 1.0, "clouds": 0.3, "days": 180.0,
    }  # fmt: skip


def test_the_command_super_resolves_any_size_and_goes_on(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    (tmp_path / "in").mkdir()
    for name, (height, width) in {"small": (16, 16), "odd": (37, 22)}.items():
        Image.fromarray(scene(height, width)).save(tmp_path / "in" / f"{name}.png")
    note = {"file_name": "odd.png", "caption": "a field", "gsd_m": 10, "month": 7}
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps(note))
    command = [
        "enhance",
        "super-resolve",
        str(tmp_path / "in"),
        "--scale",
        "2",
        "--generator",
        str(runs["super-resolve"].parent),
    ]
    command += ["--preset", "tiny", "--out", str(tmp_path / "out")]
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    with Image.open(tmp_path / "out" / "odd.png") as image:
        assert image.size == (44, 74)
        made = np.asarray(image)
    assert as_seen(made, 2, 0.5, scene(37, 22)) < 4, "made coarse again it is the given image"
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    odd, small = rows
    assert (odd["file_name"], odd["captions"], odd["gsd_m"], odd["month"]) == ("odd.png", ["a field"], 5, 7)
    assert (small["file_name"], small["captions"], small["gsd_m"]) == ("small.png", [], None)
    assert (tmp_path / "out" / "before_after.png").is_file()
    (tmp_path / "out" / "small.png").unlink()
    before = (tmp_path / "out" / "odd.png").stat().st_mtime_ns
    code, error = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    assert (tmp_path / "out" / "small.png").is_file()
    assert (tmp_path / "out" / "odd.png").stat().st_mtime_ns == before
    code, error = terradistill(*command, "--seed", "9", capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "another seed" in error) == (2, True)
    code, error = terradistill(
        *command[:3], "--scale", "4", *command[5:-1], str(tmp_path / "o"), capsys=capsys, monkeypatch=monkeypatch
    )
    assert (code, "2 times the resolution" in error) == (2, True)


def as_seen(made: np.ndarray, scale: int, blur: float, given: np.ndarray) -> float:
    """How far an image is from the given one where a sensor sees it, grey levels."""
    seen = to_uint8(Sensor(scale, blur=blur, gain=0, offset=0, noise=0).see(to_float(made[None]), torch.Generator()))
    return float(np.abs(seen[0].astype(int) - given).mean())


def test_what_is_drawn_agrees_with_what_was_given() -> None:
    given = scene(12, 20)
    drawn = np.clip(bicubic(given, 4).astype(int) + 25, 0, 255).astype(np.uint8)
    again = agreeing(drawn[None], given[None], 4)[0].astype(float).reshape(12, 4, 20, 4, 3).mean((1, 3))
    assert np.abs(again - given).max() < 3
    # A sensor that blurs sees less contrast than there is: a scene that it saw is left as it is.
    fine = scene(48, 80, seed=1)[None]
    seen = to_uint8(Sensor(4, blur=0.4, gain=0, offset=0, noise=0).see(to_float(fine), torch.Generator()))
    left, changed = (np.abs(agreeing(fine, seen, 4, blur).astype(int) - fine).mean() for blur in (0.4, 0.0))
    assert left < 1 < changed / 3


def test_a_task_that_was_not_learned_is_one_sentence(
    runs: dict[str, Path], finished: td.Distilled, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    Image.fromarray(scene(32, 32)).save(tmp_path / "a_2021-07.png")
    for generator, says in (
        (finished.run, "learned to draw alone, not to fuse"),
        (runs["timelapse"], "to timelapse, not to fuse"),
    ):
        command = ["enhance", "fuse", str(tmp_path / "a_2021-07.png"), "--generator", str(generator)]
        code, error = terradistill(*command, "--out", str(tmp_path / "out"), capsys=capsys, monkeypatch=monkeypatch)
        assert (code, says in error) == (2, True), error
    assert not (tmp_path / "out").exists()


def test_fusing_takes_any_number_of_images_in_any_order(runs: dict[str, Path]) -> None:
    enhancer = open_enhancer(tiny_settings(generator=str(runs["fuse"])), "fuse")
    images, days = np.stack([scene(16, 16, seed) for seed in range(8)]), [-30, 4, 90, 7, -2, 60, 11, 0]
    wanted = tiny_settings()
    made = {n: fused(enhancer, images[:n], days[:n], SUMMER, "", 0, wanted) for n in (1, 2, 4, 8)}
    assert all(image.shape == (32, 32, 3) for image in made.values())
    turned = fused(enhancer, images[:4][::-1], days[:4][::-1], SUMMER, "", 0, wanted)
    assert np.abs(turned.astype(int) - made[4]).max() <= 1
    # After a brief training they move a few pixels by a level, and not all days do.
    others = [fused(enhancer, images[:4], [day + k for day in days[:4]], SUMMER, "", 0, wanted) for k in (40, 150, 400)]
    assert not all(np.array_equal(other, made[4]) for other in others), "the days matter"
    winter = fused(enhancer, images[:4], days[:4], {"month": 0.5}, "", 0, wanted)
    assert not np.array_equal(winter, made[4]), "the season matters"
    # One image is plain super-resolution by the same adapter, whatever the fusion's weight.
    alone = [
        fused(enhancer, images[:1], days[:1], SUMMER, "", 0, tiny_settings(enhance__fusion=share)) for share in (0, 1)
    ]
    assert np.array_equal(*alone)


def test_fusing_heeds_how_trajectories_are_led_together(runs: dict[str, Path]) -> None:
    enhancer = open_enhancer(tiny_settings(generator=str(runs["fuse"])), "fuse")
    images, days = np.stack([scene(16, 16, seed) for seed in range(3)]), [-30, 4, 90]

    def made(**how: object) -> np.ndarray:
        settings = tiny_settings(sampling__steps=4, **{f"enhance__{name}": value for name, value in how.items()})
        return fused(enhancer, images, days, SUMMER, "", 0, settings)

    usual = made(fusion=0.8)
    others: list[dict[str, object]] = [
        {"fusion": 0.0},
        {"fusion": 1.0},
        {"fusion_distance": "l1"},
        {"fusion_subset": 1},
    ]
    others += [{"fusion_course": "rising"}, {"fusion_course": "constant"}, {"fusion_result": "mean"}]
    for other in others:
        assert not np.array_equal(made(**{"fusion": 0.8} | other), usual), other


def test_a_frame_is_so_many_days_from_what_is_drawn(runs: dict[str, Path], tmp_path: Path, monkeypatch: Patch) -> None:
    from terradistill.enhancing import fuse

    told = list[tuple[list[float], dict[str, float]]]()

    def watched(_enhancer: object, _images: np.ndarray, days: Any, season: Any, *_: object, **__: object) -> np.ndarray:
        told.append((list(days), dict(season)))
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(fuse, "fused", watched)
    (tmp_path / "in").mkdir()
    for k, day in enumerate(("2021-05-01", "2021-07-04", "2020-01-01")):
        Image.fromarray(scene(16, 16, k)).save(tmp_path / "in" / f"s_{day}.png")
    fuse.fuse_dates(tmp_path / "in", tmp_path / "out", tiny_settings(generator=str(runs["fuse"])), day="2021-06-10")
    assert sorted(told[0][0]) == [-526, -40, 24], "before it is less than zero"
    assert told[0][1] == pytest.approx({"month": 5 + 9 / 31})


def test_fusing_costs_a_call_a_step_and_image_and_two_with_a_prompt(runs: dict[str, Path]) -> None:
    enhancer = open_enhancer(tiny_settings(generator=str(runs["fuse"])), "fuse")
    images, days, calls = np.stack([scene(16, 16, seed) for seed in range(3)]), [-30, 4, 90], list[int]()
    plain = enhancer.generator.unet.forward

    def counted(z: torch.Tensor, *more: object, **named: object) -> object:
        calls.append(len(z))
        return plain(z, *more, **named)

    enhancer.generator.unet.forward = counted
    wanted = tiny_settings(sampling__steps=5, sampling__cfg_between=(0, 1))
    for prompt, each in (("", 1), ("a dark field", 2)):
        calls.clear()
        fused(enhancer, images, days, SUMMER, prompt, 0, wanted)
        assert sum(calls) == 5 * 3 * each
    calls.clear()
    fused(enhancer, images, days, SUMMER, "", 0, tiny_settings(sampling__steps=5, enhance__fusion_subset=2))
    assert sum(calls) == 5 * 2, "two of three trajectories a step"


def test_the_command_fuses_a_folder_a_place(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    for place in ("east", "west"):
        (tmp_path / "in" / place).mkdir(parents=True)
        for k, day in enumerate(("2021-05-01", "2021-07-04")):
            Image.fromarray(scene(16, 16, k)).save(tmp_path / "in" / place / f"s_{day}.png")
    command = ["enhance", "fuse", str(tmp_path / "in"), "--generator", str(runs["fuse"]), "--preset", "tiny", "--out"]
    code, error = terradistill(*command, str(tmp_path / "out"), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [(row["file_name"], row["year"], row["month"], row["day"]) for row in rows] == [
        ("east.png", 2021, 7, 4),
        ("west.png", 2021, 7, 4),
    ]
    (tmp_path / "in" / "west" / "s_2021-05-01.png").rename(tmp_path / "in" / "west" / "s_2021-06-20.png")
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("east.png", "west.png")}
    assert terradistill(*command, str(tmp_path / "out"), capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    again = [name for name, at in before.items() if (tmp_path / "out" / name).stat().st_mtime_ns != at]
    assert again == ["west.png"], "of another day, so drawn anew"
    Image.fromarray(scene(16, 16)).save(tmp_path / "in" / "west" / "undated.png")
    code, error = terradistill(*command, str(tmp_path / "more"), capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "Nothing says when west/undated was taken" in error) == (2, True), error


def test_a_timelapse_goes_on_from_what_it_drew(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    Image.fromarray(scene(32, 32)).save(tmp_path / "place_2021-07-04.png")
    command = ["enhance", "timelapse", str(tmp_path / "place_2021-07-04.png"), "--generator", str(runs["timelapse"])]
    command += ["--preset", "tiny", "--dates", "2021-08,2021-09,2021-10,2021-11,2021-12"]
    code, error = terradistill(*command, "--out", str(tmp_path / "out"), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    alone = [*command, "--frames", "1", "--out", str(tmp_path / "alone")]
    assert terradistill(*alone, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "alone" / "metadata.jsonl").read_text().splitlines()]
    assert [len(row["after"]) for row in rows] == [1] * 5
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [row["month"] for row in rows] == [8, 9, 10, 11, 12]
    assert rows[0]["after"] == ["2021-07-04"]
    assert rows[4]["after"] == ["2021-11-15", "2021-10-15", "2021-09-15"]
    with Image.open(tmp_path / "out" / "timelapse.png") as picture:
        assert picture.height > 6 * 32


def test_what_is_known_of_frames_and_of_the_date_is_told(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: Patch
) -> None:
    told = list[tuple[Any, Any]]()
    drawing = timelapse.at_date

    def spied(enhancer: Any, frames: Any, target: Any, *rest: Any) -> Any:
        told.append(([dict(frame.known) for frame in frames], dict(target)))
        return drawing(enhancer, frames, target, *rest)

    monkeypatch.setattr(timelapse, "at_date", spied)
    (tmp_path / "in").mkdir()
    Image.fromarray(scene(32, 32)).save(tmp_path / "in" / "a.png")
    note = {"file_name": "a.png", "year": 2020, "month": 7, "day": 1, "gsd_m": 2, "cloud_fraction": 0.25, "lat": 50.0}
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps(note))
    tiny = tiny_settings(generator=str(runs["timelapse"]))
    timelapse.timelapse(tmp_path / "in", tmp_path / "out", tiny, days=["2021-01-01", "2021-03-01"])
    place = {"gsd_m": 2, "lat": 50}
    first = {**place, "year": 2021, "month": 0}
    given = {**place, "year": 2020, "month": 6, "day": 1, "cloud_fraction": 0.25}
    assert told == [([given], first), ([first, given], {**place, "year": 2021, "month": 2})]


def test_one_to_three_frames_and_another_month_make_another_image(runs: dict[str, Path]) -> None:
    enhancer = open_enhancer(tiny_settings(generator=str(runs["timelapse"])), "timelapse")
    frames = [Frame({"month": float(k)}, scene(32, 32, k)) for k in (3, 5, 8)]
    wanted = tiny_settings().sampling
    made = [at_date(enhancer, frames[:n], {"month": 6.0}, "", 0, wanted) for n in (1, 2, 3)]
    made.append(at_date(enhancer, frames, {"month": 11.5}, "", 0, wanted))
    assert len({image.tobytes() for image in made}) == 4


def test_large_scenes_are_drawn_in_tiles_of_bounded_batches(runs: dict[str, Path]) -> None:
    enhancer = open_enhancer(tiny_settings(generator=str(runs["super-resolve"])), "super-resolve")
    sizes: list[tuple[int, int]] = []
    plain, side = enhancer.generator.unet.forward, enhancer.generator.latent_shape[1]

    def counted(z: torch.Tensor, *more: object, **named: object) -> object:
        sizes.append((len(z), z.shape[-1]))
        return plain(z, *more, **named)

    enhancer.generator.unet.forward = counted
    wanted = tiny_settings().sampling.model_copy(update={"batch_size": 3})
    made = sharpened(enhancer, to_float(scene(60, 45)[None]).numpy(), "", [0], wanted)
    assert made.shape == (1, 120, 90, 3)
    assert {width for _, width in sizes} == {side}
    assert max(n for n, _ in sizes) == 3, "tiles at a time; nothing is told, so guidance costs nothing"

    def narrow(z: torch.Tensor, *more: object, **named: object) -> object:
        if len(z) > 1:
            raise torch.OutOfMemoryError
        return counted(z, *more, **named)

    enhancer.generator.unet.forward = narrow
    sizes.clear()
    again = sharpened(enhancer, to_float(scene(60, 45)[None]).numpy(), "", [0], wanted)
    assert {n for n, _ in sizes} == {1}, "fewer tiles where memory does not suffice"
    assert np.abs(again.astype(int) - made).max() <= 1


def test_small_images_are_drawn_at_once_as_they_are_alone(
    runs: dict[str, Path], finished: td.Distilled, tmp_path: Path, monkeypatch: Patch
) -> None:
    from terradistill.enhancing import inpaint, results, super_resolve

    folder = tmp_path / "in"
    folder.mkdir()
    for k, size in enumerate([(16, 12), (16, 12), (16, 12), (16, 16), (40, 40), (16, 12)]):
        Image.fromarray(scene(*size, seed=k)).save(folder / f"{k}.png")
    batches: list[int] = []
    plain = {"sharpened": super_resolve.sharpened, "fill_hidden": inpaint.fill_hidden}

    def counted(module: Any, name: str) -> None:
        def call(first: object, images: np.ndarray, *more: Any, **named: Any) -> Any:
            batches.append(len(images))
            return plain[name](first, images, *more, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(module, name, call)

    counted(super_resolve, "sharpened")
    counted(inpaint, "fill_hidden")
    for name, module, generator, more in (
        ("super_resolve", super_resolve, runs["super-resolve"], {}),
        ("inpaint", inpaint, finished.run, {"clouds": 0.4}),
    ):
        settings = tiny_settings(generator=str(generator), precision="fp32")
        batches.clear()
        out = getattr(module, name)(folder, tmp_path / name, settings, **more)
        assert batches == [3, 1, 1, 1], "one size and one tile each"
        whole = {path.name: np.asarray(Image.open(path)).astype(int) for path in out.glob("?.png")}
        with monkeypatch.context() as one:
            one.setattr(results, "AT_ONCE", 1)
            alone = getattr(module, name)(folder, tmp_path / f"{name}-alone", settings, **more)
        for path in alone.glob("?.png"):
            assert np.abs(np.asarray(Image.open(path)) - whole[path.name]).max() <= 1
        (out / "1.png").unlink()  # a kill amid a block
        batches.clear()
        getattr(module, name)(folder, out, settings, **more)
        assert batches == [3], "the block is made whole, so that"
        assert np.array_equal(np.asarray(Image.open(out / "1.png")), whole["1.png"])


def test_what_is_painted_in_heeds_the_prompt_and_the_numbers(finished: td.Distilled) -> None:
    generator = td.Generator.load(finished.run)
    encoder = MetadataEncoder(generator.time_width, 10.0)
    generator.metadata_encoder = awake(encoder)
    generator = generator.ready(torch.device("cpu"))
    hidden = np.zeros((32, 32), bool)
    hidden[8:24, 8:24] = True
    months = encoder.table([{"month": 1.0}, {"month": 7.0}])
    settings, cpu = tiny_settings(), find_hardware("fp32")

    def painted(prompt: str, numbers: torch.Tensor | None) -> np.ndarray:
        images, where = scene(32, 32)[None], hidden[None]
        return inpaint.fill_hidden(generator, images, where, prompt, [0], settings, cpu, metadata=numbers)[0]

    plain = painted("", None)
    told = [painted("a satellite image of river", None), *(painted("", month[None]) for month in months)]
    for made in told:
        assert np.array_equal(made[~hidden], plain[~hidden])
        assert not np.array_equal(made, plain)
    assert not np.array_equal(told[1], told[2]), "another month is another image"


def test_what_is_painted_in_begins_from_what_is_around_it_but_for_a_prompt(finished: td.Distilled) -> None:
    settings = tiny_settings(generator=str(finished.run), sampling__steps=20)
    hardware = find_hardware("fp32")
    generator = td.Generator.load(finished.run).ready(hardware.device)
    image, hidden = scene(32, 32)[None], np.zeros((1, 32, 32), np.bool_)
    hidden[:, 8:24, 8:24] = True
    guess = filled(image[0], hidden[0])[hidden[0]].astype(float)

    def off(prompt: str, strength: float | None = None) -> float:
        enhance = settings.enhance.model_copy(update={"strength": strength})
        wanted = settings.model_copy(update={"enhance": enhance})
        made = inpaint.fill_hidden(generator, image, hidden, prompt, [0], wanted, hardware)
        return float(np.abs(made[hidden] - guess).mean())

    least, noise = off("", 0.05), off("", 1.0)
    assert least < off("") < noise, "the more steps, the farther from interpolation"
    assert off("a river") == off("a river", 1.0) != off("a river", 0.4)


def test_in_painting_leaves_all_other_pixels_as_they_are(
    finished: td.Distilled, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    image, hidden = scene(50, 41), np.zeros((50, 41), np.uint8)
    hidden[10:30, 5:25] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    command = ["enhance", "inpaint", str(tmp_path / "a.png"), "--generator", str(finished.run), "--preset", "tiny"]
    code, error = terradistill(
        *command,
        "--mask",
        str(tmp_path / "mask.png"),
        "--out",
        str(tmp_path / "out"),
        capsys=capsys,
        monkeypatch=monkeypatch,
    )
    assert code == 0, error
    made = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.array_equal(made[hidden == 0], image[hidden == 0])
    assert not np.array_equal(made[hidden > 0], image[hidden > 0])
    for more, says in (
        ([], "Say what is hidden"),
        (["--mask", str(tmp_path / "a.png"), "--clouds", "0.2"], "Say what is hidden"),
        (["--clouds", "1.5"], "at most 1"),
        (["--mask", str(tmp_path / "no.png")], "There is no mask"),
        (["--clouds", "0.2", "--set-metadata", "month=7"], "has not learned metadata"),
    ):
        code, error = terradistill(
            *command, *more, "--out", str(tmp_path / "o"), capsys=capsys, monkeypatch=monkeypatch
        )
        assert (code, says in error) == (2, True), error
    Image.fromarray(hidden[:40]).save(tmp_path / "short.png")
    code, error = terradistill(
        *command,
        "--mask",
        str(tmp_path / "short.png"),
        "--out",
        str(tmp_path / "o"),
        capsys=capsys,
        monkeypatch=monkeypatch,
    )
    assert (code, "expected the same" in error) == (2, True), error


def test_simulated_clouds_are_drawn_away_and_said_to_be_simulated(finished: td.Distilled, tmp_path: Path) -> None:
    from terradistill.enhancing.inpaint import inpaint

    Image.fromarray(scene(40, 40)).save(tmp_path / "a.png")
    made = inpaint(tmp_path / "a.png", tmp_path / "out", tiny_settings(generator=str(finished.run)), clouds=0.3)
    row = json.loads((made / "metadata.jsonl").read_text())
    assert row["simulated"] == "clouds"
    assert 0.3 <= row["hidden"] < 0.9


def test_what_is_made_of_data_is_data_and_says_what_went_into_it(
    finished: td.Distilled, runs: dict[str, Path], tmp_path: Path
) -> None:
    from terradistill.enhancing.inpaint import inpaint
    from terradistill.enhancing.super_resolve import super_resolve
    from terradistill.models.places import learned_from, write_learned_from

    classes, pixels = ["a", "b"], np.stack([scene(32, 32, seed) for seed in range(2)])
    info = {"name": "in", "licence": "CC0", "gsd_m": 4.0}
    rows = [
        {"captions": ["two ponds"], "cloud_fraction": 0.4, "gsd_m": 2.0, "made_from": "larger"},
        {"captions": [], "month": 5},
    ]
    td.write_scene_folder(tmp_path / "in", classes, pixels, [0, 1], rows, info)
    write_learned_from(tmp_path / "in", ["of another generator"])
    tiny = tiny_settings(generator=str(finished.run))
    opened = td.open_scenes(inpaint(tmp_path / "in", tmp_path / "out", tiny, clouds=0.2))
    assert [scene.name for scene in opened.scenes] == ["a/a_0000.png", "b/b_0000.png"]
    assert (opened.info.name, opened.info.licence, opened.info.synthetic, opened.info.gsd_m) == ("out", "CC0", True, 4)
    assert [scene.captions for scene in opened.scenes] == [("two ponds",), ()]
    assert [scene.metadata for scene in opened.scenes] == [{"gsd_m": 2}, {"month": 5}], "clouds may be gone"
    went_into = learned_from(str(finished.run)) | {pixel_hash(image) for image in pixels}
    went_into |= {"of another generator", "larger"}
    assert learned_by(tmp_path / "out") == went_into, "no command may let these judge it"
    again = inpaint(tmp_path / "out", tmp_path / "again", tiny, clouds=0.2)
    assert len(td.open_scenes(again)) == 2, "the picture beside the classes is no scene"
    finer = super_resolve(tmp_path / "in", tmp_path / "finer", tiny_settings(generator=str(runs["super-resolve"])))
    assert td.open_scenes(finer).info.gsd_m == 2
    assert td.open_scenes(finer).scenes[0].metadata == {"gsd_m": 1}


def test_a_prompt_that_is_cut_is_told(finished: td.Distilled, tmp_path: Path) -> None:
    said = Told()
    Image.fromarray(scene(32, 32)).save(tmp_path / "a.png")
    tiny = tiny_settings(generator=str(finished.run))
    for prompt in ("river", "river " * 200):
        inpaint.inpaint(tmp_path / "a.png", tmp_path / prompt[:9], tiny, clouds=0.2, prompt=prompt, reporter=said)
    assert [text[:19] for text in said.texts] == ["The prompt has over"]


def test_what_is_made_of_packed_scenes_is_not_packed(finished: td.Distilled, tmp_path: Path) -> None:
    from terradistill.data.formation import pack_scenes
    from terradistill.enhancing.inpaint import inpaint

    pixels = np.stack([scene(32, 32, seed) for seed in range(8)])
    td.write_scene_folder(tmp_path / "in", ["a", "b"], pixels, [0] * 4 + [1] * 4, [{}] * 8, {"name": "in"})
    pack_scenes(td.open_scenes(tmp_path / "in"), tmp_path / "packed", 2)
    assert td.open_scenes(tmp_path / "packed").info.formation == 2
    tiny = tiny_settings(generator=str(finished.run))
    made = td.open_scenes(inpaint(tmp_path / "packed", tmp_path / "out", tiny, clouds=0.2))
    assert (made.info.formation, len(made)) == (1, 8)


@pytest.mark.parametrize("bands", ["RGB", "MINISBLACK"])
def test_a_geotiff_keeps_its_place_at_the_new_resolution(
    bands: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: Patch
) -> None:
    import rasterio
    from rasterio.transform import Affine

    from terradistill.enhancing.super_resolve import super_resolve

    pixels, place = scene(24, 16), Affine(10, 0, 500_000, 0, -10, 200)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=16, height=24, count=3, dtype="uint8", crs="EPSG:32633",
        transform=place, photometric=bands,
    ) as image:  # fmt: skip
        image.write(pixels.transpose(2, 0, 1))
    made = super_resolve(tmp_path / "a.tif", tmp_path / "out", tiny_settings(generator=str(runs["super-resolve"])))
    with rasterio.open(made / "a.tif") as image:
        assert (image.width, image.height, image.crs.to_epsg()) == (32, 48, 32633)
        assert (image.transform.a, image.transform.c, image.transform.f) == (5, 500_000, 200)
    monkeypatch.setattr(results, "find_spec", {"tifffile": True}.get)
    said = Told()
    tiny = tiny_settings(generator=str(runs["super-resolve"]))
    super_resolve(tmp_path / "a.tif", tmp_path / "bare", tiny, reporter=said)
    assert (tmp_path / "bare" / "a.png").is_file()
    assert ["the place of a is lost" in text for text in said.texts] == [True]


def test_what_is_made_of_geotiffs_lies_where_they_do_and_says_when_it_was(
    runs: dict[str, Path], finished: td.Distilled, tmp_path: Path
) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import Affine

    from terradistill.enhancing.fuse import fuse_dates

    place = Affine(10, 0, 500_000, 0, -10, 200)

    def written(path: Path, side: int, seed: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", crs="EPSG:32633",
            transform=place, photometric="RGB",
        ) as image:  # fmt: skip
            image.write(scene(side, side, seed).transpose(2, 0, 1))
        return path

    for k, day in enumerate(("2021-05-01", "2021-07-04")):
        written(tmp_path / "dates" / f"s_{day}.tif", 16, k)
    one = written(tmp_path / "s_2021-07-04.tif", 32, 0)
    hidden = np.zeros((32, 32), np.uint8)
    hidden[4:12] = 255
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    tiny = {task: tiny_settings(generator=str(runs[task])) for task in ("fuse", "timelapse")}
    fuse_dates(tmp_path / "dates", tmp_path / "fused", tiny["fuse"], day="2021-06-10")
    timelapse.timelapse(one, tmp_path / "moved", tiny["timelapse"], days=["2021-12-24"])
    inpaint.inpaint(one, tmp_path / "filled", tiny_settings(generator=str(finished.run)), mask=tmp_path / "mask.png")
    for name, metres, day in (
        ("fused/dates.tif", 5, "2021:06:10 12:00:00"),
        ("moved/2021-12-24.tif", 10, "2021:12:24 12:00:00"),
        ("filled/s_2021-07-04.tif", 10, None),
    ):
        with rasterio.open(tmp_path / name) as image:
            assert (image.width, image.height, image.crs.to_epsg()) == (32, 32, 32633), name
            assert (image.transform.a, image.transform.c, image.transform.f) == (metres, 500_000, 200), name
            assert image.tags().get("TIFFTAG_DATETIME") == day, name
            if name.startswith("filled"):
                kept = image.read().transpose(1, 2, 0)[hidden == 0]
                assert np.array_equal(kept, scene(32, 32, 0)[hidden == 0]), "bit for bit"


def test_results_are_made_anew_of_another_image_or_mask_and_only_then(
    finished: td.Distilled, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(scene(40, 40)).save(tmp_path / "in" / "a.png")
    for name, (top, left) in {"m": (4, 4), "n": (20, 20)}.items():
        hidden = np.zeros((40, 40), np.uint8)
        hidden[top : top + 12, left : left + 12] = 255
        Image.fromarray(hidden).save(tmp_path / f"{name}.png")
    command = ["enhance", "inpaint", str(tmp_path / "in"), "--generator", str(finished.run), "--preset", "tiny"]
    command += ["--out", str(tmp_path / "out"), "--mask"]

    def made(mask: str, *more: str) -> bytes:
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / "a.png").write_bytes((tmp_path / mask).read_bytes())
        code, error = terradistill(*command, str(tmp_path / "masks"), *more, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, error
        return (tmp_path / "out" / "a.png").read_bytes()

    first = made("m.png")
    assert made("n.png") != first
    assert made("m.png", "--set", "sampling.batch_size=3") == first, "how many at a time does not matter"
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 1
    (tmp_path / "out" / "metadata.jsonl").unlink()  # a kill between the image and its row
    assert made("m.png") == first
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 1
    for wrong, says in (
        (["--out", str(tmp_path / "in" / "out")], "lies inside"),
        (["--set", "sampling.scheduler=unipc", "--out", str(tmp_path / "o")], "cannot repeat a step"),
    ):
        code, error = terradistill(*command, str(tmp_path / "m.png"), *wrong, capsys=capsys, monkeypatch=monkeypatch)
        assert (code, says in error) == (2, True), error


def test_names_that_meet_and_colours_that_would_be_lost_are_refused(tmp_path: Path) -> None:
    from terradistill.data.pictures import open_pictures

    for name in ("a.png", "a.jpg"):
        Image.fromarray(scene(32, 32)).save(tmp_path / name)
    (tmp_path / "._b.png").write_bytes(b"resource fork")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png would make one file"):
        open_pictures(tmp_path)
    (tmp_path / "a.jpg").unlink()
    assert [picture.name for picture in open_pictures(tmp_path)] == ["a"]
    (tmp_path / "below").mkdir()
    Image.fromarray(np.full((32, 32), 4000, np.uint16)).save(tmp_path / "below" / "deep.png")
    with pytest.raises(DataError, match="folders of images"):
        open_pictures(tmp_path)
    (deep,) = open_pictures(tmp_path / "below")
    with pytest.raises(DataError, match="deep is no plain 8-bit image"):
        deep.size()


def test_a_scale_that_cannot_be_read_is_refused_before_anything_is_encoded(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(generator=str(finished.run), enhancer__scale=8, data__limit=8)
    with pytest.raises(td.TerraDistillError, match="cannot be read"):
        td.train(drawn, tmp_path / "run", settings, until="enhancer")
    assert not (tmp_path / "run" / "latents").exists()


def test_scenes_that_were_encoded_for_another_task_are_not_learned_from(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    tiny = tiny_settings(generator=str(finished.run), enhancer__task="fuse", enhancer__scale=2, data__limit=8)
    td.train(drawn, tmp_path / "run", tiny, until="classifier")
    with pytest.raises(RunError, match="encoded for another task"):
        td.train(drawn, tmp_path / "run", tiny, until="enhancer")


def test_bands_of_a_multispectral_scene_are_learned_from_and_super_resolved(
    finished: td.Distilled, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    rng = np.random.default_rng(0)
    fine = {f"B{k}": rng.integers(0, 4000, (96, 144)).astype(np.uint16) for k in (2, 3, 4)}
    coarse = {"B5": rng.integers(0, 4000, (48, 72)).astype(np.uint16), "B1": rng.random((16, 24), np.float32)}
    np.savez(tmp_path / "s2.npz", **fine, **coarse)
    command = ["data", "cut", str(tmp_path / "s2.npz"), "--side", "30", "--out", str(tmp_path / "cut")]
    assert terradistill(*command, "--stride", "16", capsys=capsys, monkeypatch=monkeypatch)[0] == 2
    command[4] = "48"
    code, error = terradistill(*command, "--stride", "12", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    command = ["train", "enhancer", str(tmp_path / "cut"), "--scale", "2", "--generator", str(finished.run), "--preset"]
    command += ["tiny", "--set", "enhancer.steps=4", "--set", "enhancer.batch_size=4", "--out", str(tmp_path / "run")]
    bands = ["--split-file", str(tmp_path / "cut" / "split.json"), "--set", 'enhancer.bands=["B2","B3","B4","B5","B1"]']
    code, error = terradistill(*command, *bands, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    adapter = td.Generator.load(tmp_path / "run").frame_adapter
    assert adapter is not None
    assert adapter.bands == ("B2", "B3", "B4", "B5", "B1")
    assert adapter.about["bands"]["mean"][0] == pytest.approx(2000, rel=0.1)
    assert "simulated" not in adapter.about, "these were taken as they are"
    enhance = ["enhance", "super-resolve", str(tmp_path / "s2.npz"), "--generator", str(tmp_path / "run"), "--preset"]
    code, error = terradistill(*enhance, "tiny", "--out", str(tmp_path / "out"), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    with Image.open(tmp_path / "out" / "s2.png") as image:
        assert image.size == (288, 192)
    enhancer = open_enhancer(tiny_settings(generator=str(tmp_path / "run")), "super-resolve")
    planes, _ = _frames(tmp_path / "s2.npz", enhancer, None)["s2"].read()
    note = adapter.about["bands"]
    for plane, name, mean, std in zip(planes, adapter.bands, note["mean"], note["std"], strict=True):
        if name in fine:  # in the enhancer's order, which is not the file's, and in its scale
            assert np.allclose(plane, ((fine[name].astype(float) - mean) / (2 * std)).clip(-1, 1), atol=1e-5)
    squares = _frames(tmp_path / "cut", enhancer, None)
    rows = {r["file_name"]: r for r in map(json.loads, (tmp_path / "cut" / "metadata.jsonl").read_text().splitlines())}
    for name in list(squares)[:3]:
        y, x = (rows[f"{name}.png"][key] for key in ("row", "column"))
        assert np.allclose(squares[name].read()[0][:3], planes[:3, y : y + 48, x : x + 48], atol=1e-5)
    enhance[2] = str(tmp_path / "cut")
    code, error = terradistill(*enhance, "tiny", "--out", str(tmp_path / "all"), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    assert len(list((tmp_path / "all" / "s2").glob("*.png"))) == len(squares)
    given = (tmp_path / "cut", tmp_path / "sheet.png", capsys, monkeypatch, "--minutes", "0.001")
    table = benched("bands", tmp_path / "run", *given)
    assert [row[0].split(",")[0].strip() for row in table[2:]] == [
        "bicubic", "regression", "drawn", "drawn", "mean of 2 drawn alone",
    ]  # fmt: skip
    np.savez(tmp_path / "less.npz", **fine)
    enhance[2] = str(tmp_path / "less.npz")
    code, error = terradistill(*enhance, "tiny", "--out", str(tmp_path / "o"), capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "band B5 is missing" in error) == (2, True), error
    Image.fromarray(scene(32, 32)).save(tmp_path / "a.png")
    enhance[2] = str(tmp_path / "a.png")
    code, error = terradistill(*enhance, "tiny", "--out", str(tmp_path / "o"), capsys=capsys, monkeypatch=monkeypatch)
    assert (code, "reads the bands" in error) == (2, True), error


def test_bands_of_a_geotiff_are_super_resolved_in_their_place(
    finished: td.Distilled, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    import rasterio
    import rasterio.shutil
    from rasterio.transform import Affine
    from rasterio.vrt import WarpedVRT

    def written(name: str, names: Sequence[str], **more: Any) -> Path:
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", width=64, height=48, count=5, dtype="uint16", crs="EPSG:32633",
            transform=Affine(10, 0, 500_000, 0, -10, 200), **more,
        ) as image:  # fmt: skip
            image.write(planes)
            for k, each in enumerate(names):
                image.set_band_description(k + 1, each)
        return tmp_path / name

    names = ["B2", "B3", "B4", "B8", "B5"]
    planes = np.random.default_rng(0).integers(1, 4000, (5, 48, 64)).astype(np.uint16)
    named, bare = written("s2.tif", names), written("bare.tif", ())
    cut = ["data", "cut", str(named), "--side", "16", "--rgb", "B4,B3,B2", "--out", str(tmp_path / "cut")]
    code, error = terradistill(*cut, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    settings = tiny_settings(
        generator=str(finished.run), enhancer__scale=2, enhancer__steps=2, enhancer__batch_size=4,
        enhancer__bands=("B8", "B2"), data__split_file=tmp_path / "cut" / "split.json",
    )  # fmt: skip
    td.train(tmp_path / "cut", tmp_path / "run", settings, until="enhancer")
    enhance = ["enhance", "super-resolve", "--generator", str(tmp_path / "run"), "--preset", "tiny"]
    of_bare = ["--bands", "bands=B2,B3,B4,B8,B5"]
    for path, more in ((named, []), (bare, of_bare)):
        out = tmp_path / f"out-{path.stem}"
        code, error = terradistill(
            *enhance, str(path), *more, "--out", str(out), capsys=capsys, monkeypatch=monkeypatch
        )
        assert code == 0, error
        with rasterio.open(out / path.name) as image:
            assert (image.width, image.height, image.transform.a, image.crs.to_epsg()) == (128, 96, 5, 32633)
    enhancer = open_enhancer(tiny_settings(generator=str(tmp_path / "run")), "super-resolve")
    note = enhancer.adapter.about["bands"]
    for path, given in ((named, None), (bare, {"bands": names})):
        read = _frames(path, enhancer, given)[path.stem].read()[0]
        for plane, k, mean, std in zip(read, (3, 0), note["mean"], note["std"], strict=True):
            assert np.allclose(plane, ((planes[k].astype(float) - mean) / (2 * std)).clip(-1, 1), atol=1e-5)
    assert json.loads((tmp_path / "out-s2" / "metadata.jsonl").read_text())["gsd_m"] == 5
    planes[2, :3] = 0
    (tmp_path / "x.tif").write_bytes(b"II*\0")
    # A format that names other files is not followed, whatever its name.
    with rasterio.open(named) as image, WarpedVRT(image) as warped:
        rasterio.shutil.copy(warped, tmp_path / "v.vrt", driver="VRT")
    (tmp_path / "v.vrt").rename(tmp_path / "v.tif")
    for path, more, says in (
        (bare, [], "band B8 is missing"),
        (written("hole.tif", names, nodata=0), [], "pixels without data"),
        (tmp_path / "x.tif", [], "cannot be read as a GeoTIFF of bands"),
        (tmp_path / "v.tif", [], "cannot be read as a GeoTIFF of bands"),
        (bare, ["--bands", "bands=B2,x,y,B8,z"], "The band B4 is missing in"),
    ):
        code, error = terradistill(
            *enhance, str(path), *more, "--out", str(tmp_path / "o"), capsys=capsys, monkeypatch=monkeypatch
        )
        assert (code, says in " ".join(error.split())) == (2, True), error


def test_rows_and_folders_of_results_are_of_one_call(tmp_path: Path) -> None:
    from terradistill.enhancing.results import Piece, Results

    data = io.BytesIO()
    Image.fromarray(scene(32, 32)).save(data, "PNG")
    piece = Piece("a", [data.getvalue])
    generator: Any = SimpleNamespace(learned_from=frozenset())

    def opened(given: Iterable[Picture]) -> Results:
        return Results(tmp_path / "out", {"task": "x"}, generator, tmp_path, given)

    def broken() -> Iterator[Picture]:
        raise OSError("the disk is gone")
        yield

    with pytest.raises(OSError, match="gone"):
        opened(broken())
    results = opened([])  # what failed holds the folder no longer
    with pytest.raises(RunError, match="Another process"):
        opened([])
    results.keep(piece, scene(32, 32), prompt="a river\u2028at dawn")
    results.close()
    again = opened([])
    assert again.made(piece) == tmp_path / "out" / "a.png"
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().split("\n")) == 2


def test_what_lies_beside_masks_is_none(tmp_path: Path) -> None:
    from terradistill.data.pictures import open_pictures
    from terradistill.enhancing.inpaint import _masks

    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            Image.fromarray(scene(32, 32)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "masks" / "a.pgw").write_text("1")
    pictures = open_pictures(tmp_path / "images")
    assert {path.name for path in _masks(tmp_path / "masks", pictures).values()} == {"a.png", "b.png"}
    Image.fromarray(scene(32, 32)).save(tmp_path / "masks" / "a.jpg")
    with pytest.raises(DataError, match="two masks for one image"):
        _masks(tmp_path / "masks", pictures)


def test_tiles_overlap_by_half_and_large_ones_by_eight_latents() -> None:
    assert [overlap(side) for side in (2, 4, 8, 16, 64)] == [1, 2, 4, 8, 8]
    assert corners(8, 8, 4, overlap(4))[-1] == (4, 4)


BENCHED = {
    "super-resolve": [
        "the scene itself",
        "bicubic",
        "regression, 0.001 min",
        "drawn, free",
        "drawn",
        "mean of 2 drawn alone",
        "drawn, told its",
    ],
    "fuse": [
        *(
            "bicubic of the nearest",
            "bicubic of the best",
            "mean of 2",
            "median of 2",
            "regression of 2",
            "fused, 1",
            "fused, 2",
        ),
        *("led to one mean", "nearest of 2 independent", "mean of 2 images drawn alone"),
    ],
    "timelapse": [
        "copy of the nearest",
        "median of the",
        "regression of 3",
        "drawn after 1",
        "drawn after 2",
        "mean of 2 of these",
        "drawn, told half a year later",
    ],
    "inpaint": ["under clouds", "interpolated", "drawn, no prompt", "drawn, prompt of the class", "mean of 2 drawn"],
}


def benched(
    task: str, source: Path, data: Path, sheet: Path, capsys: Capture, monkeypatch: Patch, *more: str
) -> list[list[str]]:
    """The table of bench/enhancement.py."""
    few = ["--per-class", "1", "--seeds", "2", "--dates", "1", "2", "--set", "sampling.steps=2"]
    few += ["--set", "evaluation.min_steps=1", "--set", "evaluation.max_steps=2", "--preset", "tiny", *more]
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setattr(sys, "argv", ["enhancement", task, str(source), str(data), *few, "--sheet", str(sheet)])
    runpy.run_path(str(BENCH / "enhancement.py"), run_name="__main__")
    table = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({len(row) for row in table}) == 1, "a table"
    return table


def test_the_bench_of_real_changes_looks_at_what_changed_and_at_the_rest(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    before, change = scene(64, 70), np.zeros((64, 70), np.uint8)
    change[:16, :8] = 255
    after = np.where(change[..., None] > 0, 255 - before // 2, before)
    for kind, image in (("before", before), ("after", after), ("change", change)):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "pairs" / kind / "a.png")
    head, _, copy, made = benched(
        "pairs", runs["timelapse"], tmp_path / "pairs", tmp_path / "s.png", capsys, monkeypatch
    )
    assert [cell.strip() for cell in head[4:]] == ["PSNR of all that changed", "of all else"]
    assert (copy[0].strip(), made[0].strip()) == ("copy of the image before", "drawn after it")
    error = np.square((before - after.astype(float))[:16, :8] / 255).mean()
    assert float(copy[4]) == pytest.approx(-10 * np.log10(error), abs=0.01)
    assert float(copy[5]) == 90
    assert "±" in made[5]


def test_real_dates_are_learned_from_and_judged_beside(
    finished: td.Distilled, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    for number in range(6):
        before = scene(64, 64, number)
        for kind, image in (("before", before), ("after", 255 - before), ("change", np.full((64, 64), 255, np.uint8))):
            (tmp_path / "pairs" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "pairs" / kind / f"{number}.png")
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setattr(
        sys, "argv", ["enhancement", "cut", str(tmp_path / "pairs"), str(tmp_path / "cut"), "--side", "32"]
    )
    runpy.run_path(str(BENCH / "enhancement.py"), run_name="__main__")
    assert "4 pairs to learn from, 2 to judge" in capsys.readouterr().out
    learn = td.open_scenes(tmp_path / "cut" / "learn")
    assert (learn.classes, len(learn)) == (("after", "before"), 2 * 4 * 4)
    settings = tiny_settings(
        generator=str(finished.run), enhancer__task="timelapse", enhancer__real=True, enhancer__steps=60,
        enhancer__batch_size=8, enhancer__learning_rate=3e-3, enhancer__warmup_steps=1, data__train_fraction=0.75,
    )  # fmt: skip
    places, splitting = list[list[str]](), diffusion.held_out_split
    monkeypatch.setattr(diffusion, "held_out_split", lambda *given: (places.extend(given[3:]), splitting(*given))[1])
    run = td.train(tmp_path / "cut" / "learn", tmp_path / "run", settings, until="enhancer")
    assert len(places[-1]) == 24
    assert set(Counter(places[-1]).values()) == {2}, "the loss is watched on whole places"
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    sides = {side: [Path(row["name"]).stem for row in split[side]] for side in ("train", "test")}
    assert not set(sides["train"]) & set(sides["test"]), "a place is on one side"
    assert (len(sides["train"]), len(sides["test"])) == (24, 8)
    adapter = td.Generator.load(run).frame_adapter
    assert adapter is not None
    assert adapter.about == {"task": "timelapse", "n_frames": 3, "real": True}
    _, _, copy, made = benched("pairs", run, tmp_path / "cut" / "judge", tmp_path / "s.png", capsys, monkeypatch)
    assert float(made[1].split("±")[0]) > float(copy[1]), "what turns into its negative is not copied"
    with pytest.raises(SystemExit, match="has learned from squares"):
        benched("pairs", run, tmp_path / "pairs", tmp_path / "s.png", capsys, monkeypatch)
    said = Told()
    Image.fromarray(scene(32, 32)).save(tmp_path / "a_2021-07.png")
    undated = tiny_settings(generator=str(run))
    timelapse.timelapse(tmp_path / "a_2021-07.png", tmp_path / "t", undated, days=["2021-01"], reporter=said)
    assert "does not depend on the date" in said.texts[0]
    lone = tmp_path / "cut" / "learn" / "after"
    for number in range(8):
        (lone / f"{number % 4}-{number // 4}.png").rename(lone / f"x{number}.png")
    with pytest.raises(DataError, match="every class folder needs an image of each place"):
        td.train(tmp_path / "cut" / "learn", tmp_path / "other", settings, until="enhancer")
    assert not (tmp_path / "other" / "latents").exists(), "refused before anything is encoded"


@pytest.mark.parametrize("task", BENCHED)
def test_the_bench_measures_each_task(
    task: str,
    runs: dict[str, Path],
    finished: td.Distilled,
    drawn: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: Patch,
) -> None:
    sheet = tmp_path / "sheet.png"
    more = [] if task == "inpaint" else ["--minutes", "0.001"]
    table = benched(task, runs.get(task, finished.run), drawn, sheet, capsys, monkeypatch, *more)
    assert len(table[0]) == 4 + (task in ("super-resolve", "inpaint"))
    names = [row[0].strip() for row in table[2:]]
    assert len(names) == len(BENCHED[task])
    assert all(name.startswith(begins) for name, begins in zip(names, BENCHED[task], strict=True)), names
    of_seeds = [name for name, row in zip(names, table[2:], strict=True) if "±" in row[1]]
    assert {"drawn, free", "fused, 2 dates", "drawn after 2 frames", "drawn, no prompt"} & set(of_seeds)
    if task == "super-resolve":
        assert float(table[2][1]) > 60, "a scene is like itself"
        assert float(table[2][3]) == 0
    assert sheet.stat().st_size > 1000


def test_the_bench_of_seams_tells_them_from_a_decoder_s_own_pattern(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    Image.fromarray(scene(40, 52)).save(tmp_path / "large.png")
    generator = td.Generator.load(runs["super-resolve"])
    height, width, side, factor = 80, 104, generator.resolution, generator.factor
    cells = np.indices((height, width)) // factor
    grid = 10 * (cells.sum(0) % 2).astype(np.uint8)  # a step at every edge of latents
    edge = (corners(height // factor, width // factor, side // factor, overlap(side // factor))[1][1]) * factor
    monkeypatch.syspath_prepend(BENCH)

    def measured() -> float:
        few = ["--preset", "tiny", "--set", "sampling.steps=2"]
        argv = ["enhancement", "seams", str(runs["super-resolve"]), str(tmp_path / "large.png"), *few]
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(str(BENCH / "enhancement.py"), run_name="__main__")
        said = re.search(
            r"in (\d+) tiles, .* tiles [\d.]+ of that at other edges of latents \(([\d.]+) drawn",
            capsys.readouterr().out,
        )
        assert said is not None
        assert int(said[1]) > 1
        return float(said[2])

    assert measured() > 0
    for image, least, most in (
        (grid, 0.999, 1.001),
        (grid + 50 * (np.arange(width) >= edge).astype(np.uint8), 1.2, 99),
    ):
        drawn = np.repeat(image[None, ..., None], 3, 3)
        monkeypatch.setattr(super_resolve, "sharpened", lambda *_, drawn=drawn, **__: drawn)
        assert least < measured() < most


def test_an_enhancer_that_comes_with_the_package_works_beside_its_generator(
    tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    base, own = td.Generator.load("base-128"), "ab" * 32
    about = {"task": "super-resolve", "n_frames": 1, "simulated": {}}
    adapter = FrameAdapter(base.unet, base.factor, bands=("R", "G", "B"), scale=4, middle=False, temporal=False,
                           told=((), ()), about=about)  # fmt: skip
    adapter.half().save(tmp_path / "shipped" / "frame_adapter")
    write_learned_from(tmp_path / "shipped", [own])
    monkeypatch.setitem(ENHANCERS, "base-128", {"super-resolve": tmp_path / "shipped"})
    Image.fromarray(scene(36, 20)).save(tmp_path / "small.png")
    command = ["enhance", "super-resolve", str(tmp_path / "small.png"), "--scale", "4", "--set", "sampling.steps=2"]
    code, error = terradistill(*command, "--out", str(tmp_path / "out"), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    with Image.open(tmp_path / "out" / "small.png") as image:
        assert image.size == (80, 144), "in two tiles"
    assert {own} | base.learned_from <= learned_by(tmp_path / "out"), "neither judges what it has seen"
    enhancer = open_enhancer(td.load_settings(), "super-resolve")
    assert {p.dtype for part in enhancer.generator.networks for p in part.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="not to timelapse"):
        open_enhancer(td.load_settings(), "timelapse")
    base.save(tmp_path / "copy")
    with pytest.raises(ConfigError, match="draw alone, not to super-resolve"):
        open_enhancer(td.load_settings(generator=str(tmp_path / "copy")), "super-resolve")
