"""An adapter trained beside a generator that stays as it is, and scenes drawn after maps and pictures."""

import json
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import terradistill as td
from terradistill.data.images import decode
from terradistill.data.maps import read_map
from terradistill.generation.draw import _maps
from terradistill.generation.orders import Order, Shown
from terradistill.models.metadata_encoder import MetadataEncoder
from terradistill.models.weaker import Weaker
from terradistill.run import Silent
from tests.conftest import adapting, terradistill, tiny_settings
from tests.unit.conftest import awake

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch


def digest(folder: Path) -> str:
    return sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))).hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask, and a picture."""
    root, mask = tmp_path_factory.mktemp("files"), np.zeros((40, 40), np.uint8)
    mask[10:30, 18:22] = 255
    Image.fromarray(mask).save(root / "mask.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(root / "picture.png")
    Image.fromarray(np.full((50, 50, 3), 200, np.uint8)).save(root / "other.png")
    return root


def test_the_generator_itself_stays_as_it_is(adapted: Path, finished: td.Distilled) -> None:
    for part in ("unet", "vae", "text_encoder"):
        assert digest(adapted / part) == digest(finished.run / "generator" / part)
    fresh = td.Generator.load(adapted)
    assert fresh.map_adapter is not None
    assert any(layer.weight.any() for layer in fresh.map_adapter.skips), "something was learned"


def test_a_stopped_training_ends_where_another_does(
    adapted: Path, finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    class Stopping(Silent):
        """Interrupts the adapter in its thirteenth step."""

        stage = ""

        def start(self, title: str) -> None:
            self.stage = title

        def progress(self, done: int, total: int) -> None:
            if "adapter" in self.stage and (done, total) == (13, 25):
                raise KeyboardInterrupt

    settings = adapting(finished).model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(KeyboardInterrupt):
        td.train(drawn, tmp_path / "run", settings, until="adapter", reporter=Stopping())
    kept = list((tmp_path / "run" / "work" / "adapter").glob("*.safetensors"))
    assert kept, "it goes on from a checkpoint"
    made = td.train(drawn, tmp_path / "run", settings, until="adapter")
    for part in ("map_adapter", "content_encoder"):
        assert digest(made / part) == digest(adapted / part), part


def test_the_shares_left_out_are_those_that_were_set(
    finished: td.Distilled, drawn: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    shares = (0.3, 0.2, 0.15)
    settings = tiny_settings(
        generator=str(finished.run), adapter__maps=["edges"], adapter__map_dropout=shares[0],
        adapter__keep_all=shares[1], adapter__drop_all=shares[2],
    )  # fmt: skip

    def seen(*given: Any) -> None:
        table = given[5]
        assert (table.dropout, table.keep_all, table.drop_all) == shares
        assert table.names == ("edges",)
        raise InterruptedError("seen enough")

    monkeypatch.setattr("terradistill.distillation.beside._train_beside", seen)
    with pytest.raises(InterruptedError):
        td.train(drawn, tmp_path / "run", settings, until="adapter")


def test_controlnets_are_trained_and_drawn_with_like_the_adapter(
    finished: td.Distilled, drawn: Path, files: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(
        generator=str(finished.run), adapter__maps=["edges", "sketch"], adapter__kind="controlnet", adapter__steps=6
    )
    numbers = td.Generator.load(finished.run)
    numbers.metadata_encoder = MetadataEncoder(numbers.time_width, 10.0)
    numbers.save(tmp_path / "numbers")
    settings = settings.model_copy(update={"generator": str(tmp_path / "numbers")})
    made = td.train(drawn, tmp_path / "run", settings, until="adapter")
    for part in ("unet", "metadata_encoder"):
        assert digest(made / part) == digest(tmp_path / "numbers" / part), part
    generator = td.Generator.load(made)
    assert generator.map_adapter is not None
    assert generator.map_adapter.learned == ("edges", "sketch")
    assert all(net.controlnet_mid_block.weight.any() for net in generator.map_adapter.nets), "something was learned"
    images = []
    for strength in (0.0, 5.0):
        order = Order("a river", "river", maps={"edges": Shown(files / "mask.png", strength)})
        scenes = td.generate([order], tmp_path / f"{strength}", generator, n=1, settings=tiny_settings())
        images.append(decode(scenes.read(0)))
    assert not np.array_equal(*images)


@pytest.mark.parametrize("guided", ["freely", "by its weaker self"])
def test_strength_zero_draws_what_the_prompt_alone_draws(
    guided: str, adapted: Path, files: Path, tmp_path: Path
) -> None:
    generator, tiny = td.Generator.load(adapted), tiny_settings()
    if guided != "freely":
        generator.weaker = Weaker.like(generator)
        with torch.no_grad():
            for parameter in generator.weaker.parameters():
                parameter.mul_(0.9)

    def drawn(name: str, **more: object) -> list[np.ndarray]:
        order = Order("a river", "river", **more)  # type: ignore[arg-type]
        made = td.generate([order], tmp_path / name, generator, n=3, settings=tiny)
        return [decode(made.read(i)) for i in range(3)]

    plain = drawn("plain")
    for name, more in {
        "map": {"maps": {"edges": Shown(files / "mask.png", 0.0)}},
        "picture": {"content": Shown(files / "picture.png", 0.0)},
    }.items():
        assert all(map(np.array_equal, plain, drawn(name, **more)))
    assert not all(map(np.array_equal, plain, drawn("map 1", maps={"edges": Shown(files / "mask.png", 1.0)})))
    first, second = (drawn(f"as {name}", content=Shown(files / f"{name}.png")) for name in ("picture", "other"))
    assert not all(map(np.array_equal, plain, first))
    assert not all(map(np.array_equal, first, second)), "another picture, another scene"


def test_an_image_does_not_depend_on_the_orders_beside_it(adapted: Path, files: Path, tmp_path: Path) -> None:
    generator, tiny = td.Generator.load(adapted), tiny_settings(sampling__batch_size=3)
    mapped = Order("a river", "river", maps={"edges": Shown(files / "mask.png")}, content=Shown(files / "picture.png"))
    alone = td.generate([mapped], tmp_path / "a", generator, n=2, settings=tiny)
    other = Order("a forest", "forest", maps={"segmentation": Shown(files / "mask.png")}, n=5)
    plain = td.generate([other], tmp_path / "p", generator, n=2, settings=tiny)
    among = td.generate([other, mapped], tmp_path / "b", generator, n=2, settings=tiny)
    names = [scene.name for scene in among.scenes]
    assert len(names) == 7
    for before in (alone, plain):
        for i, scene in enumerate(before.scenes):
            twin = decode(among.read(names.index(scene.name)))
            assert abs(decode(before.read(i)).astype(int) - twin.astype(int)).max() <= 1


def test_the_command_draws_after_a_map_and_keeps_every_condition(
    adapted: Path, files: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    requests = tmp_path / "requests.jsonl"
    (tmp_path / "mine.png").write_bytes((files / "mask.png").read_bytes())
    rows = [{"prompt": "a river", "maps": {"edges": "mine.png:0.5"}, "n": 1}, {"prompt": "", "content": "mine.png"}]
    requests.write_text("\n".join(map(json.dumps, rows)))
    command = ["generate", "--generator", str(adapted), "--requests", str(requests), "--size", "36", "--n", "2"]
    command += ["--map", f"segmentation={files / 'mask.png'}", "--preset", "tiny", "--out", str(tmp_path / "made")]
    code, said = terradistill(*command, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, said
    made = [json.loads(line) for line in (tmp_path / "made" / "metadata.jsonl").read_text().splitlines()]
    assert len(made) == 3
    river = next(row for row in made if row["prompt"] == "a river")
    assert river["map_edges_strength"] == 0.5
    assert river["map_edges"] == river["map_segmentation"], "one picture is kept once"
    assert (tmp_path / "made" / river["map_edges"]).read_bytes() == (files / "mask.png").read_bytes()
    assert river["content"] is None
    assert str(tmp_path) not in (tmp_path / "made" / "metadata.jsonl").read_text(), "it says nothing of the machine"
    from datasets import load_dataset

    made_of = str(tmp_path / "made")
    opened = load_dataset("imagefolder", data_dir=made_of, split="train", cache_dir=str(tmp_path / "hub"))
    assert sorted(opened["prompt"]) == ["", "", "a river"]
    assert td.open_scenes(tmp_path / "made").classes == ("a-river", "scene")
    with Image.open(next((tmp_path / "made").rglob("*_0000.png"))) as image:
        assert image.size == (36, 36)


def test_numbers_a_map_and_a_picture_are_heeded_together(adapted: Path, files: Path, tmp_path: Path) -> None:
    generator = td.Generator.load(adapted)
    width = int(generator.unet.time_embedding.linear_2.out_features)
    generator.metadata_encoder = awake(MetadataEncoder(width, fields=["gsd_m"]))
    assert generator.map_adapter is not None
    heard = list[torch.Tensor]()
    generator.map_adapter.register_forward_pre_hook(lambda _, given: heard.append(given[1]))
    maps, picture = {"edges": Shown(files / "mask.png", 3.0)}, Shown(files / "picture.png", 3.0)

    def drawn(**more: Any) -> np.ndarray:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return decode(td.generate([Order("a river", "a", **more)], folder, generator, n=1, settings=tiny).read(0))

    tiny = tiny_settings(sampling__steps=2)
    far, near = {"gsd_m": 10.0}, {"gsd_m": 0.5}
    images = [drawn(), drawn(metadata=far), drawn(maps=maps), drawn(content=picture)]
    images += [drawn(metadata=far, maps=maps), drawn(metadata=far, content=picture), drawn(maps=maps, content=picture)]
    images += [drawn(metadata=far, maps=maps, content=picture), drawn(metadata=near, maps=maps, content=picture)]
    assert all(not np.array_equal(one, other) for one, other in combinations(images, 2))
    untold, told = heard[0], heard[-1]
    assert not torch.equal(untold[-1], told[-1]), "the adapter hears the numbers too"


def test_maps_lie_where_their_names_say(files: Path) -> None:
    edges, regions = Shown(files / "mask.png", 0.5), Shown(files / "picture.png")
    given = {"segmentation": regions, "edges": edges}
    maps, strengths = _maps([Order("", maps=given), Order("", maps=dict(reversed(given.items())))], 40)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 18:22] = 255
    colours = read_map(files / "picture.png", "segmentation", 40).transpose(2, 0, 1)
    for planes in maps.numpy():
        assert (planes[3:6] == mask).all(), "lines, edges, ..."
        assert np.array_equal(planes[15:18], colours), "..., segmentation"
        assert not planes[:3].any()
        assert not planes[6:15].any()
    assert strengths.tolist() == [[0, 0.5, 0, 0, 0, 1]] * 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--map", "road={files}/mask.png"], "has not learned the map 'road': expected edges, segmentation"),
        (["--map", "road"], "expected name=file"),
        (["--map", "roof=mask.png"], "expected name=file"),
        (["--map", "road=nowhere.png:0.5"], "no file nowhere.png"),
        (["--map", "edges={files}/mask.png:-1"], "from 0 to 10"),
        (["--content", "{files}/none.png"], "There is no file"),
        (["--size", "35"], "a multiple of 2"),
        (["--requests", "nowhere.jsonl"], "cannot be read"),
    ],
)
def test_a_wrong_condition_is_one_sentence(
    adapted: Path, files: Path, tmp_path: Path, more: list[str], says: str, capsys: Capture, monkeypatch: Patch
) -> None:
    asked = [text.format(files=files) for text in more]
    command = ["generate", "--generator", str(adapted), "--prompt", "a river", "--out", str(tmp_path / "x")]
    code, error = terradistill(*command, "--preset", "tiny", *asked, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert says in error.replace("\n", " ")
    assert not (tmp_path / "x").exists()


def test_a_generator_without_an_adapter_says_so(
    finished: td.Distilled, files: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    command = ["generate", "--generator", str(finished.run), "--prompt", "x", "--out", str(tmp_path / "x")]
    code, error = terradistill(*command, "--map", f"road={files / 'mask.png'}", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "has not learned maps" in error.replace("\n", " ")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1"),
        ('{"prompt": "x", "colour": 3}', "no 'colour'"),
        ('{"prompt": "x", "n": 0}', "whole number"),
        ('{"prompt": "x", "maps": ["a"]}', "expected an object"),
        ('{"prompt": 3}', "expected an object"),
        ('{"prompt": "a \\ud800 river"}', "half a character"),
        ("[" * 100_000, "line 1"),
        ('{"prompt": "x", "content": "%s"}' % ("x" * 5000), "give the name of a file"),
        ('{"prompt": "x", "folder": 0}', "folder is 0"),
        ('{"prompt": "x", "maps": ""}', "expected an object"),
        ('{"prompt": "x", "gsd_m": "1,month=7"}', "expected a number"),
        ('{"prompt": "x", "n": 1000000000}', "1 to 1,000,000"),
    ],
)
def test_a_malformed_request_names_its_line(line: str, says: str, tmp_path: Path) -> None:
    from terradistill.generation.orders import read_requests

    (tmp_path / "r.jsonl").write_text(line)
    with pytest.raises(td.TerraDistillError, match=r"line 1.*"):
        read_requests(tmp_path / "r.jsonl")
    with pytest.raises(td.TerraDistillError) as found:
        read_requests(tmp_path / "r.jsonl")
    assert says in str(found.value)


def test_lines_of_requests_end_where_json_lines_do(tmp_path: Path) -> None:
    from terradistill.generation.orders import read_requests

    text = '{"prompt": "a river\u2028at dawn"}\r\n\n{"prompt": "forêt"}'
    (tmp_path / "r.jsonl").write_bytes(text.encode("utf-8-sig"))
    assert [order.prompt for order in read_requests(tmp_path / "r.jsonl")] == ["a river\u2028at dawn", "forêt"]


def test_folders_of_orders_never_collide(adapted: Path, tmp_path: Path) -> None:
    orders = [Order("a river", n=1), Order("a river", n=1), Order("a river 0", n=1)]
    made = td.generate(orders, tmp_path / "made", td.Generator.load(adapted), settings=tiny_settings())
    assert made.classes == ("a-river-0", "a-river-1", "a-river-2")


def test_an_adapter_that_cannot_start_leaves_nothing_behind(
    finished: td.Distilled, drawn: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    for maps, says in (("roof", "expected any of"), ("road=nowhere", "is not there"), ("depth", "No filter")):
        command = ["train", "adapter", str(drawn), "--generator", str(finished.run), "--maps", maps]
        code, error = terradistill(*command, "--out", str(tmp_path / "x"), capsys=capsys, monkeypatch=monkeypatch)
        assert code == 2
        assert says in error.replace("\n", " ")
        assert not (tmp_path / "x").exists()
