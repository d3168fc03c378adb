"""Several processes at one run, and whose piece of the work is whose.

Under `accelerate launch` or `torchrun` they share the training too. As shards (`--shard i/n`), which know of each other
by the files of the run folder alone, they share everything else. The first process leads: what cannot be shared it does
while the others wait. Pieces are the same for any number of processes, and so is what is made of them.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from terradistill.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Team:
    """One process among those at a run.

    Attributes:
        rank: its number, from 0, which leads.
        size: how many there are.
        grouped: they are joined (torch.distributed), so that gradients can be summed over them.
    """

    rank: int = 0
    size: int = 1
    grouped: bool = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def takes(self, piece: int) -> bool:
        """Whether a piece of shared work, by its number, is this process's."""
        return piece % self.size == self.rank

    def trains(self, chunks: int) -> "Team":
        """Those who share a training whose steps are computed in so many chunks: all, or each process for itself."""
        return self if self.grouped and chunks % self.size == 0 else Team()

    def sum(self, *tensors: "Tensor") -> None:
        """Put in place of tensors that all processes hold the sums of theirs."""
        if self.size > 1:
            from torch import distributed

            sent = [distributed.all_reduce(each, async_op=True) for each in tensors]
            for each in sent:
                each.wait()

    def wait(self) -> None:
        """Until all of a joined team are here."""
        if self.grouped:
            from torch import distributed

            distributed.barrier()


def find_team(shard: str | None = None) -> Team:
    """This process's place among those at the run.

    Args:
        shard: "i/n", i from 0; None: what `accelerate launch` or `torchrun` says, or alone.

    Raises:
        ConfigError: the shard is none of n, or both were given.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if shard is not None:
        rank, _, size = shard.partition("/")
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise ConfigError(f"--shard is {shard!r}: expected i/n with i from 0 to n - 1, such as 0/4.")
        if launched > 1:
            raise ConfigError(f"{launched} processes were launched together: they need no --shard.")
        return Team(int(rank), int(size))
    if launched == 1:
        return Team()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Team(state.process_index, state.num_processes, grouped=True)


def wait_for(condition: Callable[[], bool], at_most: float = math.inf) -> bool:
    """Wait for what another process does, so many seconds at most; look often at first, every two seconds in the end.

    Returns:
        Whether it came.
    """
    pause, until = 0.02, time.monotonic() + at_most
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(2.0, pause * 1.5)
    return True
