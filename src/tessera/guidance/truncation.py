"""Truncation: only the most probable classes of each position can be drawn (VQ-Diffusion, Gu et al. 2022, arXiv 2111.14822).

top-r mass: with classes sorted by falling probability, rank 0 and every rank whose preceding cumulative probability is < r.
top-k: the k most probable classes. The others get log-probability -70; the rest is not renormalised, as in the original.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.errors import UsageError
from tessera.processes.discrete import LOG_FLOOR
from tessera.samplers.sampler import Predict
from tessera.schema import shown

__all__ = ["check_truncation", "top_k", "top_mass", "truncate"]

MOST = 2**31  # classes: more than any codebook has, and what a record can hold


def check_truncation(truncation: float | int | None) -> None:
    """Raises UsageError unless it is None, a mass in (0, 1] (float) or a number of classes from 1 to `MOST` (int)."""
    valid = truncation is None or (1 <= truncation <= MOST if isinstance(truncation, int) else 0 < truncation <= 1)
    if not valid:
        raise UsageError(f"truncation must be a mass in (0, 1], such as 0.86, or a whole number of classes from 1, not {shown(truncation)}")


def truncate(predict: Predict, truncation: float | int | None) -> Predict:
    """The truncated denoiser; None is the denoiser itself."""
    check_truncation(truncation)
    if truncation is None:
        return predict

    def truncated(x_t: Int[Tensor, "b n"], t: Int[Tensor, " b"]) -> Float[Tensor, "b n k"]:
        log_p = predict(x_t, t)
        return top_k(log_p, truncation) if isinstance(truncation, int) else top_mass(log_p, truncation)

    return truncated


def top_mass(log_p: Float[Tensor, "*b k"], mass: float) -> Float[Tensor, "*b k"]:
    """log_p with every class outside the most probable ones of total probability `mass` at -70; equal classes are kept in their order.

    Only the values are sorted, to find each position's smallest kept one. Sorting the classes along with them, and scattering them
    back, takes five times as long.
    """
    ordered = falling(log_p)
    cumulative = ordered.exp().cumsum_(-1)
    kept = torch.searchsorted(cumulative, cumulative.new_full((*log_p.shape[:-1], 1), mass)).add_(1).clamp_(max=log_p.shape[-1])
    return keep(log_p, ordered, kept)


def top_k(log_p: Float[Tensor, "*b k"], count: int) -> Float[Tensor, "*b k"]:
    """log_p with every class but the `count` most probable ones at -70; equal classes are kept in their order."""
    if count >= log_p.shape[-1]:
        return log_p
    ordered = log_p.topk(count + 1, dim=-1).values
    return keep(log_p, ordered, torch.full_like(ordered[..., :1], count, dtype=torch.long))


def falling(log_p: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
    """The values of each row in falling order."""
    if log_p.device.type != "cpu":
        return log_p.sort(dim=-1, descending=True).values
    negated = np.negative(log_p.detach().numpy())
    negated.sort(axis=-1)  # numpy sorts bare values with vector instructions; torch always carries their indices
    return torch.from_numpy(negated).neg_()


def keep(log_p: Float[Tensor, "*b k"], ordered: Float[Tensor, "*b m"], kept: Int[Tensor, "*b 1"]) -> Float[Tensor, "*b k"]:
    """log_p with all but the `kept` largest classes of each row at -70. `ordered`: its largest values, falling, more than kept or all."""
    least = ordered.gather(-1, kept - 1)
    result = log_p.masked_fill(log_p < least, LOG_FLOOR)
    following = ordered.gather(-1, kept.clamp(max=ordered.shape[-1] - 1))
    crowded = ((following == least) & (kept < ordered.shape[-1]) & (least > LOG_FLOOR)).squeeze(-1)
    if crowded.any():  # classes equal to the smallest kept one: only the first of them have room
        rows, bound = log_p[crowded], least[crowded]
        equal = rows == bound
        room = kept[crowded] - (rows > bound).sum(-1, keepdim=True)
        result[crowded] = result[crowded].masked_fill(equal & (equal.cumsum(-1) > room), LOG_FLOOR)
    return result
