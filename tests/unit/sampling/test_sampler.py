import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from terradistill.config import load_settings
from terradistill.errors import ConfigError, GeneratorError
from terradistill.hardware import Hardware
from terradistill.models.autoencoder import build_vae
from terradistill.models.generator import build_generator
from terradistill.sampling.guidance import classifier_free
from terradistill.sampling.sampler import Predict, Prune, Request, Step, looks, sample, sample_some
from terradistill.sampling.schedulers import karras_times, make_scheduler, set_steps
from terradistill.seeding import derive, noise
from terradistill.settings import GIVEN_TIMES, SamplingSettings, Scheduler, Spacing
from tests.unit.conftest import awake

from .conftest import SHAPE, gaussian_generator


def request(n: int, means: tuple[float, ...] = (2.0,)) -> Request:
    text = torch.tensor(means).view(-1, 1, 1)
    return Request(text, torch.arange(n) % len(means), [derive(0, i) for i in range(n)])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize(("scheduler", "steps"), [("ddim", 150), ("dpm++", 40), ("sde-dpm++", 60), ("unipc", 40)])
def test_gaussian_data_are_sampled_to_their_mean_and_variance(
    kind: str, scheduler: Scheduler, steps: int, spacing: Spacing, cpu: Hardware
) -> None:
    generator = gaussian_generator(kind, std=0.5)
    drawn = sample(
        generator, request(400), SamplingSettings(steps=steps, scheduler=scheduler, spacing=spacing), hardware=cpu
    )
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.03)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_ddim_is_its_closed_form_computed_by_hand(kind: str, spacing: Spacing, cpu: Hardware) -> None:
    """√ᾱ'·ẑ0 + √(1−ᾱ')·ε̂, in float64, for a denoiser that is made up; after the last step ᾱ' = 1."""
    generator, asked, times = gaussian_generator(kind), request(2), list[int]()
    z = noise(asked.seeds, SHAPE).double()

    def made_up(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (0.7 * z + t / 500).tanh() - 0.3 * z.roll(1, 3).sin()

    def unet(z: torch.Tensor, t: torch.Tensor, *_: object, **named: object) -> SimpleNamespace:
        assert named == {"class_labels": None}
        times.append(int(t))
        return SimpleNamespace(sample=made_up(z, t))

    unet.config = generator.unet.config  # type: ignore[attr-defined]
    generator.unet = unet
    drawn = sample(generator, asked, SamplingSettings(steps=3, scheduler="ddim", spacing=spacing), hardware=cpu)
    assert len(times) == 3
    alphas = generator.parameterisation.alphas_cumprod.double()
    for t, following in zip(times, [*times[1:], None], strict=True):
        signal, sigma, output = alphas[t].sqrt(), (1 - alphas[t]).sqrt(), made_up(z, torch.tensor(t))
        if kind == "epsilon":
            z0, e = (z - sigma * output) / signal, output
        elif kind == "sample":
            z0, e = output, (z - signal * output) / sigma
        else:
            z0, e = signal * z - sigma * output, sigma * z + signal * output
        share = torch.ones(()).double() if following is None else alphas[following]
        z = share.sqrt() * z0 + (1 - share).sqrt() * e
    torch.testing.assert_close(drawn.double(), z, rtol=1e-5, atol=1e-5)


def test_few_steps_spaced_by_noise_keep_what_varies_little(cpu: Hardware) -> None:
    kept = {}
    for spacing in get_args(Spacing):
        drawn = sample(
            gaussian_generator(std=0.1), request(400), SamplingSettings(steps=10, spacing=spacing), hardware=cpu
        )
        kept[spacing] = drawn.std().item() / 0.1
    assert kept["karras"] == pytest.approx(1, abs=0.07)
    assert kept["even"] < 0.8


def test_few_steps_keep_what_scenes_differ_in_as_a_whole(cpu: Hardware) -> None:
    drawn = sample(gaussian_generator(std=8), request(400, (0.0,)), SamplingSettings(steps=20), hardware=cpu)
    assert drawn.std().item() == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])  # to pure noise, and not quite
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 57, 1000])
def test_times_fall_from_most_noise_each_once(steps: int, kind: str) -> None:
    alphas = gaussian_generator(kind).parameterisation.alphas_cumprod
    times = karras_times(alphas, steps)
    assert len(times) == steps
    assert times[0] == 999
    assert times[-1] >= 0
    assert all(later < earlier for earlier, later in itertools.pairwise(times))


def test_what_is_not_finite_is_not_drawn() -> None:
    half = Hardware(torch.device("cpu"), torch.float16)
    with pytest.raises(GeneratorError, match="fp16 overflows: try --set precision=fp32"):
        sample(gaussian_generator(std=float("inf")), request(2), SamplingSettings(steps=3), hardware=half)


