import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from terradistill.config import load_settings
from terradistill.hardware import Hardware
from terradistill.models.autoencoder import build_vae
from terradistill.models.control import Control
from terradistill.models.generator import Generator, build_generator
from terradistill.models.parameterisation import KINDS
from terradistill.models.weaker import Weaker
from terradistill.sampling.guidance import (
    autoguidance,
    blend_prototypes,
    chunked,
    classifier_free,
    guided_as,
    push_to_prototypes,
    weaker_self,
)
from terradistill.sampling.sampler import Guidance, Predict, Request, Step, compose, sample, unguided
from terradistill.settings import SamplingSettings, Scheduler
from tests.unit.conftest import awake

from .conftest import SHAPE, gaussian_generator
from .test_sampler import request

EMPTY = torch.zeros(1, 1, 1)


def draw(cpu: Hardware, *guidances: Guidance) -> torch.Tensor:
    return sample(
        gaussian_generator(), request(12, (1.0, -1.0)), SamplingSettings(steps=10), hardware=cpu, guidances=guidances
    )


def test_strength_none_is_bit_for_bit_no_guidance(cpu: Hardware) -> None:
    generator = gaussian_generator()
    targets = torch.full((12, *SHAPE), 9.0)
    plain = draw(cpu)
    pushed = draw(cpu, classifier_free(1.0, EMPTY), push_to_prototypes(targets, generator.parameterisation, scale=0.0))
    assert torch.equal(plain, pushed)
    assert torch.equal(plain, draw(cpu, blend_prototypes(targets, generator.parameterisation, scale=0.0)))


def test_classifier_free_guidance_extrapolates_between_two_predictions(cpu: Hardware) -> None:
    generator = gaussian_generator()
    step = Step(torch.arange(3), 0, 10, torch.tensor(600), torch.randn(3, *SHAPE), torch.full((3, 1, 1), 2.0))
    told, free = (
        unguided(generator, cpu)(Step(step.rows, 0, 10, step.t, step.z, text))[1] for text in (step.text, 0 * step.text)
    )
    z, output = compose(unguided(generator, cpu), [classifier_free(3.0, EMPTY)])(step)
    torch.testing.assert_close(output, free + 3.0 * (told - free))
    assert torch.equal(z, step.z)
    _, ignored = compose(unguided(generator, cpu), [classifier_free(0.0, EMPTY)])(step)
    torch.testing.assert_close(ignored, free)


