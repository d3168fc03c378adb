"""What a set costs in evaluations of the denoiser and in images held at once, beside the figures that are committed."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import terradistill as td
from terradistill.distillation.plan import evaluations
from terradistill.models.generator import denoise
from terradistill.models.weaker import Weaker
from terradistill.sampling import guidance, sampler
from tests.conftest import tiny_settings

FIGURES = json.loads((Path(__file__).parents[2] / "bench" / "figures.json").read_text())


def test_autoguidance_asks_twice_in_three_quarters_of_the_steps() -> None:
    sampling = td.load_settings().sampling
    assert evaluations(sampling, autoguided=True) == 5 * (20 + 15)
    assert evaluations(sampling.model_copy(update={"autoguidance": 1.0}), autoguided=True) == evaluations(sampling)
    with_prompt = sampling.model_copy(update={"cfg_scale": 2.0})
    assert evaluations(with_prompt, autoguided=True) == 5 * (20 + 15 + 11)


@pytest.mark.parametrize("name", FIGURES)
def test_a_set_costs_no_more_than_it_did(
    name: str, finished: td.Distilled, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(generator: Any, z: Tensor, *more: Any) -> Tensor:
        asked.append(len(z))
        return denoise(generator, z, *more)

    for module in (sampler, guidance):
        monkeypatch.setattr(module, "denoise", counted)
    figures, preset, weaker = FIGURES[name], name.split()[0], "beside a weaker self" in name
    generator = td.Generator.load(finished.run)
    if weaker:
        generator.weaker = Weaker.like(generator)
    generator.save(tmp_path / "generator")
    # As many candidates, steps and guided ones as it really takes, by tiny networks.
    sampling = td.load_settings([preset], overrides=figures.get("set", [])).sampling
    most = 2 * sampling.batch_size  # images that the denoiser has at once, doubled by classifier-free guidance
    # What is drawn again depends on what was drawn; batches smaller than all there is show what bounds them.
    sampling = sampling.model_copy(update={"avoid_copies": False, "batch_size": 10})
    settings = tiny_settings(generator=str(tmp_path / "generator"), finetune__steps=0)
    td.distill(drawn, tmp_path / "run", settings.model_copy(update={"sampling": sampling}), evaluate=False)
    assert evaluations(sampling, autoguided=weaker) == figures["evaluations_a_kept_image"], "as --dry-run reckons"
    assert sum(asked) / 6 == pytest.approx(figures["evaluations_a_kept_image"], rel=0.05)
    assert max(asked) <= 2 * sampling.batch_size
    if sampling.prune:
        assert asked[-1] == 6 * 2, "those that are left of each prototype are asked about together"
    assert most == figures["most_images_at_once"]
