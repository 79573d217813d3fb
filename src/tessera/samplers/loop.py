"""The one driver: every token sampler runs here, and here alone live the start, the progress and the cancellation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.errors import UsageError
from tessera.processes.discrete import DiscreteProcess
from tessera.randomness import Draws
from tessera.samplers.sampler import Predict, TokenSampler

__all__ = ["Callback", "Progress", "run", "start_time"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step.

    index: steps done, 1..total.
    total: steps of the run.
    t: the time reached; 0 after the last step.
    x: tokens [B, N] at that time; masked positions hold K.
    log_p: the posterior [B, N, K] that the step was drawn from.
    """

    index: int
    total: int
    t: int
    x: Int[Tensor, "b n"]
    log_p: Float[Tensor, "b n k"]

    def x_0(self) -> Int[Tensor, "b n"]:
        """Tokens for a preview: x with the most probable class at every masked position. Computed when asked for."""
        return torch.where(self.x == self.log_p.shape[-1], self.log_p.argmax(-1), self.x)


Callback = Callable[[Progress], None]
"""Called after each step. To cancel a run, raise: the exception passes through `run` unchanged."""


def start_time(process: DiscreteProcess, start: float) -> int:
    """The time at which a run over the last share `start` of the process begins: int(T · start), as the original's filter ratio."""
    time = int(process.steps * start) if 0 < start <= 1 else 0
    if time < 1:
        raise UsageError(f"start {start} is out of range: give a share of the process between {1 / process.steps:g} and 1")
    return time


def run(
    predict: Predict, process: DiscreteProcess, sampler: TokenSampler, *, batch: int, n_tokens: int, steps: int | None, draws: Draws,
    callback: Callback | None = None, init: Int[Tensor, "b n"] | None = None, start: float = 1.0,
) -> Int[Tensor, "b n"]:  # fmt: skip
    """Tokens of `batch` pictures of `n_tokens` tokens each.

    Args:
        steps: steps of a whole run, 1..T; None is one per time of the process. A partial start takes the same share of them.
        init: tokens to start from, noised to time int(T · start); without them the run starts from the prior.
        start: share of the process to run, in (0, 1]; below 1 it needs `init`.
        callback: sees every step; cancels by raising.

    Raises:
        UsageError: steps or start out of range, or a partial start with no tokens to start from.
    """
    first = start_time(process, start)
    if steps is not None and not 1 <= steps <= process.steps:
        raise UsageError(f"steps must be between 1 and {process.steps} for this model, not {steps}")
    if init is None and start < 1:
        raise UsageError(f"start {start} begins from a picture, but none is given: give one, or leave start at 1")
    if init is not None and init.shape != (batch, n_tokens):
        raise UsageError(f"the tokens to start from are {list(init.shape)}, but this run needs [{batch}, {n_tokens}]")
    plan = sampler.plan(process, first, first if steps is None else max(1, round(steps * first / process.steps)), n_tokens)

    if init is None:
        x = process.prior(batch, n_tokens, draws.device)
    else:
        init = init.to(draws.device)
        x = process.noise(init, init.new_full((batch,), first), draws)
    posterior: list[Tensor] = []

    def observed(x_t: Int[Tensor, "b n"], t: Int[Tensor, " b"]) -> Float[Tensor, "b n k"]:
        posterior.clear()  # before the network runs, which needs the memory
        posterior.append(predict(x_t, t))
        return posterior[0]

    state = sampler.init(x)
    for index, step in enumerate(plan, start=1):
        x, state = sampler.step(predict if callback is None else observed, process, x, step, state, draws)
        if callback is not None:
            callback(Progress(index, len(plan), step.s, x, posterior[0]))
    return x
