"""The generator: a diffusers pipeline folder with `vae`, `unet`, `text_encoder`, `tokenizer` and `scheduler`.

A small one trained here and Stable Diffusion from a hub are the same thing to every line of code. Latents are *scaled*
(as the UNet sees them) everywhere outside this file; the VAE's own *raw* latents are seen by its training alone.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terradistill.errors import ConfigError
from terradistill.models.autoencoder import norm_groups
from terradistill.models.content_encoder import ContentEncoder
from terradistill.models.control import Control
from terradistill.models.control_nets import ControlNets
from terradistill.models.frame_adapter import FrameAdapter
from terradistill.models.map_adapter import MapAdapter
from terradistill.models.metadata_encoder import MetadataEncoder, beside_time
from terradistill.models.parameterisation import Parameterisation
from terradistill.models.parts import part_config
from terradistill.models.pipeline import open_parts, open_tokenizer, quietly
from terradistill.models.places import EXTRAS, LEARNED_FROM, learned_in, locate_generator, own_parts, sources_in
from terradistill.models.tokenizer import build_tokenizer
from terradistill.models.weaker import Weaker
from terradistill.settings import DiffusionSettings

NETWORKS = ("vae", "unet", "text_encoder", *EXTRAS)


@dataclass
class Generator:
    """The parts of a text-to-image latent diffusion model.

    Attributes:
        vae: diffusers `AutoencoderKL`.
        unet: diffusers `UNet2DConditionModel`.
        text_encoder: transformers `CLIPTextModel`.
        tokenizer: transformers `CLIPTokenizer`.
        scheduler: the diffusers scheduler that stock pipelines use; holds the noise schedule.
        metadata_encoder: `MetadataEncoder`, or None; a folder beside the others, which stock pipelines pass over.
        map_adapter: `MapAdapter` or `ControlNets`, or None; likewise.
        frame_adapter: `FrameAdapter`, or None; likewise.
        content_encoder: `ContentEncoder`, or None; likewise.
        weaker: `Weaker`, to guide away from, or None; likewise.
        learned_from: hashes of the scenes that it has learned from, as far as they are known; a file beside the others.
        sources: titles of the datasets that they were of, and their licences; in the same file.
    """

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    metadata_encoder: MetadataEncoder | None = None
    map_adapter: MapAdapter | ControlNets | None = None
    frame_adapter: FrameAdapter | None = None
    content_encoder: ContentEncoder | None = None
    weaker: Weaker | None = None
    learned_from: frozenset[str] = frozenset()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def time_width(self) -> int:
        """Of the denoiser's time embedding, which numbers and pictures join."""
        return int(self.unet.time_embedding.linear_2.out_features)

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def resolution(self) -> int:
        """Side of the images it makes, pixels."""
        return int(self.unet.config.sample_size) * self.factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one scaled latent."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), side, side

    @property
    def parameterisation(self) -> Parameterisation:
        return Parameterisation.of(self.scheduler)

    def to(self, device: torch.device) -> "Generator":
        for part in self.networks:
            part.to(device)
        return self

    def frozen(self) -> "Generator":
        """Itself, for drawing only: no dropout, no gradients."""
        for part in self.networks:
            part.eval().requires_grad_(False)
        return self

    def ready(self, device: torch.device, *, low_memory: bool = False) -> "Generator":
        """Itself on a device, frozen, for drawing only.

        Args:
            device: where it draws.
            low_memory: attention in slices, decoding image by image, and the large parts wait on the CPU until needed;
                a weaker denoiser, which is asked in the same steps, does not.
        """
        self.frozen()
        for part in (self, self.weaker):
            if part is not None:  # up to a third faster on a CPU in float32, and no slower in bfloat16
                part.unet.to(memory_format=torch.channels_last)
        if not low_memory:
            return self.to(device)
        from accelerate import cpu_offload_with_hook
        from accelerate.hooks import remove_hook_from_module

        self.unet.set_attention_slice("auto")
        if self.weaker is not None:
            self.weaker.unet.set_attention_slice("auto")
        self.vae.enable_slicing()
        # In the order of their turns; each sends the one before it back to the CPU. An adapter asks parts of the UNet
        # before the UNet itself has its turn, so with one the UNet stays.
        alone = self.map_adapter is None and self.frame_adapter is None
        waiting = ["text_encoder", "unet", "vae"] if alone else ["text_encoder", "vae"]
        for name in NETWORKS:
            if name not in waiting and getattr(self, name) is not None:
                getattr(self, name).to(device)
        hooks: list[Any] = []
        for name in waiting:
            remove_hook_from_module(getattr(self, name))  # of an earlier call
            before = hooks[-1] if hooks else None
            hooks.append(cpu_offload_with_hook(getattr(self, name), device, prev_module_hook=before)[1])
        hooks[0].hook.prev_module_hook = hooks[-1]  # what is drawn again begins anew
        return self

    @property
    def networks(self) -> list[Any]:
        """The parts that have weights."""
        return [getattr(self, name) for name in NETWORKS if getattr(self, name) is not None]

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids of captions, cut and padded to the encoder's window: int64 (n, L)."""
        length = self.tokenizer.model_max_length
        batch = self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return torch.as_tensor(batch.input_ids)

    def unheard(self, prompts: Sequence[str]) -> str:
        """A sentence on prompts whose end the encoder's window cuts off; empty where there is none."""
        most = self.tokenizer.model_max_length
        found = self.tokenizer(list(prompts), truncation=True, max_length=most + 1).input_ids
        cut = [prompt for prompt, ids in zip(prompts, found, strict=True) if len(ids) > most]
        if not cut:
            return ""
        several = len(prompts) > 1
        begins = f"{len(cut)} of the prompts have" if several else "The prompt has"
        return f"{begins} over {most} tokens, and {'their' if several else 'its'} end is not heard: {cut[0][:60]!r}."

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings, float32 (n, L, D)."""
        device = next(self.text_encoder.parameters()).device
        with torch.no_grad():
            return torch.as_tensor(self.text_encoder(self.tokens(texts).to(device))[0]).float()

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled posterior mean and standard deviation of images.

        Args:
            images: float (B, 3, H, W) in [-1, 1].

        Returns:
            Two float32 tensors (B, C, h, w).
        """
        with torch.no_grad():
            posterior = self.vae.encode(images).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean.float() * scale, posterior.std.float() * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images float32 (B, 3, H, W) in [-1, 1] of scaled latents (B, C, h, w)."""
        with torch.no_grad():
            images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return torch.as_tensor(images).float().clamp(-1, 1)

    def save(self, folder: Path) -> None:
        """Write a folder that `diffusers.DiffusionPipeline.from_pretrained` opens."""
        with quietly():
            from diffusers import StableDiffusionPipeline

        pipeline: Any = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        with quietly():
            pipeline.save_pretrained(str(folder), safe_serialization=True)
        for name in EXTRAS:
            if getattr(self, name) is not None:
                getattr(self, name).save(folder / name)
        for path in (*folder.rglob("config.json"), folder / "model_index.json"):  # whence it was loaded is nobody's
            told = json.loads(path.read_text(encoding="utf-8"))
            if told.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        if self.learned_from:
            told = {"sources": dict(self.sources), "sha256": sorted(self.learned_from)}
            (folder / LEARNED_FROM).write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def reader(cls, source: str | Path) -> "Generator":
        """Only what reads captions and numbers, without the large parts; of a hub id nothing.

        Raises:
            GeneratorError: there is no such generator.
        """
        folder = Path(locate_generator(source))
        tokenizer, numbers = None, folder / "metadata_encoder"
        if (folder / "tokenizer").is_dir():
            tokenizer = open_tokenizer(folder / "tokenizer", source)
        return cls(None, None, None, tokenizer, None, MetadataEncoder.load(numbers) if numbers.is_dir() else None)

    @classmethod
    def load(cls, source: str | Path) -> "Generator":
        """Open a generator folder, a run folder that holds one, a shipped one by name, or a hub id; in float32.

        Raises:
            GeneratorError: nothing there, the hub cannot be reached, or the parts are of another kind.
        """
        folder = locate_generator(source)
        parts = open_parts(folder, source)
        generator = cls(**parts).extended(own_parts(folder))
        for part in generator.networks:
            part.float()  # whatever they are kept in
        return generator

    def extended(self, folder: Path) -> "Generator":
        """Itself with the parts in a folder that were trained beside it, in float32.

        Raises:
            GeneratorError: one is damaged, or of another denoiser.
        """
        opened: dict[str, Callable[[Path], Any]] = {
            "metadata_encoder": MetadataEncoder.load,
            "map_adapter": partial(_load_map_adapter, unet=self.unet),
            "frame_adapter": partial(FrameAdapter.load, unet=self.unet),
            "content_encoder": ContentEncoder.load,
            "weaker": Weaker.load,
        }
        for name, opens in opened.items():
            if (folder / name).is_dir():
                setattr(self, name, opens(folder / name).float())
        self.learned_from = self.learned_from | learned_in(folder)
        self.sources = {**self.sources, **sources_in(folder)}
        return self


def _load_map_adapter(folder: Path, unet: Any) -> MapAdapter | ControlNets:
    return (ControlNets if part_config(folder).get("kind") == "controlnet" else MapAdapter).load(folder, unet)


def denoise(
    generator: Generator | Weaker,
    z: Tensor,
    t: Tensor,
    text: Tensor,
    metadata: Tensor | None = None,
    control: Control | None = None,
) -> Tensor:
    """The UNet's output, in its own parameterisation and precision.

    Args:
        generator: whose UNet; all tensors are on its device.
        z: noisy latents (B, C, h, w).
        t: timesteps, () or (B,).
        text: text embeddings (B, L, D); behind the words may stand tokens of a content image.
        metadata: rows of `MetadataEncoder.table`, (B, fields); None: unknown.
        control: what an adapter beside the UNet has read off its conditions; None: there are none.
    """
    unet = generator.unet
    # Text2Earth's UNet wants a resolution level; 0 is what DPD gives it.
    labelled = bool(getattr(unet.config, "num_class_embeds", None))
    labels = torch.zeros(len(z), dtype=torch.long, device=z.device) if labelled else None
    with beside_time(unet, _joining_time(generator, text, metadata)):
        added: dict[str, Any] = {}
        if control is not None:
            time = _time_vector(unet, z, t, text, labels)
            skips, middle = control.adapter(z, time, text, control)
            added = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
        return torch.as_tensor(unet(z, t, text, class_labels=labels, **added).sample)


def _joining_time(generator: Generator | Weaker, text: Tensor, metadata: Tensor | None) -> Tensor | None:
    """What numbers and a content image add to the time embedding, (B, D); None: nothing."""
    vectors = None if metadata is None or generator.metadata_encoder is None else generator.metadata_encoder(metadata)
    if isinstance(generator, Generator) and generator.content_encoder is not None:
        tokens = text[:, generator.tokenizer.model_max_length :]
        if tokens.shape[1]:
            seen = generator.content_encoder.beside_time(tokens)
            vectors = seen if vectors is None else vectors + seen
    return vectors


def _time_vector(unet: Any, z: Tensor, t: Tensor, text: Tensor, labels: Tensor | None) -> Tensor:
    """The time embedding with all that joins it, (B, D), as diffusers computes it inside the UNet."""
    time = unet.time_embedding(unet.get_time_embed(sample=z, timestep=t))
    if labels is not None:
        time = time + unet.get_class_embed(sample=z, class_labels=labels)
    caption = unet.get_aug_embed(emb=time, encoder_hidden_states=text, added_cond_kwargs={})
    return torch.as_tensor(time if caption is None else time + caption)


def build_generator(
    settings: DiffusionSettings, vae: Any, resolution: int, captions: Sequence[str], seed: int
) -> Generator:
    """A fresh denoiser and text encoder around a trained autoencoder.

    Raises:
        ConfigError: levels that do not fit each other or the resolution.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    require_fitting_levels(settings, factor, resolution)
    side, attends = resolution // factor, settings.attention_levels
    tokenizer = build_tokenizer(captions, settings.vocabulary, settings.max_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=side,
            in_channels=vae.config.latent_channels,
            out_channels=vae.config.latent_channels,
            block_out_channels=settings.block_channels,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            layers_per_block=settings.layers_per_block,
            cross_attention_dim=settings.text_width,
            attention_head_dim=8,
            # The caption also joins the time embedding, and so reaches every block: heard at the attending levels
            # alone, which are small here, it was learned late [ours].
            addition_embed_type="text",
            addition_embed_type_num_heads=settings.text_heads,
            norm_num_groups=norm_groups(settings.block_channels),
            # Time and caption scale the features too (Dhariwal & Nichol 2021): how much to keep depends on the noise.
            resnet_time_scale_shift="scale_shift",
        )
        _start_as_identity(unet)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=settings.text_width,
                intermediate_size=4 * settings.text_width,
                num_hidden_layers=settings.text_layers,
                num_attention_heads=settings.text_heads,
                max_position_embeddings=settings.max_tokens,
                projection_dim=settings.text_width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        metadata_encoder = (
            MetadataEncoder(4 * settings.block_channels[0], settings.gsd_max_m) if settings.metadata else None
        )
    schedule = noise_schedule(settings.prediction, settings.noise_shift)
    return Generator(vae, unet, text_encoder, tokenizer, schedule, metadata_encoder)


