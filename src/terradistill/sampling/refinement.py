"""Refining a chosen set: its light moves until it looks, as a set, as its class does."""

from collections.abc import Callable

import torch
from torch import Tensor

from terradistill.hardware import Hardware
from terradistill.models.generator import Generator

BATCH = 64  # images through the autoencoder at a time


def refine(
    latents: Tensor,
    generator: Generator,
    gap: Callable[[Tensor, int], Tensor],
    *,
    rounds: int,
    steps: int,
    rate: float,
    hardware: Hardware,
) -> Tensor:
    """Lower a gap by what the images of latents show, and keep of that what the autoencoder can say [ours].

    Steps are taken in pixels, where they cost no pass through the decoder. The channels of a pixel move alike: free to
    choose hues, random networks ask for coloured blotches. Steps go down the gradient of each image, each as long as
    the image has contrast, or calm water would be given a texture; Adam, which moves every pixel as far, mottles what
    was plain. After each round what has moved is encoded and decoded anew, which undoes what no scene would hold.

    Args:
        latents: float (n, C, h, w), scaled, as drawn.
        generator: whose autoencoder it is.
        gap: of images (n, 3, H, W), around [-1, 1], at a step, counted through all rounds; differentiable.
        rounds: 0 changes nothing.
        steps: in each round.
        rate: root mean square of what a step moves an image by, as a share of the deviation of its light.
        hardware: where and in which precision to compute.

    Returns:
        Latents of the same shape.
    """
    if not rounds * steps:
        return latents

    def shown(z: Tensor) -> Tensor:
        with hardware.autocast():
            return torch.cat([generator.decode(part) for part in z.split(BATCH)])

    def said(x: Tensor) -> Tensor:
        with hardware.autocast():
            return torch.cat([generator.encode(part.clamp(-1, 1))[0] for part in x.split(BATCH)])

    device = latents.device
    latents = latents.to(hardware.device)
    for part in range(rounds):
        images = shown(latents)
        light = torch.zeros_like(images[:, :1]).requires_grad_(True)
        length = rate * images.mean(1, keepdim=True).std((1, 2, 3), keepdim=True)
        for step in range(steps):
            (slope,) = torch.autograd.grad(gap(images + light, part * steps + step), light)
            size = slope.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-20)
            light = (light - length * slope / size).detach().requires_grad_(True)
        latents = latents + said(images + light.detach()) - said(images)
    return latents.to(device)
