"""One loop that trains the text-conditioned denoiser, read from top to bottom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.files import replacing
from terradistill.hardware import Hardware
from terradistill.models.generator import Generator, denoise
from terradistill.models.lora import add_lora, fold_lora
from terradistill.models.parameterisation import Parameterisation
from terradistill.models.weaker import Weaker
from terradistill.seeding import batch_indices, derive
from terradistill.seeding import generator as seeded
from terradistill.settings import DiffusionSettings
from terradistill.team import Team
from terradistill.training.latents import LatentCache
from terradistill.training.progress import (
    Checkpoint,
    Ema,
    Unwatched,
    Watch,
    learning_rate,
    require_finite,
    set_learning_rate,
)
from terradistill.training.told import CaptionTable, Conditions, Told, draw_told


@dataclass(frozen=True)
class Noising:
    """How B scenes are noised, on the CPU.

    Attributes:
        t: int64 (B,), times.
        noise: float32 (B, C, h, w).
    """

    t: Tensor
    noise: Tensor

    @classmethod
    def draw(cls, schedule: Parameterisation, z0: Tensor, rng: torch.Generator) -> "Noising":
        """At uniform times, for latents (B, C, h, w)."""
        t = torch.randint(0, schedule.n_timesteps, (len(z0),), generator=rng)
        return cls(t, torch.randn(z0.shape, generator=rng))

    def some(self, rows: slice) -> "Noising":
        return Noising(self.t[rows], self.noise[rows])


@dataclass(frozen=True)
class Consistency:
    """Classification consistency (DPD v1): λ · w(t) · CE(f(ẑ0), y), with a frozen classifier f of clean latents.

    Attributes:
        classifier: latents (B, C, h, w) to logits (B, K), on the hardware's device.
        labels: int64 (N,), the class of each scene.
        settings: λ, and w(t) = ᾱ_t to a power, in the part of the schedule with little noise.
    """

    classifier: nn.Module
    labels: Tensor
    settings: DiffusionSettings

    def loss(self, z0: Tensor, labels: Tensor, t: Tensor, schedule: Parameterisation) -> Tensor:
        """A scalar, for the clean latents z0 (B, C, h, w) that predictions at times t (B,) imply."""
        error = F.cross_entropy(self.classifier(z0).float(), labels.to(z0.device), reduction="none")
        weight = schedule.alphas_cumprod[t] ** self.settings.consistency_power
        weight = weight.masked_fill(t >= self.settings.consistency_until * schedule.n_timesteps, 0)
        return self.settings.consistency_weight * (weight.to(error) * error).mean()


def train_diffusion(
    generator: Generator,
    latents: LatentCache,
    captions: Sequence[Sequence[str]],
    settings: DiffusionSettings,
    *,
    metadata: Tensor | None = None,
    repeats: NDArray[np.int64] | None = None,
    places: Sequence[str] | None = None,
    parts: Sequence[str] = ("unet", "text_encoder", "metadata_encoder"),
    conditions: Conditions | None = None,
    lora_rank: int | None = None,
    lora_layers: str = "all",
    consistency: Consistency | None = None,
    section: str = "diffusion",
    seed: int,
    hardware: Hardware,
    team: Team | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 120,
    watch: Watch | None = None,
) -> None:
    """Train parts of a generator in place and take their averaged weights; the others stay as they are.

    Loss: squared error of the prediction, weighted as `min_snr_gamma` says, and perhaps `Consistency`; timesteps
    uniform; captions dropped for guidance.

    Args:
        generator: its autoencoder stays as it is.
        latents: of the N scenes to learn from.
        captions: N lists of at least one caption.
        settings: steps, batch size, rates; `held_out` of the scenes only watch the loss.
        metadata: rows of `MetadataEncoder.table`, float32 (N, fields); None: nothing is known.
        repeats: how often each scene is seen in an epoch, int64 (N,); None: once.
        places: of each scene; those of one place are held out together. None: each is its own.
        parts: what is trained, by the generator's names; those that it has not are passed over.
        conditions: what an adapter is shown; None: there is none.
        lora_rank: train low-rank adapters of the UNet, folded in at the end; None: all its weights.
        lora_layers: which of them have adapters; see `add_lora`.
        consistency: a classifier to please beside; None: none.
        section: of the settings, for what is said of them.
        seed: of the order, the noise, the times and the dropout.
        hardware: device and precision.
        team: processes that share the parts of each step (`settings.accumulate`), and end with the same weights.
        checkpoint: file to resume from and, for the first of them, to write to.
        checkpoint_seconds: time between two checkpoints.
        watch: told of progress and metrics.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor

    watch, team, hardware = watch or Unwatched(), team or Team(), hardware.learning
    device = hardware.device
    unused = {"metadata_encoder"} if metadata is None else set()
    chosen = [name for name in parts if getattr(generator, name) is not None and name not in unused]
    model = nn.ModuleDict({name: getattr(generator, name) for name in chosen})
    generator.frozen()
    model.train().requires_grad_(True)
    content = generator.content_encoder if "content_encoder" in chosen else None
    if lora_rank is not None:
        add_lora(generator.unet, lora_rank, derive(seed, "lora"), lora_layers)
    # Of the denoiser, and of its copies in adapters.
    attention = {
        module: module.processor
        for part in (generator.unet, model)
        for module in part.modules()
        if isinstance(module, Attention)
    }
    if device.type == "cpu":
        # torch's fused attention is slow to differentiate in bf16 there: a sixth to a quarter of a step.
        for module in attention:
            module.set_processor(AttnProcessor())
    schedule = generator.parameterisation
    table = CaptionTable.of(captions, generator)
    kept_back, learned = held_out_split(len(latents), settings.held_out, seed, places)
    if repeats is not None:
        learned = np.repeat(learned, repeats[learned])

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    ema = Ema(model, settings.ema_decay)
    keeper = Checkpoint(checkpoint, model, optimizer, ema, checkpoint_seconds)
    start = keeper.resume()
    team.wait()  # all have read the checkpoint before the first of them writes another
    if not team.leads:
        keeper.path = None
    watch.forget_after(start)
    mean_loss = torch.zeros((), device=device)
    # Low-rank adapters are no state that could be kept by itself, and beside an adapter the denoiser does not learn.
    early = round(settings.weaker_at * settings.steps) if lora_rank is None and "unet" in chosen else 0
    before = None if checkpoint is None else checkpoint.with_name("weaker")
    if before is not None and 0 < early <= start:
        generator.weaker = Weaker.load(before)

    for step in range(start, settings.steps):
        rng = seeded(seed, "diffusion", step)
        index = learned[batch_indices(len(learned), settings.batch_size, step, seed)]
        z0, told = draw_told(
            latents, table, metadata, conditions, content is not None, index, settings.caption_dropout, rng
        )
        noising = Noising.draw(schedule, z0, rng)

        optimizer.zero_grad(set_to_none=True)
        value = torch.zeros((), device=device)
        for k, rows in enumerate(parted(len(index), settings.accumulate)):
            if not team.takes(k):
                continue
            pleasing = None
            if consistency is not None:
                pleasing = partial(consistency.loss, labels=consistency.labels[index[rows]], schedule=schedule)
            loss = denoising_loss(
                generator,
                schedule,
                z0[rows],
                told.some(rows),
                noising.some(rows),
                hardware,
                settings.min_snr_gamma,
                conditions.adapter if conditions is not None else None,
                pleasing,
            )
            loss = loss * ((rows.stop - rows.start) / len(index))
            loss.backward()
            value += loss.detach()
        team.sum(value, *(parameter.grad for parameter in trained if parameter.grad is not None))

        set_learning_rate(
            optimizer,
            learning_rate(
                step,
                peak=settings.learning_rate,
                warmup=settings.warmup_steps,
                total=settings.steps,
                floor=settings.learning_rate if settings.rate == "constant" else 0.0,
            ),
        )
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        ema.update(step)
        if step + 1 == early:
            ema.swap()
            generator.weaker = Weaker.like(generator)
            ema.swap()
            if before is not None and team.leads:
                with replacing(before) as folder:
                    generator.weaker.save(folder)

        mean_loss = value if step == start else torch.lerp(mean_loss, value, 0.02)
        last, due = step + 1 == settings.steps, keeper.due
        if step % 20 == 0 or last:  # not at every step: a GPU would wait for the answer
            require_finite(mean_loss.item(), section, settings.learning_rate)
            watch.log(step + 1, loss=mean_loss.item())
        if len(kept_back) and ((step + 1) % 250 == 0 or last):
            ema.swap()
            model.eval()
            held = _held_out_loss(
                generator,
                schedule,
                latents,
                table,
                metadata,
                conditions,
                content is not None,
                kept_back,
                seed,
                hardware,
                -(-settings.batch_size // settings.accumulate),
            )
            model.train()
            watch.log(step + 1, held_out_loss=held)
            ema.swap()
        watch.progress(step + 1, settings.steps)
        if due and mean_loss.isfinite():  # else all processes give up together, within 20 steps
            keeper.maybe_save(step + 1)

    ema.copy_to_module()
    if lora_rank is not None:
        fold_lora(generator.unet)
    for module, processor in attention.items():
        module.set_processor(processor)
    model.to(device).eval().requires_grad_(False)


def parted(n: int, parts: int) -> list[slice]:
    """The rows of a batch in so many parts of about one size; fewer where it is smaller than that."""
    bounds = [k * n // parts for k in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(bounds) if a < b]


def denoising_loss(
    generator: Generator,
    schedule: Parameterisation,
    z0: Tensor,
    told: Told,
    noising: Noising,
    hardware: Hardware,
    gamma: float | None,
    adapter: str | None = None,
    also: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Squared error of what is predicted of noised latents, min-SNR weighted if `gamma` is given: a scalar.

    z0 (B, C, h, w) is on the CPU. `adapter` reads the condition, by the generator's name for it. `also` is a loss of
    the clean latents that the predictions imply, given as `z0` and `t`.
    """
    device, t, noise = hardware.device, noising.t, noising.noise
    z_t, target = schedule.add_noise(z0, noise, t), schedule.target(z0, noise, t)
    with hardware.autocast():
        text = generator.text_encoder(told.tokens.to(device))[0]
        if told.content is not None and told.picture is not None and generator.content_encoder is not None:
            tokens = generator.content_encoder(told.content.to(device))
            shown = told.picture.to(device)[:, None, None]
            text = torch.cat([text, torch.where(shown, tokens, generator.content_encoder.none).to(text)], 1)
        numbers = None if told.metadata is None else told.metadata.to(device)
        control = None
        if adapter is not None and told.condition is not None:
            control = getattr(generator, adapter).control(*(part.to(device) for part in told.condition))
        output = denoise(generator, z_t.to(device), t.to(device), text, numbers, control)
    error = (output.float() - target.to(device)).square().mean((1, 2, 3))
    loss = (schedule.loss_weight(t, gamma).to(device) * error).mean()
    if also is not None:
        with hardware.autocast():
            loss = loss + also(z0=schedule.z0(z_t.to(device), output.float(), t.to(device)), t=t)
    return torch.as_tensor(loss)


def repeats(labels: NDArray[np.int64], balance: float) -> NDArray[np.int64]:
    """How often each scene of N is seen in an epoch, so that small classes are not lost beside large ones: int64 (N,).

    Args:
        labels: int64 (N,).
        balance: 0 sees all scenes equally often, 1 all classes; between, a power of the classes' sizes [ours].
    """
    sizes = np.bincount(labels)
    of_class: NDArray[np.int64] = np.rint((sizes.max() / sizes.clip(1)) ** balance).astype(np.int64)
    return of_class[labels]


def held_out_split(
    n: int, share: float, seed: int, places: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Scenes kept back and scenes learned from, both int64 indices; those of one place together."""
    if places is not None:
        names, own = np.unique(places, return_inverse=True)
        kept, learned = held_out_split(len(names), share, seed)
        return np.flatnonzero(np.isin(own, kept)), np.flatnonzero(np.isin(own, learned))
    order = batch_indices(n, n, 0, seed)
    count = min(int(n * share), n - 1)
    return order[:count], np.sort(order[count:])


@torch.no_grad()
def _held_out_loss(
    generator: Generator,
    schedule: Parameterisation,
    latents: LatentCache,
    table: CaptionTable,
    metadata: Tensor | None,
    conditions: Conditions | None,
    content: bool,
    index: NDArray[np.int64],
    seed: int,
    hardware: Hardware,
    at_most: int,
) -> float:
    # The same scenes, times and noise at every look, so that the curve shows learning and nothing else.
    rng = seeded(seed, "held out")
    index = np.resize(index, 256) if len(index) < 256 else index[:256]
    views = latents.draw_views(len(index), rng)
    z0, tokens = latents.draw(index, rng, views), table.draw(index, torch.zeros(len(index), dtype=torch.bool), rng)
    told = Told(
        tokens,
        None if metadata is None else metadata[index],
        None if conditions is None else conditions.whole(index, views),
    )
    if content:
        told = replace(told, content=latents.draw(index, rng), picture=torch.ones(len(index), dtype=torch.bool))
    adapter = None if conditions is None else conditions.adapter
    noising = Noising.draw(schedule, z0, rng)
    loss = 0.0
    for rows in parted(len(index), -(-len(index) // at_most)):
        part = denoising_loss(
            generator, schedule, z0[rows], told.some(rows), noising.some(rows), hardware, None, adapter
        )
        loss += float(part) * (rows.stop - rows.start) / len(index)
    return loss
