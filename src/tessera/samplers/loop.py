"""The one driver: every sampler of either state space runs here, and here alone live the start, the progress and the cancellation.

`run_tokens` and `run_floats` decide where a run begins and which times it goes through; `drive` does the steps of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.errors import UsageError
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.gaussian import Estimate, GaussianProcess
from tessera.processes.gaussian_schedules import GaussianSchedule
from tessera.randomness import Draws
from tessera.samplers.sampler import FloatSampler, FloatStep, Predict, PredictFloat, Step, TokenSampler

__all__ = ["Callback", "Progress", "drive", "invert", "run_floats", "run_tokens", "start_time"]


MOST_STEPS = 100_000
"""Of an absorbing process, where more steps than tokens and times only spread the tokens."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step.

    index: steps done, 1..total.
    total: steps of the run.
    t: the time reached; 0 after the last step.
    x: at that time: tokens [B, N], of which masked positions hold K, or floats [B, …].
    posterior: what the step's last call of the denoiser said: log p(x_0 | x_t) [B, N, K], or an `Estimate` of floats.
    calls: of the denoiser so far.
    """

    index: int
    total: int
    t: float | int
    x: Tensor
    posterior: Tensor | Estimate
    calls: int

    def x_0(self) -> Tensor:
        """For a preview, computed when asked for: x with the most probable class at every masked position, or the estimated floats."""
        if isinstance(self.posterior, Estimate):
            return self.posterior.x_0
        return torch.where(self.x == self.posterior.shape[-1], self.posterior.argmax(-1), self.x)


Callback = Callable[[Progress], None]
"""Called after each step. To cancel a run, raise: the exception passes through the driver unchanged."""


def drive(
    predict: Any, process: Any, sampler: Any, x: Tensor, plan: Sequence[Step | FloatStep], draws: Draws,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """x after all steps of a plan. Denoiser, process and sampler are all of the state space of x."""
    posterior: list[Tensor | Estimate] = []
    calls = 0

    def observed(x_t: Tensor, t: Tensor) -> Tensor | Estimate:
        nonlocal calls
        calls += 1
        posterior.clear()  # before the network runs, which needs the memory
        posterior.append(predict(x_t, t))
        return posterior[0]

    state = sampler.init(x)
    for index, step in enumerate(plan, start=1):
        x, state = sampler.step(predict if callback is None else observed, process, x, step, state, draws)
        if callback is not None:
            callback(Progress(index, len(plan), step.s, x, posterior[0], calls))
    return x


def start_time(process: DiscreteProcess, start: float) -> int:
    """The time at which a run over the last share `start` of the process begins: int(T · start), as the original's filter ratio."""
    time = int(process.steps * start) if 0 < start <= 1 else 0
    if time < 1:
        raise UsageError(f"start {start} is out of range: give a share of the process between {1 / process.steps:g} and 1")
    return time


def run_tokens(
    predict: Predict, process: DiscreteProcess, sampler: TokenSampler, *, batch: int, grid: tuple[int, int], steps: int | None,
    draws: Draws, callback: Callback | None = None, init: Int[Tensor, "b n"] | None = None, start: float = 1.0,
    final: Int[Tensor, "#b n"] | None = None,
) -> Int[Tensor, "b n"]:  # fmt: skip
    """Tokens of `batch` pictures over `grid` = (h, w), row-major.

    Args:
        steps: steps of a whole run, 1..T; None is one per time of the process. A partial start takes the same share of them. An
            absorbing process, whose p(x_0 | x_t) is the same at all times, takes any number: above T it runs over finer times.
        init: tokens to start from, noised to time int(T · start); without them the run starts from the prior.
        start: share of the process to run, in (0, 1]; below 1 it needs `init`.
        final: tokens that stand from the start, the mask where there is none; for masking processes.
        callback: sees every step; cancels by raising.

    Raises:
        UsageError: steps or start out of range, or a partial start with no tokens to start from.
    """
    n_tokens = grid[0] * grid[1]
    _check_init(init, start, (batch, n_tokens), "tokens")
    most = max(process.steps, MOST_STEPS) if process.absorbing else process.steps
    if steps is not None and not 1 <= steps <= most:
        raise UsageError(f"steps must be between 1 and {most} for this model, not {steps}")
    if steps is not None and steps > process.steps:
        predict, process = _finer(predict, process, steps)
    first = start_time(process, start)
    if init is None:
        x = process.prior(batch, n_tokens, draws.device)
    else:
        init = init.to(draws.device)
        x = process.noise(init, init.new_full((batch,), first), draws)
    if final is not None:
        x = torch.where(final == process.mask, x, final)
    plan = sampler.plan(process, x, grid, first, first if steps is None else max(1, round(steps * first / process.steps)), draws)
    return drive(predict, process, sampler, x, plan, draws, callback)


def _finer(predict: Predict, process: DiscreteProcess, steps: int) -> tuple[Predict, DiscreteProcess]:
    """The process over more times, and the denoiser, which is told the time of its own at or after each."""

    def at_own_times(x_t: Int[Tensor, "b n"], t: Int[Tensor, " b"]) -> Float[Tensor, "b n k"]:
        return predict(x_t, (t * process.steps + steps - 1) // steps)

    return at_own_times, process.with_steps(steps)


def run_floats(
    predict: PredictFloat, process: GaussianProcess, sampler: FloatSampler, *, batch: int, shape: tuple[int, ...],
    spacing: GaussianSchedule, steps: int | None, draws: Draws, callback: Callback | None = None,
    init: Float[Tensor, "b ..."] | None = None, start: float = 1.0,
) -> Float[Tensor, "b ..."]:  # fmt: skip
    """`batch` latents of `shape` each.

    Args:
        spacing, steps, start: the times, see `GaussianProcess.times`; steps None is the process's own number.
        init: latents to start from, noised to the first time; without them the run starts from noise alone.
        callback: sees every step; cancels by raising.

    Raises:
        UsageError: steps or start out of range, or a start below 1 with nothing to start from.
    """
    _check_init(init, start, (batch, *shape), "latents")
    times = process.times(spacing, process.default_steps if steps is None else steps, start)
    eps = process.prior(shape, draws)
    x = eps if init is None else process.noise(init.to(eps), eps.new_full((batch,), times[0], dtype=torch.float64), eps)
    return drive(predict, process, sampler, x, [FloatStep(t, s) for t, s in pairwise(times)], draws, callback)


def invert(
    predict: PredictFloat, process: GaussianProcess, sampler: FloatSampler, x_0: Float[Tensor, "b ..."], *, spacing: GaussianSchedule,
    steps: int | None, draws: Draws, end: float = 1.0, callback: Callback | None = None,
) -> tuple[Float[Tensor, "b ..."], list[float]]:  # fmt: skip
    """Encodes clean latents as noise, with a sampler that draws none: x at the last of the times, and the times, rising.

    A run from there over the same times backwards, with another prompt, edits the picture.
    """
    times = process.inversion_times(spacing, process.default_steps if steps is None else steps, end)
    return drive(predict, process, sampler, x_0, [FloatStep(t, s) for t, s in pairwise(times)], draws, callback), times


def _check_init(init: Tensor | None, start: float, shape: tuple[int, ...], what: str) -> None:
    if init is None and start < 1:
        raise UsageError(f"start {start} begins from a picture, but none is given: give one, or leave start at 1")
    if init is not None and tuple(init.shape) != shape:
        raise UsageError(f"the {what} to start from are {list(init.shape)}, but this run needs {list(shape)}")
