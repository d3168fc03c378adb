"""Guidances: functions that change one denoising step. See `terradistill.sampling.sampler` for how they compose."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from terradistill.hardware import Hardware, fitting
from terradistill.models.generator import Generator, denoise
from terradistill.models.parameterisation import Parameterisation
from terradistill.run import Progress
from terradistill.sampling.sampler import Guidance, Predict, Request, Step
from terradistill.seeding import generator as seeded
from terradistill.settings import SamplingSettings


def classifier_free(
    scale: float, empty: Tensor, *, between: tuple[float, float] = (0.0, 1.0), free_maps: bool = True
) -> Guidance:
    """Classifier-free guidance: ``free + scale · (told − free)`` as one doubled batch (Ho & Salimans 2022).

    The free half is told neither the prompt (with its content image) nor the metadata, so both are guided; it sees the
    maps, which have strengths of their own [ours].

    Args:
        scale: 1 is the prompted prediction itself, and costs no second evaluation; 0 ignores the prompt.
        empty: float (1, L, D), embedding of the empty caption (and of no content image, where prompts have one).
        between: shares of the steps that are taken, between which it acts; in the others the prompt alone is asked,
            which costs half. Guiding amid the steps alone keeps a class varied (Kynkäänniemi et al. 2024). Where there
            are only one or two steps, it acts in them.
        free_maps: false hides the maps from the free half, so that they are guided too.
    """

    def guide(predict: Predict) -> Predict:
        if scale == 1:
            return predict

        def guided(step: Step) -> tuple[Tensor, Tensor]:
            if not guides(between, step.index, step.count, step.first):
                return predict(step)
            text = torch.cat([empty.to(step.text).expand_as(step.text), step.text])
            metadata = step.metadata
            if metadata is not None:
                metadata = torch.cat([torch.full_like(metadata, torch.nan), metadata])
            control = None if step.control is None else step.control.doubled(free=free_maps)
            both = replace(
                step,
                rows=step.rows.repeat(2),
                z=step.z.repeat(2, 1, 1, 1),
                text=text,
                metadata=metadata,
                control=control,
            )
            z, output = predict(both)
            free, told = output.chunk(2)
            return z[: len(step.z)], free + scale * (told - free)

        return guided

    return guide


def autoguidance(
    weaker: Predict,
    scale: float,
    schedule: Parameterisation,
    *,
    parallel: float = 1.0,
    between: tuple[float, float] = (0.0, 1.0),
) -> Guidance:
    """Autoguidance: ``output + (scale − 1) · (output − weak)``, away from a weaker denoiser (Karras et al. 2024).

    Args:
        weaker: of the same parameterisation; it is asked for the same latents.
        scale: 1 is the prediction itself, and costs no second evaluation.
        schedule: the generator's, to read ẑ0 off its prediction.
        parallel: share kept of what the way has along ẑ0, in [0, 1]. That part makes the scene as it is stronger, which
            is contrast and glare; the rest makes it another one (η of adaptive projected guidance, Sadat et al. 2025).
        between: as in `classifier_free`.
    """

    def guide(predict: Predict) -> Predict:
        if scale == 1:
            return predict

        def guided(step: Step) -> tuple[Tensor, Tensor]:
            z, output = predict(step)
            if not guides(between, step.index, step.count, step.first):
                return z, output
            _, weak = weaker(step)
            away = output - weak  # ẑ0 moves by a multiple of it, so what is along ẑ0 is so in both
            z0 = schedule.z0(z, output, step.t.round().long())
            along = z0 / z0.flatten(1).norm(dim=1).clamp_min(1e-8).view(-1, 1, 1, 1)
            away = away - (1 - parallel) * (away * along).sum((1, 2, 3), keepdim=True) * along
            return z, output + (scale - 1) * away

        return guided

    return guide


def weaker_self(generator: Generator, hardware: Hardware, told: Tensor, empty: Tensor) -> Predict:
    """The weaker denoiser of a generator that has one, which sees neither maps nor content images.

    Args:
        generator: with a `weaker`.
        hardware: where and in which precision to compute.
        told: bool (N,), for which images of the request it is told their prompt and numbers; for the others it is told
            nothing, and what is guided away from it is guided by the prompt too.
        empty: as in `classifier_free`.
    """
    weaker = generator.weaker
    if weaker is None:
        raise ValueError("the generator has no weaker denoiser")

    def predict(step: Step) -> tuple[Tensor, Tensor]:
        hears = told.to(step.z.device)[step.rows.to(step.z.device)]
        text = torch.where(hears[:, None, None], step.text, empty.to(step.text))
        metadata = step.metadata
        if metadata is not None:
            metadata = torch.where(hears[:, None], metadata, torch.nan)
        with hardware.autocast():
            output = denoise(weaker, step.z, step.t.to(step.z.device), text, metadata)
        return step.z, output.float()

    return predict


def either(first: Tensor, one: Guidance, other: Guidance) -> Guidance:
    """One guidance for some images and another for the rest.

    Args:
        first: bool (N,), which images of the request have the first.
        one: theirs.
        other: that of the others.
    """

    def guide(predict: Predict) -> Predict:
        guides_first, guides_rest = one(predict), other(predict)

        def guided(step: Step) -> tuple[Tensor, Tensor]:
            mine = first[step.rows.cpu()]
            if mine.all() or not mine.any():
                return (guides_first if mine.all() else guides_rest)(step)
            parts = [mine.nonzero()[:, 0], (~mine).nonzero()[:, 0]]
            guided_by = zip((guides_first, guides_rest), parts, strict=True)
            found = [each(step.some(rows.to(step.z.device))) for each, rows in guided_by]
            back = torch.cat(parts).argsort().to(step.z.device)
            return torch.cat([z for z, _ in found])[back], torch.cat([output for _, output in found])[back]

        return guided

    return guide


def guided_as(
    wanted: SamplingSettings,
    generator: Generator,
    request: Request,
    empty: Tensor,
    within: Guidance,
    hardware: Hardware,
    *,
    shown: Tensor | None = None,
) -> list[Guidance]:
    """Classifier-free guidance, or autoguidance where the generator has a weaker denoiser, as the settings say.

    Args:
        wanted: the settings.
        generator: what draws.
        request: what is drawn.
        empty: as in `classifier_free`.
        within: keeps what a denoiser is asked to what memory holds; see `chunked`.
        hardware: where and in which precision to compute.
        shown: bool (N,), which images follow maps, which the weaker denoiser does not see, or a content image, whose
            tokens it has not learned: autoguidance would strengthen these too, and they do without; None: no image.
    """

    def free(scale: float) -> Guidance:
        return classifier_free(scale, empty, between=wanted.cfg_between, free_maps=not wanted.guide_maps)

    if generator.weaker is None or wanted.autoguidance == 1:
        return [within, free(wanted.cfg())]
    # Of an image's seed alone, so that neither its batch nor its neighbours matter.
    chance = torch.cat([torch.rand(1, generator=seeded(seed, "autoguided")) for seed in request.seeds])
    auto = autoguidance(
        within(weaker_self(generator, hardware, chance < wanted.autoguidance_told, empty)),
        wanted.autoguidance,
        generator.parameterisation,
        parallel=wanted.autoguidance_parallel,
        between=wanted.autoguidance_between,
    )

    def beside(predict: Predict) -> Predict:
        return auto(free(wanted.cfg(autoguided=True))(predict))

    return [within, beside if shown is None else either(shown, free(wanted.cfg()), beside)]


def guides(between: tuple[float, float], index: int, count: int, first: int = 0) -> bool:
    """Whether classifier-free guidance acts in a step, of those from `first` on."""
    return count - first < 3 or between[0] <= (index - first) / (count - first - 1) <= between[1]


def chunked(size: int) -> Guidance:
    """Changes nothing, and asks for no more than so many images at a time. Put it first in the list.

    Where memory does not suffice for so many, half of them are tried, from then on.
    """

    most = size

    def guide(predict: Predict) -> Predict:
        def guided(step: Step) -> tuple[Tensor, Tensor]:
            nonlocal most

            def at_most(size: int) -> tuple[Tensor, Tensor]:
                if len(step.rows) <= size:
                    return predict(step)
                parts = [predict(step.some(i)) for i in torch.arange(len(step.rows)).to(step.z.device).split(size)]
                return torch.cat([z for z, _ in parts]), torch.cat([output for _, output in parts])

            found, size = fitting(min(most, len(step.rows)), at_most)
            most = size if size < len(step.rows) else most
            return found

        return guided

    return guide


def reporting(progress: Progress) -> Guidance:
    """Changes nothing, and tells of each step."""

    def guide(predict: Predict) -> Predict:
        def guided(step: Step) -> tuple[Tensor, Tensor]:
            found = predict(step)
            progress(step.index + 1, step.count)
            return found

        return guided

    return guide


def blend_prototypes(prototypes: Tensor, schedule: Parameterisation, scale: float, until: float = 1.0) -> Guidance:
    """Prototype guidance per unit of noise removed [ours]: what is drawn is led a share of the way to the prototype.

        ẑ0 ← ẑ0 + s · √(1−ᾱ_t) · (z_proto − ẑ0)     while step/(steps − 1) ≤ `until`

    The solver weighs ẑ0 by the share of the noise that it removes, dσ/σ; times σ = √(1−ᾱ_t) the whole path adds up to
    about s, whatever the number of steps and the scale of the latents.

    Args:
        prototypes: float (N, C, h, w), the scaled latent that each image of the request is drawn to.
        schedule: the generator's, to read ẑ0 off a prediction of any kind.
        scale: s, in [0, 1]; 0 means none.
        until: share of the steps, in [0, 1].
    """

    def blended(z: Tensor, _: Tensor, t: Tensor, pull: Tensor, weight: Tensor, z0: Tensor) -> tuple[Tensor, Tensor]:
        return z, schedule.output(z, z0 + weight * pull, t)

    return _towards(prototypes, schedule, scale, until, blended)


def push_to_prototypes(prototypes: Tensor, schedule: Parameterisation, scale: float, until: float = 0.8) -> Guidance:
    """Prototype guidance (DPD, revised release): push z_t towards the image's prototype before the scheduler steps.

        z_t ← z_t + s · √(1−ᾱ_t) · (z_proto − ẑ0) / ‖z_proto − ẑ0‖₂     while step/(steps − 1) ≤ `until`

    The prediction itself is left as it is. Put it after classifier-free guidance in the list, so that ẑ0 is guided.

    Args:
        prototypes: float (N, C, h, w), the scaled latent that each image of the request is drawn to.
        schedule: the generator's, to read ẑ0 off a prediction of any kind.
        scale: s; 0 means none.
        until: share of the steps, in [0, 1].
    """

    def pushed(z: Tensor, output: Tensor, _: Tensor, pull: Tensor, weight: Tensor, __: Tensor) -> tuple[Tensor, Tensor]:
        length = pull.flatten(1).norm(dim=1).clamp_min(1e-8).view(-1, 1, 1, 1)
        return z + weight * pull / length, output

    return _towards(prototypes, schedule, scale, until, pushed)


# (z_t, output, t, z_proto − ẑ0, s · √(1−ᾱ_t), ẑ0) in, (z_t, output) out.
Lead = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _towards(prototypes: Tensor, schedule: Parameterisation, scale: float, until: float, lead: Lead) -> Guidance:
    """What the prototype guidances share: when they act, where the prediction points, how far its prototype is."""

    def guide(predict: Predict) -> Predict:
        if scale == 0:
            return predict

        def guided(step: Step) -> tuple[Tensor, Tensor]:
            z, output = predict(step)
            if step.share > until:
                return z, output
            t = step.t.round().long()
            z0 = schedule.z0(z, output, t)
            weight = scale * (1 - schedule.alphas_cumprod[int(t)]).sqrt().to(z)
            return lead(z, output, t, prototypes[step.rows].to(z) - z0, weight, z0)

        return guided

    return guide


# (prototypes, the generator's schedule, s, the share of the steps that it acts in) to a guidance.
PROTOTYPE_GUIDANCES: dict[str, Callable[[Tensor, Parameterisation, float, float], Guidance]] = {
    "push": push_to_prototypes,
    "blend": blend_prototypes,
}
"""What `sampling.prototype_guidance` may name: a new one is a function here and a line in this table."""
