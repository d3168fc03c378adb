"""What every training loop needs to be interrupted at any moment and end the same: a rate that depends on the step
alone, as batches and noise do (`terradistill.seeding`), and a checkpoint of everything that changes."""

import math
import time
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from terradistill.errors import GeneratorError
from terradistill.files import replacing


class Watch(Protocol):
    """Whom a loop tells how it goes (a `terradistill.run.Stage`)."""

    def progress(self, done: int, total: int) -> None: ...
    def log(self, step: int, **values: float) -> None: ...
    def forget_after(self, step: int) -> None: ...


class Unwatched:
    """Tells nobody."""

    def progress(self, done: int, total: int) -> None: ...
    def log(self, step: int, **values: float) -> None: ...
    def forget_after(self, step: int) -> None: ...


def learning_rate(step: int, *, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Linear warm-up to `peak`, then a half cosine down to `floor` at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Ema:
    """Exponential moving average of a module's parameters and running statistics, with a short memory at the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        # Batch norms' means and variances belong to the weights: averages of both go together.
        self.live += [b for b in module.buffers() if b.is_floating_point()]
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, self.live, 1 - decay)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        torch._foreach_copy_(self.live, self.mean)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live weights and averages (call twice to look at the averages and go on)."""
        kept = [p.detach().clone() for p in self.live]
        torch._foreach_copy_(self.live, self.mean)
        torch._foreach_copy_(self.mean, kept)


class Checkpoint:
    """Everything that a loop changes, in one safetensors file, written every so often by the clock.

    When it is written has no influence on the result, so the clock may decide.
    """

    def __init__(
        self,
        path: Path | None,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        seconds: float = 60,
    ) -> None:
        self.path, self.module, self.optimizer, self.ema, self.seconds = path, module, optimizer, ema, seconds
        self._last = time.monotonic()

    def resume(self) -> int:
        """Load the file if there is one; the number of steps already done."""
        if self.path is None or not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            step = int((file.metadata() or {})["step"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        self.module.load_state_dict(_strip(tensors, "model."))
        if self.ema is not None:
            for mean, (_, saved) in zip(self.ema.mean, sorted(_strip(tensors, "ema.").items()), strict=True):
                mean.copy_(saved)
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _strip(tensors, "optimizer.").items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        # A file holds no layouts, and a fused step on a CPU takes moments to lie in memory as their parameter does.
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if name != "step" and value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)
        return step

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self.path is not None and time.monotonic() - self._last >= self.seconds

    def maybe_save(self, step: int) -> None:
        """Write after `step` steps, if it is time."""
        if self.due:
            self.save(step)

    def save(self, step: int) -> None:
        """Write after `step` steps."""
        if self.path is None:
            return
        tensors = {f"model.{key}": value for key, value in self.module.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{index:05d}": mean for index, mean in enumerate(self.ema.mean)}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        with replacing(self.path) as temporary:
            save_file(
                {key: value.detach().contiguous() for key, value in tensors.items()}, temporary, {"step": str(step)}
            )
        self._last = time.monotonic()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """`rate` for all weights; times its "scale" for a group that has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def require_finite(loss: float, section: str, rate: float) -> None:
    """Make sure that a training has not diverged.

    Raises:
        GeneratorError: the loss is not a finite number.
    """
    if not math.isfinite(loss):
        raise GeneratorError(
            f"The training diverged (loss {loss}): lower {section}.learning_rate from {rate}, in a new --out."
        )


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
