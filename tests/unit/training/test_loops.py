"""The loops learn, and an interrupted one ends where an uninterrupted one does."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch.nn.functional import avg_pool2d

from terradistill.data.images import to_float
from terradistill.data.views import random_views, view
from terradistill.errors import GeneratorError
from terradistill.hardware import Hardware
from terradistill.models.autoencoder import build_vae
from terradistill.models.downstream import build_network
from terradistill.models.generator import build_generator
from terradistill.models.parameterisation import Parameterisation
from terradistill.models.perceptual import Perceptual
from terradistill.settings import Settings
from terradistill.training import diffusion
from terradistill.training.autoencoder import (
    _crops,
    channel_importance,
    latent_statistics,
    reconstruction_psnr,
    train_autoencoder,
)
from terradistill.training.classifier import predict, train_latent_classifier
from terradistill.training.diffusion import (
    Consistency,
    Noising,
    denoising_loss,
    held_out_split,
    repeats,
    train_diffusion,
)
from terradistill.training.latents import LatentCache, encode_scenes
from terradistill.training.progress import Unwatched
from terradistill.training.told import CaptionTable, Told, draw_told
from tests.unit.conftest import awake

from .conftest import Log

Scenes = tuple[NDArray[np.uint8], NDArray[np.int64]]
CAPTIONS = [["a dark field"], ["a bright field", "a bright plain"]]


class Killed(Exception):
    pass


class KilledAt(Unwatched):
    def __init__(self, step: int) -> None:
        self.step = step

    def progress(self, done: int, total: int) -> None:  # noqa: ARG002
        if done == self.step:
            raise Killed


def weights(*modules: Any) -> torch.Tensor:
    return torch.cat([value.flatten().float() for module in modules for value in module.state_dict().values()])


def test_autoencoder_learns_and_leaves_white_latents(scenes: Scenes, tiny: Settings, cpu: Hardware) -> None:
    settings = tiny.autoencoder.model_copy(update={"steps": 100, "learning_rate": 1e-3, "scaling": "white"})
    vae, log = build_vae(settings, 32, 0), Log()
    before = reconstruction_psnr(vae, scenes[0], cpu)
    train_autoencoder(vae, scenes[0], settings, seed=0, hardware=cpu, watch=log)
    assert reconstruction_psnr(vae, scenes[0], cpu) > before + 2
    assert log.rows[-1]["psnr"] > log.rows[0]["psnr"] + 2
    mean, std = latent_statistics(vae, scenes[0], cpu, seed=1)
    torch.testing.assert_close(mean, torch.zeros(4), atol=2e-2, rtol=0)
    torch.testing.assert_close(std, torch.ones(4), atol=2e-2, rtol=0)


def test_latents_may_be_scaled_by_what_they_do_to_the_pixels(scenes: Scenes, tiny: Settings, cpu: Hardware) -> None:
    settings = tiny.autoencoder.model_copy(update={"steps": 20, "scaling": "importance", "latent_channels": 5})
    vae = build_vae(settings, 32, 0)
    vae.post_quant_conv.weight.data[:, 4] = 0  # the decoder does not listen to the last channel
    vae.post_quant_conv.weight.register_hook(lambda gradient: gradient * torch.tensor([1.0] * 4 + [0]).view(1, 5, 1, 1))
    train_autoencoder(vae, scenes[0], settings, seed=0, hardware=cpu)
    mean, std = latent_statistics(vae, scenes[0], cpu, seed=1)
    torch.testing.assert_close(mean, torch.zeros(5), atol=2e-2, rtol=0)
    assert std.max().item() == pytest.approx(1, abs=0.02)
    assert std[4].item() == pytest.approx(0.05, abs=0.01)
    importance = channel_importance(vae, std, scenes[0], cpu, seed=2)
    torch.testing.assert_close(importance, std, atol=0.05, rtol=0.1)


def test_the_scale_term_teaches_halved_latents_to_be_halved_scenes(
    scenes: Scenes, tiny: Settings, cpu: Hardware
) -> None:
    def error_at_half_size(weight: float) -> float:
        settings = tiny.autoencoder.model_copy(
            update={"steps": 60, "learning_rate": 1e-3, "scale_weight": weight, "crop": 16}
        )
        vae = build_vae(settings, 32, 0)
        train_autoencoder(vae, scenes[0], settings, seed=0, hardware=cpu)
        x = to_float(scenes[0])
        with torch.no_grad():
            half = vae.decode(avg_pool2d(vae.encode(x).latent_dist.mean, 2)).sample
        return float((half - avg_pool2d(x, 2)).square().mean())

    assert error_at_half_size(1.0) < 0.8 * error_at_half_size(0.0)


def test_a_decoder_goes_on_after_a_kill_and_the_encoder_stays(
    scenes: Scenes, tiny: Settings, cpu: Hardware, tmp_path: Path
) -> None:
    settings = tiny.autoencoder.model_copy(update={"steps": 10})
    torch.manual_seed(0)
    perceptual = Perceptual(build_network("convnet3", 2, 32))

    def run(name: str, watch: Any) -> Any:
        vae = build_vae(settings, 32, 0)
        train_autoencoder(
            vae,
            scenes[0],
            settings,
            perceptual=perceptual,
            seed=0,
            hardware=cpu,
            checkpoint=tmp_path / name,
            checkpoint_seconds=0,
            watch=watch,
        )
        return vae

    with pytest.raises(Killed):
        run("killed", KilledAt(6))
    resumed, whole = run("killed", Unwatched()), run("whole", Unwatched())
    assert torch.equal(weights(resumed), weights(whole))
    fresh = build_vae(settings, 32, 0)
    assert torch.equal(weights(whole.encoder, whole.quant_conv), weights(fresh.encoder, fresh.quant_conv))
    assert not torch.equal(weights(whole.decoder), weights(fresh.decoder))


def test_random_crops_are_squares_of_their_scenes(scenes: Scenes) -> None:
    index = np.array([3, 5, 8])
    cut = _crops(scenes[0], index, 8, torch.Generator().manual_seed(0))
    assert cut.shape == (3, 8, 8, 3)
    for crop, scene in zip(cut, scenes[0][index], strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(scene, (8, 8), axis=(0, 1))  # (25, 25, 3, 8, 8)
        assert (windows.transpose(0, 1, 3, 4, 2) == crop).all((2, 3, 4)).any()
    assert np.array_equal(_crops(scenes[0], index, None, torch.Generator()), scenes[0][index])


def test_a_training_that_diverges_says_so(scenes: Scenes, tiny: Settings, cpu: Hardware) -> None:
    settings = tiny.autoencoder.model_copy(update={"learning_rate": float("inf"), "warmup_steps": 0})
    with pytest.raises(GeneratorError, match=r"lower autoencoder\.learning_rate"):
        train_autoencoder(build_vae(settings, 32, 0), scenes[0], settings, seed=0, hardware=cpu)


def test_killed_autoencoder_goes_on_to_the_same_weights(
    scenes: Scenes, tiny: Settings, cpu: Hardware, tmp_path: Path
) -> None:
    def run(checkpoint: Path, watch: Unwatched) -> Any:
        vae = build_vae(tiny.autoencoder, 32, 0)
        train_autoencoder(
            vae,
            scenes[0],
            tiny.autoencoder,
            seed=0,
            hardware=cpu,
            watch=watch,
            checkpoint=checkpoint,
            checkpoint_seconds=0,
        )
        return vae

    for step in (1, 9, 17):
        with pytest.raises(Killed):
            run(tmp_path / "killed.safetensors", KilledAt(step))
    assert torch.equal(
        weights(run(tmp_path / "killed.safetensors", Unwatched())),
        weights(run(tmp_path / "whole.safetensors", Unwatched())),
    )


@pytest.fixture
def latents(scenes: Scenes, tiny: Settings, cpu: Hardware) -> tuple[Any, LatentCache]:
    vae = build_vae(tiny.autoencoder, 32, 0).eval()
    generator = build_generator(tiny.diffusion, vae, 32, [text for texts in CAPTIONS for text in texts], 0)
    return generator, encode_scenes(generator, scenes[0], n_views=2, hardware=cpu, batch_size=5)


def test_encoding_is_the_same_in_any_batch(scenes: Scenes, latents: tuple[Any, LatentCache], cpu: Hardware) -> None:
    generator, cache = latents
    whole = encode_scenes(generator, scenes[0], n_views=2, hardware=cpu, batch_size=24)
    torch.testing.assert_close(whole.data, cache.data, atol=2e-3, rtol=1e-3)
    assert cache.data.shape == (24, 2, 2, 4, 16, 16)


def test_a_cache_is_read_from_its_file_and_joined_of_many(latents: tuple[Any, LatentCache], tmp_path: Path) -> None:
    _, cache = latents
    for name, part in (("a", slice(0, 7)), ("b", slice(7, 24))):
        LatentCache(cache.data[part]).save(tmp_path / name)
    LatentCache.join([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    read = LatentCache.load(tmp_path / "all")
    assert torch.equal(read.data, cache.data)
    assert torch.equal(torch.cat(list(read.batches(5))), cache.means())
    index = np.array([3, 20, 3])
    drawn = [each.draw(index, torch.Generator().manual_seed(1)) for each in (read, cache)]
    assert torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("lora_rank", [None, 2], ids=["all weights", "lora"])
def test_diffusion_learns_and_goes_on_after_a_kill(
    lora_rank: int | None,
    scenes: Scenes,
    latents: tuple[Any, LatentCache],
    tiny: Settings,
    cpu: Hardware,
    tmp_path: Path,
) -> None:
    _, cache = latents
    captions = [CAPTIONS[label] for label in scenes[1]]

    def build(lora_rank: int | None) -> Any:
        told = tiny.diffusion.model_copy(update={"metadata": True})
        vae = build_vae(tiny.autoencoder, 32, 0).eval()
        generator = build_generator(told, vae, 32, [text for texts in CAPTIONS for text in texts], 0)
        if lora_rank is not None:
            awake(generator.unet)  # adapters of a denoiser that says nothing yet have nothing to change
        return generator

    def run(checkpoint: Path, watch: Any, **changes: Any) -> Any:
        generator = build(lora_rank)
        settings = tiny.diffusion.model_copy(update=changes)
        assert generator.metadata_encoder is not None
        table = generator.metadata_encoder.table([{"month": 1.0 + 9 * int(label)} for label in scenes[1]])
        train_diffusion(
            generator,
            cache,
            captions,
            settings,
            metadata=table,
            repeats=1 + scenes[1],
            lora_rank=lora_rank,
            seed=0,
            hardware=cpu,
            watch=watch,
            checkpoint=checkpoint,
            checkpoint_seconds=0,
        )
        return generator

    kept = {"weaker_at": 0.2}
    with pytest.raises(Killed):
        run(tmp_path / "killed" / "checkpoint.safetensors", KilledAt(7), **kept)
    resumed = run(tmp_path / "killed" / "checkpoint.safetensors", Unwatched(), **kept)
    whole = run(tmp_path / "whole" / "checkpoint.safetensors", Unwatched(), **kept)
    assert torch.equal(weights(*resumed.networks), weights(*whole.networks))
    if lora_rank is None:  # and it is no other for having kept what it was
        plain, early = (
            run(tmp_path / name / "c.safetensors", Unwatched(), **more)
            for name, more in (
                ("plain", {}),
                ("early", {**kept, "weaker_at": 1.0}),
            )
        )
        assert torch.equal(weights(plain.unet, plain.text_encoder), weights(whole.unet, whole.text_encoder))
        assert plain.weaker is None
        assert not torch.equal(weights(whole.weaker.unet), weights(whole.unet))
        assert torch.equal(weights(early.weaker.unet), weights(early.unet)), "the averaged weights"
    else:
        assert whole.weaker is None

    assert not torch.equal(weights(whole.unet), weights(build(lora_rank).unet))
    log = Log()
    run(tmp_path / "long.safetensors", log, steps=100, learning_rate=3e-3)
    losses = [row["loss"] for row in log.rows if "loss" in row]
    assert losses[-1] < 0.95 * losses[0]
    assert "held_out_loss" in log.rows[-1]


def test_a_generator_learns_what_the_metadata_says(
    scenes: Scenes, latents: tuple[Any, LatentCache], tiny: Settings, cpu: Hardware
) -> None:
    _, cache = latents
    settings = tiny.diffusion.model_copy(update={"metadata": True, "steps": 160, "learning_rate": 3e-3})
    generator = build_generator(settings, build_vae(tiny.autoencoder, 32, 0).eval(), 32, ["a field"], 0)
    assert generator.metadata_encoder is not None
    table = generator.metadata_encoder.table([{"gsd_m": 1.0 + 8 * int(label)} for label in scenes[1]])
    known, captions = LatentCache(cache.data[:16]), [["a field"]] * 16
    train_diffusion(generator, known, captions, settings, metadata=table[:16], seed=0, hardware=cpu)

    z0, right, tokens = cache.means(slice(16, 24)), table[16:], generator.tokens(["a field"] * 8)
    schedule = generator.parameterisation
    noising = Noising.draw(schedule, z0, torch.Generator().manual_seed(0))
    losses = [
        float(denoising_loss(generator, schedule, z0, Told(tokens, told), noising, cpu, None))
        for told in (right, right.flip(0), torch.full_like(right, torch.nan))
    ]
    # Where it has learned, the three lie a tenth or more apart (three seeds).
    assert losses[0] < 0.95 * losses[2] < 0.9 * losses[1], "of scenes that it has not seen"


def test_small_classes_are_seen_more_often_when_asked() -> None:
    labels = np.repeat([0, 1, 2], [90, 10, 40])
    assert set(repeats(labels, 0.0)) == {1}
    assert np.bincount(labels, repeats(labels, 1.0)).tolist() == [90, 90, 80]
    assert np.bincount(labels, repeats(labels, 0.5)).tolist() == [90, 30, 80]


def test_latent_classifier_tells_two_plain_classes_apart(tiny: Settings, cpu: Hardware) -> None:
    labels = np.arange(60) % 2
    mean = torch.randn(60, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mean += torch.tensor(labels).view(-1, 1, 1, 1)
    cache = LatentCache(torch.stack([mean, torch.full_like(mean, 0.1)], 1)[:, None].half())
    model, accuracy = train_latent_classifier(cache, labels, 2, tiny.classifier, seed=0, hardware=cpu)
    assert accuracy == 1.0
    assert (predict(model, cache.means(), cpu).argmax(1).numpy() == labels).mean() > 0.95
    again, _ = train_latent_classifier(cache, labels, 2, tiny.classifier, seed=0, hardware=cpu)
    assert torch.equal(weights(model), weights(again))


def test_a_training_that_diverges_keeps_the_last_checkpoint_before(
    latents: tuple[Any, LatentCache], tiny: Settings, cpu: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (generator, cache), plain = latents, diffusion.denoising_loss
    captions, steps = [CAPTIONS[i % 2] for i in range(len(cache))], itertools.count()
    settings = tiny.diffusion.model_copy(update={"steps": 30})

    def breaking(*given: Any) -> torch.Tensor:
        return plain(*given) * (torch.nan if next(steps) >= 5 else 1)

    monkeypatch.setattr(diffusion, "denoising_loss", breaking)
    with pytest.raises(GeneratorError, match=r"diverged.*diffusion\.learning_rate"):
        train_diffusion(
            generator, cache, captions, settings, seed=0, hardware=cpu,
            checkpoint=tmp_path / "kept", checkpoint_seconds=0,
        )  # fmt: skip
    with safe_open(tmp_path / "kept", "pt") as file:
        assert file.metadata() == {"step": "5"}
        assert all(file.get_tensor(key).isfinite().all() for key in file.keys())  # noqa: SIM118 - not a dict


def test_a_latent_classifier_goes_on_after_a_kill_to_the_same_weights(
    tiny: Settings, cpu: Hardware, tmp_path: Path
) -> None:
    labels = np.arange(60) % 3
    latents = torch.randn(60, 1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).abs().half()
    settings = tiny.classifier.model_copy(update={"max_steps": 120, "epochs": 200, "batch_size": 16})

    def run(name: str, watch: Any) -> tuple[Any, float]:
        return train_latent_classifier(
            LatentCache(latents), labels, 3, settings, seed=0, hardware=cpu, watch=watch,
            checkpoint=tmp_path / name, checkpoint_seconds=0,
        )  # fmt: skip

    whole, log = run("whole", Log()), Log()
    with pytest.raises(Killed):
        run("killed", KilledAt(70))  # after a first look at the validation scenes
    resumed = run("killed", log)
    assert torch.equal(weights(whole[0]), weights(resumed[0]))
    assert whole[1] == resumed[1]


def test_captions_are_drawn_from_their_scene_and_emptied_where_asked(latents: tuple[Any, LatentCache]) -> None:
    generator, _ = latents
    table = CaptionTable.of([["one"], ["two", "three"]], generator)
    words = generator.tokens(["", "one", "two", "three"])
    index = np.array([0, 1] * 3000)
    empty = torch.arange(6000) % 10 < 2
    drawn = table.draw(index, empty, torch.Generator().manual_seed(0))
    matches = (drawn[:, None] == words).all(2)
    assert matches.any(1).all()
    rates = matches.float().mean(0)
    torch.testing.assert_close(rates, torch.tensor([0.2, 0.4, 0.2, 0.2]), atol=0.02, rtol=0)
    assert torch.equal(matches[:, 0], empty)
    assert not matches[0::2, 2:].any()


@pytest.mark.parametrize("p", [0.1, 0.4])
def test_captions_metadata_and_pictures_are_dropped_as_often_as_stated(p: float) -> None:
    n, cache = 10_000, LatentCache(torch.zeros(1, 2, 2, 1, 1, 1))
    table = CaptionTable(torch.tensor([[0], [7]]), torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
    index, rng = np.zeros(n, np.int64), torch.Generator().manual_seed(0)
    _, told = draw_told(cache, table, torch.ones(1, 7), None, True, index, p, rng)
    assert told.metadata is not None
    assert told.picture is not None
    text, unknown, picture = told.tokens[:, 0] == 0, told.metadata.isnan(), ~told.picture
    numbers = unknown[:, 0]
    assert torch.equal(unknown, numbers[:, None].expand(-1, 7)), "all fields or none"
    assert numbers[text].all(), "without a caption no metadata"
    for dropped, rate in (
        (text, p),
        (numbers, 1 - (1 - p) ** 2),
        (picture, p),
        (numbers & ~text, p * (1 - p)),
        (text & picture, p**2),
    ):
        assert abs(float(dropped.double().mean()) - rate) < 4 * (rate * (1 - rate) / n) ** 0.5


def test_held_out_scenes_are_not_learned_from() -> None:
    held, learned = held_out_split(100, 0.05, seed=3)
    assert len(held) == 5
    assert sorted([*held, *learned]) == list(range(100))
    assert len(held_out_split(1, 0.4, 0)[1]) == 1
    places = [f"place {k // 2}" for k in range(40)]
    held, learned = held_out_split(40, 0.2, 3, places)
    assert sorted([*held, *learned]) == list(range(40))
    assert len(held) == 8
    assert not {places[i] for i in held} & {places[i] for i in learned}, "no place is on both sides"


def test_views_are_the_eight_symmetries_of_a_square() -> None:
    image = torch.arange(9.0).view(1, 3, 3)
    seen = {tuple(view(image, number).flatten().tolist()) for number in range(8)}
    turned = {
        tuple(torch.rot90(flip, k, (1, 2)).flatten().tolist()) for k in range(4) for flip in (image, image.flip(2))
    }
    assert seen == turned
    batch = image.expand(200, 1, 3, 3)
    drawn = {tuple(x.flatten().tolist()) for x in random_views(batch, torch.Generator().manual_seed(0))}
    assert drawn == turned


def test_consistency_is_the_weighted_cross_entropy_of_the_clean_latent(tiny: Settings) -> None:
    settings = tiny.diffusion.model_copy(
        update={"consistency_weight": 0.3, "consistency_until": 0.5, "consistency_power": 2.0}
    )
    schedule = Parameterisation(torch.linspace(0.99, 0.0, 100), "v_prediction")
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3))
    z0, labels, t = torch.randn(4, 2, 2, 2), torch.tensor([0, 1, 2, 0]), torch.tensor([0, 20, 49, 50])
    loss = Consistency(classifier, labels, settings).loss(z0, labels, t, schedule)
    errors = torch.nn.functional.cross_entropy(classifier(z0), labels, reduction="none")
    weights = schedule.alphas_cumprod[t] ** 2 * torch.tensor([1, 1, 1, 0])
    torch.testing.assert_close(loss, 0.3 * (weights * errors).mean())


def test_consistency_teaches_what_the_classifier_takes_for_the_right_class(
    scenes: Scenes, latents: tuple[Any, LatentCache], tiny: Settings, cpu: Hardware
) -> None:
    _, cache = latents
    labels, z0 = torch.as_tensor(scenes[1]), cache.means()
    judge, _ = train_latent_classifier(cache, scenes[1], 2, tiny.classifier, seed=0, hardware=cpu)
    measured = tiny.diffusion.model_copy(update={"consistency_weight": 1.0, "consistency_until": 1.0})

    def error(weight: float) -> float:
        settings = measured.model_copy(update={"consistency_weight": weight, "steps": 60, "learning_rate": 3e-3})
        told = Consistency(judge.requires_grad_(False), labels, settings) if weight else None
        generator = build_generator(settings, build_vae(tiny.autoencoder, 32, 0).eval(), 32, ["a field"], 0)
        # The caption says nothing of the class, so only the classifier does.
        train_diffusion(generator, cache, [["a field"]] * 24, settings, consistency=told, seed=0, hardware=cpu)
        schedule, found = generator.parameterisation, list[float]()

        def looked(z0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            found.append(float(Consistency(judge, labels, measured).loss(z0, labels, t, schedule)))
            return torch.zeros(())

        noising = Noising.draw(schedule, z0, torch.Generator().manual_seed(0))
        tokens = generator.tokens(["a field"] * 24)
        with torch.no_grad():
            denoising_loss(generator, schedule, z0, Told(tokens, None), noising, cpu, None, also=looked)
        return found[0]

    assert error(2.0) < 0.8 * error(0.0)
