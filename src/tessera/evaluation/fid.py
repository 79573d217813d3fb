"""The Fréchet distance of two sets of features (Heusel et al. 2017, arXiv 1706.08500, equation 6):

    FID = |μ_1 - μ_2|² + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2),   tr (C_1 C_2)^(1/2) = tr (C_1^(1/2) C_2 C_1^(1/2))^(1/2)

The right-hand side has a symmetric matrix under the root, whose eigenvalues are those of C_1 C_2: no complex root, and singular covariances
(fewer pictures than features) need no special case. Everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.errors import UsageError

__all__ = ["Frechet", "RunningStatistics", "Statistics", "frechet_distance", "trace_of_root"]


@dataclass(frozen=True)
class Statistics:
    """count: N of the features. mean: μ. covariance: C, unbiased (divided by N - 1). float64."""

    count: int
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]


@dataclass(frozen=True)
class Frechet:
    """distance: the FID. The terms it is made of: mean_term + trace_1 + trace_2 - 2 trace_root."""

    distance: float
    mean_term: float
    trace_1: float
    trace_2: float
    trace_root: float


class RunningStatistics:
    """Mean and covariance of features that come in batches, which are not kept.

    Batches are joined by their means and squared deviations (Chan, Golub & LeVeque 1983, equations 1.5): sums of squares would cancel.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._mean = torch.zeros(width, dtype=torch.float64)
        self._deviations = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "b d"]) -> None:
        """Takes a batch in."""
        batch = features.detach().cpu().double()
        if not len(batch):
            return
        mean = batch.mean(0)
        centred = batch - mean
        self._join(len(batch), mean, centred.T @ centred)

    def join(self, other: RunningStatistics) -> None:
        """Takes in what another one has taken in."""
        if other.count:
            self._join(other.count, other._mean, other._deviations)

    def _join(self, count: int, mean: Float[Tensor, " d"], deviations: Float[Tensor, "d d"]) -> None:
        shift, total = mean - self._mean, self.count + count
        self._deviations += deviations
        self._deviations.addr_(shift, shift, alpha=self.count * count / total)
        self._mean += shift * (count / total)
        self.count = total

    def result(self) -> Statistics:
        """Of everything taken in. Raises UsageError for fewer than two pictures, which have no covariance."""
        if self.count < 2:
            raise UsageError(f"FID needs at least 2 pictures on each side, but here there is {self.count}: give more")
        return Statistics(self.count, self._mean.clone(), self._deviations / (self.count - 1))


def trace_of_root(first: Float[Tensor, "d d"], second: Float[Tensor, "d d"]) -> float:
    """tr (C_1 C_2)^(1/2) of two covariances."""
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # Rounding leaves the eigenvalues of a singular matrix a little below zero.
    return float(torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum())


def frechet_distance(first: Statistics, second: Statistics) -> Frechet:
    """FID of two sets of features. Raises UsageError when they have different widths."""
    if len(first.mean) != len(second.mean):
        raise UsageError(f"features of {len(first.mean)} and of {len(second.mean)} values cannot be compared: use one extractor for both")
    mean_term = float((first.mean - second.mean).square().sum())
    trace_1, trace_2 = float(first.covariance.trace()), float(second.covariance.trace())
    root = trace_of_root(first.covariance, second.covariance)
    return Frechet(mean_term + trace_1 + trace_2 - 2 * root, mean_term, trace_1, trace_2, root)
