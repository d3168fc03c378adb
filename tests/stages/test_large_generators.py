"""Stable Diffusion 1.5, 2.1 and Text2Earth: tiny pipelines of exactly those architectures, saved and distilled with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import terradistill as td
from terradistill.data.images import decode
from terradistill.enhancing.super_resolve import super_resolve
from terradistill.generation.draw import generate
from terradistill.generation.orders import Order
from terradistill.models.frame_adapter import FrameAdapter
from terradistill.models.generator import denoise
from tests.conftest import tiny_settings

KINDS: dict[str, dict[str, Any]] = {
    "stable-diffusion-1.5": {
        "unet": {"attention_head_dim": 2},
        "schedule": ("PNDMScheduler", {"prediction_type": "epsilon"}),
        "text": {"hidden_act": "quick_gelu"},
    },
    "stable-diffusion-2.1": {
        "unet": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
        "schedule": ("DDIMScheduler", {"prediction_type": "v_prediction"}),
        "text": {"hidden_act": "gelu"},
    },
    "text2earth": {
        "unet": {"attention_head_dim": (2, 4), "use_linear_projection": True, "num_class_embeds": 20},
        "schedule": ("DDIMScheduler", {"prediction_type": "epsilon"}),
        "text": {"hidden_act": "gelu"},
    },
}


def tiny_pipeline(kind: str, folder: Path) -> Path:
    """A saved pipeline with random weights, 64 pixels a side."""
    import diffusers
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from terradistill.models.tokenizer import build_tokenizer

    what = KINDS[kind]
    torch.manual_seed(0)
    tokenizer = build_tokenizer([f"a satellite image of {name}" for name in ("farmland", "forest", "river")], 600, 16)
    schedule, more = what["schedule"]
    pipeline: Any = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.18215,
        ),
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=2,
            cross_attention_dim=16,
            norm_num_groups=8,
            **what["unet"],
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **what["text"],
            )
        ),
        tokenizer=tokenizer,
        scheduler=getattr(diffusers, schedule)(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False, **more
        )
        if schedule == "DDIMScheduler"
        else getattr(diffusers, schedule)(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            skip_prk_steps=True,
            **more,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_with_little_memory_it_draws_the_same(kind: str, tmp_path: Path) -> None:
    source = tiny_pipeline(kind, tmp_path / "pipeline")
    orders, drawn = [Order("a satellite image of a river")], []
    for low_memory in (False, True):
        settings = td.Settings(precision="fp32", sampling={"steps": 2, "low_memory": low_memory})
        generator = td.Generator.load(source)
        scenes = generate(orders, tmp_path / str(low_memory), generator, n=2, settings=settings)
        drawn.append(np.stack([decode(scenes.read(i)).astype(int) for i in range(2)]))
    # Each sends the one before it away, and what begins anew the last one: never are two on the device.
    parts: list[Any] = [generator.text_encoder, generator.unet, generator.vae]
    assert [part._hf_hook.prev_module_hook.model for part in parts] == [parts[2], *parts[:2]]
    assert abs(drawn[0] - drawn[1]).max() <= 1, "to the rounding of attention in slices"


def test_it_learns_numbers_that_it_was_never_told(drawn: Path, tmp_path: Path) -> None:
    source = tiny_pipeline("stable-diffusion-1.5", tmp_path / "pipeline")
    assert td.Generator.load(source).metadata_encoder is None
    settings = tiny_settings(generator=str(source), finetune__steps=3, diffusion__metadata=True)
    found = td.Generator.load(td.train(drawn, tmp_path / "run", settings)).metadata_encoder
    assert found is not None
    assert "gsd_m" in found.learned


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_adapted_by_low_rank_adapters_and_drawn_from(kind: str, drawn: Path, tmp_path: Path) -> None:
    source = tiny_pipeline(kind, tmp_path / "pipeline")
    generator = td.Generator.load(source)
    assert (generator.factor, generator.resolution, generator.parameterisation.kind) == (
        8,
        64,
        KINDS[kind]["schedule"][1]["prediction_type"],
    )
    settings = tiny_settings(
        generator=str(source), finetune__steps=3, finetune__lora_rank=4, finetune__text_encoder=False
    )
    made = td.distill(drawn, tmp_path / "run", settings, evaluate=False)
    assert {(scene.width, scene.height) for scene in td.check_scenes(made.scenes)[0].scenes} == {(64, 64)}
    before, after = (td.Generator.load(folder) for folder in (source, made.run))
    changed = [
        name
        for name, weight in after.unet.state_dict().items()
        if not torch.equal(weight, before.unet.state_dict()[name])
    ]
    assert changed
    assert all(any(layer in name for layer in ("attn", "conv", "proj", "ff.net")) for name in changed)
    assert after.unet.config.num_class_embeds == before.unet.config.num_class_embeds
    same = zip(after.text_encoder.parameters(), before.text_encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = tiny_settings(generator="lcybuaa/Text2Earth", finetune__steps=3)
    with pytest.raises(td.TerraDistillError, match="lcybuaa/Text2Earth cannot be") as error:
        td.distill(drawn, tmp_path / "run", settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_read_beside_it_and_a_fresh_adapter_changes_nothing(kind: str, drawn: Path, tmp_path: Path) -> None:
    source = tiny_pipeline(kind, tmp_path / "pipeline")
    generator = td.Generator.load(source)
    adapter = FrameAdapter(generator.unet, generator.factor, bands="RGB", scale=4, about={"task": "timelapse"})
    generator.frozen()
    frames, numbers = torch.randn(2, 3, 3, 16, 16), adapter.of_frame.table([{"month": 3.0}] * 3).expand(2, -1, -1)
    z, text = torch.randn(2, 4, 8, 8), generator.embed(["a river"]).expand(2, -1, -1)
    with torch.no_grad():
        read = adapter.control(frames, numbers, adapter.of_target.table([{"month": 9.0}] * 2))
        assert torch.equal(*[denoise(generator, z, torch.tensor(400), text, control=each) for each in (read, None)])

    settings = tiny_settings(
        generator=str(source), enhancer__scale=4, enhancer__steps=3, enhancer__batch_size=4, enhancer__warmup_steps=1
    )
    run = td.train(drawn, tmp_path / "run", settings, until="enhancer")
    own = {name: value.clone() for name, value in generator.unet.state_dict().items()}
    beside = td.Generator.load(run)
    assert all(torch.equal(value, own[name]) for name, value in beside.unet.state_dict().items())
    assert any(part.weight.any() for part in beside.frame_adapter.skips)  # type: ignore[union-attr]
    Image.fromarray(np.full((24, 16, 3), 90, np.uint8)).save(tmp_path / "small.png")
    made = super_resolve(tmp_path / "small.png", tmp_path / "out", tiny_settings(generator=str(run)))
    with Image.open(made / "small.png") as image:
        assert image.size == (64, 96)
