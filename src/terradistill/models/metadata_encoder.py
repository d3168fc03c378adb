"""What is known of a scene in numbers, as a vector beside the time embedding (DiffusionSat)."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terradistill.errors import DataError
from terradistill.models.parts import load_part, save_part

WAVES = 256  # width of the sinusoidal embedding of one field, whatever that of the timestep is [ours]


class MetadataEncoder(nn.Module):
    """One sinusoid and one two-layer network a field; the fields that are known are summed.

    An unknown field is masked out after its network, so it contributes exactly nothing, and is not the same as the
    lowest value of that field (DiffusionSat's release takes one for the other). [ours]

    Attributes:
        ranges: field -> (lowest, highest) value, which become 0 and 1000.
    """

    def __init__(
        self,
        width: int,
        gsd_max_m: float = 10.0,
        days: float | None = None,
        fields: Collection[str] | None = None,
    ) -> None:
        """One network a field.

        Args:
            width: of the time embedding.
            gsd_max_m: 10 in DiffusionSat's paper and 1 in its release.
            days: how far frames may be from the date that is drawn, before and after; None: there are no frames.
            fields: those that it can be told; None: all that there are.
        """
        super().__init__()
        self.width, self.gsd_max_m, self.days = width, gsd_max_m, days
        ranges: dict[str, tuple[float, float]] = {
            "lon": (-180, 180),
            "lat": (-90, 90),
            "gsd_m": (0, gsd_max_m),
            "cloud_fraction": (0, 1),
            "year": (1980, 2100),
            "month": (0, 12),
            "day": (0, 31),
            **({} if days is None else {"days": (-days, days)}),
        }
        self.ranges = {name: ends for name, ends in ranges.items() if fields is None or name in fields}
        self.networks = nn.ModuleDict({name: _network(width) for name in self.ranges})

    @property
    def learned(self) -> tuple[str, ...]:
        """The fields that mean something: a fresh network contributes zero until it has learned."""
        return tuple(name for name, network in self.networks.items() if bool(_last(network).weight.any()))

    def sayable(self, row: Mapping[str, float], fields: Collection[str] | None = None) -> dict[str, float]:
        """What the encoder can be told of a row.

        Args:
            row: what is known.
            fields: those that it may be told; None: those that it has learned. A ground sampling distance that is
                coarser than the largest one is left out.
        """
        fields = self.learned if fields is None else fields
        coarse = row.get("gsd_m", 0) > self.gsd_max_m
        return {
            name: float(value) for name, value in row.items() if name in fields and not (name == "gsd_m" and coarse)
        }

    def table(self, rows: Sequence[Mapping[str, float]]) -> Tensor:
        """Metadata of n scenes as numbers from 0 to 1000, NaN where unknown: float32 (n, fields).

        Raises:
            DataError: a value is no number or out of its range.
        """
        values = torch.full((len(rows), len(self.ranges)), math.nan)
        for j, (name, (low, high)) in enumerate(self.ranges.items()):
            known = [(i, value) for i, row in enumerate(rows) if (value := row.get(name)) is not None]
            if not known:
                continue
            index = torch.tensor([i for i, _ in known])
            found = torch.tensor([value for _, value in known], dtype=torch.float64)
            if len(odd := found[~((low <= found) & (found <= high))]):
                remedy = " (in metres a pixel; a generator's gsd_max_m says how far)" if name == "gsd_m" else ""
                raise DataError(
                    f"The metadata field {name} is {odd[0]:g}: expected a number from {low:g} to {high:g}{remedy}, "
                    "or null where it is unknown."
                )
            values[index, j] = (1000 * (found - low) / (high - low)).float()
        return values

    def values(self, table: Tensor) -> list[dict[str, float]]:
        """The inverse of `table`: known fields of each scene."""
        return [
            {
                name: low + float(value) / 1000 * (high - low)
                for value, (name, (low, high)) in zip(row, self.ranges.items(), strict=True)
                if not math.isnan(value)
            }
            for row in table
        ]

    def forward(self, table: Tensor) -> Tensor:
        """Rows of `table`, (B, fields), to vectors (B, width); a row of NaN to exactly zero."""
        frequencies = torch.exp(-math.log(10_000) * torch.arange(WAVES // 2, device=table.device) / (WAVES // 2))
        angles = table.nan_to_num()[..., None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        total = torch.zeros(len(table), self.width, device=table.device)
        for j, network in enumerate(self.networks.values()):
            known = ~table[:, j].isnan()
            total = total + torch.where(known[:, None], network(waves[:, j]).float(), 0.0)
        return total

    def save(self, folder: Path) -> None:
        """Write the part's folder."""
        about = {"width": self.width, "gsd_max_m": self.gsd_max_m, "days": self.days, "fields": list(self.ranges)}
        save_part(self, about, folder)

    @classmethod
    def load(cls, folder: Path) -> "MetadataEncoder":
        """Open what `save` wrote.

        Raises:
            GeneratorError: it is damaged.
        """
        return load_part(cls, folder, "metadata encoder")


def _network(width: int) -> nn.Module:
    last = nn.Linear(width, width)  # see `_last`
    nn.init.zeros_(last.weight)  # a fresh encoder changes nothing
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(WAVES, width), nn.SiLU(), last)


def _last(network: nn.Module) -> nn.Linear:
    last = list(network.children())[-1]
    assert isinstance(last, nn.Linear)
    return last


@contextmanager
def beside_time(unet: Any, vectors: Tensor | None) -> Iterator[None]:
    """Add vectors (B, width) to a UNet's time embedding while the block runs; its configuration stays stock."""
    if vectors is None:
        yield
        return
    handle = unet.time_embedding.register_forward_hook(lambda _module, _inputs, output: output + vectors.to(output))
    try:
        yield
    finally:
        handle.remove()
