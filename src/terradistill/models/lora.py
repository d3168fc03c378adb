"""Low-rank adapters on the denoiser (LoRA, Hu et al. 2021), by PEFT: put in before a training, folded in after it."""

from typing import Any

import torch

_LAYERS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),  # as DPD adapts Text2Earth
    # Half of a small denoiser lies in its residual blocks.
    "all": (
        *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
        *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    ),
}


def add_lora(unet: Any, rank: int, seed: int, layers: str = "all") -> None:
    """Give layers of a diffusers UNet adapters; only these then take gradients.

    Args:
        unet: diffusers `UNet2DConditionModel`.
        rank: of the adapters, which start as no change at all.
        seed: of their first weights.
        layers: "all" attention and residual layers, or "attention" alone.
    """
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(_LAYERS[layers])))
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name)


def fold_lora(unet: Any) -> None:
    """Add the adapters to the weights that they adapt, and take them out: a plain UNet again."""
    unet.fuse_lora()
    unet.unload_lora()
