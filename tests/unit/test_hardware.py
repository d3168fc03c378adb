"""What is computed with, and where float16 would lose something."""

import pytest
import torch

from terradistill.hardware import PRECISIONS, Hardware, describe, find_hardware


@pytest.mark.parametrize(("name", "half"), PRECISIONS.items())
def test_a_precision_is_that_of_the_forward_pass(name: str, half: torch.dtype | None) -> None:
    hardware = find_hardware(name)
    assert describe(hardware)["precision"] == name
    a = torch.ones(2, 2, device=hardware.device)
    with hardware.autocast():
        assert (a @ a).dtype == (half or torch.float32)


def test_nothing_is_trained_in_float16() -> None:
    cpu = torch.device("cpu")
    assert Hardware(cpu, torch.float16).learning == Hardware(cpu)
    assert Hardware(cpu, torch.bfloat16).learning == Hardware(cpu, torch.bfloat16)
