"""Several contexts lead one run: the denoiser of a mixture, with guidance. What guidance is between posteriors, this is between contexts.

predict = composed(process, [Ingredient(text_flow.network, words, no_words, 0.7), Ingredient(image_flow.network, picture, blank, 0.3)], 7.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.contexts.blend import MIXINGS
from tessera.contexts.context import Context
from tessera.errors import UsageError, suggest
from tessera.families.versatile.mixing import Prepared, mix
from tessera.families.versatile.network import FlowNetwork
from tessera.guidance.classifier_free import is_guided
from tessera.guidance.weighted import mixing_weights, weighted
from tessera.processes.gaussian import Estimate, GaussianProcess
from tessera.randomness import Draws
from tessera.samplers.sampler import PredictFloat

__all__ = ["Ingredient", "choose", "composed"]


class Ingredient(NamedTuple):
    """One of several contexts. network: of the flow that it belongs to. context: of the batch. nothing: "no prompt" in its place."""

    network: FlowNetwork
    context: Context
    nothing: Context
    ratio: float = 1.0


def composed(
    process: GaussianProcess, ingredients: Sequence[Ingredient], guidance: float = 1.0, by: str = "attention", draws: Draws | None = None
) -> PredictFloat:
    """The denoiser of one batch under all of these contexts.

    Args:
        ingredients: their flows have one data type in common, and share the network.
        guidance: classifier-free guidance scale, the same for all.
        by: an entry of `MIXINGS`.
        draws: of mixing by layer, which draws anew in every call; with and without prompts the same layers are chosen.

    Raises:
        UsageError: an unknown mixing, none or different data types, ratios that mean nothing, or no draws.
    """
    if by not in MIXINGS:
        raise UsageError(suggest("mixing", by, MIXINGS))
    if by == "layer" and draws is None:
        raise UsageError("mixing by layer draws random numbers: give draws")
    if len({one.network.config["data"] for one in ingredients}) != 1:
        raise UsageError("contexts that are mixed must lead to one kind of data: give at least one, all of flows to the same")
    guided = is_guided(guidance)
    prepared = [one.network.prepare(Context.cat([one.nothing, one.context]) if guided else one.context) for one in ingredients]
    mixture, network = mix(prepared, [one.ratio for one in ingredients]), ingredients[0].network

    def stacked(x_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"]) -> Estimate:
        contexts = mixture
        if by == "layer" and draws is not None:
            choices = choose(mixture, network.places, draws)
            contexts = replace(mixture, choices=choices.repeat(len(x_t) // len(choices), 1))
        return process.estimate(network.parametrisation, network(x_t, t, contexts), x_t, t)

    return weighted(stacked, mixing_weights([guidance])[:, None]) if guided else stacked


def choose(mixture: Prepared, places: int, draws: Draws) -> Tensor:
    """[B, places]: a context for every example and place, drawn with the ratios as probabilities."""
    ends = torch.tensor([share.ratio for share in mixture.shares], dtype=torch.float64, device=draws.device).cumsum(0)
    return torch.searchsorted(ends, draws.uniform(places), right=True).clamp(max=len(ends) - 1)
