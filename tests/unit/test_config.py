import tomllib
from pathlib import Path

import pytest

from terradistill import config
from terradistill.config import flatten, load_settings, presets, to_toml
from terradistill.errors import ConfigError
from terradistill.settings import Settings


@pytest.mark.parametrize("name", ["dpd", "dpd-v1", "d4m"])
def test_published_systems_space_their_steps_evenly_and_guide_them_all(name: str) -> None:
    sampling = load_settings([name]).sampling
    assert (sampling.spacing, sampling.cfg_between, sampling.steps) == ("even", (0.0, 1.0), 50)


# What the published systems say, and which of our own additions they must not have.
DPD = """
[diffusion]
min_snr_gamma = 5
weight_decay = 1e-2
views = 1
class_share = 1
consistency_weight = 0
[finetune]
passes = "none"
ema_decay = 0
learning_rate = 5e-4
warmup_steps = 200
rate = "constant"
lora_rank = 4
lora_layers = "attention"
text_encoder = false
[classifier]
width = 64
learning_rate = 1e-3
minimum_learning_rate = 1e-6
weight_decay = 1e-3
epochs = 200
max_steps = 1000000
warmup_epochs = 5
batch_size = 128
dropout = 0.1
validation_fraction = 0.1
[prototypes]
rule = "margin"
space = "latent"
outliers = true
smallest = 1
prompt = "class"
pool = 8
restarts = 10
alpha = 1
[sampling]
scheduler = "ddim"
spacing = "even"
steps = 50
cfg_scale = 7.5
cfg_between = [0, 1]
autoguidance = 1
avoid_copies = false
refine_rounds = 0
start = "noise"
prototype_guidance = "push"
prototype_scale = 1
prototype_until = 0.8
candidates = 5
selection = "margin"
prune = []
"""
DPD_V1 = """
[diffusion]
min_snr_gamma = 5
consistency_weight = 0.01
consistency_until = 0.5
consistency_power = 1
[finetune]
lora_rank = 4
lora_layers = "attention"
text_encoder = false
learning_rate = 5e-4
rate = "constant"
ema_decay = 0
passes = "none"
[prototypes]
rule = "margin"
space = "latent"
outliers = true
smallest = 1
prompt = "phrases"
[sampling]
scheduler = "ddim"
spacing = "even"
steps = 50
cfg_scale = 7.5
cfg_between = [0, 1]
autoguidance = 1
start = "prototype"
strength = 0.75
prototype_scale = 0
candidates = 1
avoid_copies = false
refine_rounds = 0
"""
D4M = """
[prototypes]
rule = "centroid"
space = "latent"
outliers = true
smallest = 1
prompt = "class"
[sampling]
scheduler = "ddim"
spacing = "even"
steps = 50
cfg_scale = 8
cfg_between = [0, 1]
autoguidance = 1
start = "prototype"
strength = 0.7
prototype_scale = 0
candidates = 1
avoid_copies = false
refine_rounds = 0
"""
TEXT = """
[prototypes]
prompt = "class"
[sampling]
cfg_between = [0, 1]
autoguidance = 1
start = "noise"
prototype_scale = 0
candidates = 1
avoid_copies = false
refine_rounds = 0
"""


CRS_DIFF = """
[adapter]
kind = "modulation"
widths = [192, 256, 384, 512]
caption_dropout = 0.5
map_dropout = 0.5
keep_all = 0.1
drop_all = 0.1
[sampling]
scheduler = "ddim"
steps = 50
cfg_scale = 7.5
cfg_between = [0, 1]
autoguidance = 1
"""
DIFFUSIONSAT = """
[diffusion]
metadata = true
gsd_max_m = 10
caption_dropout = 0.1
min_snr_gamma = 5
[enhancer]
learning_rate = 5e-5
middle = true
[sampling]
scheduler = "ddim"
steps = 100
cfg_scale = 1
autoguidance = 1
"""
SATDIFFMOE = """
[enhancer]
task = "fuse"
[enhance]
fusion_distance = "l2"
fusion_subset = "none"
[sampling]
scheduler = "ddim"
cfg_between = [0, 1]
autoguidance = 1
"""
DSDNET = """
[classify]
network = "resnet50"
method = "dsd"
resolution = 448
optimizer = "rmsprop"
learning_rate = 2e-4
heads_rate = 10
weight_decay = 1e-5
epochs = 405
soft = 0.5
entropy = 0.5
noise = 0.5
smoothing = 0
"""
PUBLISHED = {
    "dpd": DPD,
    "dpd-v1": DPD_V1,
    "d4m": D4M,
    "text": TEXT,
    "crs-diff": CRS_DIFF,
    "diffusionsat": DIFFUSIONSAT,
    "satdiffmoe": SATDIFFMOE,
    "dsdnet": DSDNET,
}


