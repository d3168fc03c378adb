"""The published systems as presets, end to end with tiny networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import terradistill as td
from tests.conftest import TINY, tiny_settings

WORDS = ("class", "medoid", "phrases")


def preset(name: str, **given: object) -> td.Settings:
    """A published system with as little work as shows that it runs."""
    less = ["sampling.steps=4", "sampling.candidates=2", "classifier.max_steps=20", "classifier.width=16"]
    more = ["prototypes.restarts=2", "finetune.steps=4", "evaluation.methods=['distilled']"]
    return td.load_settings(["tiny", name], overrides=[*TINY[5::2], *less, *more], **{"ipc": 2, **given})


@pytest.mark.parametrize("name", ["dpd", "dpd-v1", "text", "d4m"])
def test_every_published_system_makes_a_set(name: str, finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    settings = preset(name, generator=str(finished.run))
    made = td.distill(drawn, tmp_path / "run", settings, evaluate=False)
    assert made.scenes.counts == dict.fromkeys(made.scenes.classes, 2)
    images = [made.scenes.read(i) for i in range(len(made.scenes))]
    assert len(set(images)) == len(images)


def test_consistency_changes_what_is_learned(drawn: Path, tmp_path: Path) -> None:
    plain, pleased = (
        td.train(drawn, tmp_path / f"{weight}", tiny_settings(diffusion__consistency_weight=weight))
        for weight in (0.0, 5.0)
    )
    one, other = (td.Generator.load(folder).unet.state_dict() for folder in (plain, pleased))
    assert any((one[name] != other[name]).any() for name in one)
    stages = json.loads((tmp_path / "5.0" / "manifest.json").read_text())["stages"]
    assert [stage["name"] for stage in stages][-2:] == ["classifier", "diffusion"]


@pytest.mark.parametrize("prompt", WORDS)
def test_prompts_of_prototypes_are_written_and_drawn_from(
    prompt: str, finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(generator=str(finished.run), finetune__steps=0, prototypes__prompt=prompt)
    made = td.distill(drawn, tmp_path / "run", settings, evaluate=False)
    written = {row["class"]: row["prompt"] for row in json.loads((made.run / "prototypes.json").read_text())}
    rows = [json.loads(line) for line in (made.run / "distilled" / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["prompt"] == written[row["file_name"].split("/")[0]][row["prototype"]]
    tokenizer = td.Generator.load(finished.run).tokenizer
    for name, prompts in written.items():
        assert all(len(tokenizer(text).input_ids) <= tokenizer.model_max_length for text in prompts)
        if prompt == "phrases":
            assert any(len(text) > len(f"a satellite image of {made.scenes.readable(name)}") for text in prompts)
        if prompt == "medoid":
            scenes = td.open_scenes(drawn)
            own = {text for s in scenes.scenes if scenes.classes[s.label] == name for text in s.captions}
            assert set(prompts) <= own
        if prompt != "medoid":
            assert all(text.startswith(f"a satellite image of {made.scenes.readable(name)}") for text in prompts)


def test_sets_chosen_together_do_better_at_it_than_the_best_alone(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from terradistill.hardware import find_hardware
    from terradistill.models.latent_classifier import LatentClassifier
    from terradistill.training.classifier import embed
    from terradistill.training.latents import LatentCache

    off, covered = {}, {}
    for rule in ("herding", "coverage", "margin"):
        settings = tiny_settings(
            generator=str(finished.run),
            finetune__steps=0,
            sampling__selection=rule,
            sampling__candidates=6,
            sampling__sureness=0.0,
        )
        run = td.distill(drawn, tmp_path / rule, settings, evaluate=False).run
        model, hardware = LatentClassifier.load(run / "classifier"), find_hardware()
        real = embed(model, LatentCache.load(run / "latents" / "train.npy").means(), hardware)
        kept = embed(model, load_file(run / "latents" / "distilled.safetensors")["latents"], hardware)
        split = json.loads((run / "split.json").read_text())["train"]
        of_class = np.array([scene["name"].split("/")[0] for scene in split])
        names = np.repeat(sorted(set(of_class)), 2)
        off[rule] = sum(
            float((kept[names == name].mean(0) - real[of_class == name].mean(0)).norm()) for name in set(of_class)
        )
        covered[rule] = sum(
            float((real[of_class == name] @ kept[names == name].T).max(1).values.mean()) for name in set(of_class)
        )
    assert off["herding"] < off["margin"]
    assert covered["coverage"] > covered["margin"]


def test_near_copies_of_train_scenes_are_passed_over(
    finished: td.Distilled, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from terradistill.distillation import choosing, drawing
    from terradistill.training.latents import LatentCache

    plain = tiny_settings(
        generator=str(finished.run), finetune__steps=0, sampling__candidates=3, sampling__selection="margin"
    )
    before = td.distill(drawn, tmp_path / "before", plain, evaluate=False).run
    first = int(load_file(before / "latents" / "distilled.safetensors")["candidate"][0])
    draw = drawing.sample_some

    def copying(*given: object, **named: object) -> object:
        latents, rows = draw(*given, **named)  # type: ignore[arg-type]
        latents[first] = LatentCache.load(before / "latents" / "train.npy").means()[0]
        return latents, rows

    monkeypatch.setattr(drawing, "sample_some", copying)
    monkeypatch.setattr(choosing, "margins", lambda logits, _: (torch.arange(len(logits)) == first).float())
    for wanted, expected in ((False, True), (True, False)):
        settings = plain.model_copy(update={"sampling": plain.sampling.model_copy(update={"avoid_copies": wanted})})
        run = td.distill(drawn, tmp_path / str(wanted), settings, evaluate=False).run
        kept = load_file(run / "latents" / "distilled.safetensors")["candidate"].tolist()
        assert (first in kept) == expected


@pytest.mark.parametrize("change", [{"sampling__refine_rounds": 1}, {"prototypes__space": "classifier"}])
def test_options_of_our_own_run_to_the_end(
    change: dict[str, object], finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(generator=str(finished.run), finetune__steps=0, **change)
    made = td.distill(drawn, tmp_path / "run", settings, evaluate=False)
    assert len({made.scenes.read(i) for i in range(len(made.scenes))}) == 6


def test_a_near_copy_with_nothing_to_replace_it_is_drawn_again(
    finished: td.Distilled, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from terradistill.distillation import drawing
    from terradistill.training.latents import LatentCache

    plain = tiny_settings(generator=str(finished.run), finetune__steps=0, sampling__candidates=1)
    draw, calls = drawing.sample_some, []

    def copying(*given: object, **named: object) -> object:
        latents, rows = draw(*given, **named)  # type: ignore[arg-type]
        calls.append(len(latents))
        if len(calls) == 1:
            latents[0] = LatentCache.load(tmp_path / "run" / "latents" / "train.npy").means()[0]
        return latents, rows

    monkeypatch.setattr(drawing, "sample_some", copying)
    run = td.distill(drawn, tmp_path / "run", plain, evaluate=False).run
    assert calls[0] == 6
    assert calls[1:], "the copy was drawn again"
    rows = [json.loads(line) for line in (run / "distilled" / "metadata.jsonl").read_text().splitlines()]
    kept = load_file(run / "latents" / "distilled.safetensors")
    assert [row["seed"] for row in rows] == kept["seed"].tolist()
    assert len(set(kept["seed"].tolist())) == 6


def test_what_is_a_near_copy_however_often_it_is_drawn_stays_and_is_counted(
    finished: td.Distilled, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terradistill.distillation import choosing, drawing
    from terradistill.training.latents import LatentCache

    draw, calls = drawing.sample_some, []

    def copying(*given: object, **named: object) -> object:
        latents, rows = draw(*given, **named)  # type: ignore[arg-type]
        calls.append(len(latents))
        latents[0] = LatentCache.load(tmp_path / "run" / "latents" / "train.npy").means()[0]
        return latents, rows

    monkeypatch.setattr(drawing, "sample_some", copying)
    settings = tiny_settings(generator=str(finished.run), finetune__steps=0, sampling__candidates=1)
    run = td.distill(drawn, tmp_path / "run", settings, evaluate=False).run
    assert len(calls) == 1 + choosing.REDRAWS, "it is not tried for ever"
    stages = {stage["name"]: stage for stage in json.loads((run / "manifest.json").read_text())["stages"]}
    assert "1 of them near-copies of train scenes" in stages["candidates"]["note"]


def test_giving_up_on_the_less_sure_half_costs_less_and_keeps_what_the_card_says(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    runs = {}
    for name, prune in (("all", []), ("halved", [0.4, 0.7])):
        settings = tiny_settings(
            generator=str(finished.run),
            finetune__steps=0,
            sampling__candidates=6,
            sampling__prune=prune,
            sampling__steps=6,
            sampling__selection="margin",
        )
        runs[name] = td.distill(drawn, tmp_path / name, settings, evaluate=False)
    every, some = (load_file(made.run / "latents" / "distilled.safetensors") for made in runs.values())
    assert len(some["latents"]) == len(every["latents"])
    assert (some["candidate"] // 6 == every["candidate"] // 6).all(), "of the same prototypes"
    same = some["candidate"] == every["candidate"]
    assert same.any()
    assert np.allclose(some["latents"][same], every["latents"][same], atol=1e-4), "drawn as if alone"
    assert (some["margin"] <= every["margin"] + 1e-4).all(), "what is given up may have been better"
