"""Sections of the settings for what stands beside the main job: adapters, enhancers, classifiers, the data engine."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

if TYPE_CHECKING:
    from terradistill.settings import DiffusionSettings

Share = Annotated[float, Field(ge=0, le=1)]
Width = Annotated[int, Field(ge=8, multiple_of=8)]  # channels of a level: group normalisation wants a divisor
SIMULATED = ("blur", "gain", "offset", "noise", "shift", "clouds", "days")  # settings of enhancers' simulated frames


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _parted(cls, value: Any, info: ValidationInfo) -> Any:
        # "a,b" and "[a,b]", which a shell makes of ["a","b"], are lists where one is wanted.
        wanted = cls.model_fields[info.field_name or ""].annotation
        if get_origin(wanted) is not tuple or not isinstance(value, str):
            return value
        return [part.strip() for part in value.strip("[] ").split(",") if part.strip()]


class BesideSettings(Section):
    """How something is trained beside a generator that stays as it is."""

    steps: int = Field(3000, ge=1, description="optimiser steps")
    batch_size: int = Field(32, ge=1, description="scenes a step")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW, at its highest")
    rate: Literal["cosine", "constant"] = Field("cosine", description="of learning, after the warm-up")
    warmup_steps: int = Field(100, ge=0, description="steps in which the rate of learning rises")
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the running average of the weights, which is what is kept"
    )
    caption_dropout: float = Field(0.5, ge=0, lt=1, description="share of captions emptied; CRS-Diff: 0.5")

    def of(self, diffusion: "DiffusionSettings") -> "DiffusionSettings":
        """The settings of the loop that trains."""
        loop = self.model_dump(include=set(BesideSettings.model_fields))
        return diffusion.model_copy(update={**loop, "consistency_weight": 0.0})


class AdapterSettings(BesideSettings):
    """The map adapter and the content encoder (CRS-Diff), trained beside a generator that stays as it is."""

    maps: tuple[str, ...] = Field(
        (), description="what is learned, such as edges, lines, or road=FOLDER for maps that are given as files"
    )
    kind: Literal["modulation", "controlnet"] = Field(
        "modulation",
        description="modulation: one copy of the denoiser's encoder for all maps (CRS-Diff); controlnet: a ControlNet "
        "for each map, to compare with",
    )
    content: bool = Field(False, description="learn from a content image too")
    widths: tuple[Width, ...] = Field(
        (192, 256, 384, 512), min_length=1, description="kind = modulation: of the features at each depth"
    )
    map_dropout: float = Field(0.5, ge=0, lt=1, description="share of maps left out; CRS-Diff: 0.5 to 0.6")
    keep_all: float = Field(0.1, ge=0, le=1, description="share of scenes that are given all their maps")
    drop_all: float = Field(0.1, ge=0, le=1, description="share of scenes that are given none")

    @model_validator(mode="after")
    def _shares(self) -> "AdapterSettings":
        if self.keep_all + self.drop_all > 1:
            raise ValueError("keep_all and drop_all should not be more than 1 together")
        return self


class EnhancerSettings(BesideSettings):
    """The frame adapter (DiffusionSat's 3-D ControlNet), trained beside a generator that stays as it is.

    Unless told otherwise its frames are simulated from the scenes themselves; what is not said of them in the papers
    is ours.
    """

    task: Literal["super-resolve", "fuse", "timelapse"] = Field("super-resolve", description="what is learned")
    bands: tuple[str, ...] = Field(
        (), description="super-resolve: read these bands of scenes that `data cut` has made, instead of pictures"
    )
    scale: Literal[1, 2, 4, 8] | None = Field(
        None, description="pixels drawn per pixel of a frame, along a side; none: 4, for timelapse 1"
    )
    frames: int = Field(3, ge=1, le=8, description="timelapse: of one place, at most")
    real: bool = Field(
        False,
        description="timelapse: learn from real dates, images of one name in several class folders being one place, "
        "such as before/7.png and after/7.png; nothing is simulated, dates are in metadata.jsonl",
    )
    told: tuple[Literal["month", "year", "gsd_m", "cloud_fraction", "lon", "lat"], ...] = Field(
        ("month",), min_length=1, description="timelapse: numbers of each frame and of what is drawn, as far as known"
    )
    middle: bool = Field(False, description="copy the denoiser's middle too: twice the weights")
    blur: float = Field(0.4, ge=0, description="deviation of the sensor's point spread, in its pixels")
    gain: float = Field(0.03, ge=0, description="deviation of a frame's contrast around 1")
    offset: float = Field(0.02, ge=0, description="deviation of its brightness, of the range -1 to 1")
    noise: float = Field(0.01, ge=0, description="deviation of its pixels, likewise")
    shift: float = Field(1.0, ge=0, description="fuse: deviation of its place, in pixels of what is drawn")
    clouds: Share = Field(
        0.3, description="fuse, timelapse: share of the frames that are cloudy; hidden of them, at most"
    )
    days: float = Field(180.0, gt=0, description="fuse: between a frame and what is drawn, at most")

    @model_validator(mode="after")
    def _fits(self) -> "EnhancerSettings":
        if self.bands and self.task != "super-resolve":
            raise ValueError("bands are read to super-resolve alone")
        if self.real and self.task != "timelapse":
            raise ValueError("real dates are learned from for timelapse alone")
        if not self.real and "month" not in self.told:
            raise ValueError("told should hold the month where seasons are simulated")
        if unheeded := self._unheeded():
            raise ValueError(f"{unheeded} belongs to simulated frames, and these are taken as they are: leave it out")
        if (self.ratio == 1) != (self.task == "timelapse"):
            raise ValueError("scale should be 1 for timelapse, and more for the others")
        return self

    def _unheeded(self) -> str | None:
        """A setting of simulation that was changed where nothing is simulated, if there is one."""
        heeded = {"noise"} if self.bands else set() if self.real else set(SIMULATED)
        fields = type(self).model_fields
        changed = (name for name in SIMULATED if getattr(self, name) != fields[name].default)
        return next((name for name in changed if name not in heeded), None)

    @property
    def ratio(self) -> int:
        """Pixels drawn per pixel of a frame, along a side."""
        return self.scale or (1 if self.task == "timelapse" else 4)


class EnhanceSettings(Section):
    """How images are enhanced, beside how all are drawn (`sampling`)."""

    repeats: int = Field(
        4,
        ge=1,
        description="in-painting: how often a step is taken, so that what is drawn fits what is around it [ours]",
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="in-painting: share of the steps, from what is interpolated into the gaps on; none: 0.4, and with "
        "a prompt 1, from noise [ours]",
    )
    fusion: Share = Field(
        1.0, description="fusing dates: λ at its highest, how far trajectories are led to their centre (SatDiffMoE)"
    )
    fusion_course: Literal["falling", "rising", "constant"] = Field(
        "falling", description="λ over the steps: to 0 at the last, from 0 at the first, or the same in all [ours]"
    )
    fusion_result: Literal["nearest", "mean"] = Field(
        "nearest", description="what comes out: the trajectory nearest to their centre, or the mean of all [ours]"
    )
    fusion_distance: Literal["l2", "l1"] = Field("l2", description="whose centre: the mean, or the median")
    fusion_subset: int | None = Field(None, ge=1, description="trajectories that are denoised in a step; none: all")


def require_ordered(**pairs: tuple[float, float]) -> None:
    """Bounds of a crop: two ordered positive numbers; of its area, at most 1.

    Raises:
        ValueError: they are not.
    """
    for name, (low, high) in pairs.items():
        if not 0 < low <= high or (name == "crop_area" and high > 1):
            raise ValueError(f"{name} should be two ordered positive numbers{', at most 1' * (name == 'crop_area')}")


class ClassifySettings(Section):
    """A classifier of scenes and how it is trained: one recipe for all methods."""

    network: str = Field(
        "resnet18-stem2", description="as evaluation.networks; self-distillation wants four stages [ours: laptops]"
    )
    method: Literal["ce", "byot", "logit-sd", "dsd"] = Field(
        "dsd", description="ce: labels alone; byot: be your own teacher; logit-sd: without diffusion; dsd: DSDNet"
    )
    hard: float = Field(1.0, ge=0, description="weight of the cross-entropy to the labels")
    soft: float = Field(0.5, ge=0, description="weight of a student's cross-entropy to its teacher")
    entropy: float = Field(0.5, ge=0, description="dsd: weight of the entropies, which are to be high")
    noise: float = Field(0.5, ge=0, description="dsd: weight of the denoising losses")
    hint: float = Field(1e-6, ge=0, description="byot: weight of the distance to the deepest features")
    temperature: float = Field(3.0, gt=0, description="byot: of the soft labels")
    refine: bool = Field(True, description="dsd: false leaves the diffusion out, and keeps the rest, as a control")
    shuffled: bool = Field(False, description="dsd: condition each refinement on another image, as a control")
    resolution: int = Field(64, ge=16, description="side that the network sees, pixels")
    optimizer: Literal["adamw", "sgd", "rmsprop"] = Field("adamw", description="ours; DSDNet: rmsprop")
    learning_rate: float = Field(1e-3, gt=0, description="at its highest")
    heads_rate: float = Field(1.0, gt=0, description="times it: of last layer and branches; DSDNet: 10")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(5e-2, ge=0, description="of the optimiser")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs in which the rate of learning rises")
    epochs: int = Field(30, ge=1, description="at most")
    patience: int = Field(10, ge=1, description="epochs without a better validation before it stops")
    batch_size: int = Field(64, ge=2, description="scenes a step")
    least_steps: int = Field(16, ge=1, description="of an epoch: a small set is seen several times in one")
    smoothing: float = Field(0.0, ge=0, lt=1, description="of the hard labels")
    ema_decay: float = Field(
        0.998, ge=0, lt=1, description="of the running average of the weights, which is what is kept"
    )
    validation_fraction: float = Field(0.1, gt=0, lt=0.5, description="of the train scenes: selects the epoch")
    soft_labels: bool = Field(False, description="learn from those that scenes bring along, instead of their classes")
    crop_area: tuple[float, float] = Field((0.67, 1.0), description="random resized crop: share of the area")
    crop_aspect: tuple[float, float] = Field((0.75, 1.33), description="width by height of the crops")
    flips: bool = Field(True, description="left to right and top to bottom, each for half of the scenes")
    turns: bool = Field(True, description="quarter turns: scenes have no up")
    light: float = Field(0.1, ge=0, lt=1, description="largest change of brightness and contrast, as a share")
    randaugment: int = Field(
        0, ge=0, le=8, description="operations of RandAugment, drawn for each batch by kornia; 0: none"
    )
    erasing: Share = Field(0.0, description="share of scenes that lose a random rectangle (Zhong et al. 2020; kornia)")
    pretrained: bool = Field(False, description="start from published weights, where the network has some")

    @model_validator(mode="after")
    def _fits(self) -> "ClassifySettings":
        require_ordered(crop_area=self.crop_area, crop_aspect=self.crop_aspect)
        if self.method == "byot" and self.soft > 1:
            raise ValueError("soft should be at most 1 for byot, which gives the labels what is left")
        return self


class EngineSettings(Section):
    """The data engine: pairs drawn after masks, and the segmentation networks that judge them."""

    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of the images, the last by name, that only judge")
    drawn_per_real: float = Field(1.0, gt=0, le=100, description="drawn pairs for each real one")
    prompt: str = Field("a satellite image of road", description="of drawn scenes: that of the class which tiles are")
    strength: float = Field(1.0, ge=0, le=10, description="of the masks")
    widths: tuple[Width, ...] = Field((32, 64, 128, 128), min_length=2, description="of the segmentation network")
    steps: int = Field(1200, ge=1, description="optimiser steps of a segmentation network")
    batch_size: int = Field(16, ge=1, description="pairs a step")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW, at its highest")
    n_seeds: int = Field(3, ge=1, description="trainings of each arm")
