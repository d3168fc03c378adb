"""Where the denoiser's time goes: its share of the machine's peak, and the operators that take it.

    python bench/operators.py [GENERATOR] [--batch 100] [--times 3] [--precision bf16]

The denoiser is asked for so many images at a time, as in sampling. The peak is the fastest matrix product and the
fastest 3x3 convolution that this machine was seen to do in the same precision. Shares are of the time of the operators
themselves, without what they call; then the convolutions one by one, those that take at least a fiftieth.
"""

import argparse
import time
from collections import defaultdict

import torch
from sampling import flops_of, peak
from torch.profiler import ProfilerActivity, profile

from terradistill.hardware import PRECISIONS, find_hardware
from terradistill.models.generator import Generator, denoise

KINDS = {  # of operators, by parts of their names; the first that fits
    "convolutions": ("conv",),
    "attention": ("attention", "softmax"),
    "matrix products": ("mm", "linear", "matmul"),
    "norms": ("norm",),
    "activations": ("silu", "gelu", "sigmoid", "mul"),
    "copies and joins": ("copy", "_to", "clone", "contiguous", "cat", "empty"),
    "sums": ("add", "sub", "mean", "sum"),
}


def kind(name: str) -> str:
    """What an operator is, by its name."""
    return next((found for found, parts in KINDS.items() if any(part in name for part in parts)), "all else")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator", nargs="?", default="base-128")
    parser.add_argument("--batch", type=int, default=100, help="images at a time")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto")
    asked = parser.parse_args()

    generator, hardware = Generator.load(asked.generator).frozen(), find_hardware(asked.precision)
    generator.to(hardware.device)
    on_gpu = hardware.device.type == "cuda"
    z = torch.randn(asked.batch, *generator.latent_shape, device=hardware.device)
    text = generator.embed(["a satellite image"]).to(hardware.device).expand(asked.batch, -1, -1)
    t = torch.tensor(500, device=hardware.device)

    def ask(times: int) -> float:
        """Seconds of a call."""
        began = time.perf_counter()
        with torch.no_grad(), hardware.autocast():
            for _ in range(times):
                denoise(generator, z, t, text)
        if on_gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / times

    ask(1)  # to warm up
    seconds, best, operations = ask(asked.times), peak(hardware), flops_of(generator, hardware)
    watched = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=watched, record_shapes=True, with_flops=True) as profiler:
        ask(asked.times)

    rate = asked.batch * operations / seconds
    machine = f"{hardware.precision} on {hardware.name}, {torch.get_num_threads()} threads"
    print(f"{asked.generator}: {operations / 1e9:.2f} GFLOP an image, {asked.batch} images in {seconds:.2f} s")
    print(f"{rate / 1e12:.2f} TFLOP/s in {machine}")
    for name, most in best.items():
        print(f"{rate / most:.0%} of the fastest {name}, {most / 1e12:.2f} TFLOP/s")
    shares, own = defaultdict[str, float](float), "self_device_time_total" if on_gpu else "self_cpu_time_total"
    for event in profiler.key_averages():
        shares[kind(str(event.key))] += getattr(event, own)
    total = sum(shares.values())
    print("\n| operators | share of the time |\n|---|---:|")
    for name, took in sorted(shares.items(), key=lambda each: -each[1]):
        print(f"| {name} | {took / total:.1%} |")
    print("\n| convolution: in | weights | share of the time | of the fastest convolution |\n|---|---|---:|---:|")
    # Autocast asks for a convolution twice, once to cast and once to compute. What computes is called by others, each
    # of which takes some time of its own.
    by_shape = [
        event for event in profiler.key_averages(group_by_input_shape=True) if kind(event.key) == "convolutions"
    ]
    spent, flops, calls = defaultdict[str, float](float), dict[str, float](), dict[str, int]()
    for event in by_shape:
        shapes = " | ".join(" × ".join(map(str, shape)) for shape in event.input_shapes[:2])
        spent[shapes] += getattr(event, own)
        if event.key == "aten::conv2d":
            flops[shapes] = event.flops / event.count
        if event.key == "aten::convolution":
            calls[shapes] = event.count
    for shapes in sorted(calls, key=lambda shapes: -spent[shapes]):
        if spent[shapes] >= total / 50:
            of_peak = 1e6 * flops[shapes] * calls[shapes] / spent[shapes] / best["convolution"]
            print(f"| {shapes} | {spent[shapes] / total:.1%} | {of_peak:.0%} |")


if __name__ == "__main__":
    main()