def require_fitting_levels(settings: DiffusionSettings, factor: int, resolution: int) -> None:
    """Make sure that a latent can be halved as often as the denoiser's levels ask.

    Args:
        settings: of the denoiser.
        factor: pixels per latent, along a side.
        resolution: side of the images, pixels.

    Raises:
        ConfigError: it can't; or the levels' settings differ in length.
    """
    levels, attends, side = len(settings.block_channels), len(settings.attention_levels), resolution // factor
    if attends != levels:
        raise ConfigError(
            f"diffusion.attention_levels has {attends} entries and diffusion.block_channels {levels}: "
            "give one true or false a level."
        )
    if resolution % factor or side < 2 ** (levels - 1) or side % 2 ** (levels - 1):
        raise ConfigError(
            f"A latent of {side}x{side} (data.resolution {resolution} by a factor of {factor}) cannot be halved "
            f"{levels - 1} times: choose another data.resolution, or fewer diffusion.block_channels."
        )


def noise_schedule(prediction: str, shift: float = 1.0) -> Any:
    """The scheduler of a fresh generator: a cosine schedule, shifted towards less noise.

    ᾱ = 1 / (1 + (tan(at) / shift)²) for t in (0, 1] (Nichol & Dhariwal 2021; shifted: Hoogeboom et al. 2023). It ends
    at pure noise (Lin et al. 2024), where a prediction of v or of the clean latent is still defined; for one of the
    noise at the 0.5 % of signal, in variance, that Stable Diffusion keeps.
    """
    from diffusers import DPMSolverMultistepScheduler

    last = 4.7e-3 if prediction == "epsilon" else 2.0**-24
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alphas_cumprod = 1 / (1 + (torch.tan(math.atan(shift * math.sqrt(1 / last - 1)) * t) / shift) ** 2)
    return DPMSolverMultistepScheduler(
        num_train_timesteps=len(t) - 1,
        trained_betas=(1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).tolist(),
        prediction_type=prediction,
        timestep_spacing="trailing",
        steps_offset=1,  # not used with this spacing; without it diffusers complains at every start
    )


def _start_as_identity(unet: Any) -> None:
    # Every residual branch begins as nothing, as in most denoisers trained from scratch.
    for module in unet.modules():
        for name in ("conv2", "proj_out"):  # of a residual block, of an attention block
            if isinstance(getattr(module, name, None), nn.Module):
                nn.init.zeros_(getattr(module, name).weight)
                nn.init.zeros_(getattr(module, name).bias)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
