"""Arrays on disk, written a part at a time and mapped: memory holds what is looked at, not all that there is."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMPTY: NDArray[np.float32] = np.empty(0, np.float32)


def write_array(path: Path, n: int, parts: Iterable[NDArray[Any]], empty: NDArray[Any] = EMPTY) -> None:
    """Write a `.npy` file of n rows that come in parts, in their order.

    As a stream and not through a map: on a full disk a map dies without a word.

    Args:
        path: the file.
        n: rows of all parts.
        parts: of any number of rows, all of one kind.
        empty: of that kind, for no parts at all.
    """
    parts = iter(parts)
    first = next(parts, empty)
    descr = np.lib.format.dtype_to_descr(first.dtype)
    with path.open("wb") as file:
        shape = (n, *first.shape[1:])
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        written = 0
        for part in chain([first], parts):
            if (part.shape[1:], part.dtype) != (first.shape[1:], first.dtype):
                raise ValueError(f"a part is {part.dtype} {part.shape}, the first {first.dtype} {first.shape}")
            file.write(np.ascontiguousarray(part).data)
            written += len(part)
        if written != n:
            raise ValueError(f"{written} rows came, {n} were announced")


def mapped(path: Path) -> NDArray[Any]:
    """A `.npy` file as a read-only map."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except ValueError:  # nothing cannot be mapped
        array = np.load(path)
    return array


class Rows:
    """Some rows of an array, read when they are asked for.

    Attributes:
        array: (N, …), perhaps mapped.
        index: int64 (n,), which rows.
    """

    def __init__(self, array: NDArray[Any], index: NDArray[np.int64]) -> None:
        self.array, self.index = array, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: "slice | NDArray[np.int64]") -> NDArray[Any]:
        found: NDArray[Any] = np.asarray(self.array[self.index[which]])
        return found


def by_class(array: NDArray[Any], labels: NDArray[np.int64], n_classes: int) -> list[Rows]:
    """The rows of each class."""
    return [Rows(array, np.flatnonzero(labels == label)) for label in range(n_classes)]


def evenly(n: int, of: int) -> NDArray[np.int64]:
    """n places of `of`, spread from the first to the last: all of them where there are fewer."""
    return np.unique(np.linspace(0, of - 1, n).astype(np.int64))
