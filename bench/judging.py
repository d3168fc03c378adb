"""How long a network of the scoreboard takes to learn, beside the same one of torch's own layers, as they come.

    python bench/judging.py [--network convnet3] [--rounds 5] [--compile]

Steps as `terradistill evaluate` takes them (16 images of 64 pixels), in turn with either network, whose numbers are the
same but for rounding; with --compile also with `evaluation.compile`, which takes a C++ compiler. Prints milliseconds a
step, medians over rounds, and their ratios.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from terradistill.hardware import find_hardware
from terradistill.models.downstream import Halved, build_network
from terradistill.models.efficientnet_lite import EfficientNetLite0

IMAGES, SIDE, CLASSES, STEPS = 16, 64, 10, 10


def plain(network: nn.Module) -> nn.Module:
    """The network with torch's pooling and instance norm, and an EfficientNet in the order and precision of others."""
    if isinstance(body := network.get_submodule("body"), EfficientNetLite0):
        body.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        body.forward = body.logits  # type: ignore[method-assign]
    for name, module in list(network.named_modules()):
        if isinstance(module, Halved):
            network.set_submodule(name, nn.AvgPool2d(2))
        elif isinstance(module, nn.GroupNorm):
            network.set_submodule(name, nn.InstanceNorm2d(module.num_channels, affine=True))
    return network


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=["convnet3", "resnet18", "efficientnet-lite0"], default="convnet3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()

    hardware = find_hardware().learning
    networks = {"plain": plain(build_network(asked.network, CLASSES, SIDE))}
    networks["ours"] = build_network(asked.network, CLASSES, SIDE)
    if asked.compile:
        networks["compiled"] = build_network(asked.network, CLASSES, SIDE)
        networks["compiled"].compile()
    images = torch.rand(IMAGES, 3, SIDE, SIDE) * 2 - 1
    labels = torch.arange(IMAGES) % CLASSES
    images, labels = images.to(hardware.device), labels.to(hardware.device)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(asked.rounds + 1):
        for name, network in networks.items():
            optimizer = torch.optim.AdamW(network.to(hardware.device).parameters(), 1e-3)
            began = time.perf_counter()
            for _ in range(STEPS):
                with hardware.autocast():
                    loss = cross_entropy(network(images), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            loss.item()
            if turn:  # the first warms up
                times[name].append((time.perf_counter() - began) / STEPS * 1e3)
    middle = {name: statistics.median(several) for name, several in times.items()}
    for name, value in middle.items():
        print(f"{name:8} {value:6.1f} ms a step ({min(times[name]):.1f} to {max(times[name]):.1f})")
    for name in list(middle)[1:]:
        print(f"{name}: {middle['plain'] / middle[name]:.1f}× faster than plain")


if __name__ == "__main__":
    main()
