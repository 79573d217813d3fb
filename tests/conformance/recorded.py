"""Recorded noise in place of random numbers, so that a run of the originals can be followed token by token.

The originals draw every token as argmax(log p + Gumbel) with Gumbel = -log(-log(u + 1e-30) + 1e-30), from the full posterior. Their
uniform numbers are stored as uint16 n with u = (n + 0.5) / 65536.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.processes.discrete import DiscreteProcess
from tessera.randomness import Draws

__all__ = ["RecordedDraws", "RecordedProcess", "gumbel", "stored_uniform"]


def stored_uniform(noise: Tensor) -> Tensor:
    """uint16 n → u = (n + 0.5) / 65536, float32."""
    return (noise.to(torch.int32).float() + 0.5) / 65536


def gumbel(noise: Tensor) -> Tensor:
    """uint16 → the originals' standard Gumbel noise, float32."""
    return -torch.log(-torch.log(stored_uniform(noise) + 1e-30) + 1e-30)


class RecordedDraws(Draws):
    """Recorded noise, a slab per draw; draw i uses slab i % P.

    Args:
        noise: uint16 [P, B, K + 1, L], classes before positions as the originals store them.
        choose_noise: uint16 [P, B, L], for the choice of positions; it uses the slab of the draw before it.
    """

    def __init__(self, noise: Tensor, choose_noise: Tensor | None = None) -> None:
        super().__init__(0, [])
        self.noise, self.choose_noise = noise, choose_noise
        self.count = 0
        """Categorical draws so far."""

    def uniform(self, *shape: int) -> Tensor:
        raise NotImplementedError("a recorded run has noise for categorical draws only: use RecordedProcess")

    def normal(self, *shape: int) -> Tensor:
        raise NotImplementedError("a recorded run has noise for categorical draws only")

    def categorical(self, log_p: Tensor) -> Tensor:
        """argmax(log p + Gumbel) over K, or over K + 1 classes with the mask last."""
        noise = gumbel(self.noise[self.count % len(self.noise)]).transpose(1, 2)
        self.count += 1
        return (log_p + noise[..., : log_p.shape[-1]]).argmax(-1)

    def choose(self, score: Tensor, count: int) -> Tensor:
        """The `count` largest of log(score) - log(-log u), as the cases define it."""
        assert self.choose_noise is not None
        u = stored_uniform(self.choose_noise[(self.count - 1) % len(self.choose_noise)])
        keys = score.log() - (-u.log()).log()
        chosen = torch.zeros_like(score, dtype=torch.bool).scatter_(1, keys.topk(count, dim=1).indices, True)
        return chosen & (score > 0)


class RecordedProcess(DiscreteProcess):
    """The process with every draw made from the full distribution, as the originals do: one categorical draw each."""

    def noise(self, x_s: Tensor, t: Tensor, draws: Draws, s: Tensor | None = None) -> Tensor:
        return draws.categorical(self.log_q(x_s, t, torch.zeros_like(t) if s is None else s))

    def reverse(self, log_p: Tensor, x_t: Tensor, t: Tensor, s: Tensor, draws: Draws) -> Tensor:
        return draws.categorical(self.posterior(log_p, x_t, t, s))