def test_times_lie_evenly_in_the_seventh_root_of_sigma() -> None:
    alphas = gaussian_generator().parameterisation.alphas_cumprod.double()
    roots = ((1 - alphas) / alphas)[karras_times(alphas, 12)[1:]] ** (1 / 14)
    assert roots[0].item() ** 7 == pytest.approx(30, rel=0.05)
    assert roots[-1].item() ** 7 == pytest.approx(0.02, rel=0.05)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(10), rtol=0.1, atol=0)  # times are whole


@pytest.mark.parametrize(
    ("scheduler", "spacing"),
    [(name, "even") for name in get_args(Scheduler) if name.endswith("Scheduler")]
    + [("DPMSolverSinglestepScheduler", "karras"), ("EulerDiscreteScheduler", "karras")],
)
def test_other_schedulers_of_diffusers_do_so_too_and_follow_the_seeds(
    scheduler: Scheduler, spacing: Spacing, cpu: Hardware
) -> None:
    generator = gaussian_generator(std=0.5)
    drawn = sample(
        generator, request(300), SamplingSettings(steps=60, scheduler=scheduler, spacing=spacing), hardware=cpu
    )
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.05)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.05)
    alone = sample(
        generator, request(3), SamplingSettings(steps=60, scheduler=scheduler, spacing=spacing), hardware=cpu
    )
    torch.testing.assert_close(alone, drawn[:3], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheduler", ["dpm++", "sde-dpm++"])
def test_an_image_is_the_same_in_any_batch_and_beside_any_neighbour(scheduler: Scheduler, cpu: Hardware) -> None:
    generator, wanted = gaussian_generator(), SamplingSettings(steps=8, scheduler=scheduler)
    by_size = [
        sample(generator, request(64, (1.0, -1.0)), wanted, hardware=cpu, batch_size=size) for size in (1, 7, 64)
    ]
    torch.testing.assert_close(by_size[0], by_size[2])
    torch.testing.assert_close(by_size[1], by_size[2])
    alone = Request(torch.tensor([[[-1.0]]]), torch.zeros(1, dtype=torch.long), [derive(0, 5)])
    torch.testing.assert_close(sample(generator, alone, wanted, hardware=cpu)[0], by_size[2][5])


def test_batches_are_full_across_prompts(cpu: Hardware) -> None:
    generator = gaussian_generator()
    sample(generator, request(10, (1.0, 2.0, 3.0)), SamplingSettings(steps=2, batch_size=4), hardware=cpu)
    assert generator.unet.batch_sizes == [4, 4, 4, 4, 2, 2]


def test_a_network_that_wants_class_labels_gets_level_nought(cpu: Hardware) -> None:
    plain, labelled = gaussian_generator(), gaussian_generator()
    labelled.unet.config.num_class_embeds = 20
    drawn = [sample(generator, request(3), SamplingSettings(steps=3), hardware=cpu) for generator in (plain, labelled)]
    assert torch.equal(*drawn)


def test_nothing_asked_nothing_drawn(cpu: Hardware) -> None:
    assert sample(gaussian_generator(), request(0), SamplingSettings(steps=2), hardware=cpu).shape == (0, 2, 4, 4)


def test_prompts_steer_where_the_samples_go(cpu: Hardware) -> None:
    generator = gaussian_generator()
    drawn = sample(
        generator,
        request(200, (3.0, -3.0)),
        SamplingSettings(steps=20),
        hardware=cpu,
        guidances=[classifier_free(1.0, torch.zeros(1, 1, 1))],
    )
    assert drawn[::2].mean().item() == pytest.approx(3.0, abs=0.1)
    assert drawn[1::2].mean().item() == pytest.approx(-3.0, abs=0.1)


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("scheduler", ["dpm++", "sde-dpm++", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("times", ["karras", "exponential", "beta", "lu", "flow"])
def test_what_a_scheduler_brings_beside_its_noise_schedule_is_set_back(
    times: str, scheduler: Scheduler, spacing: Spacing, cpu: Hardware
) -> None:
    generator, wanted = gaussian_generator(), SamplingSettings(steps=4, scheduler=scheduler, spacing=spacing)
    plain = sample(generator, request(3), wanted, hardware=cpu)
    own = {"use_lu_lambdas" if times == "lu" else f"use_{times}_sigmas": True, "algorithm_type": "sde-dpmsolver++"}
    others = {"timestep_type": "continuous", "interpolation_type": "log_linear", "timestep_spacing": "leading"}
    generator.scheduler = DPMSolverMultistepScheduler.from_config(dict(generator.scheduler.config) | own)
    generator.scheduler.register_to_config(**others)
    assert torch.equal(sample(generator, request(3), wanted, hardware=cpu), plain)


def test_numbers_of_steps_that_a_schedule_cannot_take_are_refused() -> None:
    few = DPMSolverMultistepScheduler(num_train_timesteps=100)
    with pytest.raises(ConfigError, match="100 times"):
        set_steps(make_scheduler(few, "dpm++"), SamplingSettings(steps=101))
    with pytest.raises(ConfigError, match="unipc miscounts"):
        set_steps(make_scheduler(few, "unipc"), SamplingSettings(steps=29, scheduler="unipc"))


@pytest.mark.parametrize("scheduler", sorted(set(get_args(Scheduler)) - set(GIVEN_TIMES)))
def test_numbers_of_steps_that_settings_take_are_counted_right(scheduler: Scheduler) -> None:
    for steps in (1, 20, 60, 62, 97, 250):
        solver = make_scheduler(gaussian_generator().scheduler, scheduler)
        set_steps(solver, SamplingSettings(steps=steps, scheduler=scheduler))
        assert len(solver.timesteps) == 1 + (steps - 1) * solver.order
        assert solver.timesteps.min() >= 0


def test_a_real_network_draws_the_same_image_in_any_batch(cpu: Hardware) -> None:
    settings = load_settings(["tiny"])
    words = ["a dark field", "a bright plain"]
    generator = build_generator(settings.diffusion, build_vae(settings.autoencoder, 32, 0), 32, words, 0).frozen()
    awake(generator.unet)
    wanted = Request(generator.embed(words), torch.arange(64) % 2, [derive(0, i) for i in range(64)])
    told = classifier_free(3.0, generator.embed([""]))
    by_size = [
        sample(generator, wanted, SamplingSettings(steps=3), hardware=cpu, guidances=[told], batch_size=size)
        for size in (1, 7, 64)
    ]
    torch.testing.assert_close(by_size[0], by_size[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(by_size[1], by_size[2], atol=1e-4, rtol=1e-4)
    assert not torch.equal(by_size[2][0], by_size[2][2])


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize(("spacing", "steps"), [("karras", 12), ("even", 12), ("even", 61)])
def test_a_step_knows_the_next(steps: int, spacing: Spacing, strength: float, cpu: Hardware) -> None:
    seen: list[tuple[float, float]] = []

    def watched(predict: Predict) -> Predict:
        def step(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append((float(step.t), step.after))
            return predict(step)

        return step

    asked = request(2) if strength == 1 else replace(request(2), start=torch.zeros(2, *SHAPE), strength=strength)
    sample(
        gaussian_generator(), asked, SamplingSettings(steps=steps, spacing=spacing), hardware=cpu, guidances=[watched]
    )
    assert len(seen) == round(steps * strength)
    assert [t for t, _ in seen[1:]] + [0.0] == [after for _, after in seen]


@pytest.mark.parametrize(
    "scheduler", ["dpm++", "sde-dpm++", "ddim", "unipc", "EulerDiscreteScheduler", "HeunDiscreteScheduler"]
)
def test_real_latents_noised_part_of_the_way_come_back_as_real_ones(scheduler: Scheduler, cpu: Hardware) -> None:
    generator, asked = gaussian_generator(std=0.5), request(300)
    real = 2.0 + 0.5 * torch.randn(300, *SHAPE, generator=torch.Generator().manual_seed(0))
    far, near = (
        sample(
            generator,
            replace(asked, start=real, strength=strength),
            SamplingSettings(steps=60, scheduler=scheduler),
            hardware=cpu,
        )
        for strength in (0.75, 0.25)
    )
    for drawn in (far, near):
        assert drawn.mean().item() == pytest.approx(2.0, abs=0.05)
        assert drawn.std().item() == pytest.approx(0.5, abs=0.05)
    assert (near - real).square().mean() < (far - real).square().mean()
    assert (near - real).square().mean() > 0


@pytest.mark.parametrize(
    "scheduler", ["dpm++", "sde-dpm++", "ddim", "unipc", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"]
)
def test_what_is_not_pruned_is_drawn_as_if_the_others_had_been_too(scheduler: Scheduler, cpu: Hardware) -> None:
    generator, asked = gaussian_generator(), request(12, (1.0, -1.0))
    wanted = SamplingSettings(steps=8, scheduler=scheduler)
    whole = sample(generator, asked, wanted, hardware=cpu)
    looked: list[int] = []

    def odd_ones(rows: torch.Tensor, z0: torch.Tensor) -> torch.Tensor:
        looked.append(len(rows))
        assert z0.shape == (len(rows), *whole.shape[1:])
        return torch.arange(len(rows)) % 2 == 1

    latents, rows = sample_some(generator, asked, Prune((0.3, 0.6), odd_ones), wanted, hardware=cpu, batch_size=6)
    assert rows.tolist() == [3, 9]
    assert looked == [6, 3, 6, 3]
    torch.testing.assert_close(latents, whole[rows])


def test_pruning_costs_less(cpu: Hardware) -> None:
    generator = gaussian_generator()
    half = Prune((0.5,), lambda rows, _: torch.arange(len(rows)) < len(rows) // 2)
    sample_some(generator, request(8), half, SamplingSettings(steps=10), hardware=cpu)
    assert sum(generator.unet.batch_sizes) == 5 * 8 + 5 * 4


def test_looks_are_at_steps_of_their_own_among_those_that_are_taken() -> None:
    assert looks((0.2, 0.21, 0.9), 0, 10) == {1, 2, 8}
    assert looks((0.2, 0.21, 0.9), 5, 20) == {7, 8, 18}
    assert looks((1.0,), 0, 10) == set(), "nothing is left to save"