@pytest.mark.parametrize("guide_maps", [False, True])
def test_the_free_half_hears_no_numbers_and_sees_the_maps_unless_they_are_guided(
    cpu: Hardware, guide_maps: bool
) -> None:
    asked = list[Step]()

    def predict(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(step)
        return step.z, torch.zeros_like(step.z)

    features, strength = torch.randn(2, 3), torch.tensor([0.5, 1.0])
    control = Control(lambda *_: ([], torch.zeros(())), (features,), strength)
    numbers, text = torch.tensor([[100.0], [torch.nan]]), torch.full((2, 1, 1), 2.0)
    step = Step(torch.arange(2), 0, 10, torch.tensor(600), torch.randn(2, *SHAPE), text, numbers, control)
    wanted = SamplingSettings(cfg_scale=3.0, guide_maps=guide_maps, cfg_between=(0.0, 1.0))
    generator = SimpleNamespace(weaker=None)
    guidances = guided_as(wanted, generator, request(2, (1.0,)), EMPTY, lambda inner: inner, cpu)  # type: ignore[arg-type]
    compose(predict, guidances)(step)
    (both,) = asked
    assert both.metadata is not None
    assert both.control is not None
    assert both.metadata[:2].isnan().all()
    torch.testing.assert_close(both.metadata[2:], numbers, equal_nan=True)
    assert torch.equal(both.text, torch.tensor([0.0, 0, 2, 2]).view(4, 1, 1))
    assert torch.equal(both.control.features[0], features.repeat(2, 1))
    assert both.control.strength.tolist() == [*([0.0, 0.0] if guide_maps else [0.5, 1.0]), 0.5, 1.0]


def test_classifier_free_guidance_acts_between_the_steps_that_it_is_told(cpu: Hardware) -> None:
    generator, text = gaussian_generator(), torch.full((1, 1, 1), 2.0)
    plain = unguided(generator, cpu)
    guided = compose(plain, [classifier_free(3.0, EMPTY, between=(0.2, 0.6))])
    z = torch.randn(1, *SHAPE)
    steps = [Step(torch.tensor([0]), index, 11, torch.tensor(500), z, text) for index in range(11)]
    differs = [not torch.equal(guided(step)[1], plain(step)[1]) for step in steps]
    assert differs == [2 <= index <= 6 for index in range(11)]
    always = compose(plain, [classifier_free(3.0, EMPTY)])
    assert torch.equal(guided(steps[4])[1], always(steps[4])[1])
    few = [Step(torch.tensor([0]), index, 2, torch.tensor(500), z, text) for index in range(2)]
    assert all(torch.equal(guided(step)[1], always(step)[1]) for step in few), "one or two steps have no middle"
    late = [replace(step, first=6) for step in steps[6:]]  # begun from something: shares are of the steps taken
    acts = [torch.equal(guided(step)[1], always(step)[1]) for step in late]
    assert acts == [False, True, True, False, False]


def test_autoguidance_goes_on_from_a_weaker_denoiser_through_the_stronger(cpu: Hardware) -> None:
    generator = gaussian_generator()
    strong, weak, schedule = (
        unguided(generator, cpu),
        unguided(gaussian_generator(std=0.9), cpu),
        generator.parameterisation,
    )
    z, text = torch.randn(3, *SHAPE), torch.full((3, 1, 1), 2.0)
    steps = [Step(torch.arange(3), index, 11, torch.tensor(600), z, text) for index in range(11)]
    (_, better), (_, worse) = strong(steps[5]), weak(steps[5])
    guided = compose(strong, [autoguidance(weak, 3.0, schedule, between=(0.2, 0.6))])
    torch.testing.assert_close(guided(steps[5])[1], worse + 3.0 * (better - worse))
    differs = [not torch.equal(guided(step)[1], strong(step)[1]) for step in steps]
    assert differs == [2 <= index <= 6 for index in range(11)]
    assert compose(strong, [autoguidance(weak, 1.0, schedule)]) is strong, "a scale of 1 asks no weaker one"


@pytest.mark.parametrize("kind", KINDS)
def test_autoguidance_leaves_out_what_only_makes_a_scene_stronger(cpu: Hardware, kind: str) -> None:
    generator = gaussian_generator(kind)
    strong, weak = unguided(generator, cpu), unguided(gaussian_generator(kind, std=0.9), cpu)
    step = Step(torch.arange(3), 5, 11, torch.tensor(600), torch.randn(3, *SHAPE), torch.full((3, 1, 1), 2.0))

    def predicted(predict: Predict) -> torch.Tensor:
        z, output = predict(step)
        return generator.parameterisation.z0(z, output, step.t).flatten(1)

    def guided(parallel: float) -> torch.Tensor:
        auto = autoguidance(weak, 3.0, generator.parameterisation, parallel=parallel)
        return predicted(compose(strong, [auto]))

    plain, whole, without = predicted(strong), guided(1.0), guided(0.0)
    along = plain / plain.norm(dim=1, keepdim=True)
    assert ((whole - plain) * along).sum(1).abs().min() > 1e-2
    torch.testing.assert_close(((without - plain) * along).sum(1), torch.zeros(3), atol=1e-4, rtol=0)
    across = (whole - plain) - ((whole - plain) * along).sum(1, keepdim=True) * along
    torch.testing.assert_close(without - plain, across, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(guided(0.5), (whole + without) / 2, atol=1e-4, rtol=1e-4)


def test_a_weaker_self_is_told_of_some_images_and_nothing_of_others(cpu: Hardware) -> None:
    weaker, asked = gaussian_generator(), []

    def numbers(metadata: torch.Tensor) -> None:
        asked.append(metadata)

    weaker.metadata_encoder = numbers
    told, text = torch.tensor([True, False, True, False]), torch.full((3, 1, 1), 2.0)
    predict = weaker_self(SimpleNamespace(weaker=weaker), cpu, told, EMPTY)  # type: ignore[arg-type]
    step = Step(torch.tensor([3, 0, 2]), 5, 11, torch.tensor(600), torch.randn(3, *SHAPE), text, torch.ones(3, 2))
    _, output = predict(step)
    for text_of, rows in ((0.0, [0]), (2.0, [1, 2])):
        _, alone = unguided(weaker, cpu)(replace(step, text=torch.full((3, 1, 1), text_of), metadata=None))
        torch.testing.assert_close(output[rows], alone[rows])
    assert asked[0].isnan().all(1).tolist() == [True, False, False]
    assert (asked[0][1:] == 1).all()


def with_weaker() -> Generator:
    settings, words = load_settings(["tiny"]), ["a dark field", "a bright plain"]
    both = [
        build_generator(settings.diffusion, build_vae(settings.autoencoder, 32, 0), 32, words, seed) for seed in (0, 1)
    ]
    for each in both:
        awake(each.unet)
    both[0].weaker = Weaker(both[1].unet)
    return both[0].frozen()


def test_a_generator_with_a_weaker_self_is_guided_by_it_in_any_batch(cpu: Hardware) -> None:
    generator, words = with_weaker(), ["a dark field", "a bright plain"]
    text = generator.embed([*words, ""])
    wanted = Request(text[:-1], torch.arange(6) % 2, list(range(6)))

    def drawn(asked: SamplingSettings, size: int = 6, shown: torch.Tensor | None = None) -> torch.Tensor:
        guidances = guided_as(asked, generator, wanted, text[-1:], chunked(2 * size), cpu, shown=shown)
        return sample(generator, wanted, asked, hardware=cpu, guidances=guidances, batch_size=size)

    some = SamplingSettings(steps=4, autoguidance=3.0, autoguidance_told=1.0)
    torch.testing.assert_close(drawn(some), drawn(some, 2), atol=1e-4, rtol=1e-4)

    def by_hand(told: bool) -> torch.Tensor:
        weaker = weaker_self(generator, cpu, torch.full((6,), told), text[-1:])
        auto = autoguidance(weaker, 3.0, generator.parameterisation, parallel=0.0, between=(0.25, 1.0))
        return sample(generator, wanted, some, hardware=cpu, guidances=[auto])

    expected, untold = by_hand(told=True), by_hand(told=False)
    torch.testing.assert_close(drawn(some), expected, msg="no classifier-free guidance beside it, unless asked for")
    asked = some.model_copy(update={"cfg_scale": 2.0})
    assert not torch.allclose(drawn(asked), expected, atol=1e-3)
    off, plain = SamplingSettings(steps=4, autoguidance=1.0), SamplingSettings(steps=4)
    generator.weaker, weaker = None, generator.weaker
    without = drawn(plain)
    generator.weaker = weaker
    assert torch.equal(drawn(off), without), "without it, guided as usual"
    half = some.model_copy(update={"autoguidance_told": 0.5})
    torch.testing.assert_close(drawn(half), drawn(half, 2), atol=1e-4, rtol=1e-4)
    hears = [torch.allclose(a, b, atol=1e-4) for a, b in zip(drawn(half), expected, strict=True)]
    not_told = [torch.allclose(a, b, atol=1e-4) for a, b in zip(drawn(half), untold, strict=True)]
    assert [a != b for a, b in zip(hears, not_told, strict=True)] == [True] * 6, "each is drawn in one way or the other"
    assert 0 < sum(hears) < 6
    mapped = torch.arange(6) > 3
    torch.testing.assert_close(
        drawn(some, shown=mapped)[:4], expected[:4], atol=1e-4, rtol=1e-4, msg="what follows a map changes no other"
    )
    torch.testing.assert_close(
        drawn(some, shown=mapped)[4:], without[4:], atol=1e-4, rtol=1e-4, msg="no map counts more than it was to"
    )


def test_prototype_push_is_the_published_formula(cpu: Hardware) -> None:
    generator = gaussian_generator("epsilon")
    schedule = generator.parameterisation
    targets = torch.randn(5, *SHAPE)
    step = Step(torch.tensor([4, 1]), 2, 10, torch.tensor(300), torch.randn(2, *SHAPE), torch.zeros(2, 1, 1))
    predict = unguided(generator, cpu)
    output = predict(step)[1]
    z, same = compose(predict, [push_to_prototypes(targets, schedule, scale=0.7)])(step)
    alpha = float(schedule.alphas_cumprod[300])
    for row, index in enumerate((4, 1)):
        z0 = (step.z[row] - math.sqrt(1 - alpha) * output[row]) / math.sqrt(alpha)
        pull = targets[index] - z0
        torch.testing.assert_close(z[row], step.z[row] + 0.7 * math.sqrt(1 - alpha) * pull / pull.norm())
    assert torch.equal(same, output)


def test_prototype_push_ends_where_it_is_told(cpu: Hardware) -> None:
    generator = gaussian_generator()
    guided = compose(
        unguided(generator, cpu),
        [push_to_prototypes(torch.ones(1, *SHAPE), generator.parameterisation, scale=1.0, until=0.8)],
    )
    z = torch.zeros(1, *SHAPE)
    moved = [
        not torch.equal(guided(Step(torch.tensor([0]), index, 11, torch.tensor(500), z, EMPTY))[0], z)
        for index in range(11)
    ]
    assert moved == [True] * 9 + [False] * 2


@pytest.mark.parametrize("scheduler", ["dpm++", "EulerDiscreteScheduler"])  # the second keeps z at another scale
def test_prototypes_draw_their_own_images_nearer(scheduler: Scheduler, cpu: Hardware) -> None:
    generator = gaussian_generator()
    targets = torch.where(torch.arange(40) % 2 == 0, 2.0, -2.0).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    asked = Request(torch.zeros(1, 1, 1), torch.zeros(40, dtype=torch.long), list(range(40)))
    free, drawn = (
        sample(
            generator,
            asked,
            SamplingSettings(steps=20, scheduler=scheduler),
            hardware=cpu,
            guidances=[push_to_prototypes(targets, generator.parameterisation, scale=s)],
        )
        for s in (0.0, 0.5)
    )
    assert ((drawn - targets).flatten(1).norm(dim=1) < (free - targets).flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_blend_leads_the_clean_latent_a_share_of_the_way_by_the_noise(kind: str, cpu: Hardware) -> None:
    generator = gaussian_generator(kind)
    schedule = generator.parameterisation
    targets = torch.randn(5, *SHAPE)
    step = Step(torch.tensor([4, 1]), 2, 10, torch.tensor(300), torch.randn(2, *SHAPE), torch.zeros(2, 1, 1))
    before = schedule.z0(step.z, unguided(generator, cpu)(step)[1], step.t)
    z, output = compose(unguided(generator, cpu), [blend_prototypes(targets, schedule, scale=0.3)])(step)
    assert torch.equal(z, step.z)
    share = 0.3 * math.sqrt(1 - float(schedule.alphas_cumprod[300]))
    wanted = (1 - share) * before + share * targets[[4, 1]]
    torch.testing.assert_close(schedule.z0(z, output, step.t), wanted, atol=1e-4, rtol=1e-4)


def test_a_blend_means_the_same_with_any_number_of_steps(cpu: Hardware) -> None:
    generator, target = gaussian_generator(), torch.full((20, *SHAPE), 2.0)
    asked = Request(torch.zeros(1, 1, 1), torch.zeros(20, dtype=torch.long), list(range(20)))

    def nearness(steps: int, scale: float) -> float:
        guidance = blend_prototypes(target, generator.parameterisation, scale=scale)
        drawn = sample(generator, asked, SamplingSettings(steps=steps), hardware=cpu, guidances=[guidance])
        return float((drawn - target).square().mean().sqrt())

    near = [nearness(25, scale) for scale in (0.0, 0.1, 0.3, 1.0)]
    assert near == sorted(near, reverse=True)
    few, many = nearness(12, 0.3) / near[0], nearness(60, 0.3) / near[0]
    assert few == pytest.approx(many, rel=0.1)
    assert 0.5 < many < 0.9
