"""What is computed with, and where float16 would lose something."""

from types import SimpleNamespace

import pytest
import torch

from terradistill import health
from terradistill.hardware import PRECISIONS, Hardware, describe, find_hardware


@pytest.mark.parametrize(("name", "half"), PRECISIONS.items())
def test_a_precision_is_that_of_the_forward_pass(name: str, half: torch.dtype | None) -> None:
    hardware = find_hardware(name)
    assert describe(hardware)["precision"] == name
    a = torch.ones(2, 2, device=hardware.device)
    with hardware.autocast():
        assert (a @ a).dtype == (half or torch.float32)


@pytest.mark.parametrize(("gib", "advised"), [(8, True), (80, False)])
def test_the_doctor_advises_small_gpus(gib: int, advised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=gib << 30))
    ((name, said),) = health._gpu()
    assert name == "memory of the GPU"
    assert said.startswith(f"{gib}.0 GiB")
    assert ("sampling.low_memory=true" in said) is advised


def test_nothing_is_trained_in_float16() -> None:
    cpu = torch.device("cpu")
    assert Hardware(cpu, torch.float16).learning == Hardware(cpu)
    assert Hardware(cpu, torch.bfloat16).learning == Hardware(cpu, torch.bfloat16)
