"""What a set costs in evaluations of the denoiser and in images held at once, beside the figures that are committed."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import terradistill as td
from terradistill.distillation.plan import evaluations
from terradistill.sampling import sampler
from tests.conftest import tiny_settings

FIGURES = json.loads((Path(__file__).parents[2] / "bench" / "figures.json").read_text())


def test_autoguidance_asks_twice_in_three_quarters_of_the_steps() -> None:
    sampling = td.load_settings().sampling
    assert evaluations(sampling, autoguided=True) == 5 * (20 + 15)
    assert evaluations(sampling.model_copy(update={"autoguidance": 1.0}), autoguided=True) == evaluations(sampling)
    with_prompt = sampling.model_copy(update={"cfg_scale": 2.0})
    assert evaluations(with_prompt, autoguided=True) == 5 * (20 + 15 + 11)


@pytest.mark.parametrize("preset", FIGURES)
def test_a_set_costs_no_more_than_it_did(
    preset: str, finished: td.Distilled, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = sampler.denoise

    def counted(generator: Any, z: Tensor, *more: Any) -> Tensor:
        asked.append(len(z))
        return plain(generator, z, *more)

    monkeypatch.setattr(sampler, "denoise", counted)
    # As many candidates, steps and guided ones as it really takes, by tiny networks.
    sampling = td.load_settings([preset]).sampling
    # What is drawn again depends on what was drawn; batches smaller than all there is show what bounds them.
    sampling = sampling.model_copy(update={"avoid_copies": False, "batch_size": 10})
    settings = tiny_settings(generator=str(finished.run), finetune__steps=0).model_copy(update={"sampling": sampling})
    td.distill(drawn, tmp_path / "run", settings, evaluate=False)
    assert evaluations(sampling) == FIGURES[preset]["evaluations_a_kept_image"], "what --dry-run reckons with"
    found = {"evaluations_a_kept_image": sum(asked) / 6, "largest_batch": max(asked)}
    assert found == pytest.approx(FIGURES[preset], rel=0.05)
