"""Truncation: only the most probable classes of each position can be drawn (VQ-Diffusion, section 4.4).

top-r mass: with classes sorted by falling probability, rank 0 and every rank whose preceding cumulative probability is < r.
top-k: the k most probable classes. The others get log-probability -70; the rest is not renormalised, as in the original.
"""

from jaxtyping import Float, Int
from torch import Tensor

from tessera.errors import UsageError
from tessera.processes.discrete import LOG_FLOOR
from tessera.samplers.sampler import Predict

__all__ = ["check_truncation", "top_k", "top_mass", "truncate"]


def check_truncation(truncation: float | int | None) -> None:
    """Raises UsageError unless it is None, a mass in (0, 1] (float) or a number of classes ≥ 1 (int)."""
    valid = truncation is None or (truncation >= 1 if isinstance(truncation, int) else 0 < truncation <= 1)
    if not valid:
        raise UsageError(f"truncation must be a mass in (0, 1], such as 0.86, or a whole number of classes from 1, not {truncation}")


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
    """log_p with every class outside the most probable ones of total probability `mass` at -70."""
    ordered, order = log_p.sort(dim=-1, descending=True, stable=True)
    probability = ordered.exp()
    preceding = probability.cumsum(-1).roll(1, -1)
    preceding[..., 0] = 0
    return log_p.scatter(-1, order, ordered.where(preceding < mass, LOG_FLOOR))


def top_k(log_p: Float[Tensor, "*b k"], count: int) -> Float[Tensor, "*b k"]:
    """log_p with every class but the `count` most probable ones at -70."""
    best, classes = log_p.topk(min(count, log_p.shape[-1]), dim=-1)
    return log_p.new_full(log_p.shape, LOG_FLOOR).scatter_(-1, classes, best)
