"""The contract of a quantizer, and the record of how its codes are used."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.randomness import Draws, derive_seed

__all__ = ["Quantized", "Quantizer", "perplexity"]


class Quantized(NamedTuple):
    """values: codes with straight-through gradients. indices: their numbers. loss: what the quantizer adds to the training loss."""

    values: Float[Tensor, "m d"]
    indices: Int[Tensor, " m"]
    loss: Float[Tensor, ""]


def perplexity(histogram: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """exp of the entropy of a (not necessarily normalised) histogram: n when n codes are used alike. 0 for an empty histogram."""
    total = histogram.double().sum()
    p = histogram.double() / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, torch.special.entr(p).sum().exp(), 0.0).float()


class Quantizer(nn.Module):
    """A codebook of K codes of width D.

    Random numbers of training come from the count of updates, which is saved with the model: a resumed run draws what the whole run
    would have drawn.

    Args:
        classes: K.
        dim: D.
        patience: updates without use after which a code counts as unused.
        restart_every: unused codes restart at every such update; 0 never.
        decay: of the running histogram of use.
    """

    codebook: Tensor
    histogram: Tensor
    idle: Tensor
    updates: Tensor

    def __init__(self, classes: int, dim: int, patience: int, restart_every: int, decay: float) -> None:
        super().__init__()
        self.classes, self.dim, self.patience, self.restart_every, self.decay = classes, dim, patience, restart_every, decay
        self.gather: Callable[[Tensor], Tensor] | None = None
        """Concatenates the rows of all processes of a distributed run, so that every process keeps the same codebook."""
        self.register_buffer("histogram", torch.zeros(classes))
        self.register_buffer("idle", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def tokens(self, z: Float[Tensor, "b n d"], draws: Draws | None = None) -> Int[Tensor, "b n"]:
        """The code of every position. A quantizer that is a distribution draws it from `draws`, the others have no choice."""
        raise NotImplementedError

    def embed(self, indices: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The codes themselves."""
        return F.embedding(indices, self.codebook)

    def forward(self, z: Float[Tensor, "m d"]) -> Quantized:
        """Quantizes; while training, also updates the record of use and restarts unused codes."""
        raise NotImplementedError

    def report(self) -> dict[str, Tensor]:
        """usage: share of the codes used within the last `patience` updates. perplexity: of the running histogram."""
        return {"usage": (self.idle < self.patience).float().mean(), "perplexity": perplexity(self.histogram)}

    def _replace(self, dead: Int[Tensor, " n"], z: Float[Tensor, "m d"], generator: torch.Generator) -> Int[Tensor, " r"]:
        """Gives dead codes new values; returns those that got one."""
        raise NotImplementedError

    @torch.no_grad()
    def _restart(self, z: Float[Tensor, "m d"]) -> None:
        """Before an update: unused codes restart, if it is their time."""
        update = int(self.updates)
        if self.restart_every and update % self.restart_every == 0:
            dead = (self.idle >= self.patience).nonzero().squeeze(1)
            if len(dead):
                self.idle[self._replace(dead, self._all(z), self._generator("restart"))] = 0

    @torch.no_grad()
    def _record(self, indices: Int[Tensor, " m"]) -> Float[Tensor, " k"]:
        """After an update: counts of each code in this batch, which the record now includes."""
        indices = self._all(indices)
        counts = torch.bincount(indices, minlength=self.classes).to(self.histogram)
        self.histogram.lerp_(counts / len(indices), 1 - self.decay)
        self.idle.add_(1).masked_fill_(counts > 0, 0)
        self.updates.add_(1)
        return counts

    def _all(self, rows: Tensor) -> Tensor:
        return rows if self.gather is None else self.gather(rows.detach().contiguous())

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed("quantizer", purpose, int(self.updates)))