@pytest.mark.parametrize(("preset", "said"), PUBLISHED.items())
def test_a_published_system_has_its_constants_and_nothing_of_ours(preset: str, said: str) -> None:
    settings = load_settings([preset])
    for section, constants in tomllib.loads(said).items():
        told = getattr(settings, section).model_dump(mode="json")
        wanted = {name: None if value == "none" else value for name, value in constants.items()}
        assert {name: told[name] for name in wanted} == wanted


@pytest.mark.parametrize("preset", [name for name in PUBLISHED if name != "dsdnet"])  # which draws nothing
def test_a_published_system_does_not_lean_on_our_defaults(preset: str) -> None:
    """What shapes an image is said in the preset itself, so that a new default of ours changes nothing there."""
    shaping = {"cfg_between", "autoguidance", "start", "prototype_scale", "candidates", "selection"}
    said = tomllib.loads((Path(config.__file__).parent / "presets" / f"{preset}.toml").read_text())["sampling"]
    assert shaping | {"avoid_copies", "refine_rounds"} <= said.keys()
    if preset != "text":
        assert {"scheduler", "steps", "spacing"} <= said.keys()
    if preset != "satdiffmoe":
        assert "cfg_scale" in said


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid(name: str) -> None:
    assert (load_settings([name]) == Settings()) == (name == "default")


def test_a_run_starts_from_the_shipped_generator_unless_told_otherwise(tmp_path: Path) -> None:
    assert load_settings().generator == "base-128"
    assert load_settings(["small"]).generator is None
    assert load_settings(["dpd"]).generator == "base-128"
    assert load_settings(["small"], generator="mine").generator == "mine"
    (tmp_path / "config.toml").write_text(to_toml(load_settings(["small"])))
    assert load_settings(config=tmp_path / "config.toml").generator is None


@pytest.mark.parametrize(("steps", "fewer"), [(61, 60), (122, 120)])
def test_a_number_of_steps_that_diffusers_miscounts_is_refused(steps: int, fewer: int) -> None:
    assert load_settings(sampling__steps=steps).sampling.steps == steps
    with pytest.raises(ConfigError, match=f"takes {steps + 1} for {steps} steps: give {fewer}"):
        load_settings(sampling__steps=steps, sampling__scheduler="unipc")


def test_the_later_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("ipc = 3\n[sampling]\nsteps = 7\ncandidates = 9\n")
    settings = load_settings(["tiny", "dpd"], file, ["sampling.steps=8"], sampling__candidates=2)
    assert (settings.ipc, settings.sampling.steps, settings.sampling.candidates) == (3, 8, 2)
    assert (settings.sampling.cfg_scale, settings.data.resolution) == (7.5, 32)


def test_overrides_are_read_as_toml_and_otherwise_as_text() -> None:
    settings = load_settings(
        overrides=[
            "diffusion.min_snr_gamma=none",
            "evaluation.flips=false",
            "prototypes.rule=medoid",
            "evaluation.networks=['convnet3', 'resnet18']",
            "data.caption_template='an image of a=b {class}'",
        ]
    )
    assert settings.diffusion.min_snr_gamma is None
    assert settings.evaluation.flips is False
    assert settings.prototypes.rule == "medoid"
    assert settings.evaluation.networks == ("convnet3", "resnet18")
    assert settings.data.caption_template == "an image of a=b {class}"


@pytest.mark.parametrize("given", ["convnet3,resnet18", "[convnet3, resnet18]", "['convnet3', 'resnet18']"])
def test_lists_may_be_written_with_commas(given: str) -> None:
    """The second is what a shell leaves of quoted names."""
    settings = load_settings(overrides=[f"evaluation.networks={given}", "sampling.prune=0.5,0.65"])
    assert settings.evaluation.networks == ("convnet3", "resnet18")
    assert settings.sampling.prune == (0.5, 0.65)
    assert load_settings(overrides=["data.caption_template=a, b"]).data.caption_template == "a, b"


def test_what_was_asked_can_be_asked_again(tmp_path: Path) -> None:
    asked = load_settings(
        ["tiny"], overrides=["diffusion.min_snr_gamma=none", "data.caption_template='ä \"{class}\"'"], ipc=4
    )
    (tmp_path / "config.toml").write_text(to_toml(asked))
    assert load_settings(config=tmp_path / "config.toml") == asked


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sampling.stepz=3", "did you mean sampling.steps"),
        ("sampling.steps=0", "greater than or equal to 1"),
        ("sampling=3", "sampling"),
        ("prototypes.rule=best", "'medoid' or 'centroid'"),
    ],
)
def test_wrong_settings_are_one_sentence(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings(overrides=[override])
    assert "\n" not in str(caught.value)


def test_every_setting_has_one_name() -> None:
    names = list(flatten(Settings().model_dump()))
    assert len(names) == len(set(names)) > 50
