"""The training loss of continuous models: a weighted square of the error of x_0.

With SNR = alpha² / sigma², an error of the same network counts in its three forms as

    |v - v*|² = (SNR + 1) |x_0 - x_0*|²,    |eps - eps*|² = SNR |x_0 - x_0*|²

so an objective is a weight w(SNR) of the error of x_0, whatever the network predicts:

| objective | w | from |
|---|---|---|
| v | SNR + 1 | Salimans & Ho 2022, arXiv 2202.00512 |
| eps | SNR | Ho et al. 2020, arXiv 2006.11239, eq. 14 |
| x_0 | 1 | |
| min-snr | min(SNR, gamma) | Hang et al. 2023, arXiv 2303.09556 |
| root-snr | sqrt(min(SNR, 200) + 0.02) | between x_0 and eps: fine detail counts, and so does what is decided at much noise |

The error is measured in the network's own form and multiplied by the quotient of the two weights; per image it is the mean over values.
A network of v can be trained with every objective; one of eps with its own or min-snr; one of x_0 with its own, min-snr or root-snr. The
other quotients grow without bound at one of the two ends.

Times are uniform in (0, 1], in the process's own schedule. v-diffusion's training code was never released, so objective and times
are a choice: its networks predict v at continuous t, and with the cosine schedule, v and uniform t are those of Salimans & Ho.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.errors import UsageError, suggest
from tessera.processes.gaussian import PARAMETRISATIONS, GaussianProcess
from tessera.randomness import Draws

__all__ = ["OBJECTIVES", "GaussianLoss", "GaussianLossOutput"]

Weight = Callable[[Tensor, float], Tensor]
"""(λ = ln SNR, gamma) → what multiplies the squared error of the network's own form."""

_ROOT_FLOOR, _ROOT_CEILING = 0.02, 200.0


def _root_snr(log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return (log_snr.exp().clamp(max=_ROOT_CEILING) + _ROOT_FLOOR).sqrt()


OBJECTIVES: dict[str, dict[str, Weight]] = {
    "v": {
        "v": lambda log_snr, gamma: torch.ones_like(log_snr),
        "eps": lambda log_snr, gamma: log_snr.sigmoid(),
        "x_0": lambda log_snr, gamma: (-log_snr).sigmoid(),
        "min-snr": lambda log_snr, gamma: log_snr.exp().clamp(max=gamma) * (-log_snr).sigmoid(),
        "root-snr": lambda log_snr, gamma: _root_snr(log_snr) * (-log_snr).sigmoid(),
    },
    "eps": {
        "eps": lambda log_snr, gamma: torch.ones_like(log_snr),
        "min-snr": lambda log_snr, gamma: (gamma * (-log_snr).exp()).clamp(max=1),
    },
    "x_0": {
        "x_0": lambda log_snr, gamma: torch.ones_like(log_snr),
        "min-snr": lambda log_snr, gamma: log_snr.exp().clamp(max=gamma),
        "root-snr": lambda log_snr, gamma: _root_snr(log_snr),
    },
}
"""Weights by what the network predicts and by objective."""

TIME_SAMPLING = ("uniform", "stratified")


@dataclass(frozen=True)
class GaussianLossOutput:
    """What a training step computed.

    loss: scalar to differentiate, the mean of per_image. per_image: [B], weighted. squared_error: [B], in the network's form, unweighted.
    t: [B], float64. x_t, target, output: [B, …], the network's input, what it should have given, and what it gave (detached).
    """

    loss: Float[Tensor, ""]
    per_image: Float[Tensor, " b"]
    squared_error: Float[Tensor, " b"]
    t: Float[Tensor, " b"]
    x_t: Float[Tensor, "b ..."]
    target: Float[Tensor, "b ..."]
    output: Float[Tensor, "b ..."]


class GaussianLoss(nn.Module):
    """The training loss and its process.

    Args:
        process: the noise.
        parametrisation: what the network predicts: "v", "eps" or "x_0".
        objective: whose squared error counts, or "min-snr"; None is the network's own.
        gamma: the SNR above which "min-snr" counts no more.
        time_sampling: "uniform", or "stratified": image i of B draws from (i/B, (i + 1)/B], which evens out the loss from step to step.
        time_power: times are this power of uniform ones, above 1 more of them at little noise. The loss is not weighted back.
    """

    def __init__(
        self,
        process: GaussianProcess,
        parametrisation: str = "v",
        objective: str | None = None,
        gamma: float = 5.0,
        time_sampling: str = "uniform",
        time_power: float = 1.0,
    ) -> None:
        super().__init__()
        if parametrisation not in PARAMETRISATIONS:
            raise UsageError(suggest("parametrisation", parametrisation, PARAMETRISATIONS))
        objective = parametrisation if objective is None else objective
        if objective not in OBJECTIVES[parametrisation]:
            raise UsageError(suggest(f"objective for a network that predicts {parametrisation}", objective, OBJECTIVES[parametrisation]))
        if time_sampling not in TIME_SAMPLING:
            raise UsageError(suggest("time sampling", time_sampling, TIME_SAMPLING))
        if not 0 < gamma < float("inf"):
            raise UsageError(f"gamma of the min-SNR weight must be a number above 0, not {gamma}")
        if not 0 < time_power < float("inf"):
            raise UsageError(f"time_power must be a number above 0, not {time_power}")
        self.process = GaussianProcess(process.schedule, parametrisation)
        self.parametrisation, self.objective = parametrisation, objective
        self.gamma, self.time_sampling, self.time_power = float(gamma), time_sampling, float(time_power)

    @property
    def config(self) -> dict[str, Any]:
        """JSON values of the constructor's arguments, the process excepted."""
        return {
            "parametrisation": self.parametrisation, "objective": self.objective, "gamma": self.gamma, "time_sampling": self.time_sampling,
            "time_power": self.time_power,
        }  # fmt: skip

    def draw_times(self, batch: int, draws: Draws) -> Float[Tensor, " b"]:
        """Times in (0, 1], from the first that a network knows."""
        u = draws.uniform()
        if len(u) != batch:
            raise UsageError(f"the random draws are for {len(u)} images but the batch has {batch}")
        if self.time_sampling == "stratified":
            u = (u + torch.arange(batch - 1, -1, -1, dtype=u.dtype, device=u.device)) / batch
        if self.time_power != 1:
            u = 1 - (1 - u) ** self.time_power
        return 1 - u * (1 - self.process.schedule.earliest)

    def weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What multiplies the squared error of the network's own form, float64."""
        return OBJECTIVES[self.parametrisation][self.objective](self.process.log_snr(t), self.gamma)

    def forward(
        self,
        predict_output: Callable[[Tensor, Tensor], Tensor],
        x_0: Float[Tensor, "b ..."],
        draws: Draws,
        t: Float[Tensor, " b"] | None = None,
    ) -> GaussianLossOutput:
        """The loss of one batch of clean data.

        Args:
            predict_output: (x_t [B, …], t [B] float64) → the network's v, eps or x_0.
            draws: the random numbers of this step: first the times, then the noise.
            t: times to use instead of drawing them.
        """
        t = self.draw_times(len(x_0), draws) if t is None else t.double()
        eps = draws.normal(*x_0.shape[1:]).to(x_0)
        x_t = self.process.noise(x_0, t, eps)
        target = self.process.target(self.parametrisation, x_0, eps, t)
        output = predict_output(x_t, t).to(target.dtype)
        squared_error = (output - target).square().flatten(1).mean(1)
        per_image = squared_error * self.weight(t).to(squared_error)
        return GaussianLossOutput(per_image.mean(), per_image, squared_error, t, x_t, target, output.detach())
