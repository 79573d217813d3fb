"""Classifier-free guidance over token posteriors (Improved VQ-Diffusion, Tang et al. 2022, arXiv 2205.16007).

    log p_s(x_0 | x_t, y) = log p(x_0 | x_t, ∅) + s (log p(x_0 | x_t, y) - log p(x_0 | x_t, ∅)) - log Z

∅ is the learned null prompt, or the empty one for a model that has none (zero-shot). s = 1 is no guidance.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.errors import UsageError
from tessera.processes.discrete import log_posterior
from tessera.samplers.sampler import Predict

__all__ = ["LARGEST_SCALE", "classifier_free", "is_guided"]

LARGEST_SCALE = 1e6


def is_guided(scale: float) -> bool:
    """Whether a scale asks for guidance at all; within 0.001 of 1 it does not (as the original).

    Raises UsageError for NaN and for scales beyond ±1e6, with which logarithms of probabilities may overflow.
    """
    if not abs(scale) <= LARGEST_SCALE:
        raise UsageError(f"guidance must be a number from -{LARGEST_SCALE:g} to {LARGEST_SCALE:g} (1 is none, 5 is usual), not {scale}")
    return abs(scale - 1) >= 1e-3


def classifier_free(both: Predict, scale: float) -> Predict:
    """The guided denoiser. `both` takes a doubled batch whose first half has the prompts and whose second half has none."""
    if not is_guided(scale):
        raise UsageError(f"guidance {scale} is none: use the conditional denoiser alone")

    def predict(x_t: Int[Tensor, "b n"], t: Int[Tensor, " b"]) -> Float[Tensor, "b n k"]:
        log_p = both(torch.cat([x_t, x_t]), torch.cat([t, t]))
        conditional, unconditional = log_p[: len(x_t)], log_p[len(x_t) :]
        return log_posterior(torch.lerp(unconditional, conditional, scale))

    return predict
