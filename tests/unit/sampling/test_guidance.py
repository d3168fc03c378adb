import math

import pytest
import torch

from terradistill.config import Scheduler
from terradistill.hardware import Hardware
from terradistill.sampling.guidance import classifier_free, towards_prototypes
from terradistill.sampling.sampler import Request, Step, compose, sample, unguided

from .conftest import SHAPE, gaussian_generator
from .test_sampler import request

EMPTY = torch.zeros(1, 1, 1)


def draw(cpu: Hardware, *guidances: object) -> torch.Tensor:
    return sample(gaussian_generator(), request(12, (1.0, -1.0)), steps=10, hardware=cpu, guidances=guidances)  # type: ignore[arg-type]


def test_strength_none_is_bit_for_bit_no_guidance(cpu: Hardware) -> None:
    generator = gaussian_generator()
    targets = torch.full((12, *SHAPE), 9.0)
    plain = draw(cpu)
    pushed = draw(cpu, classifier_free(1.0, EMPTY), towards_prototypes(targets, generator.parameterisation, scale=0.0))
    assert torch.equal(plain, pushed)


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


def test_prototype_push_is_the_published_formula(cpu: Hardware) -> None:
    generator = gaussian_generator("epsilon")
    schedule = generator.parameterisation
    targets = torch.randn(5, *SHAPE)
    step = Step(torch.tensor([4, 1]), 2, 10, torch.tensor(300), torch.randn(2, *SHAPE), torch.zeros(2, 1, 1))
    predict = unguided(generator, cpu)
    output = predict(step)[1]
    z, same = compose(predict, [towards_prototypes(targets, schedule, scale=0.7)])(step)
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
        [towards_prototypes(torch.ones(1, *SHAPE), generator.parameterisation, scale=1.0, until=0.8)],
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
            steps=20,
            hardware=cpu,
            scheduler=scheduler,
            guidances=[towards_prototypes(targets, generator.parameterisation, scale=s)],
        )
        for s in (0.0, 0.5)
    )
    assert ((drawn - targets).flatten(1).norm(dim=1) < (free - targets).flatten(1).norm(dim=1)).all()
