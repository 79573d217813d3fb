"""The contract between the driver loop and a sampler.

Times run over 0..T: t = 0 is clean data, t = T is the prior. A step goes from t to s ≤ t; s = t is a further pass at the
same noise level. The denoiser is seen only as `predict(x_t, t)`, which returns the posterior over x_0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from tessera.processes.discrete import DiscreteProcess
from tessera.randomness import Draws

__all__ = ["Predict", "Step", "TokenSampler"]

Predict = Callable[[Int[Tensor, "b n"], Int[Tensor, " b"]], Float[Tensor, "b n k"]]
"""(x_t tokens [B, N] with the mask token K, times t [B] in 1..T) → log p(x_0 | x_t) [B, N, K], normalised, in [-70, 0].

The result belongs to the caller, who may overwrite it (guidance does): return a new tensor each time."""


class Step(NamedTuple):
    """From time t to time s ≤ t. `reveal`: tokens to reveal in this pass, for samplers that fix it in advance."""

    t: int
    s: int
    reveal: int | None = None


@runtime_checkable
class TokenSampler(Protocol):
    """The order of the steps; a small class of its own arithmetic, with the paper's equation in its docstring."""

    def plan(self, process: DiscreteProcess, start: int, steps: int, n_tokens: int) -> list[Step]:
        """The steps of a run from time `start` down to 0, asked for `steps` of them (1 ≤ steps ≤ start ≤ T)."""
        ...

    def init(self, x: Int[Tensor, "b n"]) -> Any:
        """State carried from step to step (None for most samplers)."""
        ...

    def step(
        self, predict: Predict, process: DiscreteProcess, x_t: Int[Tensor, "b n"], step: Step, state: Any, draws: Draws
    ) -> tuple[Int[Tensor, "b n"], Any]:
        """x_s and the next state."""
        ...
