"""Settings: frozen, typed, refused when unknown; every default and what it means. `config.py` reads them."""

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from terradistill.sections import (
    AdapterSettings,
    ClassifySettings,
    EngineSettings,
    EnhancerSettings,
    EnhanceSettings,
    Section,
    Share,
    Width,
    require_ordered,
)

MAPS = ("lines", "edges", "sketch", "road", "depth", "segmentation")
"""The maps that scenes can be drawn after, in their order (CRS-Diff)."""

# All of them take an exact denoiser of Gaussian data to its mean and variance (tests/unit/sampling). The DDIM and DDPM
# and PNDM of diffusers are not among them: they step by 1000 // steps, and go astray where that leaves a rest. "ddim"
# (η = 0) is the first-order DPM-Solver++ instead, which is the same thing (Lu et al. 2022, §3). "sde-dpm++" adds noise
# between the steps (SDE-DPM-Solver++ of second order, ibid. §6).
Scheduler = Literal[
    "dpm++",
    "sde-dpm++",
    "ddim",
    "unipc",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
]
# Those that can be told at which times to step; the others choose them.
GIVEN_TIMES = ("dpm++", "sde-dpm++", "ddim", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler")
Spacing = Literal["karras", "even"]


class DataSettings(Section):
    """What is read, and how it is divided."""

    resolution: int = Field(
        64,
        ge=16,
        le=1024,
        multiple_of=8,
        description="side of the square scenes worked on, pixels; a given generator brings its own",
    )
    train_fraction: float = Field(0.5, gt=0, lt=1, description="share of each class that may be learned from")
    split_seed: int = Field(0, ge=0, description="seed of the split and of --limit")
    split_file: Path | None = Field(None, description="JSON with train and test lists of class/file names")
    limit: int | None = Field(None, ge=1, description="images a class, drawn by split_seed")
    on_corrupt: Literal["skip", "refuse"] = Field("skip", description="unreadable images: list and skip, or stop")
    caption_template: str = Field(
        "a satellite image of {class}",
        description="caption of a scene that has none; {gsd}, {month}, … are numbers, [parts in brackets] optional",
    )


class AutoencoderSettings(Section):
    """The latent space: a KL autoencoder (diffusers AutoencoderKL)."""

    block_channels: tuple[Width, ...] = Field(
        (32, 64, 128), min_length=1, description="channels a level; n levels divide the side by 2**(n-1)"
    )
    layers_per_block: int = Field(1, ge=1, le=4, description="residual blocks of a level")
    latent_channels: int = Field(4, ge=1, le=32, description="numbers kept of each patch")
    attention: bool = Field(True, description="self-attention at the bottleneck; without it any size goes as trained")
    crop: int | None = Field(
        None, ge=16, multiple_of=8, description="train on random crops of this side, pixels; none: on whole scenes"
    )
    scaling: Literal["white", "importance"] = Field(
        "importance",
        description="deviation of the latent channels: 1 each, or as far as each moves the pixels, 1 for the foremost",
    )
    perceptual_weight: float = Field(
        0.05, ge=0, description="`train decoder`: weight of the distance in features of a classifier of the same scenes"
    )
    texture_weight: float = Field(
        1.0,
        ge=0,
        description="`train decoder`: weight of how textures differ, in units of how strongly the other terms pull",
    )
    steps: int = Field(1200, ge=1, description="optimiser steps")
    batch_size: int = Field(8, ge=1, description="crops a step")
    learning_rate: float = Field(4e-4, gt=0, description="of AdamW, at its highest")
    warmup_steps: int = Field(100, ge=0, description="steps in which the rate of learning rises")
    kl_weight: float = Field(1e-7, ge=0, description="weight of the KL term beside the squared error of a pixel")
    scale_weight: float = Field(
        0.0, ge=0, description="weight of the error of halved latents, decoded, against the halved scene; paper: 0.25"
    )
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the running average of the weights, which is what is kept"
    )


