"""Codebooks: encoder outputs z ⇄ codes e_k, with gradients that pass straight through.

    nearest  (van den Oord et al. 2017, arXiv 1711.00937, eq. 1-3)
        k = argmin_j |z - e_j|²,   loss = α |sg[z] - e_k|² + β |z - sg[e_k]|²,   α = 1
    EMA  (the same, appendix A.1)
        N_k ← γ N_k + (1 - γ) n_k,   m_k ← γ m_k + (1 - γ) Σ_{z → k} z,   e_k = m_k / N_k,   loss = β |z - sg[e_k]|²
    Gumbel  (Jang, Gu & Poole 2017, arXiv 1611.01144)
        l = W z + b,   y = softmax((l + g) / τ),   e = Σ_k y_k e_k,   loss = λ KL(softmax(l) ‖ uniform)

sg stops gradients; the squared norms are means over the D values. The value passed on is a code itself: z + sg[e_k - z], or the code of the
largest y with the gradient of the mixture (or the mixture itself).

Unused codes restart. A vector codebook takes points of the batch by k-means++ (Arthur & Vassilvitskii 2007): one after the other, each with
probability proportional to its squared distance from all living codes. So rare points get a code although most of a batch is background,
and no two codes start on one point. A Gumbel code takes half of the probability of a code in use: the mixture stays what it was.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.codecs.quantizer import Quantized, Quantizer
from tessera.nn.precision import widened
from tessera.randomness import Draws

__all__ = ["EMA", "Gumbel", "Nearest", "distinct_points"]

SEARCH = 2**20
"""Affinities computed at a time on a CPU: few enough to stay in its cache."""


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
        weight = error.isinf().double() if bool(error.isinf().any()) else torch.where(error > floor, error, 0.0)
        cumulative = weight.cumsum(0)
        if float(cumulative[-1]) == 0.0:
            break
        row = torch.searchsorted(cumulative, (u * cumulative[-1]).unsqueeze(0), right=True).clamp_(max=len(z) - 1)
        chosen.append(row)
        error = torch.minimum(error, (z - z[row]).square().sum(-1).double())
    return torch.cat(chosen) if chosen else torch.empty(0, dtype=torch.int64, device=z.device)


class _VectorQuantizer(Quantizer):
    """What nearest and EMA share: distances, and restarts on points of the batch, from which all codes start too.

    Args:
        classes, dim, patience, restart_every, decay: as in `Quantizer`.
        commitment: β.
        distinct: a point gets a new code only when its squared error exceeds this share of the batch's variance.
    """

    def __init__(
        self, classes: int, dim: int, commitment: float = 0.25, distinct: float = 1e-3, patience: int = 200, restart_every: int = 10,
        decay: float = 0.99,
    ) -> None:  # fmt: skip
        super().__init__(classes, dim, patience, restart_every, decay)
        self.commitment, self.distinct = commitment, distinct
        self.idle.fill_(patience)

    def tokens(self, z: Float[Tensor, "b n d"], draws: Draws | None = None) -> Int[Tensor, "b n"]:
        return self.nearest(z.flatten(0, 1)).view(z.shape[:2])

    @torch.no_grad()
    def nearest(self, z: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """argmin_k |z - e_k|² = argmax_k z·e_k - |e_k|²/2: one matrix product."""
        rows = max(1, SEARCH // self.classes) if z.device.type == "cpu" else len(z)
        return torch.cat([_affinity(part, self.codebook).argmax(-1) for part in z.split(rows)])

    def _replace(self, dead: Int[Tensor, " n"], z: Float[Tensor, "m d"], generator: torch.Generator) -> Int[Tensor, " r"]:
        z = widened(z)
        living = widened(self.codebook[self.idle < self.patience])
        error = torch.full_like(z[:, 0], math.inf)
        if len(living):
            error = (z - living[_affinity(z, living).argmax(-1)]).square().sum(-1)
        floor = self.distinct * float((z - z.mean(0)).square().sum(-1).mean())
        points = distinct_points(z, error, len(dead), floor, generator)
        restarted = dead[: len(points)]
        self._set(restarted, z[points])
        return restarted

    def _set(self, codes: Int[Tensor, " n"], values: Float[Tensor, "n d"]) -> None:
        self.codebook[codes] = values


class Nearest(_VectorQuantizer):
    """Nearest code; the codebook learns by gradient. `codebook_weight`: α; other arguments as in `_VectorQuantizer`."""

    def __init__(
        self, classes: int, dim: int, commitment: float = 0.25, distinct: float = 1e-3, patience: int = 200, restart_every: int = 10,
        decay: float = 0.99, codebook_weight: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(classes, dim, commitment, distinct, patience, restart_every, decay)
        self.codebook_weight = codebook_weight
        self.codebook = nn.Parameter(torch.empty(classes, dim).uniform_(-1 / classes, 1 / classes))

    def forward(self, z: Float[Tensor, "m d"]) -> Quantized:
        if self.training:
            self._restart(z)
        indices = self.nearest(z)
        if self.training:
            self._record(indices)
        codes = F.embedding(indices, self.codebook)
        loss = self.codebook_weight * F.mse_loss(codes, z.detach()) + self.commitment * F.mse_loss(z, codes.detach())
        return Quantized(z + (codes - z).detach(), indices, loss)


class EMA(_VectorQuantizer):
    """Nearest code; every code is the running mean of the points that chose it, γ = `decay`. Arguments as in `_VectorQuantizer`."""

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
        codes = F.embedding(indices, self.codebook)  # a copy: the codes these indices chose, before they move
        if self.training:
            self._move(widened(z.detach()), indices)
        return Quantized(z + (codes - z).detach(), indices, self.commitment * F.mse_loss(z, codes))

    @torch.no_grad()
    def _move(self, z: Float[Tensor, "m d"], indices: Int[Tensor, " m"]) -> None:
        counts = self._record(indices)
        z, indices = self._all(z), self._all(indices)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.codebook_sum.lerp_(torch.zeros_like(self.codebook_sum).index_add_(0, indices, z), 1 - self.decay)
        # Only codes in use change m_k / N_k; leaving the others alone, N_k may vanish without the usual smoothing, which biases rare codes.
        used = counts > 0
        self.codebook[used] = self.codebook_sum[used] / self.cluster_size[used].unsqueeze(1)

    def _set(self, codes: Int[Tensor, " n"], values: Float[Tensor, "n d"]) -> None:
        super()._set(codes, values)
        self.cluster_size[codes] = 1.0
        self.codebook_sum[codes] = values


class Gumbel(Quantizer):
    """A distribution over codes, sampled with a gradient.

    Args:
        classes, dim, patience, restart_every, decay: as in `Quantizer`.
        kl_weight: λ.
        straight_through: the decoder sees the code of the largest y while training, too; otherwise it sees the mixture.

    `temperature`, τ of the relaxation, is 1 at first; a recipe may lower it.
    """

    def __init__(
        self, classes: int, dim: int, kl_weight: float = 5e-4, patience: int = 200, restart_every: int = 10, decay: float = 0.99,
        straight_through: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(classes, dim, patience, restart_every, decay)
        self.kl_weight, self.temperature, self.straight_through = kl_weight, 1.0, straight_through
        self.to_logits = nn.Linear(dim, classes)
        self.codebook = nn.Parameter(torch.randn(classes, dim))

    def logits(self, z: Float[Tensor, "*m d"]) -> Float[Tensor, "*m k"]:
        """Unnormalised log-probabilities of the codes."""
        return widened(self.to_logits(z))

    def tokens(self, z: Float[Tensor, "b n d"], draws: Draws | None = None) -> Int[Tensor, "b n"]:
        """Drawn from softmax(logits), or the most probable codes when `draws` is None."""
        return self.logits(z).argmax(-1) if draws is None else draws.categorical(self.logits(z))

    def forward(self, z: Float[Tensor, "m d"]) -> Quantized:
        """While training a draw of the relaxation, otherwise the most probable code."""
        if self.training:
            self._restart(z)
        logits = self.logits(z)
        log_p = logits.log_softmax(-1)
        loss = self.kl_weight * (log_p.exp() * (log_p + math.log(self.classes))).sum(-1).mean()
        if not self.training:
            indices = logits.argmax(-1)
            return Quantized(F.embedding(indices, self.codebook), indices, loss)
        soft = ((logits + self._noise(logits)) / self.temperature).softmax(-1)
        indices = soft.argmax(-1)
        choice = F.one_hot(indices, self.classes) + (soft - soft.detach()) if self.straight_through else soft
        self._record(indices)
        return Quantized(choice @ self.codebook, indices, loss)

    def _noise(self, logits: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        """Standard Gumbel noise for one update."""
        return -torch.empty(logits.shape).exponential_(generator=self._generator("draw")).log().to(logits.device)

    def _replace(self, dead: Int[Tensor, " n"], z: Float[Tensor, "m d"], generator: torch.Generator) -> Int[Tensor, " r"]:
        shares = torch.where(self.idle < self.patience, self.histogram, 0.0)
        count = min(len(dead), int((shares > 0).sum()))
        if count == 0:
            return dead[:0]
        parents = torch.multinomial(shares.cpu(), count, generator=generator).to(dead.device)
        restarted = dead[:count]
        self.to_logits.bias[parents] -= math.log(2)
        self.to_logits.weight[restarted], self.to_logits.bias[restarted] = self.to_logits.weight[parents], self.to_logits.bias[parents]
        self.codebook[restarted] = self.codebook[parents]
        return restarted


def _affinity(z: Float[Tensor, "m d"], codebook: Float[Tensor, "k d"]) -> Float[Tensor, "m k"]:
    """z·e - |e|²/2 in float32 at least, whatever the autocast: a token must not depend on it."""
    with torch.autocast(z.device.type, enabled=False):
        codebook = widened(codebook)
        return torch.addmm(codebook.square().sum(-1), widened(z), codebook.T, beta=-0.5)
