"""How near images come to others, as rows of a table and a sheet to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.data.images import to_float
from terradistill.evaluation.fidelity import Lpips
from terradistill.evaluation.similarity import ssim
from terradistill.hardware import Hardware
from terradistill.report.gallery import side_by_side

Pixels = NDArray[np.uint8]
SHOWN = 8


class Table:
    """Rows of measures, printed as they come; the head says of what images all was made."""

    def __init__(self, truth: Pixels, hardware: Hardware, given: str, *more: str) -> None:
        self.truth, self.lpips, self.device = truth, Lpips().to(hardware.device), hardware.device
        self.kept: dict[str, Pixels] = {"scene": truth}
        print(" | ".join([f"| {given:34}", "PSNR dB", "SSIM", "LPIPS", *more]) + " |")
        print("|---" * (4 + len(more)) + "|", flush=True)

    def add(self, name: str, *several: Pixels, more: str | None = None) -> None:
        """A row, of one image a scene or of several drawings of all scenes."""
        found = np.array([self._measured(made) for made in several])
        cells = [told(values, digits) for values, digits in zip(found.T, (2, 3, 3), strict=True)]
        self.kept[name] = several[0]
        print(" | ".join([f"| {name:34}", *cells, *([] if more is None else [more])]) + " |", flush=True)

    def _measured(self, made: Pixels) -> list[float]:
        found: list[list[Tensor]] = [[], [], []]
        for first in range(0, len(made), 32):
            x, y = (to_float(each[first : first + 32]).to(self.device) for each in (made, self.truth))
            error = (x - y).square().mean((1, 2, 3)).clamp_min(1e-9)
            for kept, values in zip(found, (-10 * torch.log10(error / 4), ssim(x, y), self.lpips(x, y)), strict=True):
                kept.append(values)
        return [float(torch.cat(values).mean()) for values in found]

    def picture(self, out: Path | None, rows: Sequence[str]) -> None:
        if out is not None:
            some = np.linspace(0, len(self.truth) - 1, min(SHOWN, len(self.truth))).astype(int)
            kept = [*dict.fromkeys(rows)] or [*self.kept]
            if odd := [name for name in kept if name not in self.kept]:
                raise SystemExit(f"There is no row {odd[0]!r} to show: expected {', '.join(self.kept)}.")
            side_by_side({name: list(self.kept[name][some]) for name in kept}, out)


def told(values: Sequence[float] | NDArray[np.float64], digits: int) -> str:
    """A number, or mean ± standard deviation of several."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"
