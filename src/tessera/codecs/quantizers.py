"""Codebooks: encoder outputs z ⇄ codes e_k, with gradients that pass straight through.

    nearest (van den Oord et al. 2017, arXiv 1711.00937, eq. 1–3)   k = argmin_j |z - e_j|²,  loss |sg[z] - e_k|² + β |z - sg[e_k]|²
    EMA (the same, appendix A.1)        N_k ← γ N_k + (1 - γ) n_k,  m_k ← γ m_k + (1 - γ) Σ_{z → k} z,  e_k = m_k / N_k,  loss β |z - sg[e_k]|²
    Gumbel (Jang et al. 2017, arXiv 1611.01144)   e = Σ_k softmax((l + g) / τ)_k e_k with l = W z + b,  loss λ KL(softmax(l) ‖ uniform)

sg stops gradients; the value passed on is z + sg[e_k - z].

Unused codes restart. Vector codebooks take points of the batch by k-means++ (Arthur & Vassilvitskii 2007): one after the other, each with
probability proportional to its squared distance from all living codes. So rare points get a code although most of a batch is background, and no
two codes start on one point. A Gumbel code takes half of the probability of a code in use, which leaves the distribution as it was.

Random numbers of training come from the count of updates, which is saved with the model: a resumed run draws what the whole run would have.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.randomness import Draws, derive_seed

__all__ = ["EMA", "Gumbel", "Nearest", "Quantized", "Quantizer", "distinct_points", "perplexity"]


class Quantized(NamedTuple):
    """values: codes with straight-through gradients. indices: their numbers. loss: what the quantizer adds to the training loss."""

    values: Float[Tensor, "m d"]
    indices: Int[Tensor, " m"]
    loss: Float[Tensor, ""]


def perplexity(histogram: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """exp of the entropy of a (not necessarily normalised) histogram: k when all k codes are used alike, 1 when one is."""
    p = histogram.double() / histogram.double().sum().clamp(min=1e-300)
    return torch.special.entr(p).sum().exp().float()


def distinct_points(
    z: Float[Tensor, "m d"], error: Float[Tensor, " m"], count: int, floor: float, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Up to `count` rows of z by k-means++: row i with probability ∝ error_i, the squared distance to the nearest code so far.

    Args:
        error: squared distance of each row to the codes that exist; infinite when there are none.
        floor: rows with at most this error are as good as represented; when only such rows are left, fewer than `count` are returned.
        generator: on the CPU.
    """
    uniform = torch.rand(count, generator=generator, dtype=torch.float64).to(z.device)
    error = error.double()
    chosen: list[Tensor] = []
    for u in uniform:
        weight = torch.where(error > floor, error, 0.0)
        if not bool(weight.any()):
            break
        cumulative = (weight.isinf().double() if bool(weight.isinf().any()) else weight).cumsum(0)
        row = torch.searchsorted(cumulative, (u * cumulative[-1]).unsqueeze(0), right=True).clamp_(max=len(z) - 1)
        chosen.append(row)
        error = torch.minimum(error, (z - z[row]).square().sum(-1).double())
    return torch.cat(chosen) if chosen else torch.empty(0, dtype=torch.int64, device=z.device)


