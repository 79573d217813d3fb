"""The variance-preserving Gaussian process in continuous time (Salimans & Ho 2022, arXiv 2202.00512; Kingma et al. 2021, arXiv 2107.00630).

    x_t = alpha_t x_0 + sigma_t eps,    eps ~ N(0, I),    alpha_t² + sigma_t² = 1

A network may predict the noise eps, the clean x_0, or v = alpha_t eps - sigma_t x_0; each gives the two others:

    from v:      x_0 = alpha x_t - sigma v,    eps = sigma x_t + alpha v
    from eps:    x_0 = (x_t - sigma eps) / alpha
    from x_0:    eps = (x_t - alpha x_0) / sigma

Samplers see only the pair (x_0, eps), an `Estimate`, which determines the reverse step: without new noise x_s = alpha_s x_0 + sigma_s eps.

Time 0 is the data itself, alpha_0 = 1 and sigma_0 = 0, also where a schedule stops at a little noise (λ_0 = 9.2 for DDPM's): the last step
of a run takes the estimated x_0 whole, unless its spacing ends before.

Two of the three have a time at which they give no pair: x_0 at time 0, where it says nothing of the noise, and eps where there is no
signal, as it says nothing of the data. Runs keep away from these times, so that every sampler runs every network.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.errors import UsageError, suggest
from tessera.processes.gaussian_schedules import GaussianSchedule, make_gaussian_schedule
from tessera.randomness import Draws

__all__ = ["PARAMETRISATIONS", "Estimate", "GaussianProcess", "Level"]

PARAMETRISATIONS = ("v", "eps", "x_0")
"""What a network can be trained to predict."""
LEAST_LOG_SNR = -9.2
"""At less signal than this, alpha = 0.01, an x_0 from eps is the error of eps times more than a hundred."""
NEARLY_CLEAN = 1e-3
"""The time from which a picture is encoded as noise where the network has no eps at 0."""
_ONE = torch.ones((), dtype=torch.float64)


class Estimate(NamedTuple):
    """What a network says of x_t: the mean of x_0 and the noise that goes with it, x_t = alpha_t x_0 + sigma_t eps."""

    x_0: Float[Tensor, "b ..."]
    eps: Float[Tensor, "b ..."]


class Level(NamedTuple):
    """How much signal and noise there is at one time. `half_log_snr`: ln(alpha / sigma), the λ of solvers; infinite at time 0."""

    alpha: float
    sigma: float
    half_log_snr: float


class GaussianProcess:
    """Noise over floats, and what a prediction of it means.

    Args:
        schedule: how noise grows with t in [0, 1].
        parametrisation: what the network of the runs predicts.
    """

    default_steps = 50
    """Steps of a run when nobody says."""

    def __init__(self, schedule: GaussianSchedule, parametrisation: str = "v") -> None:
        if parametrisation not in PARAMETRISATIONS:
            raise UsageError(suggest("parametrisation", parametrisation, PARAMETRISATIONS))
        self.schedule, self.parametrisation = schedule, parametrisation

    @property
    def config(self) -> dict[str, Any]:
        """JSON values from which `from_config` makes the same process."""
        return {"schedule": dict(self.schedule.config)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GaussianProcess:
        return cls(make_gaussian_schedule(**config["schedule"]))

    def says_noise(self, t: float) -> bool:
        """Whether the network has an eps for x_t."""
        return t > 0 or self.parametrisation != "x_0"

    @property
    def latest(self) -> float:
        """The last time at which the network has an x_0."""
        if self.parametrisation != "eps" or float(self.schedule.log_snr(_ONE)) >= LEAST_LOG_SNR:
            return 1.0
        return float(self.schedule.time(torch.tensor(LEAST_LOG_SNR, dtype=torch.float64)))

    def prior(self, shape: tuple[int, ...], draws: Draws) -> Float[Tensor, "b ..."]:
        """x_1: noise alone. `shape`: that of one example."""
        return draws.normal(*shape)

    def alpha_sigma(self, t: Float[Tensor, " b"], like: Float[Tensor, "b ..."]) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) in the precision of `like`, shaped to multiply it."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        clean = t == 0
        shape = (-1, *(1,) * (like.ndim - 1))
        return alpha.where(~clean, 1.0).to(like).view(shape), sigma.where(~clean, 0.0).to(like).view(shape)

    def level(self, t: float) -> Level:
        """(alpha_t, sigma_t, ln(alpha_t / sigma_t)) of one time, float64."""
        if t == 0:
            return Level(1.0, 0.0, math.inf)
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = self.schedule.alpha_sigma(time)
        return Level(float(alpha), float(sigma), float(self.schedule.log_snr(time)) / 2)

    def noise(self, x_0: Float[Tensor, "b ..."], t: Float[Tensor, " b"], eps: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """x_t of clean data and noise."""
        alpha, sigma = self.alpha_sigma(t, x_0)
        return alpha * x_0 + sigma * eps

    def transfer(self, estimate: Estimate, s: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """x_s along the estimate, without new noise: alpha_s x_0 + sigma_s eps."""
        return self.noise(estimate.x_0, s, estimate.eps)

    def estimate(self, kind: str, output: Float[Tensor, "b ..."], x_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"]) -> Estimate:
        """The pair of a network's output, which is a v, an eps or an x_0.

        From eps x_0 is infinite at alpha = 0, and from x_0 eps has no value at time 0.
        """
        alpha, sigma = self.alpha_sigma(t, x_t)
        if kind == "v":
            return Estimate(alpha * x_t - sigma * output, sigma * x_t + alpha * output)
        if kind == "eps":
            return Estimate((x_t - sigma * output) / alpha, output)
        if kind == "x_0":
            return Estimate(output, (x_t - alpha * output) / sigma)
        raise UsageError(suggest("parametrisation", kind, PARAMETRISATIONS))

    def target(self, kind: str, x_0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], t: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """What a network of this kind should have predicted."""
        if kind == "v":
            alpha, sigma = self.alpha_sigma(t, x_0)
            return alpha * eps - sigma * x_0
        if kind not in PARAMETRISATIONS:
            raise UsageError(suggest("parametrisation", kind, PARAMETRISATIONS))
        return eps if kind == "eps" else x_0

    def times(self, spacing: GaussianSchedule, steps: int, start: float = 1.0) -> list[float]:
        """Times of a run of this process from noise to data, falling, spaced by another schedule; the last is where the run ends.

        Each is of equal noise with one of the `stops` of `spacing`, evenly spaced and ending at 0 unless it has a rule of its own; below
        `start` = 1 only those < start remain. Where the spacing has more noise than this process at t = 1, the stops lie below the time
        at which they have the same; where it has less than the first time that a network knows, the run ends there with fewer steps.

        Raises:
            UsageError: no step, or none of them below `start`.
        """
        if not 0 < start <= 1:
            raise UsageError(f"start must be a time above 0 and at most 1, not {start}")
        last, *u = spacing.stops(steps)
        end = self._spaced(spacing, last[None])[0] if last else 0.0
        times = [t for t in reversed(self._spaced(spacing, torch.stack(u))) if end < t < start or t == start == 1]
        if not times:
            raise UsageError(f"none of {steps} steps lies below start {start}: take more steps, or a start nearer to 1")
        return [*times, end]

    def inversion_times(self, spacing: GaussianSchedule, steps: int, end: float = 1.0) -> list[float]:
        """Times of a run from data to noise, rising: of equal noise with the `stops` of `spacing`, those ≤ `end`.

        Raises:
            UsageError: `end` leaves no step.
        """
        first = 0.0 if self.says_noise(0) else NEARLY_CLEAN
        times = sorted({max(first, t) for t in self._spaced(spacing, spacing.stops(steps)) if t <= end})
        if len(times) < 2:
            raise UsageError(f"none of {steps} steps ends at or below time {end}: take more steps, or an end nearer to 1")
        return times

    def _spaced(self, spacing: GaussianSchedule, u: Float[Tensor, " n"]) -> list[float]:
        """Our times of the spacing's times u, rising and different, none outside of what a network knows."""
        noisiest = self.schedule.log_snr(_ONE)
        last = spacing.time(noisiest) if spacing.log_snr(_ONE) < noisiest else _ONE
        times = self.schedule.time(spacing.log_snr(u * last))
        return sorted(set(times.clamp(self.schedule.earliest, self.latest).tolist()))

    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """λ_t, float64; infinite at time 0."""
        return self.schedule.log_snr(t).where(t != 0, math.inf)
