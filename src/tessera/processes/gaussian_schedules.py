"""Schedules of the variance-preserving Gaussian process: how much signal is left at a time t in [0, 1].

    x_t = alpha_t x_0 + sigma_t eps,    alpha_t² + sigma_t² = 1,    log-SNR λ_t = ln(alpha_t² / sigma_t²), falling from t = 0 to t = 1.

A schedule is the monotone map t ⇄ λ_t (Kingma et al. 2021, arXiv 2107.00630, section 3.2). Between two schedules a time of equal λ is the
same noise, so one schedule also spaces the steps of a model that was trained with another: see `GaussianProcess.times`.

| kind | λ_t | from |
|---|---|---|
| cosine | -2 ln tan(π t / 2), so that alpha_t = cos(π t / 2) | Salimans & Ho 2022, arXiv 2202.00512 |
| ddpm | -ln(expm1(1e-4 + 10 t²)), DDPM's betas in continuous time | Ho et al. 2020, arXiv 2006.11239; Kingma et al. 2021 |
| spliced | cosine at little noise, ddpm at much | v-diffusion-pytorch |
| log-snr | falls linearly from `most` to `least` | v-diffusion-pytorch |
| linear-beta | the running product of 1 - beta over T discrete times, ln-linear between them | Rombach et al. 2022, arXiv 2112.10752 |
| leading, quadratic | linear-beta; they differ in how they space the steps of a run | Song et al. 2021, arXiv 2010.02502, appendix D.2 |

Each of them can be moved by a constant, λ_t + shift (Hoogeboom et al. 2023, arXiv 2301.11093, section 2.2): what a large even area shows is
seen through much noise, so pictures of many pixels, or of few even areas, need more of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.errors import UsageError, suggest
from tessera.schema import check_arguments

__all__ = [
    "DDPM", "GAUSSIAN_SCHEDULES", "Cosine", "GaussianSchedule", "Leading", "LinearBeta", "LogSNR", "Quadratic", "Shifted", "Spliced",
    "make_gaussian_schedule", "make_spacing",
]  # fmt: skip


class GaussianSchedule:
    """t ⇄ λ; all values float64. `config`: JSON values from which `make_gaussian_schedule` makes the same schedule."""

    config: dict[str, Any]
    earliest: float = 0.0
    """The smallest time that a network knows."""
    shift: float = 0.0
    """By which λ is moved from where its kind has it."""

    def log_snr(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """λ_t of times in [0, 1]."""
        raise NotImplementedError

    def time(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The time of a λ, the inverse of `log_snr`."""
        raise NotImplementedError

    def alpha_sigma(self, t: Float[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
        """(alpha_t, sigma_t)."""
        log_snr = self.log_snr(t)
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()

    def stops(self, steps: int) -> Float[Tensor, " n"]:
        """The times of a run whose steps this schedule spaces, rising: the one where it ends, and the one where each step begins.

        Raises UsageError for a number of steps that it cannot space.
        """
        if steps < 1:
            raise UsageError(f"steps must be at least 1, not {steps}")
        return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


class Cosine(GaussianSchedule):
    """alpha_t = cos(π t / 2), sigma_t = sin(π t / 2): from no noise to nothing but noise."""

    def __init__(self) -> None:
        self.config = {"kind": "cosine"}

    def log_snr(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -2 * (t.double() * (math.pi / 2)).tan().log()

    def time(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return (-log_snr.double() / 2).exp().atan() * (2 / math.pi)

    def alpha_sigma(self, t: Float[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
        angle = t.double() * (math.pi / 2)
        return angle.cos(), angle.sin()


class DDPM(GaussianSchedule):
    """The continuous-time form of DDPM's linear betas; λ lies between 9.2 and -10."""

    def __init__(self) -> None:
        self.config = {"kind": "ddpm"}

    def log_snr(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -torch.expm1(1e-4 + 10 * t.double() ** 2).log()

    def time(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return ((torch.log1p((-log_snr.double()).exp()) - 1e-4) / 10).clamp(min=0.0).sqrt()


class Spliced(GaussianSchedule):
    """Cosine steps below time `JOIN`, DDPM steps from there on, one after the other with equal steps of u."""

    JOIN = 0.80074257
    """Cosine time at which the two meet."""
    DDPM_JOIN = 0.48536712
    """DDPM time of the same λ."""

    def __init__(self) -> None:
        self.config = {"kind": "spliced"}
        self._cosine, self._ddpm = Cosine(), DDPM()

    def log_snr(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        both = t.double() * (1 + self.JOIN - self.DDPM_JOIN)
        late = self._ddpm.log_snr(both + (self.DDPM_JOIN - self.JOIN))
        return torch.where(both < self.JOIN, self._cosine.log_snr(both), late)

    def time(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        early, late = self._cosine.time(log_snr), self._ddpm.time(log_snr) + (self.JOIN - self.DDPM_JOIN)
        return torch.where(early < self.JOIN, early, late) / (1 + self.JOIN - self.DDPM_JOIN)


class LogSNR(GaussianSchedule):
    """λ falls linearly.

    Args:
        most: λ at t = 0.
        least: λ at t = 1, below `most`.
    """

    def __init__(self, most: float = 10.0, least: float = -10.0) -> None:
        if not least < most:
            raise UsageError(f"a log-SNR schedule falls from most to least, so {most} must be above {least}")
        self.most, self.least = most, least
        self.config = {"kind": "log-snr", "most": most, "least": least}

    def log_snr(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return self.most + t.double() * (self.least - self.most)

    def time(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return (log_snr.double() - self.most) / (self.least - self.most)


class LinearBeta(GaussianSchedule):
    """Of models with T discrete times i = 0..T-1, alpha_i² = Π (1 - beta): time (i + 1) / T is index i, and λ is linear between.

    Args:
        steps: T.
        first, last: beta of the first and the last index.
        root: whether the root of beta is linear (latent diffusion) rather than beta itself (DDPM).
    """

    KIND = "linear-beta"

    def __init__(self, steps: int = 1000, first: float = 0.00085, last: float = 0.012, root: bool = True) -> None:
        if steps < 2 or not 0 < first <= last < 1:
            raise UsageError(f"a linear-beta schedule needs at least 2 steps and 0 < first <= last < 1, not {steps}, {first}, {last}")
        self.config = {"kind": self.KIND, "steps": steps, "first": first, "last": last, "root": root}
        self.steps, self.earliest = steps, 1 / steps
        power = 2 if root else 1
        beta = torch.linspace(first ** (1 / power), last ** (1 / power), steps, dtype=torch.float64) ** power
        alpha_squared = (1 - beta).cumprod(0)
        self.knots = alpha_squared.log() - (1 - alpha_squared).log()
        """λ at each index."""

    def index(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The discrete time that the network is told, not rounded: t T - 1."""
        return t.double() * self.steps - 1

    def log_snr(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        index = self.index(t)
        left = index.floor().clamp(0, self.steps - 2)
        knots = self.knots.to(t.device)
        low, high = knots[left.long()], knots[left.long() + 1]
        return low + (index - left) * (high - low)

    def time(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        falling = -self.knots.to(log_snr.device)
        value = -log_snr.double()
        left = (torch.searchsorted(falling, value.contiguous(), right=True) - 1).clamp(0, self.steps - 2)
        low, high = falling[left], falling[left + 1]
        return (left + (value - low) / (high - low) + 1) / self.steps


class Leading(LinearBeta):
    """Steps begin at the indices 1, 1 + ⌊T/S⌋, 1 + 2⌊T/S⌋, …, so that an S that does not divide T gives more of them, and a run ends at
    index 0, where a little noise is left: latent diffusion's rule. Where the last of them would be T it fails; here that one is left out.
    """

    KIND = "leading"

    def stops(self, steps: int) -> Float[Tensor, " n"]:
        if not 1 <= steps < self.steps:
            raise UsageError(f"steps must be between 1 and {self.steps - 1} in this spacing, not {steps}")
        return self._at(torch.arange(0, self.steps - 1, self.steps // steps) + 1)

    def _at(self, index: Int[Tensor, " n"]) -> Float[Tensor, " n1"]:
        """The times of the indices, after that of index 0."""
        return (torch.cat([index.new_zeros(1), index]).double() + 1) / self.steps


class Quadratic(Leading):
    """Steps begin at the indices 1 + ⌊(k/(S - 1))² 0.8 T⌋, k < S: small steps at little noise, none at the most."""

    KIND = "quadratic"

    def stops(self, steps: int) -> Float[Tensor, " n"]:
        if steps < 2:
            raise UsageError(f"steps must be at least 2 in this spacing, not {steps}")
        return self._at((torch.linspace(0, math.sqrt(0.8 * self.steps), steps, dtype=torch.float64) ** 2).long() + 1)


class Shifted(GaussianSchedule):
    """Another schedule with `shift` added to every λ: below 0, more noise at every time."""

    def __init__(self, schedule: GaussianSchedule, shift: float) -> None:
        if not math.isfinite(shift):
            raise UsageError(f"the shift of a schedule must be a finite number, not {shift}")
        self.schedule, self.shift = schedule, float(shift)
        self.earliest = schedule.earliest
        self.config = {**schedule.config, "shift": self.shift}

    def log_snr(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return self.schedule.log_snr(t) + self.shift

    def time(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return self.schedule.time(log_snr.double() - self.shift)

    def stops(self, steps: int) -> Float[Tensor, " n"]:
        return self.schedule.stops(steps)


GAUSSIAN_SCHEDULES: dict[str, Callable[..., GaussianSchedule]] = {
    "cosine": Cosine, "ddpm": DDPM, "spliced": Spliced, "log-snr": LogSNR, "linear-beta": LinearBeta,
    "leading": Leading, "quadratic": Quadratic,
}  # fmt: skip


def make_gaussian_schedule(kind: str, shift: float = 0.0, **options: Any) -> GaussianSchedule:
    """The schedule named `kind` with its own arguments, moved by `shift`.

    `make_gaussian_schedule(**schedule.config)` is the same schedule.
    """
    if kind not in GAUSSIAN_SCHEDULES:
        raise UsageError(suggest("schedule", kind, GAUSSIAN_SCHEDULES))
    check_arguments("schedule", kind, GAUSSIAN_SCHEDULES[kind], options)
    schedule = GAUSSIAN_SCHEDULES[kind](**options)
    return Shifted(schedule, shift) if shift else schedule


def make_spacing(kind: str, schedule: GaussianSchedule) -> GaussianSchedule:
    """The schedule named `kind` as it spaces the steps of a process whose own is `schedule`: moved as that one is, with its betas if it
    has some. UsageError for an unknown name."""
    own = schedule.config
    betas = {LinearBeta.KIND, Leading.KIND, Quadratic.KIND}
    options = {name: value for name, value in own.items() if name not in ("kind", "shift")} if {kind, own["kind"]} <= betas else {}
    return make_gaussian_schedule(kind, schedule.shift, **options)