class Quantizer(nn.Module):
    """A codebook of K codes of width D, and the record of their use.

    Args:
        classes: K.
        dim: D.
        patience: updates without use after which a code counts as unused.
        restart_every: unused codes restart at every such update; 0 never.
        decay: of the running histogram of use (and of the EMA codebook).
    """

    codebook: Tensor
    histogram: Tensor
    idle: Tensor
    updates: Tensor

    def __init__(self, classes: int, dim: int, patience: int = 200, restart_every: int = 10, decay: float = 0.99) -> None:
        super().__init__()
        self.classes, self.dim, self.patience, self.restart_every, self.decay = classes, dim, patience, restart_every, decay
        self.register_buffer("histogram", torch.zeros(classes))
        self.register_buffer("idle", torch.full((classes,), patience))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def tokens(self, z: Float[Tensor, "b n d"], draws: Draws | None = None) -> Int[Tensor, "b n"]:
        """The code of every position; only the Gumbel quantizer can draw it."""
        return self.nearest(z.flatten(0, 1)).view(z.shape[:2])

    def embed(self, indices: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The codes themselves."""
        return F.embedding(indices, self.codebook)

    def nearest(self, z: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """argmin_k |z - e_k|² = argmax_k z·e_k - |e_k|²/2: one matrix product, in float32 whatever the autocast."""
        with torch.autocast(z.device.type, enabled=False):
            return _affinity(z.float(), self.codebook.detach().float()).argmax(-1)

    def forward(self, z: Float[Tensor, "m d"]) -> Quantized:
        """Quantizes; while training, also updates the record of use and restarts unused codes."""
        raise NotImplementedError

    def report(self) -> dict[str, Tensor]:
        """usage: share of the codes used within the last `patience` updates. perplexity: of the running histogram."""
        return {"usage": (self.idle < self.patience).float().mean(), "perplexity": perplexity(self.histogram)}

    @torch.no_grad()
    def _restart(self, z: Float[Tensor, "m d"]) -> None:
        """Before an update: unused codes restart, if it is their time."""
        if self.restart_every and int(self.updates) % self.restart_every == 0:
            dead = (self.idle >= self.patience).nonzero().squeeze(1)
            if len(dead):
                restarted = self._replace(dead, z, torch.Generator().manual_seed(derive_seed("codebook", int(self.updates))))
                self.idle[restarted] = 0

    def _replace(self, dead: Int[Tensor, " n"], z: Float[Tensor, "m d"], generator: torch.Generator) -> Int[Tensor, " r"]:
        """Gives dead codes new values; returns those that got one."""
        raise NotImplementedError

    @torch.no_grad()
    def _record(self, counts: Float[Tensor, " k"]) -> None:
        self.histogram.lerp_(counts / counts.sum(), 1 - self.decay)
        self.idle.add_(1).masked_fill_(counts > 0, 0)
        self.updates.add_(1)

    def _counts(self, indices: Int[Tensor, " m"]) -> Float[Tensor, " k"]:
        return torch.bincount(indices, minlength=self.classes).float()


class _VectorQuantizer(Quantizer):
    """What nearest and EMA share: distances, and restarts on points of the batch.

    Args:
        commitment: β.
        distinct: a point gets a new code only when its squared error exceeds this share of the batch's variance.
        patience, restart_every, decay: as in `Quantizer`.
    """

    def __init__(
        self, classes: int, dim: int, commitment: float = 0.25, distinct: float = 1e-3, patience: int = 200, restart_every: int = 10,
        decay: float = 0.99,
    ) -> None:  # fmt: skip
        super().__init__(classes, dim, patience, restart_every, decay)
        self.commitment, self.distinct = commitment, distinct

    def _replace(self, dead: Int[Tensor, " n"], z: Float[Tensor, "m d"], generator: torch.Generator) -> Int[Tensor, " r"]:
        z = z.float()
        living = self.codebook.detach()[self.idle < self.patience].float()
        if len(living):
            error = (z - living[_affinity(z, living).argmax(-1)]).square().sum(-1)
        else:
            error = z.new_full((len(z),), float("inf"))
        floor = self.distinct * float((z - z.mean(0)).square().sum(-1).mean())
        points = distinct_points(z, error, len(dead), floor, generator)
        restarted = dead[: len(points)]
        self._set(restarted, z[points])
        return restarted

    def _set(self, codes: Int[Tensor, " n"], values: Float[Tensor, "n d"]) -> None:
        self.codebook.data[codes] = values.to(self.codebook.dtype)


class Nearest(_VectorQuantizer):
    """Nearest code; the codebook learns by gradient."""

    def __init__(
        self, classes: int, dim: int, commitment: float = 0.25, distinct: float = 1e-3, patience: int = 200, restart_every: int = 10,
        decay: float = 0.99,
    ) -> None:  # fmt: skip
        super().__init__(classes, dim, commitment, distinct, patience, restart_every, decay)
        self.codebook = nn.Parameter(torch.empty(classes, dim).uniform_(-1 / classes, 1 / classes))

    def forward(self, z: Float[Tensor, "m d"]) -> Quantized:
        if self.training:
            self._restart(z)
        indices = self.nearest(z)
        if self.training:
            self._record(self._counts(indices))
        codes = F.embedding(indices, self.codebook)
        loss = F.mse_loss(codes, z.detach()) + self.commitment * F.mse_loss(z, codes.detach())
        return Quantized(z + (codes - z).detach(), indices, loss)


class EMA(_VectorQuantizer):
    """Nearest code; the codebook is the running mean of the points that chose each code."""

    cluster_size: Tensor
    codebook_sum: Tensor

    def __init__(
        self, classes: int, dim: int, commitment: float = 0.25, distinct: float = 1e-3, patience: int = 200, restart_every: int = 10,
        decay: float = 0.99,
    ) -> None:  # fmt: skip
        super().__init__(classes, dim, commitment, distinct, patience, restart_every, decay)
        self.register_buffer("codebook", torch.randn(classes, dim))
        self.register_buffer("cluster_size", torch.ones(classes))
        self.register_buffer("codebook_sum", self.codebook.clone())

    def forward(self, z: Float[Tensor, "m d"]) -> Quantized:
        if self.training:
            self._restart(z)
        indices = self.nearest(z)
        codes = F.embedding(indices, self.codebook)  # of before the update, so that a step's loss sees the codebook it was made with
        if self.training:
            self._update(z.detach().float(), indices)
        return Quantized(z + (codes - z).detach(), indices, self.commitment * F.mse_loss(z, codes))

    @torch.no_grad()
    def _update(self, z: Float[Tensor, "m d"], indices: Int[Tensor, " m"]) -> None:
        counts = self._counts(indices)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.codebook_sum.lerp_(torch.zeros_like(self.codebook_sum).index_add_(0, indices, z), 1 - self.decay)
        # m_k / N_k changes only for codes in use; leaving the others alone needs no smoothing against N_k → 0.
        used = counts > 0
        self.codebook[used] = self.codebook_sum[used] / self.cluster_size[used].unsqueeze(1)
        self._record(counts)

    def _set(self, codes: Int[Tensor, " n"], values: Float[Tensor, "n d"]) -> None:
        super()._set(codes, values)
        self.cluster_size[codes] = 1.0
        self.codebook_sum[codes] = values


def _affinity(z: Float[Tensor, "m d"], codebook: Float[Tensor, "k d"]) -> Float[Tensor, "m k"]:
    return torch.addmm(codebook.square().sum(-1), z, codebook.T, beta=-0.5)
