"""Pseudo numerical methods (Liu et al. 2022, arXiv 2202.09778): classical weights for the noise eps, DDIM for the way.

    φ(x, e; t → s) = alpha_s (x - sigma_t e) / alpha_t + sigma_s e        the transfer
    x_s = φ(x_t, e; t → s),    e a mean of eps at several points:

    PRK (Runge-Kutta)     e = (e_1 + 2 e_2 + 2 e_3 + e_4)/6  at t, twice at m = (t + s)/2, at s
    PIE (improved Euler)  e = (e_1 + e_2)/2                  at t and at s
    PLMS (multistep)      e = (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3)/24   at t and three times before
    PLMS2                 e = (3 e_0 - e_1)/2
    IPLMS (Zhang & Chen 2022, arXiv 2204.13902, iPNDM): as PLMS from the fourth step on, with 1, 2 and 3 points before it

The means are taken in t while the way is measured in sigma/alpha, so all of them converge with order 2, whatever the order of the classical
weights. PRK and PIE, and the steps that PLMS and PLMS2 warm up with, call the network at s, also where s = 0, as v-diffusion-pytorch does.
At t = 1 nothing of x_0 is in x_t and φ would divide by 0, so a step from there is DDIM's, as is every very large one (`GAIN`), and one that
would ask a network for the noise in clean data which has no answer, as it predicts x_0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tessera.processes.gaussian import Estimate, GaussianProcess
from tessera.randomness import Draws
from tessera.samplers.sampler import FloatStep, PredictFloat, at

__all__ = ["IPLMS", "PIE", "PLMS", "PLMS2", "PRK"]

GAIN = {"v": 1e4, "eps": 8.0, "x_0": 8.0}
"""Largest alpha_s / alpha_t, by what the network predicts, of a step that uses a mean of eps. An error of eps at m or s counts
sigma_t / alpha_t times in x_0: larger steps out of almost pure noise, which runs of few steps take, amplify it until nothing of the picture
is left. They are DDIM's. Networks that predict v take those of v-diffusion-pytorch, whose times have gains up to 150, as it takes them."""

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of e_0, e_1, … by the number of them."""

Past = tuple[Tensor, ...]
"""eps of the steps before, the latest first."""


def weighted(weights: Sequence[float], past: Past) -> Tensor:
    """Σ w_i e_i."""
    total = weights[0] * past[0]
    for weight, eps in zip(weights[1:], past[1:], strict=True):
        total = total + weight * eps
    return total


class _Pseudo:
    """What they share: the transfer with a mean of eps. They differ in `mean`."""

    order: ClassVar[int | None] = 2

    def init(self, x: Float[Tensor, "b ..."]) -> Past:
        return ()

    def step(
        self, predict: PredictFloat, process: GaussianProcess, x_t: Float[Tensor, "b ..."], step: FloatStep, state: Past, draws: Draws
    ) -> tuple[Float[Tensor, "b ..."], Past]:
        here = predict(x_t, at(step.t, x_t))
        too_far = process.level(step.s).alpha > GAIN[process.parametrisation] * process.level(step.t).alpha
        if too_far or (self.asks_at_end(state) and not process.says_noise(step.s)):
            eps, kept = here.eps, here.eps
        else:
            eps, kept = self.mean(predict, process, here, step, state)
        return _transfer(process, here, eps, step.t, step.s), (kept, *state)[:3]

    def asks_at_end(self, past: Past) -> bool:
        """Whether the step calls the network at s."""
        raise NotImplementedError

    def mean(self, predict: PredictFloat, process: GaussianProcess, here: Estimate, step: FloatStep, past: Past) -> tuple[Tensor, Tensor]:
        """The mean of eps to go with, and the eps to keep for later steps. `here`: the estimate at t."""
        raise NotImplementedError


def _transfer(process: GaussianProcess, here: Estimate, eps: Tensor, t: float, s: float) -> Tensor:
    """φ(x_t, eps; t → s), by its difference from the estimate at t, which is exact where eps is the estimate's own."""
    from_, to = process.level(t), process.level(s)
    x_0 = here.x_0 if eps is here.eps else here.x_0 - (from_.sigma / from_.alpha) * (eps - here.eps)
    return to.alpha * x_0 + to.sigma * eps


def _runge_kutta(predict: PredictFloat, process: GaussianProcess, here: Estimate, step: FloatStep) -> Tensor:
    """e of PRK; four calls with the one at t."""
    t, s = step
    middle = (t + s) / 2

    def eps_at(eps: Tensor, time: float) -> Tensor:
        x = _transfer(process, here, eps, t, time)
        return predict(x, at(time, x)).eps

    e_1 = here.eps
    e_2 = eps_at(e_1, middle)
    e_3 = eps_at(e_2, middle)
    e_4 = eps_at(e_3, s)
    return (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6


def _improved_euler(predict: PredictFloat, process: GaussianProcess, here: Estimate, step: FloatStep) -> Tensor:
    """e of PIE; two calls with the one at t."""
    x = _transfer(process, here, here.eps, step.t, step.s)
    return (here.eps + predict(x, at(step.s, x)).eps) / 2


@dataclass(frozen=True)
class PRK(_Pseudo):
    """Order 2; four calls of the network per step."""

    def asks_at_end(self, past: Past) -> bool:
        return True

    def mean(self, predict: PredictFloat, process: GaussianProcess, here: Estimate, step: FloatStep, past: Past) -> tuple[Tensor, Tensor]:
        eps = _runge_kutta(predict, process, here, step)
        return eps, eps


@dataclass(frozen=True)
class PIE(_Pseudo):
    """Order 2; two calls of the network per step."""

    def asks_at_end(self, past: Past) -> bool:
        return True

    def mean(self, predict: PredictFloat, process: GaussianProcess, here: Estimate, step: FloatStep, past: Past) -> tuple[Tensor, Tensor]:
        eps = _improved_euler(predict, process, here, step)
        return eps, eps


@dataclass(frozen=True)
class PLMS(_Pseudo):
    """Order 2; one call of the network per step after three steps of PRK, whose means are kept."""

    def asks_at_end(self, past: Past) -> bool:
        return len(past) < 3

    def mean(self, predict: PredictFloat, process: GaussianProcess, here: Estimate, step: FloatStep, past: Past) -> tuple[Tensor, Tensor]:
        if len(past) < 3:
            eps = _runge_kutta(predict, process, here, step)
            return eps, eps
        return weighted(ADAMS_BASHFORTH[3], (here.eps, *past)), here.eps


@dataclass(frozen=True)
class PLMS2(_Pseudo):
    """Order 2; one call of the network per step after one step of PIE, whose mean is kept."""

    def asks_at_end(self, past: Past) -> bool:
        return not past

    def mean(self, predict: PredictFloat, process: GaussianProcess, here: Estimate, step: FloatStep, past: Past) -> tuple[Tensor, Tensor]:
        if not past:
            eps = _improved_euler(predict, process, here, step)
            return eps, eps
        return weighted(ADAMS_BASHFORTH[1], (here.eps, past[0])), here.eps


@dataclass(frozen=True)
class IPLMS(_Pseudo):
    """Order 2; one call of the network per step."""

    def asks_at_end(self, past: Past) -> bool:
        return False

    def mean(self, predict: PredictFloat, process: GaussianProcess, here: Estimate, step: FloatStep, past: Past) -> tuple[Tensor, Tensor]:
        return weighted(ADAMS_BASHFORTH[len(past)], (here.eps, *past)), here.eps