class DiffusionSettings(Section):
    """The text-conditioned denoiser and its training."""

    block_channels: tuple[Width, ...] = Field((128, 256, 256), min_length=1, description="channels of each level")
    attention_levels: tuple[bool, ...] = Field(
        (False, False, True), min_length=1, description="levels that attend to the text"
    )
    layers_per_block: int = Field(1, ge=1, le=4, description="residual blocks of a level")
    text_width: int = Field(256, ge=8, multiple_of=8, description="of the text encoder")
    text_layers: int = Field(2, ge=1, le=24, description="of the text encoder")
    text_heads: int = Field(4, ge=1, description="of the text encoder")
    vocabulary: int = Field(2000, ge=600, description="upper bound of the tokenizer's size")
    max_tokens: int = Field(32, ge=8, le=77, description="of a prompt; what is longer is cut off")
    prediction: Literal["epsilon", "v_prediction", "sample"] = Field(
        "v_prediction", description="what the denoiser says: the noise, v (Salimans & Ho 2022) or the clean latent"
    )
    metadata: bool = Field(
        False, description="learn from the numbers known of a scene, such as gsd_m; of use where they differ"
    )
    gsd_max_m: float = Field(10.0, gt=0, description="largest gsd_m; DiffusionSat: 10 in the paper, 1 in the release")
    balance: float = Field(
        0.0, ge=0, le=1, description="0: all scenes equally often; 1: all classes; 0.5: by the root of their size"
    )
    views: int = Field(
        4, ge=1, le=8, description="flips and quarter turns of each scene that are encoded: scenes have no up"
    )
    steps: int = Field(6000, ge=1, description="optimiser steps")
    batch_size: int = Field(32, ge=1, description="scenes a step")
    learning_rate: float = Field(4e-4, gt=0, description="of AdamW, at its highest")
    rate: Literal["cosine", "constant"] = Field("cosine", description="of learning, after the warm-up")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW")
    warmup_steps: int = Field(200, ge=0, description="steps in which the rate of learning rises")
    noise_shift: float = Field(
        2.0, gt=0, description="of the cosine noise schedule, towards less noise: what differs within scenes is small"
    )
    min_snr_gamma: float | None = Field(
        None, gt=0, description="min-SNR loss weighting (paper: 5); none: v learns all noise levels alike"
    )
    caption_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of captions emptied, with the metadata, for classifier-free guidance"
    )
    class_share: float = Field(
        0.5, ge=0, le=1, description="how often a scene that has captions is known by the prompt of its class [ours]"
    )
    consistency_weight: float = Field(
        0.0, ge=0, description="λ: the clean latent that a prediction implies should be judged as its class (DPD v1)"
    )
    consistency_until: float = Field(0.5, gt=0, le=1, description="share of the schedule, from little noise on [ours]")
    consistency_power: float = Field(1.0, ge=0, description="w(t) = ᾱ_t to this power [ours]")
    accumulate: int = Field(
        1, ge=1, description="parts that a step is computed in, for less memory; processes launched together share them"
    )
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="of the running average of the weights, which is what is kept"
    )
    held_out: float = Field(0.05, ge=0, lt=0.5, description="share of the train split kept back to watch the loss")
    weaker_at: Share = Field(
        0.0,
        description="share of the steps after which the denoiser as it is then is kept, for autoguidance; 0: it is not",
    )

    @model_validator(mode="after")
    def _fitting(self) -> "DiffusionSettings":
        if self.text_width % self.text_heads:
            raise ValueError("text_width should be a multiple of text_heads")
        return self


