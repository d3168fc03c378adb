"""Low-rank adapters begin as nothing, and what they have learned stays when they are folded in."""

import re

import torch

from terradistill.config import load_settings
from terradistill.models.autoencoder import build_vae
from terradistill.models.generator import build_generator, denoise
from terradistill.models.lora import add_lora, fold_lora
from tests.unit.conftest import awake


def test_attention_alone_is_adapted_as_dpd_does() -> None:
    tiny = load_settings(["tiny"])
    unet = build_generator(tiny.diffusion, build_vae(tiny.autoencoder, 32, 0), 32, ["a field"], 0).frozen().unet
    add_lora(unet, 4, seed=0, layers="attention")
    trained = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    places = {re.search(r"(to_q|to_k|to_v|to_out\.0)\.lora_[AB]", name) for name in trained}
    assert None not in places, "nothing but queries, keys, values and outputs"
    assert {found[1] for found in places if found} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert {weight.shape[0] for name, weight in trained.items() if "lora_A" in name} == {4}
    scales = {module.scaling["default"] for module in unet.modules() if hasattr(module, "scaling")}
    assert scales == {1.0}, "alpha is the rank"


def test_adapters_start_at_zero_learn_alone_and_fold_away() -> None:
    tiny = load_settings(["tiny"])
    generator = build_generator(tiny.diffusion, build_vae(tiny.autoencoder, 32, 0), 32, ["a field"], 0)
    generator.frozen()
    unet, text = awake(generator.unet), generator.embed(["a field"])
    z, t = torch.randn(1, *generator.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([500])

    def output() -> torch.Tensor:
        with torch.no_grad():
            return denoise(generator, z, t, text)

    before, names = output(), set(unet.state_dict())
    torch_state = torch.get_rng_state()
    add_lora(unet, 2, seed=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    torch.testing.assert_close(output(), before)
    trained = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in trained)
    assert {"attn2.to_q", "conv1", "time_emb_proj"} <= {
        part for part in ("attn2.to_q", "conv1", "time_emb_proj") if any(part in name for name in trained)
    }
    with torch.no_grad():
        for weight in trained.values():
            weight.fill_(0.02)
    adapted = output()
    assert (adapted - before).abs().max() > 1e-3
    fold_lora(unet)
    assert set(unet.state_dict()) == names
    torch.testing.assert_close(output(), adapted, rtol=1e-4, atol=1e-5)
