import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from terradistill.config import load_settings
from terradistill.errors import ConfigError, GeneratorError
from terradistill.models.autoencoder import build_vae
from terradistill.models.generator import Generator, build_generator, noise_schedule
from terradistill.models.tokenizer import build_tokenizer
from terradistill.models.weaker import Weaker

SETTINGS = load_settings(["tiny"])
CAPTIONS = ["a satellite image of a river", "a satellite image of dense forest", "many boats in a harbour"]


@pytest.fixture(scope="module")
def generator() -> Generator:
    vae = build_vae(SETTINGS.autoencoder, 32, 0)
    return build_generator(SETTINGS.diffusion, vae, 32, CAPTIONS, 0).frozen()


def test_sizes_follow_the_parts(generator: Generator) -> None:
    assert (generator.factor, generator.resolution, generator.latent_shape) == (2, 32, (4, 16, 16))


def test_a_saved_folder_opens_here_and_in_stock_diffusers(generator: Generator, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    generator.save(tmp_path / "g")
    again = Generator.load(tmp_path / "g")
    for part in ("vae", "unet", "text_encoder"):
        before, after = getattr(generator, part).state_dict(), getattr(again, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    torch.testing.assert_close(again.embed(CAPTIONS), generator.embed(CAPTIONS))
    torch.testing.assert_close(again.parameterisation.alphas_cumprod, generator.parameterisation.alphas_cumprod)

    weaker = copy.deepcopy(generator)
    again.weaker = Weaker(weaker.unet)
    again.save(tmp_path / "g")
    guided = Generator.load(tmp_path / "g")
    assert guided.weaker is not None
    torch.testing.assert_close(guided.weaker.unet.state_dict(), dict(generator.unet.state_dict()))
    assert len(guided.networks) == len(generator.networks) + 1
    guided.save(tmp_path / "h")
    assert not [path for path in (tmp_path / "h").rglob("*.json") if str(tmp_path) in path.read_text()]

    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "g", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a satellite image of a river", num_inference_steps=3).images[0]
    assert image.size == (32, 32)


def test_weights_kept_in_half_precision_open_in_float32(generator: Generator, tmp_path: Path) -> None:
    halved = copy.deepcopy(generator)
    for part in halved.networks:
        part.half()
    halved.save(tmp_path / "g")
    again = Generator.load(tmp_path / "g")
    assert {weight.dtype for part in again.networks for weight in part.parameters()} == {torch.float32}


def test_a_run_folder_stands_for_the_generator_in_it(generator: Generator, tmp_path: Path) -> None:
    generator.save(tmp_path / "generator")
    assert Generator.load(tmp_path).resolution == 32


def test_the_noise_schedule_is_a_cosine_with_so_much_more_signal() -> None:
    t = (torch.arange(1000) + 1) / 1000
    cosine = torch.cos(torch.pi / 2 * t[:990]) ** 2

    def snr(schedule: Any) -> torch.Tensor:
        alpha = schedule.alphas_cumprod
        return alpha / (1 - alpha)

    plain, shifted = noise_schedule("v_prediction"), noise_schedule("v_prediction", 3.0)
    torch.testing.assert_close(plain.alphas_cumprod[:990], cosine, atol=1e-3, rtol=0)
    torch.testing.assert_close(snr(shifted)[10:990], 9 * snr(plain)[10:990], rtol=5e-2, atol=0)
    assert shifted.alphas_cumprod[-1] < 1e-6
    assert noise_schedule("epsilon", 3.0).alphas_cumprod[-1].item() == pytest.approx(4.7e-3, rel=1e-3)


def test_every_word_has_a_spelling_and_captions_are_cut_to_the_window() -> None:
    tokenizer = build_tokenizer(CAPTIONS * 3, 700, 16)
    assert len(tokenizer) <= 700
    ids = tokenizer("Überschwemmungsgebiet ☃ 雪", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == "überschwemmungsgebiet☃雪"
    assert len(tokenizer("river " * 100, truncation=True, max_length=16).input_ids) == 16
    assert len(tokenizer("river", add_special_tokens=False).input_ids) < 5  # merges were learned


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attention_levels": (True,)}, "attention_levels"),
        ({"block_channels": (32,) * 6, "attention_levels": (True,) * 6}, "halved"),
    ],
)
def test_levels_that_do_not_fit_are_one_sentence(changes: dict[str, tuple[object, ...]], says: str) -> None:
    settings = SETTINGS.diffusion.model_copy(update=changes)
    with pytest.raises(ConfigError, match=says):
        build_generator(settings, build_vae(SETTINGS.autoencoder, 32, 0), 32, CAPTIONS, 0)


def test_what_is_no_generator_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    for source in (tmp_path / "empty", tmp_path / "half", tmp_path / "nowhere", "no such thing"):
        with pytest.raises(GeneratorError) as caught:
            Generator.load(source)
        assert str(source) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_and_other_generators_are_one_sentence(generator: Generator, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    generator.save(tmp_path / "g")
    weights = next((tmp_path / "g" / "text_encoder").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GeneratorError, match="cannot be loaded"):
        Generator.load(tmp_path / "g")
    weights.write_bytes(whole)

    (tmp_path / "g" / "tokenizer").rename(tmp_path / "words")
    (tmp_path / "g" / "tokenizer").mkdir()
    for opens in (Generator.load, Generator.reader):
        with pytest.raises(GeneratorError, match="complete diffusers folder"):
            opens(tmp_path / "g")
    (tmp_path / "g" / "tokenizer").rmdir()
    (tmp_path / "words").rename(tmp_path / "g" / "tokenizer")
    Generator.load(tmp_path / "g")

    config = dict(generator.unet.config) | {"in_channels": 2 * generator.unet.config.in_channels + 1}
    UNet2DConditionModel.from_config(config).save_pretrained(tmp_path / "g" / "unet")
    with pytest.raises(GeneratorError, match="not one for in-painting"):
        Generator.load(tmp_path / "g")


def test_a_weaker_denoiser_follows_what_the_stronger_learns(generator: Generator) -> None:
    learned, weaker = copy.deepcopy(generator), Weaker(copy.deepcopy(generator.unet))
    for parameter in weaker.parameters():
        parameter.data *= 0.5
    for parameter in learned.unet.parameters():
        parameter.data += 0.1
    weaker.follow(Weaker.like(generator), learned)
    for mine, then in zip(weaker.unet.parameters(), generator.unet.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.5 * then + 0.1)

    narrow = Weaker(torch.nn.Linear(2, 2))
    kept = narrow.unet.weight.clone()
    narrow.follow(Weaker.like(generator), learned)
    assert torch.equal(narrow.unet.weight, kept), "of another shape: left as it is"
