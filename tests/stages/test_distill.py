"""The main job from DATA to report, with tiny networks on drawn scenes."""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import terradistill as td
from terradistill.data.check import check_scenes
from terradistill.data.drawn import draw_scenes
from terradistill.data.images import decode
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.data.splits import load_split, save_split, split_scenes
from terradistill.distillation.work import open_work, views_needed
from terradistill.models.weaker import Weaker
from terradistill.run import Silent
from tests.conftest import tiny_settings

STAGES = ["read", "autoencoder", "encode", "classifier", "diffusion", "prototypes", "candidates", "refine", "export"]
EXAM = ["evaluate", "audit"]


def test_the_run_folder_holds_what_was_promised(finished: td.Distilled) -> None:
    manifest = json.loads((finished.run / "manifest.json").read_text())
    assert [stage["name"] for stage in manifest["stages"]] == [*STAGES, *EXAM]
    assert all(stage["seconds"] > 0 and stage["peak_memory_bytes"] > 1e7 for stage in manifest["stages"])
    assert manifest["data"]["licence"]
    for name in ("resolved.json", "split.json", "metrics.jsonl", "prototypes.json", "scores.json", "gallery.png"):
        assert (finished.run / name).is_file(), name
    assert "file_name" not in json.loads((finished.run / "prototypes.json").read_text())[0]
    assert not list((finished.run / "work").iterdir())
    assert not list(finished.run.rglob("*.partial"))
    assert not list(finished.run.rglob("*.pkl")) + list(finished.run.rglob("*.bin"))


def test_the_scoreboard_has_every_method_and_column(finished: td.Distilled) -> None:
    columns = {
        "method", "dataset", "ipc", "network", "pretrained", "labels", "n_seeds",
        "oa_mean", "oa_std", "aa_mean", "kappa_mean", "seconds",
    }  # fmt: skip
    assert [row["method"] for row in finished.scores] == ["distilled", "random", "medoid", "full"]
    assert all(columns <= row.keys() for row in finished.scores)
    assert [row["n_train"] for row in finished.scores] == [6, 6, 6, 18]
    distilled, random, _, full = finished.scores
    assert distilled["ior"] == pytest.approx(distilled["oa_mean"] - random["oa_mean"])
    assert distilled["hlr"] == pytest.approx(full["oa_mean"] - distilled["oa_mean"])


def test_the_result_opens_as_an_imagefolder(finished: td.Distilled, tmp_path: Path) -> None:
    from datasets import load_dataset

    data = load_dataset("imagefolder", data_dir=str(finished.run / "distilled"), split="train", cache_dir=str(tmp_path))
    assert len(data) == 6
    assert {"image", "label", "prompt", "seed"} <= set(data.column_names)
    assert isinstance(data[0]["image"], Image.Image)
    assert data[0]["image"].size == (32, 32)


def test_the_generator_makes_an_image_from_a_prompt_in_stock_diffusers(finished: td.Distilled) -> None:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(finished.run / "generator", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a satellite image of a river", num_inference_steps=2).images[0].size == (32, 32)


def test_a_kept_image_can_be_drawn_again_from_its_row(finished: td.Distilled) -> None:
    # The row says prompt, seed and prototype; nothing about its neighbours can matter until they are refined together.
    import torch
    from safetensors.torch import load_file

    from terradistill.data.images import to_uint8
    from terradistill.hardware import find_hardware
    from terradistill.sampling.guidance import blend_prototypes, classifier_free
    from terradistill.sampling.sampler import Request, sample
    from terradistill.training.latents import LatentCache

    settings = json.loads((finished.run / "resolved.json").read_text())["sampling"]
    row = json.loads((finished.run / "distilled" / "metadata.jsonl").read_text().splitlines()[-1])
    generator, hardware = td.Generator.load(finished.run).frozen(), find_hardware()
    text = generator.embed([row["prompt"], ""])
    prototype = json.loads((finished.run / "prototypes.json").read_text())[-1]["sha256"][row["prototype"]]
    train = [scene["sha256"] for scene in json.loads((finished.run / "split.json").read_text())["train"]]
    target = LatentCache.load(finished.run / "latents" / "train.npy").means()[train.index(prototype)]
    pull = blend_prototypes(target[None], generator.parameterisation, scale=settings["prototype_scale"])
    assert settings["prototype_guidance"] == "blend"
    assert settings["prototype_scale"] > 0
    latents = sample(
        generator,
        Request(text[:1], torch.zeros(1, dtype=torch.long), [row["seed"]]),
        td.Settings().sampling.model_copy(update={"steps": settings["steps"]}),
        hardware=hardware,
        guidances=[classifier_free(td.Settings().sampling.cfg(), text[1:], between=settings["cfg_between"]), pull],
    )
    files = (finished.run / "latents" / f"{name}.safetensors" for name in ("distilled", "refined"))
    chosen, refined = (load_file(path)["latents"][-1:] for path in files)
    with hardware.autocast():
        again, kept, moved = (to_uint8(generator.decode(z))[0].astype(int) for z in (latents, chosen, refined))
    assert np.abs(again - kept).max() <= 3
    written = decode((finished.run / "distilled" / row["file_name"]).read_bytes())
    assert np.abs(moved - written).max() <= 3 < np.abs(moved - kept).max(), "what is written has been refined"


def test_run_again_nothing_is_made_again(finished: td.Distilled, drawn: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished.run / "distilled").rglob("*.png")}
    again = td.distill(drawn, finished.run, tiny_settings())
    assert {path: path.stat().st_mtime_ns for path in (finished.run / "distilled").rglob("*.png")} == before
    assert again.scores == finished.scores


