"""Guidances of in-painting, fusion and tiling, on denoisers whose answers are known."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from terradistill.hardware import Hardware
from terradistill.sampling.fusion import _centres, course, fuse, nearest
from terradistill.sampling.guidance import chunked, classifier_free
from terradistill.sampling.masking import keep_known
from terradistill.sampling.sampler import Guidance, Predict, Request, Step, sample
from terradistill.sampling.tiling import corners, feather, in_tiles, tiled
from terradistill.settings import SamplingSettings

from .conftest import SHAPE, gaussian_generator
from .test_sampler import request


def draw(cpu: Hardware, n: int, *guidances: Guidance, steps: int = 10, batch_size: int = 100) -> Tensor:
    means = [1.0 - 0.1 * i for i in range(n)]
    return sample(
        gaussian_generator(),
        request(n, means),
        SamplingSettings(steps=steps, scheduler="ddim"),
        hardware=cpu,
        guidances=guidances,
        batch_size=batch_size,
    )


def test_a_course_goes_as_it_is_called() -> None:
    shares = (0.0, 0.25, 1.0)
    assert [course("falling", 0.8)(share) for share in shares] == pytest.approx([0.8, 0.6, 0.0])
    assert [course("rising", 0.8)(share) for share in shares] == pytest.approx([0.0, 0.2, 0.8])
    assert [course("constant", 0.8)(share) for share in shares] == pytest.approx([0.8, 0.8, 0.8])


def test_the_trajectory_nearest_to_the_centre_is_found_and_of_two_that_of_the_fewer_days() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 9.0]).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    assert nearest(values, [0, 5, 5, 5], "l2") == 2, "the mean is 3"
    assert nearest(values, [0, 5, 5, 5], "l1") == 1, "the median is 1.5: the first of both"
    assert [nearest(values[:2], days, "l2") for days in ([-3, 2], [1, -2])] == [1, 0]
    assert nearest(values[3:], [40], "l1") == 0


def test_what_is_known_stays_and_the_rest_is_drawn(cpu: Hardware) -> None:
    schedule = gaussian_generator().parameterisation
    known = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    drawn = torch.zeros(4, 1, *SHAPE[1:])
    drawn[:, :, : SHAPE[1] // 2] = 1
    made, plain = draw(cpu, 4, keep_known(known, drawn, schedule)), draw(cpu, 4)
    half = SHAPE[1] // 2
    torch.testing.assert_close(made[:, :, half:], known[:, :, half:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made[:, :, :half], plain[:, :, :half], msg="pixels of this denoiser are independent")


def correlated() -> Any:
    """A generator whose data have one value all over: what is known says all of the rest."""
    made = gaussian_generator()

    def predict(z: Tensor, t: Tensor, text: Tensor, class_labels: Tensor | None = None) -> SimpleNamespace:  # noqa: ARG001
        schedule = made.parameterisation
        alpha = schedule.alphas_cumprod[t.round().long()].to(z)
        count = z[0].numel()
        mean = z.mean((1, 2, 3), keepdim=True)
        z0 = (alpha.sqrt() * mean * count / (alpha * count + 1 - alpha)).expand_as(z)
        noise = (z - alpha.sqrt() * z0) / (1 - alpha).sqrt().clamp_min(1e-6)
        return SimpleNamespace(sample=schedule.target(z0, noise, t.round().long()))

    predict.config = made.unet.config  # type: ignore[attr-defined]
    made.unet = predict
    return made


def test_repeated_steps_bring_what_is_drawn_to_what_is_known(cpu: Hardware) -> None:
    generator = correlated()
    known, drawn = torch.full((64, *SHAPE), 1.5), torch.ones(64, 1, *SHAPE[1:])
    drawn[:, :, :, 0] = 0
    off = []
    for repeats in (1, 6):
        guidance = keep_known(known, drawn, generator.parameterisation, seeds=range(64), repeats=repeats)
        made = sample(
            generator, request(64), SamplingSettings(steps=12, scheduler="ddim"), hardware=cpu, guidances=[guidance]
        )
        off.append(float((made[:, :, :, 1:] - 1.5).abs().mean()))
        torch.testing.assert_close(made[:, :, :, 0], known[:, :, :, 0], atol=1e-3, rtol=1e-3)
    assert off[1] < off[0]


def counting(calls: list[int]) -> Guidance:
    def guide(predict: Predict) -> Predict:
        def guided(step: Step) -> tuple[Tensor, Tensor]:
            calls.append(len(step.rows))
            return predict(step)

        return guided

    return guide


def test_one_trajectory_and_no_weight_are_plain_sampling(cpu: Hardware) -> None:
    schedule, plain = gaussian_generator().parameterisation, draw(cpu, 6)
    assert torch.equal(draw(cpu, 6, fuse(torch.arange(6), schedule, course("constant", 0.7))), plain)
    assert torch.equal(draw(cpu, 6, fuse(torch.tensor([0, 0, 0, 1, 1, 1]), schedule, course("constant", 0.0))), plain)


@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_trajectories_come_together_as_the_weight_grows(distance: str, cpu: Hardware) -> None:
    schedule, groups = gaussian_generator().parameterisation, torch.tensor([0, 0, 0, 1, 1, 1])
    spread = []
    for weight in (0.0, 0.3, 0.6, 1.0):
        made = draw(cpu, 6, fuse(groups, schedule, course("constant", weight), distance=distance))  # type: ignore[arg-type]
        spread.append(float(made.unflatten(0, (2, 3)).var(1).mean()))
    assert spread[0] > spread[1] > spread[2] > spread[3]
    assert spread[3] < 0.01 * spread[0]


def test_centres_are_means_and_medians() -> None:
    z0 = torch.tensor([0.0, 1.0, 3.0, 10.0, 5.0, 7.0]).reshape(6, 1, 1, 1)
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    assert _centres(z0, groups, "l2").flatten().tolist() == [3.5, 6.0]
    assert _centres(z0, groups, "l1").flatten().tolist() == [2.0, 6.0], "of an even number, between the two"
    assert _centres(z0[:3], groups[:3], "l1").flatten().tolist() == [1.0]


def test_the_order_of_the_images_does_not_matter(cpu: Hardware) -> None:
    generator = gaussian_generator()
    order = torch.tensor([2, 0, 1])
    asked = request(3, (1.0, 0.5, -1.0))
    turned = Request(asked.text, asked.prompt_of[order], [asked.seeds[k] for k in order.tolist()])
    groups, schedule = torch.zeros(3, dtype=torch.long), generator.parameterisation
    for subset in (None, 2):
        one, other = (
            sample(
                generator,
                each,
                SamplingSettings(steps=10, scheduler="ddim"),
                hardware=cpu,
                guidances=[fuse(groups, schedule, course("rising", 0.8), subset=subset, seeds=each.seeds)],
            )
            for each in (asked, turned)
        )
        torch.testing.assert_close(one[order], other)


def test_a_subset_costs_less_and_the_others_follow(cpu: Hardware) -> None:
    schedule, groups = gaussian_generator().parameterisation, torch.tensor([0] * 4 + [1] * 4)
    calls: list[int] = []
    made = draw(
        cpu, 8, counting(calls), fuse(groups, schedule, course("constant", 0.5), subset=1, seeds=range(8)), steps=7
    )
    assert calls == [2] * 7
    assert made.isfinite().all()
    calls.clear()
    draw(cpu, 8, counting(calls), fuse(groups, schedule, course("constant", 0.5)), steps=7)
    assert sum(calls) == 7 * 8, "steps × trajectories"


def test_guided_by_the_prompt_every_trajectory_costs_two(cpu: Hardware) -> None:
    generator, n, steps = gaussian_generator(), 6, 7
    together = fuse(torch.tensor([0, 0, 0, 1, 1, 1]), generator.parameterisation, course("constant", 0.5))
    for scale, each in ((3.0, 2), (1.0, 1)):
        generator.unet.batch_sizes.clear()
        sample(
            generator,
            request(n, (1.0, -1.0)),
            SamplingSettings(steps=steps, scheduler="ddim"),
            hardware=cpu,
            guidances=[classifier_free(scale, torch.zeros(1, 1, 1)), together],
        )
        assert sum(generator.unet.batch_sizes) == steps * n * each


@pytest.mark.parametrize(("length", "side", "overlap"), [(150, 16, 4), (17, 16, 4), (16, 16, 4), (9, 16, 4)])
def test_tiles_cover_everything_and_overlap(length: int, side: int, overlap: int) -> None:
    places = sorted({y for y, _ in corners(length, 16, side, overlap)})
    assert places[0] == 0
    assert places[-1] + side >= length
    assert all(place + side <= max(length, side) for place in places)
    assert all(before + side - after >= overlap for before, after in pairwise(places))


def test_feathered_weights_are_never_zero() -> None:
    weights = feather(8, 16, 3)
    torch.testing.assert_close(weights[4, :3] + weights[4, -3:], torch.ones(3), msg="two tiles that overlap by 3")
    assert weights.shape == (8, 16)
    assert weights.min() > 0
    assert weights[4, 8] == 1
    assert torch.equal(weights, weights.flip(0, 1))


@pytest.mark.parametrize("side", [128, 288, 352, 1216])
@pytest.mark.parametrize(("give", "take"), [(8, 1), (1, 8), (1, 1)])
def test_local_work_in_tiles_is_what_it_is_at_once(side: int, give: int, take: int) -> None:
    units = side // 8
    x = torch.randn(3, units * give, units * give, generator=torch.Generator().manual_seed(0))

    def work(tiles: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(tiles, give)
        return small.repeat_interleave(take, 2).repeat_interleave(take, 3)

    sizes: list[int] = []

    def counted(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        assert tiles.shape[-1] <= 16 * give
        return work(tiles)

    made = in_tiles(counted, x, 16, 4, give=give, take=take, batch_size=3)
    torch.testing.assert_close(made, work(x[None])[0], atol=1e-5, rtol=1e-5)
    assert max(sizes) <= 3
    assert side <= 128 or sum(sizes) > 1


def test_a_large_step_is_asked_for_in_chunks(cpu: Hardware) -> None:
    calls: list[int] = []
    assert torch.allclose(draw(cpu, 7, counting(calls), chunked(3), steps=2), draw(cpu, 7, steps=2))
    assert calls == [3, 3, 1] * 2


def test_where_memory_does_not_suffice_fewer_are_asked_for(cpu: Hardware) -> None:
    calls: list[int] = []

    def small(most: int) -> Guidance:
        def guide(predict: Predict) -> Predict:
            def guided(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
                calls.append(len(step.rows))
                if len(step.rows) > most:
                    raise torch.OutOfMemoryError
                return predict(step)

            return guided

        return guide

    assert torch.allclose(draw(cpu, 7, small(2), chunked(100), steps=2), draw(cpu, 7, steps=2))
    assert calls == [7, 3, 1, 1, 1, 1, 1, 1, 1] + [1] * 7
    with pytest.raises(torch.OutOfMemoryError):
        draw(cpu, 2, small(0), chunked(100), steps=2)


def test_a_large_image_in_tiles_is_what_it_is_at_once_where_places_do_not_matter(cpu: Hardware) -> None:
    generator = gaussian_generator()
    asked = request(1, (0.5,))
    large = Request(asked.text, asked.prompt_of, asked.seeds, size=(13, 13))
    calls: list[int] = []
    places = corners(13, 13, 4, 2)
    whole = sample(generator, large, SamplingSettings(steps=8), hardware=cpu)
    parts = sample(
        generator,
        large,
        SamplingSettings(steps=8),
        hardware=cpu,
        guidances=[counting(calls), tiled(places, 4, 2, batch_size=5)],
    )
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert max(calls) == 5, "memory is bounded by the batch"
    assert sum(calls) == 8 * len(places)


class Largest(TorchDispatchMode):
    """The most numbers that any operator has given."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.most = max(self.most, made.numel())
        return made


def test_a_large_image_is_not_copied_for_each_of_its_tiles() -> None:
    places = corners(64, 64, 4, 2)
    z = torch.zeros(1, 3, 64, 64)
    step = Step(torch.zeros(1, dtype=torch.long), 0, 1, torch.tensor(500), z, torch.zeros(1, 2, 3))
    guided = tiled(places, 4, 2, batch_size=16)(lambda part: (part.z, part.z))
    with Largest() as seen:
        guided(step)
    assert seen.most <= z.numel()
