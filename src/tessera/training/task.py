"""What a trainer trains: a task owns its model and knows its loss, its panel and how to save the result."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tessera.randomness import BatchDraws
from tessera.training.loader import Batch, Batches
from tessera.training.recipe import Optimizer

__all__ = ["Panel", "StepDraws", "Task", "to_bytes", "to_picture"]


@dataclass(frozen=True)
class Panel:
    """Answers to "is my run normal?": numbers by name, series (name → (labels, values)), and pictures uint8 [B, 3, H, W].

    curves: statistics that training itself keeps, name → values at t = 1, 2, …; of the weights in training, not of averaged ones.
    texts: words made, name → a line for each.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    series: dict[str, tuple[list[str], list[float]]] = field(default_factory=dict)
    pictures: dict[str, UInt8[Tensor, "b 3 h w"]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)


class Task(nn.Module):
    """A training problem. Parameters that require gradients are optimised.

    `forward(batch, seed)` is the loss (a scalar) and a report (name → scalar tensor, detached, for the metrics);
    every random number in it comes from `seed` and the batch's positions. While training, `positions[0] // total` steps are done.
    """

    @property
    def asks(self) -> dict[str, bool]:
        """What batches should have beside pictures and prompts: arguments of `Batches`."""
        return {}

    def forward(self, batch: Batch, seed: int, total: int) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Loss of one batch; `total`: pictures of the whole optimiser step, of which the batch may be a part."""
        raise NotImplementedError

    def optimised(self, settings: Optimizer) -> list[tuple[nn.Module, Optimizer]]:
        """What learns, in parts that have optimisers and gradient norms of their own; `settings` are the recipe's.

        The loss is the sum over all parts, each with gradients for its own parameters only.
        """
        return [(self, settings)]

    def remarks(self) -> dict[str, str]:
        """What a run should say of itself when it starts, and note on the model's card."""
        return {}

    def watch(self, step: int, line: Mapping[str, Any]) -> list[str]:
        """Warnings after a line of training metrics, each with what to change. Also called for the lines before a run goes on."""
        return []

    def live_state(self) -> dict[str, Tensor]:
        """The part of the state that training changes: what is averaged and stored in checkpoints."""
        return {name: value.detach() for name, value in self.state_dict(keep_vars=True).items()}

    def begin(self, batches: Batches) -> None:
        """Called once, before a run's first step; `batches[i]` are the pictures of the whole step i, to every process the same.

        For what starts from data.
        """

    def share_statistics(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Called when several processes train together; `gather` concatenates a tensor's rows over all of them."""

    def fingerprint(self) -> str:
        """Identifies what training leaves alone (a frozen codec, a text tower), which checkpoints do not hold."""
        live, digest = self.live_state(), hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.state_dict().items()):
            if name not in live:
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def panel(self, batches: Sequence[Batch], prompts: Sequence[object], seed: int) -> Panel:
        """Diagnosis with the present weights on fixed pictures, prompts and noise."""
        raise NotImplementedError

    def export(self, folder: Path, card: Mapping[str, Any]) -> None:
        """The trained model with the present weights, as a folder that can be used or trained further; replaces an earlier one.

        `card`: what to note about the training, JSON values.
        """
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class StepDraws(BatchDraws):
    """Random numbers for some rows of an optimiser step of `total` pictures: row r draws the same however the step is divided."""

    def __init__(self, seed: int, total: int, rows: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(seed, total, device)
        self.taken = None if len(rows) == total else torch.tensor(rows)

    def uniform(self, *shape: int) -> Float[Tensor, "b ..."]:
        return self._take(torch.rand((self.batch, *shape), generator=self.generator, dtype=torch.float64))

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        return self._take(torch.randn((self.batch, *shape), generator=self.generator))

    def _take(self, whole: Tensor) -> Tensor:
        return (whole if self.taken is None else whole[self.taken]).to(self.device, non_blocking=True)


def to_picture(image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """0..255 → [-1, 1]."""
    return image.float() / 127.5 - 1


def to_bytes(image: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """[-1, 1] → 0..255, rounded."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
