from pathlib import Path

import pytest
import torch

from terradistill.training.progress import Checkpoint, Ema, learning_rate


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [learning_rate(step, peak=1.0, warmup=10, total=110, floor=0.1) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == max(rates) == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)


def test_average_is_the_recursion_written_out() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    ema, expected = Ema(module, decay=0.9), 0.0
    for step in range(20):
        with torch.no_grad():
            module.weight.fill_(float(step))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert ema.mean[0].item() == pytest.approx(expected, rel=1e-5)
    ema.swap()
    assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    ema.swap()
    assert module.weight.item() == 19.0


def test_checkpoint_holds_everything_a_loop_changes(tmp_path: Path) -> None:
    def loop(first: int, last: int, file: Path) -> torch.Tensor:
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(36, 4)]
        module = torch.nn.Sequential(*layers)
        module.to(memory_format=torch.channels_last)  # moments lie as weights do, before a stop and after it
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
        ema = Ema(module, 0.9)
        keeper = Checkpoint(file, module, optimizer, ema, seconds=0)
        assert keeper.resume() == first
        for step in range(first, last):
            rng = torch.Generator().manual_seed(step)
            module(torch.randn(8, 2, 5, 5, generator=rng)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(step)
            keeper.maybe_save(step + 1)
        return torch.cat([p.flatten() for p in [*module.state_dict().values(), *ema.mean]])

    whole = loop(0, 6, tmp_path / "whole.safetensors")
    loop(0, 3, tmp_path / "halves.safetensors")
    assert torch.equal(loop(3, 6, tmp_path / "halves.safetensors"), whole)
