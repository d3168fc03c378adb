"""What comes with the package: small enough, complete, and honest about where it comes from."""

import pytest
import torch

from terradistill.data.check import check_scenes
from terradistill.data.sources import open_scenes
from terradistill.models.generator import Generator
from terradistill.models.places import learned_from, locate_generator, sources_of
from terradistill.shipped import ENHANCERS, GENERATORS, SCENES


@pytest.mark.parametrize("name", GENERATORS)
def test_a_shipped_generator_is_complete_small_and_in_half_precision(name: str) -> None:
    from safetensors import safe_open

    folder = GENERATORS[name]
    weights = list(folder.rglob("*.safetensors"))
    assert weights
    assert all(path.stat().st_size <= 50e6 for path in weights)
    for path in weights:
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - not a dict
        assert kinds == {"F16"}, path
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]
    assert not [path for path in folder.rglob("*.json") if "_name_or_path" in path.read_text()], "paths of a machine"
    assert len(learned_from(name)) > 1000, "its learning scenes are known, so that they never judge"
    assert sources_of(name), "and whose they are"


def test_a_shipped_generator_opens_by_name_and_draws_in_float32() -> None:
    generator = Generator.load("base-128").frozen()
    assert generator.resolution == 128
    assert generator.metadata_encoder is not None
    assert generator.metadata_encoder.learned == ("gsd_m",)
    assert generator.weaker is not None
    assert generator.weaker.unet.config.sample_size == generator.unet.config.sample_size
    assert not torch.equal(generator.weaker.unet.conv_in.weight, generator.unet.conv_in.weight)
    kinds = {parameter.dtype for part in generator.networks for parameter in part.parameters()}
    assert kinds == {torch.float32}
    images = generator.decode(torch.zeros(1, *generator.latent_shape))
    assert images.shape == (1, 3, 128, 128)
    assert images.isfinite().all()


def test_a_generator_on_disk_goes_before_a_shipped_name(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base-128").mkdir()  # of another kind
    assert locate_generator("base-128") == str(GENERATORS["base-128"])
    (tmp_path / "base-128" / "model_index.json").write_text("{}")
    assert locate_generator("base-128") == "base-128"


def test_the_sample_scenes_are_whole_small_and_say_that_they_are_synthetic() -> None:
    assert SCENES["sample"].stat().st_size <= 4e6
    scenes, report = check_scenes(open_scenes("sample"))
    assert not report.dropped
    assert len(scenes.classes) == 10
    assert min(scenes.counts.values()) >= 55
    assert {(scene.width, scene.height) for scene in scenes.scenes} == {(128, 128)}
    assert "base-128" in scenes.info.title
    assert scenes.info.licence == "Apache-2.0"


def test_every_enhancer_that_is_named_is_there_small_and_opens_beside_its_generator() -> None:
    for name, parts in ENHANCERS.items():
        for task, folder in parts.items():
            assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 15e6
            adapter = Generator.load(name).extended(folder).frame_adapter
            assert adapter is not None
            assert adapter.about["task"] == task
            assert adapter.skips[0].weight.any(), "it has learned"  # type: ignore[union-attr]
