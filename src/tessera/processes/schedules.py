"""Schedules of the mask-and-uniform process (Gu et al. 2022, arXiv 2111.14822, section 3.2).

At time t a token is still x_0 with probability alpha_bar_t, masked with probability gamma_bar_t, and otherwise one of the K
codes drawn uniformly, so beta_bar_t = (1 - alpha_bar_t - gamma_bar_t) / K per code. Time 0 is the identity: alpha_bar = 1, gamma_bar = 0.

From s to t > s the same form holds with

    alpha_ts = alpha_bar_t / alpha_bar_s,    1 - gamma_ts = (1 - gamma_bar_t) / (1 - gamma_bar_s),    K beta_ts = 1 - alpha_ts - gamma_ts,

so any stride is exact. A schedule is a Markov process exactly when gamma_bar rises and alpha_bar / (1 - gamma_bar), the share
of the unmasked tokens that is still original, falls.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.errors import UsageError, suggest
from tessera.schema import check_arguments

__all__ = ["SCHEDULES", "DiscreteSchedule", "absorbing", "hybrid", "make_schedule", "vq_diffusion"]


@dataclass(frozen=True)
class DiscreteSchedule:
    """alpha_bar and gamma_bar (float64, entries 0..T), and the JSON `config` from which `make_schedule` makes them again."""

    alpha_bar: Float[Tensor, " times"]
    gamma_bar: Float[Tensor, " times"]
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        alpha, gamma = self.alpha_bar, self.gamma_bar
        survive = 1.0 - gamma
        if alpha.dtype != torch.float64 or gamma.dtype != torch.float64 or len(alpha) < 2:
            raise UsageError("a schedule needs float64 alpha_bar and gamma_bar with entries 0..T and T >= 1")
        if alpha[0] != 1.0 or gamma[0] != 0.0:
            raise UsageError("a schedule starts with the identity: alpha_bar[0] = 1 and gamma_bar[0] = 0")
        share = torch.where(survive > 0, alpha / survive.clamp(min=1e-300), 0.0)
        rounding = 1e-12
        if (gamma.diff() < 0).any() or (share.diff() > rounding).any() or (alpha < 0).any() or (alpha - survive > rounding).any():
            raise UsageError("not a Markov schedule: gamma_bar must rise and alpha_bar / (1 - gamma_bar) must fall, both within [0, 1]")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alpha_bar) - 1

    @property
    def uniform_bar(self) -> Float[Tensor, " times"]:
        """K beta_bar_t: the probability that a token was replaced by a uniform code."""
        return (1.0 - self.gamma_bar - self.alpha_bar).clamp(min=0.0)


def vq_diffusion(steps: int, keep: Sequence[float] = (0.99999, 0.000009), mask: Sequence[float] = (0.000009, 0.99999)) -> DiscreteSchedule:
    """The schedule of VQ-Diffusion: alpha_bar and gamma_bar linear from the first to the last of T times.

    keep, mask: (value at t = 1, value at t = T) of alpha_bar and gamma_bar. By default alpha_bar + gamma_bar = 0.999999 throughout,
    so the uniform mass is 1e-6.
    """
    position = torch.arange(steps, dtype=torch.float64) / (steps - 1) if steps > 1 else torch.ones(1, dtype=torch.float64)
    alpha = torch.cat([torch.ones(1, dtype=torch.float64), position * (keep[1] - keep[0]) + keep[0]])
    gamma = torch.cat([torch.zeros(1, dtype=torch.float64), position * (mask[1] - mask[0]) + mask[0]])
    return DiscreteSchedule(alpha, gamma, {"kind": "vq-diffusion", "steps": steps, "keep": list(keep), "mask": list(mask)})


def absorbing(steps: int, shape: str = "linear") -> DiscreteSchedule:
    """Masking only (uniform = 0). `shape` "linear": gamma_bar = t/T; "cosine": gamma_bar = sin(pi t / 2T), the mask share of MaskGIT."""
    gamma = _mask_share(steps, shape)
    return DiscreteSchedule(1.0 - gamma, gamma, {"kind": "absorbing", "steps": steps, "shape": shape})


def hybrid(steps: int, uniform: float = 0.1, shape: str = "linear") -> DiscreteSchedule:
    """Masking with real uniform mass, so that the model learns to revise wrong tokens (von Rütte et al. 2025, arXiv 2503.04482).

    K beta_bar_t = 4 uniform gamma_bar_t (1 - gamma_bar_t): zero at both ends, `uniform` (0 to 0.25) where half the tokens are masked.
    """
    if not 0.0 <= uniform <= 0.25:
        raise UsageError(f"the largest uniform share must lie in 0..0.25, not {uniform}: beyond it the process is not Markov")
    gamma = _mask_share(steps, shape)
    alpha = (1.0 - gamma) * (1.0 - 4.0 * uniform * gamma)
    return DiscreteSchedule(alpha, gamma, {"kind": "hybrid", "steps": steps, "uniform": uniform, "shape": shape})


def _mask_share(steps: int, shape: str) -> Float[Tensor, " times"]:
    position = torch.arange(steps + 1, dtype=torch.float64) / steps
    if shape == "linear":
        return position
    if shape == "cosine":
        return torch.sin(position * (math.pi / 2))
    raise UsageError(suggest("schedule shape", shape, ["linear", "cosine"]))


MOST_TIMES = 100_000
SCHEDULES: dict[str, Callable[..., DiscreteSchedule]] = {"vq-diffusion": vq_diffusion, "absorbing": absorbing, "hybrid": hybrid}


def make_schedule(kind: str, steps: int, **options: Any) -> DiscreteSchedule:
    """The schedule named `kind` with T = `steps` and its own arguments; `make_schedule(**schedule.config)` is the same schedule."""
    if kind not in SCHEDULES:
        raise UsageError(suggest("schedule", kind, SCHEDULES))
    check_arguments("schedule", kind, SCHEDULES[kind], {"steps": steps, **options})
    if not 1 <= steps <= MOST_TIMES:
        raise UsageError(f"a schedule needs 1 to {MOST_TIMES} steps, not {steps}")
    return SCHEDULES[kind](steps, **options)
