"""What this machine computes with: one device, and bfloat16 where it is fast."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

T = TypeVar("T")
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass(frozen=True)
class Hardware:
    """A device and a precision; passed explicitly, never global.

    Attributes:
        device: where to compute.
        half: what to compute in where it is safe, bfloat16 or float16; None: float32 everywhere.
    """

    device: torch.device
    half: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for the forward pass; weights, latents and losses stay float32."""
        return torch.autocast(self.device.type, self.half or torch.bfloat16, enabled=self.half is not None)

    @property
    def learning(self) -> "Hardware":
        """The same for training: small gradients would be nothing in float16, which therefore only draws and judges."""
        return replace(self, half=None) if self.half == torch.float16 else self

    @property
    def precision(self) -> str:
        return next(name for name, half in PRECISIONS.items() if half == self.half)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else _cpu_name()


def find_hardware(precision: str = "auto") -> Hardware:
    """The best device at hand.

    Args:
        precision: a key of `PRECISIONS`, or "auto": bfloat16 where the hardware multiplies it natively, float16 on
            other CUDA devices, else float32.
    """
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # The same command must give the same images; filling fresh memory as well would only cost time.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        device, best = torch.device("cuda"), torch.bfloat16 if native else torch.float16
    elif torch.backends.mps.is_available():
        device, best = torch.device("mps"), None
    else:
        _keep_freed_memory()
        device, best = torch.device("cpu"), torch.bfloat16 if _cpu_has_bf16() else None
    return Hardware(device, best if precision == "auto" else PRECISIONS[precision])


def describe(hardware: Hardware) -> dict[str, Any]:
    """What a manifest says of the machine."""
    return {
        "name": hardware.name,
        "device": str(hardware.device),
        "precision": hardware.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, of a GPU or of the machine."""
    said = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in said)


def fitting(size: int, work: Callable[[int], T]) -> tuple[T, int]:
    """What work gives, done for so many at a time, or for half as many, and again, until memory suffices; and how many.

    Args:
        size: at a time, at first.
        work: from a size to what it gives; tried anew as a whole.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or size == 1:
                raise
        size //= 2
        torch.cuda.empty_cache()  # not above: the error holds on to what was computed


def _keep_freed_memory() -> None:
    # glibc hands large blocks back to the kernel and faults every page in again, at every step.
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library, another habit
    top_pad, trim_threshold, mmap_threshold = -2, -1, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 28)


def _cpu_has_bf16() -> bool:
    # bfloat16 without AMX or AVX512-BF16 is emulated, and slower than float32.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def _cpu_name() -> str:
    import platform
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
