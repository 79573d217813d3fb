"""Several processes that share a measurement, as torchrun and `accelerate launch` start them: each has a part, all get the whole.

What they tell each other is small (numbers and words, by gloo through the CPU), whatever device each computes on.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from tessera.errors import TesseraError

__all__ = ["Processes", "joined_processes"]

PATIENCE = timedelta(days=7)
"""How long one waits for the slowest of the others; torch's own limit of 30 minutes is that of a training step."""


@dataclass(frozen=True)
class Processes:
    """This one is number `rank` of `count`; `local` counts those of this machine only."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, asked: str) -> str:
        """Of this process: where any GPU is asked for, one of its own."""
        if self.count > 1 and (asked == "cuda" or (asked == "auto" and torch.cuda.is_available())):
            return f"cuda:{self.local}"
        return asked

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in their order; all have to call it."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """The processes that were started together with this one, or this one alone. Raises TesseraError when they do not find each other."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    try:
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TesseraError(
            f"the {count} processes do not find each other ({reason}): start them with torchrun or accelerate launch"
        ) from None
    try:
        yield Processes(torch.distributed.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        gc.collect()  # what still refers to the group keeps its threads, which can abort a program that ends
        torch.distributed.destroy_process_group()