def test_changed_settings_or_data_are_refused_by_name(finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(td.TerraDistillError, match=r"sampling\.steps \(4 → 9\)"):
        td.distill(drawn, finished.run, tiny_settings(sampling__steps=9))
    other = td.prepare(drawn, tmp_path / "other")
    assert other.n_kept == 36
    with pytest.raises(td.TerraDistillError, match="was made from"):
        td.distill(tmp_path / "other" / "train", finished.run, tiny_settings())


def test_a_prepared_folder_is_split_as_its_file_says(drawn: Path, tmp_path: Path) -> None:
    td.prepare(drawn, tmp_path / "made")
    prepared = open_scenes(tmp_path / "made")
    train, test = load_split(tmp_path / "made" / "split.json", prepared)
    assert (len(train), len(test)) == (
        len(list((tmp_path / "made" / "train").rglob("*.png"))),
        len(prepared) - len(train),
    )
    assert {scene.name.split("/")[0] for scene in test.scenes} == {"test"}
    originals = {scene.sha256 for scene in check_scenes(open_scenes(drawn))[0].scenes}
    whole = check_scenes(open_scenes(tmp_path / "made"))[0]
    assert {scene.made_from for scene in whole.scenes} == originals
    some = {scene.made_from for scene in test.scenes}
    assert not some & {scene.made_from for scene in split_scenes(whole, 0.6, 3, some)[1].scenes}, "they may not judge"
    with pytest.raises(td.TerraDistillError, match="lies inside"):
        td.prepare(drawn, drawn / "prepared")


def test_a_set_is_not_judged_by_what_it_was_made_from(finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    split = json.loads((finished.run / "split.json").read_text())
    split["train"], split["test"] = split["test"], split["train"]
    (tmp_path / "swapped.json").write_text(json.dumps(split))
    settings = tiny_settings(data__split_file=tmp_path / "swapped.json")
    with pytest.raises(td.TerraDistillError, match="has learned from test scenes"):
        td.evaluate(finished.run / "distilled", drawn, tmp_path / "scores", settings)
    assert not (tmp_path / "scores").exists(), "the mended command would be told of other settings"


def test_rows_of_another_recipe_do_not_join_the_table(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terradistill.distillation import scoreboard

    score, scored = scoreboard.score_method, list[str]()

    def once(method: str, *rest: Any, **named: Any) -> Any:
        if scored:
            raise KeyboardInterrupt
        scored.append(method)
        return score(method, *rest, **named)

    scenes = td.prepare(drawn, tmp_path / "made") and tmp_path / "made" / "train"
    monkeypatch.setattr(scoreboard, "score_method", once)
    with pytest.raises(KeyboardInterrupt):
        td.evaluate(scenes, drawn, tmp_path / "scores", tiny_settings())
    monkeypatch.setattr(scoreboard, "score_method", score)
    rows = td.evaluate(scenes, drawn, tmp_path / "scores", tiny_settings(evaluation__n_seeds=1))
    assert len(rows) == 3
    assert {row["n_seeds"] for row in rows} == {1}


def test_no_test_scene_is_opened_before_the_evaluation(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = SceneFolder.read

    def spy(self: SceneFolder, index: int) -> bytes:
        opened.append(self.scenes[index].name)
        return read(self, index)

    from terradistill.distillation import drawing, learning, refining
    from terradistill.distillation.scoreboard import evaluate_stage
    from terradistill.distillation.work import open_work

    work = open_work(drawn, tmp_path / "run", tiny_settings())
    monkeypatch.setattr(SceneFolder, "read", spy)
    for name in STAGES[1:]:
        room = drawing if name in ("prototypes", "candidates", "export") else learning
        (refining.refined if name == "refine" else getattr(room, name))(work)
    test = {scene.name for scene in work.test.scenes}
    assert opened
    assert not test & set(opened)
    evaluate_stage(work)
    assert test <= set(opened)


def test_a_generator_that_saw_the_exam_is_refused(finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    other = tmp_path / "split.json"
    save_split(other, *split_scenes(check_scenes(open_scenes(drawn))[0], 0.5, 5))
    with pytest.raises(td.TerraDistillError, match="has learned from"):
        td.distill(drawn, tmp_path / "a", tiny_settings(generator=str(finished.run), data__split_file=other))
    as_it_is = tiny_settings(generator=str(finished.run), finetune__steps=0)
    made = td.distill(drawn, tmp_path / "b", as_it_is, evaluate=False)
    assert len(made.scenes) == 6
    assert made.scores == []
    assert not (tmp_path / "b" / "generator").exists()


def test_a_given_generator_is_adapted_and_never_judged_by_what_it_saw(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(generator=str(finished.run), data__split_seed=5, finetune__steps=6)
    made = td.distill(drawn, tmp_path / "run", settings, evaluate=False)
    train, test = load_split(made.run / "split.json", open_scenes(drawn))
    seen = set(json.loads((finished.run / "generator" / "learned_from.json").read_text())["sha256"])
    assert not seen & {scene.sha256 for scene in test.scenes}
    learned = set(json.loads((made.run / "generator" / "learned_from.json").read_text())["sha256"])
    assert learned == seen | {scene.sha256 for scene in train.scenes}
    before, after = (td.Generator.load(run) for run in (finished.run, made.run))

    def same(part: str) -> bool:
        weights = [getattr(generator, part).state_dict().values() for generator in (before, after)]
        return all(torch.equal(a, b) for a, b in zip(*weights, strict=True))

    assert same("vae")
    assert not same("unet")
    assert not same("text_encoder")


def test_a_given_generator_is_adapted_by_low_rank_adapters_that_leave_a_plain_folder(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    changes = {"lora_rank": 2, "steps": 6}  # which freezes the text encoder
    settings = tiny_settings(
        generator=str(finished.run), **{f"finetune__{name}": value for name, value in changes.items()}
    )
    made = td.distill(drawn, tmp_path / "run", settings, evaluate=False)
    before, after = (td.Generator.load(run) for run in (finished.run, made.run))
    text, unet = ([getattr(g, part).state_dict() for g in (before, after)] for part in ("text_encoder", "unet"))
    assert all(torch.equal(text[0][name], text[1][name]) for name in text[0])
    changed = {name for name in unet[0] if not torch.equal(unet[0][name], unet[1][name])}
    assert changed
    assert all(any(layer in name for layer in ("to_", "conv", "proj", "ff.net")) for name in changed)
    assert "conv_in.weight" not in changed


@pytest.mark.parametrize("rank", [None, 2])
def test_a_weaker_denoiser_is_adapted_as_the_stronger_is(
    finished: td.Distilled, drawn: Path, tmp_path: Path, rank: int | None
) -> None:
    given = td.Generator.load(finished.run)
    given.weaker = Weaker.like(given)
    for parameter in given.weaker.parameters():
        parameter.mul_(0.9)
    given.save(tmp_path / "given")
    settings = tiny_settings(generator=str(tmp_path / "given"), finetune__steps=3, finetune__lora_rank=rank)
    made = td.Generator.load(td.train(drawn, tmp_path / "run", settings))
    assert made.weaker is not None
    parts = (given.weaker.unet, made.weaker.unet, given.unet, made.unet)
    weaker, followed, before, after = (part.state_dict() for part in parts)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name in before:
        torch.testing.assert_close(followed[name] - weaker[name], after[name] - before[name], atol=1e-6, rtol=1e-4)


def test_a_decoder_is_trained_on_and_the_latents_stay(finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    settings = tiny_settings(generator=str(finished.run), autoencoder__steps=4)
    folder = td.train(drawn, tmp_path / "run", settings, until="decoder")
    before, after = (td.Generator.load(source).vae.state_dict() for source in (finished.run, folder))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}
    assert td.train(drawn, tmp_path / "run", settings, until="decoder") == folder  # done already
    with pytest.raises(td.TerraDistillError, match="--generator"):
        td.train(drawn, tmp_path / "none", tiny_settings(), until="decoder")
    with pytest.raises(td.TerraDistillError, match="another --out"):
        td.train(drawn, tmp_path / "run", settings)  # would put the decoder of before in its place


def test_a_distilled_folder_can_be_scored_by_itself(finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    rows = td.evaluate(finished.run / "distilled", drawn, tmp_path / "scores", tiny_settings())
    assert [row["method"] for row in rows] == ["distilled", "random", "full"]
    assert rows[0]["oa"] == finished.scores[0]["oa"]
    two = tmp_path / "two"
    td.write_scene_folder(two, ("a", "b"), np.zeros((2, 8, 8, 3), np.uint8), [0, 1], [{}, {}], {"name": "two"})
    with pytest.raises(td.TerraDistillError, match="differ in the classes"):
        td.evaluate(two, drawn, tmp_path / "none", tiny_settings())


def test_scenes_drawn_by_a_generator_that_saw_the_exam_are_refused(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    orders = [td.Order(f"a {name}", name) for name in finished.scenes.classes]
    td.generate(orders, tmp_path / "made", td.Generator.load(finished.run), n=2, settings=tiny_settings())
    other, same = tmp_path / "split.json", finished.run / "split.json"
    save_split(other, *split_scenes(check_scenes(open_scenes(drawn))[0], 0.5, 5))
    with pytest.raises(td.TerraDistillError, match="has learned from test scenes"):
        td.evaluate(tmp_path / "made", drawn, tmp_path / "a", tiny_settings(data__split_file=other))
    assert td.evaluate(tmp_path / "made", drawn, tmp_path / "b", tiny_settings(data__split_file=same))
    # Where no split is given, one is drawn that keeps the exam free of what the generator has learned from.
    assert td.evaluate(tmp_path / "made", drawn, tmp_path / "c", tiny_settings(data__split_seed=5))
    seen = set(json.loads((tmp_path / "made" / "learned_from.json").read_text())["sha256"])
    assert not seen & {scene["sha256"] for scene in json.loads((tmp_path / "c" / "split.json").read_text())["test"]}


def test_a_dataset_that_a_generator_knows_by_its_title_alone_is_told_of(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    given, data = (Path(shutil.copytree(path, tmp_path / path.name)) for path in (finished.run / "generator", drawn))
    note = json.loads((given / "learned_from.json").read_text())
    (given / "learned_from.json").write_text(json.dumps(note | {"sources": {"Mine": "none"}}))
    for path in data.rglob("*.png"):
        with Image.open(path) as image:
            larger = image.resize((48, 48))
        larger.save(path)
    settings, told = tiny_settings(generator=str(given)), {}
    for title in ("Mine", "Another"):
        (data / "dataset.json").write_text(json.dumps({"title": title}))
        reporter = Mock()
        open_work(data, tmp_path / title, settings, reporter=reporter).run.close()
        told[title] = [call.args[0] for call in reporter.say.call_args_list]
    said = [line for line in told["Mine"] if "has learned from Mine, and recognises none" in line]
    assert len(said) == 1
    assert not [line for line in told["Another"] if "recognises none" in line]


def test_a_run_goes_on_with_the_generator_and_the_notes_it_began_with(
    finished: td.Distilled, drawn: Path, tmp_path: Path
) -> None:
    given = Path(shutil.copytree(finished.run / "generator", tmp_path / "given"))
    data = Path(shutil.copytree(drawn, tmp_path / "data"))
    name = next(data.rglob("*.png")).relative_to(data).as_posix()
    (data / "metadata.jsonl").write_text(json.dumps({"file_name": name, "month": 7}) + "\n")
    settings = tiny_settings(generator=str(given), finetune__steps=2, data__train_fraction=0.7)
    work = open_work(data, tmp_path / "run", settings)
    before = work.metadata()
    work.run.close()
    (data / "metadata.jsonl").write_text(json.dumps({"file_name": name, "month": 1}) + "\n")
    work = open_work(data, tmp_path / "run", settings)
    assert work.metadata() == before
    work.run.close()
    shutil.copy(next((finished.run / "autoencoder").glob("*.safetensors")), given / "unet")
    with pytest.raises(td.TerraDistillError, match="not the generator that"):
        open_work(data, tmp_path / "run", settings)


def test_what_a_late_stage_would_refuse_is_refused_at_once(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(td.TerraDistillError, match=r"autoencoder\.crop is 24"):
        td.train(drawn, tmp_path / "a", tiny_settings(autoencoder__crop=24, autoencoder__block_channels=(8,) * 5))
    data = Path(shutil.copytree(drawn, tmp_path / "data"))
    rows = [{"file_name": path.relative_to(data).as_posix(), "month": 13} for path in data.rglob("*.png")]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(td.TerraDistillError, match="month is 13"):
        td.train(data, tmp_path / "b", tiny_settings(diffusion__metadata=True))
    assert not (tmp_path / "b").exists()


def test_what_a_given_generator_cannot_read_is_refused_at_once(drawn: Path, tmp_path: Path) -> None:
    given = td.train(drawn, tmp_path / "given", tiny_settings(diffusion__metadata=True))
    data = Path(shutil.copytree(drawn, tmp_path / "data"))
    (data / "dataset.json").write_text(json.dumps({"gsd_m": 5}))
    rows = [{"file_name": path.relative_to(data).as_posix(), "cloud_fraction": 35} for path in data.rglob("*.png")]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = tmp_path / "given" / "split.json"
    wanted = {"generator": str(given), "data__split_file": split, "finetune__steps": 2}
    with pytest.raises(td.TerraDistillError, match="cloud_fraction is 35"):
        td.train(data, tmp_path / "a", tiny_settings(**wanted, diffusion__metadata=True))
    assert not (tmp_path / "a").exists()
    # A share of clouds means nothing to it, and is not learned unless that is asked for.
    adapted = td.Generator.load(td.train(data, tmp_path / "b", tiny_settings(**wanted)))
    assert adapted.metadata_encoder is not None
    assert adapted.metadata_encoder.learned == ("gsd_m", "month")

    classes = sorted(path.name for path in data.iterdir() if path.is_dir())
    readable = {name: f"the same words again and again and so on for ever, {name}" for name in classes}
    (data / "dataset.json").write_text(json.dumps({"readable": readable}))
    with pytest.raises(td.TerraDistillError, match="read alike"):
        td.train(data, tmp_path / "c", tiny_settings(**wanted))


def test_scenes_that_only_the_generator_has_learned_from_are_looked_at_for_copies(drawn: Path, tmp_path: Path) -> None:
    given = td.train(drawn, tmp_path / "given", tiny_settings(data__train_fraction=0.75))
    for _ in range(2):  # and when the run is taken up again
        work = open_work(drawn, tmp_path / "run", tiny_settings(generator=str(given)))
        assert (len(work.train), len(work.test), len(work.aside)) == (18, 9, 9)
        known, _ = work.known_at(64)
        assert {scene.name for scene in known.scenes} == {
            scene.name for side in (work.train, work.aside) for scene in side.scenes
        }
        hashes = td.Generator.load(given).learned_from
        assert {scene.sha256 for scene in known.scenes} == hashes
        work.run.close()


def test_a_scene_is_known_by_its_class_as_often_as_by_its_captions(drawn: Path, tmp_path: Path) -> None:
    for share, times in ((0.5, 3), (0.0, 0), (0.75, 9)):
        captions = tmp_path / "captions.jsonl"
        names = [scene.name for scene in open_scenes(drawn).scenes]
        rows = [
            {"file_name": name, "captions": ["one", "two", "two", "three"] * (i > 0)} for i, name in enumerate(names)
        ]
        captions.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = tiny_settings(diffusion__class_share=share, data__train_fraction=0.9)
        work = open_work(drawn, tmp_path / str(share), settings, captions=captions)
        prompts = work.prompts()
        found = dict(zip((scene.name for scene in work.train.scenes), work.captions(), strict=True))
        labels = {scene.name: scene.label for scene in work.train.scenes}
        for name, texts in found.items():
            prompt = prompts[labels[name]]
            assert texts == ([prompt] if name == names[0] else [prompt] * times + ["one", "two", "three"])
        work.run.close()


def test_an_adaptation_is_as_long_as_its_data_bear_and_says_what_it_passes_over(drawn: Path, tmp_path: Path) -> None:
    settings = td.Settings(generator="base-128")
    assert [settings.finetune.of(settings.diffusion, n).steps for n in (40, 120, 100_000)] == [125, 375, 400]
    assert [views_needed(settings, n) for n in (500, 40_000, 1_000_000)] == [4, 2, 1]
    assert views_needed(td.Settings(generator=None), 10**6) == 4

    class Told(Silent):
        lines: ClassVar[list[str]] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

    given = td.train(drawn, tmp_path / "given", tiny_settings())
    split = tmp_path / "given" / "split.json"
    wanted = tiny_settings(
        generator=str(given), data__split_file=split, finetune__steps=1, data__resolution=48, diffusion__noise_shift=3.0
    )
    td.train(drawn, tmp_path / "run", wanted, reporter=Told())
    said = " ".join(Told.lines)
    assert "data.resolution has no effect where a generator is adapted; only --from-scratch has one" in said
    assert "diffusion.noise_shift has no effect" in said
    assert "diffusion.steps has no effect where a generator is adapted; finetune.steps has one" in said
    told = json.loads((tmp_path / "run" / "generator" / "learned_from.json").read_text())
    assert len(told["sources"]) == 1


def test_the_exam_is_guarded(finished: td.Distilled, drawn: Path, tmp_path: Path) -> None:
    judged = Path(shutil.copytree(finished.run / "distilled", tmp_path / "judged"))
    split = finished.run / "split.json"
    settings = tiny_settings(data__split_file=split, evaluation__methods=("distilled",))
    td.evaluate(judged, drawn, tmp_path / "scores", settings)
    image = next(judged.rglob("*.png"))
    Image.new("RGB", (32, 32), "red").save(image)
    with pytest.raises(td.TerraDistillError, match="scores of other scenes"):
        td.evaluate(judged, drawn, tmp_path / "scores", settings)
    exam = json.loads(split.read_text())["test"][0]["name"]
    image.write_bytes((drawn / exam).read_bytes())
    with pytest.raises(td.TerraDistillError, match="exact copies of test scenes"):
        td.evaluate(judged, drawn, tmp_path / "leak", settings)


def test_a_run_inside_its_data_is_refused(drawn: Path) -> None:
    with pytest.raises(td.TerraDistillError, match="lies inside"):
        td.distill(drawn, drawn / "run", tiny_settings())
    assert not (drawn / "run").exists()


def test_the_first_stages_alone(drawn: Path, tmp_path: Path) -> None:
    assert (td.train(drawn, tmp_path / "a", tiny_settings(), until="autoencoder") / "config.json").is_file()
    with pytest.raises(td.TerraDistillError, match="brings its own"):
        td.train(drawn, tmp_path / "b", tiny_settings(generator="x"), until="autoencoder")


def test_a_generator_learns_from_several_folders_and_what_is_known_of_them(drawn: Path, tmp_path: Path) -> None:
    larger = draw_scenes(tmp_path / "larger", per_class=8, size=64, n_classes=2, seed=1)
    settings = tiny_settings(diffusion__metadata=True, diffusion__balance=0.5)
    folder = td.train([drawn, larger], tmp_path / "run", settings)
    # From the split file alone, as after a kill: the resolution is still that of the resized squares.
    work = open_work([drawn, larger], tmp_path / "run", settings)
    assert open_scenes(drawn).info.gsd_m == 2 * (open_scenes(larger).info.gsd_m or 0)
    assert {row["gsd_m"] for row in work.metadata()} == {open_scenes(drawn).info.gsd_m}
    assert len(work.train.classes) == 5
    work.run.close()

    other = draw_scenes(tmp_path / "other", per_class=8, size=32, n_classes=2, seed=2)
    made = td.distill(other, tmp_path / "made", tiny_settings(generator=str(folder)), evaluate=False)
    assert len(made.scenes) == 4
