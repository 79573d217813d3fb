"""Exponential moving average of a whole state: parameters and buffers.

    ema ← β ema + (1 - β) x      every `every` steps

over every floating-point entry x of the state dict, as VQ-Diffusion does (its loss statistics pass through the average too);
other entries are copied. With `warmup`, update k (counted from 0) uses min(β, (1 + k) / (10 + k)), so that early averages
forget the initialisation (Tan & Le 2019, the rule of TensorFlow's ExponentialMovingAverage).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tessera.errors import TesseraError

__all__ = ["EMA"]


class EMA:
    """The average of `state`, a name → tensor mapping whose tensors are the live ones (`module.state_dict()`).

    Args:
        state: what to follow. Held by reference: the average reads the present values at each update.
        decay: β in [0, 1).
        every: steps between updates.
        warmup: start with a small β (see above).
    """

    def __init__(self, state: Mapping[str, Tensor], decay: float, every: int = 1, warmup: bool = False) -> None:
        self.decay, self.every, self.warmup = decay, every, warmup
        self.updates = 0
        self.live = {name: value.detach() for name, value in state.items()}
        self.average = {name: value.clone() for name, value in self.live.items()}
        self._floating = [name for name, value in self.live.items() if value.is_floating_point()]

    def step(self, step: int) -> None:
        """After optimiser step `step`, counted from 1."""
        if step % self.every == 0:
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """One update of the average."""
        beta = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        average = [self.average[name] for name in self._floating]
        torch._foreach_mul_(average, beta)
        torch._foreach_add_(average, [self.live[name] for name in self._floating], alpha=1 - beta)
        for name, value in self.live.items():
            if not value.is_floating_point():
                self.average[name].copy_(value)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the live state holds the average; afterwards what it held before, exactly."""
        raw = {name: value.clone() for name, value in self.live.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(raw)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        stored = state["average"]
        if stored.keys() != self.average.keys():
            different = sorted(stored.keys() ^ self.average.keys())
            raise TesseraError(f"the stored moving average does not fit the model: {different[0]!r} is in only one of them")
        for name, value in self.average.items():
            value.copy_(stored[name])
        self.updates = state["updates"]

    @torch.no_grad()
    def _write(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.live.items():
            value.copy_(state[name])