class FinetuneSettings(Section):
    """How a given generator is adapted to DATA; what is not here is as in `diffusion`."""

    steps: int = Field(400, ge=0, description="0: the generator draws as it is")
    passes: int | None = Field(
        100, ge=1, description="fewer steps where they were more passes over the train scenes than this; none: no bound"
    )
    batch_size: int = Field(32, ge=1, description="scenes a step")
    learning_rate: float = Field(2e-4, gt=0, description="of AdamW, at its highest")
    warmup_steps: int = Field(100, ge=0, description="steps in which the rate of learning rises")
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the running average of the weights, which is what is kept"
    )
    text_encoder: bool = Field(
        True, description="adapt the text encoder too; DPD, and with lora_rank everybody, leaves it as it is"
    )
    lora_rank: int | None = Field(
        None, ge=1, description="adapt the denoiser by low-rank adapters, folded in at the end; none: all its weights"
    )
    lora_layers: Literal["all", "attention"] = Field(
        "all", description="attention: queries, keys, values and outputs alone, as in DPD; all: convolutions too [ours]"
    )
    rate: Literal["cosine", "constant"] = Field("cosine", description="of learning, after the warm-up; DPD: constant")

    @property
    def adapts_text(self) -> bool:
        """Whether the text encoder learns: beside low-rank adapters it is frozen."""
        return self.text_encoder and self.lora_rank is None

    def of(self, diffusion: DiffusionSettings, n_train: int) -> DiffusionSettings:
        """The settings of the loop that adapts to so many scenes."""
        told = self.model_dump(exclude={"text_encoder", "lora_rank", "lora_layers", "passes"})
        if self.passes is not None:
            told["steps"] = min(self.steps, -(-self.passes * n_train // self.batch_size))
        return diffusion.model_copy(update=told)


class ClassifierSettings(Section):
    """The latent classifier that picks among candidates (DPD, revised release)."""

    width: int = Field(32, ge=8, multiple_of=8, description="of its first stage; DPD: 64")
    epochs: int = Field(200, ge=1, description="passes over the train scenes")
    max_steps: int = Field(600, ge=1, description="upper bound of the optimiser steps, whatever the epochs say [ours]")
    batch_size: int = Field(128, ge=1, description="latents a step")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW, at its highest")
    minimum_learning_rate: float = Field(1e-6, ge=0, description="at the end")
    weight_decay: float = Field(1e-3, ge=0, description="of AdamW")
    warmup_epochs: int = Field(5, ge=0, description="epochs in which the rate of learning rises")
    dropout: float = Field(0.1, ge=0, lt=1, description="before the last layer")
    validation_fraction: float = Field(0.1, gt=0, lt=0.5, description="of the train scenes: selects the epoch")


class PrototypeSettings(Section):
    """Which real scenes stand for a class."""

    rule: Literal["margin", "medoid", "centroid"] = Field(
        "medoid",
        description="margin: DPD's; medoid: the scene nearest to its cluster's centre; centroid: the mean latent",
    )
    space: Literal["latent", "classifier"] = Field(
        "classifier", description="what is clustered: pooled latents, or features of the latent classifier [ours]"
    )
    outliers: bool = Field(True, description="false: scenes that the local outlier factor finds odd are no prototypes")
    smallest: int = Field(1, ge=1, description="scenes that a cluster needs to have a prototype")
    prompt: Literal["class", "medoid", "phrases"] = Field(
        "class",
        description="class: the caption template; medoid: the caption most like all of its cluster; "
        "phrases: the template and what the cluster's captions say beside it",
    )
    pool: int = Field(8, ge=1, description="latents are average-pooled to pool x pool before k-means")
    restarts: int = Field(10, ge=1, description="of k-means; the best is kept")
    alpha: float = Field(1.0, ge=0, description="margin rule: weight of the distance to the own centre")


class SamplingSettings(Section):
    """How candidates are drawn."""

    scheduler: Scheduler = Field("dpm++", description="solver: dpm++, sde-dpm++, ddim, …, or a class of diffusers")
    steps: int = Field(20, ge=1, le=1000, description="from noise to scene")
    spacing: Spacing = Field(
        "karras",
        description="of the steps: karras: by noise (Karras et al. 2022); even: by time, as all solvers do but dpm++, "
        "sde-dpm++, ddim, DPMSolverSinglestepScheduler and EulerDiscreteScheduler",
    )
    cfg_scale: float | None = Field(
        None, ge=0, description="classifier-free guidance; 1 means none; none: 2, or 1 where autoguidance acts"
    )
    cfg_between: tuple[Share, Share] = Field(
        (0.3, 0.85), description="shares of the steps between which it acts [ours]; the others cost half"
    )
    autoguidance: float = Field(
        3.0, ge=1, description="guidance away from a weaker denoiser, where the generator has one [ours]; 1 means none"
    )
    autoguidance_told: Share = Field(
        0.5,
        description="of the images, for which the weaker denoiser hears the prompt, which makes them firm; for the "
        "others it hears nothing, so that the prompt guides them too [ours]",
    )
    autoguidance_parallel: Share = Field(
        0.0, description="share kept of its part along what is predicted, which is glare (Sadat et al. 2025); 1: all"
    )
    autoguidance_between: tuple[Share, Share] = Field(
        (0.25, 1.0), description="shares of the steps between which it acts [ours]; the others cost half"
    )
    guide_maps: bool = Field(
        False,
        description="classifier-free guidance strengthens the maps too, and not words and numbers alone [ours]",
    )
    start: Literal["noise", "prototype"] = Field("noise", description="what the first step begins from")
    strength: float = Field(
        0.75,
        gt=0,
        le=1,
        description="start = prototype: share of the steps that follow, by noise or time as they are spaced",
    )
    prototype_guidance: str = Field(
        "blend",
        description="push: DPD's, step by step; blend: lead what is drawn a share of the way to the prototype [ours]",
    )
    prototype_scale: float = Field(
        0.0, ge=0, description="of the guidance, s: DPD pushes by 1; for blend the share; 0 means none"
    )
    prototype_until: float = Field(1.0, ge=0, le=1, description="share of the steps in which the prototype leads")
    target_jitter: bool = Field(
        False, description="add unit noise / sqrt(latent size) to the prototype (DPD, revised release)"
    )
    candidates: int = Field(5, ge=1, le=1000, description="R: images drawn for each prototype")
    prune: tuple[Share, ...] = Field(
        (),
        description="shares of the steps after which the less sure half of each prototype's candidates is given up; "
        "none: all are drawn to the end",
    )
    selection: Literal["margin", "herding", "coverage"] = Field(
        "herding",
        description="margin: DPD's best of R; herding: a set with the class's mean, to the latent classifier [ours]; "
        "coverage: a set that is like all of the class, to the latent classifier, and surely of it [ours]",
    )
    sureness: float = Field(0.1, ge=0, description="selection = coverage: weight of being surely of the class [ours]")
    avoid_copies: bool = Field(True, description="pass over candidates that are near-copies of train scenes [ours]")
    refine_rounds: int = Field(
        2,
        ge=0,
        description="of moving the chosen images' light until random networks see in them, on average, what they see "
        "in the class, each followed by a pass through the autoencoder; 0: none [ours]",
    )
    refine_steps: int = Field(6, ge=1, description="of a round [ours]")
    refine_side: int = Field(
        64, ge=32, description="about that of the images that these networks see, pixels; the exam's, by default [ours]"
    )
    refine_rate: float = Field(
        0.03, gt=0, description="how far each of these steps moves an image, RMS, as a share of its contrast [ours]"
    )
    batch_size: int = Field(100, ge=1, description="images drawn at a time; changes no image")
    low_memory: bool = Field(
        False,
        description="for large generators on small GPUs: attention in slices, decoding image by image, and parts of "
        "the generator wait on the CPU for their turn",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "SamplingSettings":
        for name in ("cfg_between", "autoguidance_between"):
            first, last = getattr(self, name)
            if first > last:
                raise ValueError(f"{name} should be two ordered shares of the steps, such as 0.2,0.8")
        return self

    def cfg(self, *, autoguided: bool = False) -> float:
        """`cfg_scale`, or what it is where it is not set."""
        if self.cfg_scale is not None:
            return self.cfg_scale
        return 1.0 if autoguided and self.autoguidance != 1 else 2.0

    @model_validator(mode="after")
    def _counted(self) -> "SamplingSettings":
        # Rounding of the 1,000 times of a noise schedule: the last of some numbers of steps would be a time of -1.
        def counted(steps: int) -> bool:
            return math.ceil(1000 / (1000 / steps)) == steps

        if self.scheduler not in GIVEN_TIMES and not counted(self.steps):
            fewer = next(n for n in range(self.steps, 0, -1) if counted(n))
            raise ValueError(f"diffusers' {self.scheduler} takes {self.steps + 1} for {self.steps} steps: give {fewer}")
        return self


class EvaluationSettings(Section):
    """One recipe for every method."""

    networks: tuple[str, ...] = Field(
        ("convnet3",), min_length=1, description="that judge; NAME+pretrained starts from published weights"
    )
    pretrained: bool = Field(False, description="all of them start from published weights")
    teacher: Path | None = Field(
        None,
        description="run of classify train, whose network gives soft labels, and the features of audit and fidelity; "
        "none: a small one is trained for them",
    )
    methods: tuple[str, ...] = Field(
        ("distilled", "random", "medoid", "full"),
        min_length=1,
        description="beside the distilled set: real images; feature-medoid, herding and k-center choose them in "
        "what a network trained on the scenes sees",
    )
    n_seeds: int = Field(3, ge=1, description="trainings of each network on each method")
    resolution: int | None = Field(
        64, ge=16, description="side the networks see, pixels [ours]; none: that of the scenes worked on"
    )
    batch_size: int = Field(16, ge=1, description="as in DPD: many small steps make more of few images")
    epochs: int = Field(6, ge=1, description="passes over the training images, within the two bounds below")
    min_steps: int = Field(400, ge=1, description="optimiser steps, at least")
    max_steps: int = Field(1000, ge=1, description="optimiser steps, at most")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="ours; DPD: sgd, which needs its 1,000 epochs")
    learning_rate: float = Field(1e-3, gt=0, description="at its highest")
    rate: Literal["cosine", "steps"] = Field(
        "cosine", description="of learning; cosine: to zero, after a warm-up [ours]; steps: x 0.1 at 2/3 and 5/6 (DPD)"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(1e-2, ge=0, description="of the optimiser")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    crop_area: tuple[float, float] = Field((0.67, 1.0), description="random resized crop: share of the area")
    crop_aspect: tuple[float, float] = Field((0.75, 1.33), description="width by height of the crops")
    flips: bool = Field(True, description="left to right and top to bottom, each for half of the images")
    compile: bool = Field(
        False,
        description="networks' steps: takes a C++ compiler and a minute once, then those of the ConvNet take half the "
        "time on a CPU",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "EvaluationSettings":
        require_ordered(crop_area=self.crop_area, crop_aspect=self.crop_aspect)
        if self.min_steps > self.max_steps:
            raise ValueError("min_steps should not be more than max_steps")
        return self


class ExportSettings(Section):
    """What leaves the run."""

    parquet: bool = Field(False, description="write the set as one parquet file too, for `datasets`")
    soft_labels: bool = Field(
        False, description="say of each image how likely a teacher finds each class: a column of metadata.jsonl"
    )
    keep_names: bool = Field(False, description="write the file names of the real prototypes into the run")
    hide_real: bool = Field(False, description="show and name no real scene in report and audit")


class Settings(Section):
    """Everything a run depends on; `resolved.json` in the run folder holds it."""

    ipc: int = Field(10, ge=1, description="images per class")
    seed: int = Field(0, ge=0, description="of all that is random")
    generator: str | None = Field(
        "base-128",
        description="name, folder or hub id of a generator to adapt to DATA; none: learn from DATA alone",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="auto: bf16 where the machine computes it fast, fp16 on other GPUs, where training is in fp32",
    )
    checkpoint_seconds: float = Field(120, ge=0, description="time between two checkpoints of a training loop")
    data: DataSettings = DataSettings()
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    adapter: AdapterSettings = AdapterSettings()
    enhancer: EnhancerSettings = EnhancerSettings()
    enhance: EnhanceSettings = EnhanceSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    classify: ClassifySettings = ClassifySettings()
    prototypes: PrototypeSettings = PrototypeSettings()
    sampling: SamplingSettings = SamplingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    engine: EngineSettings = EngineSettings()
    export: ExportSettings = ExportSettings()
