"""How real a set looks, beside what real scenes reach."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import terradistill as td
from terradistill.data.drawn import draw_scenes
from terradistill.distillation import teacher
from terradistill.distillation.fidelity import _fit
from terradistill.errors import EvaluationError
from terradistill.evaluation.harness import Labelled
from terradistill.models.clip import Clip
from terradistill.settings import EvaluationSettings
from tests.conftest import terradistill, tiny_settings


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, with its processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPVisionConfig

    from terradistill.models.tokenizer import build_tokenizer

    root = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(["a satellite image of a river", "a satellite image of a forest"], 700, 24)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=16, **sizes)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(root)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(root)
    return root


def test_unseen_scenes_are_at_the_floor_and_noise_is_not(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = draw_scenes(tmp_path / "real", per_class=60, size=64, n_classes=3)
    draw_scenes(tmp_path / "fresh", per_class=15, size=64, n_classes=3, seed=7)
    classes = td.open_scenes(real).classes
    pixels = np.random.default_rng(0).integers(0, 256, (45, 64, 64, 3), dtype=np.uint8)
    td.write_scene_folder(tmp_path / "noise", classes, pixels, np.repeat([0, 1, 2], 15), [{}] * 45, {"name": "noise"})
    monkeypatch.setattr(teacher, "RECIPE", EvaluationSettings(min_steps=60, max_steps=60))
    found = {}
    for name in ("fresh", "noise"):
        more = ["--clip", str(clip)] if name == "fresh" else []
        command = [
            "bench",
            "fidelity",
            str(tmp_path / name),
            "--against",
            str(real),
            "--out",
            str(tmp_path / f"to-{name}"),
        ]
        code, error = terradistill(*command, *more, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, error
        found[name] = json.loads((tmp_path / f"to-{name}" / "fidelity.json").read_text())
    good, bad, floor = found["fresh"]["made"], found["noise"]["made"], found["fresh"]["floor"]
    assert good["n"] == floor["n"] == 45
    assert bad["kid"] > 10 * abs(good["kid"])
    assert bad["fid"] > 1.5 * good["fid"]
    assert good["fid"] < 2 * floor["fid"]
    assert bad["coverage"] < good["coverage"]
    assert good["intra_class_coverage"] > bad["intra_class_coverage"]
    assert {"zero_shot_oa", "clip_score"} <= set(good)
    assert "clip_score" not in bad


def test_a_clip_sees_each_image_alone(clip: Path) -> None:
    model = Clip.load(str(clip), torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
    together = model.similarities(images, ["a river", "a forest"], batch_size=5)
    assert together.shape == (5, 2)
    assert (together.abs() <= 1 + 1e-6).all()
    torch.testing.assert_close(model.similarities(images, ["a river", "a forest"], batch_size=2), together)


def test_the_fit_to_the_words_is_that_of_each_image_s_own_class(drawn: Path) -> None:
    train = td.open_scenes(drawn)
    work: Any = SimpleNamespace(train=train, settings=tiny_settings())
    k, labels = len(train.classes), np.array([0, 0, 1, 2])
    cosines = torch.zeros(len(labels), k)
    cosines[range(4), [0, 1, 1, 2]] = torch.tensor([0.2, 0.3, 0.4, 0.6])  # the second looks like another class
    asked: list[list[str]] = []

    def similarities(_: Any, prompts: list[str]) -> torch.Tensor:
        asked.append(prompts)
        return cosines

    clip: Any = SimpleNamespace(similarities=similarities)
    found = _fit(clip, Labelled(np.zeros((4, 8, 8, 3), np.uint8), labels), work)
    assert found == {"clip_score": 30.0, "zero_shot_oa": 0.75}
    assert all(train.readable(name) in prompt for name, prompt in zip(train.classes, asked[0], strict=True))


def test_what_is_no_clip_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EvaluationError, match="CLIP"):
        Clip.load(str(tmp_path), torch.device("cpu"))
