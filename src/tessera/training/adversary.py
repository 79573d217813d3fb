"""The discriminator of a codec in training (Esser, Rombach & Ommer 2021, arXiv 2012.09841, eq. 5-7, with the hinge loss).

    codec          nll + w g,   g = -mean D(x̂),   w = min(|∂nll/∂W| / (|∂g/∂W| + 1e-4), w_max),   W the decoder's last weight
    discriminator  d = ½ (mean max(0, 1 - D(x)) + mean max(0, 1 + D(sg x̂)))

With n steps done before this one, w = 0 for n < start and d = 0 for n ≤ start, as absorbing diffusion's VQGAN has it. D normalises by
the statistics of its batch, so the parts of an accumulated step, and the processes of a run, each have their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from tessera.nn.discriminator import PatchDiscriminator
from tessera.nn.precision import widened

__all__ = ["Adversary", "Change", "Contest", "adaptive_weight"]

Change = Callable[[Tensor], Tensor]
"""Pictures → pictures, the same however often it is called; with gradients."""


class Contest(NamedTuple):
    """What the codec adds to its loss, `weight` · `codec`, and the loss of the discriminator."""

    weight: Float[Tensor, ""]
    codec: Float[Tensor, ""]
    discriminator: Float[Tensor, ""]


class Adversary(nn.Module):
    """The discriminator and when it counts.

    Args:
        start: steps before it does.
        weight_max: w_max.
        width, layers: of the discriminator.
    """

    def __init__(self, start: int, weight_max: float, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.start, self.weight_max = start, weight_max
        self.discriminator = PatchDiscriminator(width, layers)

    def forward(
        self, done: int, real: Float[Tensor, "b 3 h w"], made: Float[Tensor, "b 3 h w"], nll: Float[Tensor, ""], last: Tensor,
        change_made: Change, change_real: Change,
    ) -> Contest:  # fmt: skip
        """The losses of step number `done` + 1.

        Args:
            done: steps before this one.
            real, made: pictures and what the codec makes of them.
            nll: the codec's other loss of pictures. last: W.
            change_made, change_real: augmentations.
        """
        nothing = nll.new_zeros(())
        if done < self.start:
            return Contest(nothing, nothing, nothing)
        made = change_made(made)
        g = self.codec_loss(made)
        weight = adaptive_weight(nll, g, last, self.weight_max)
        return Contest(weight, g, self.own_loss(change_real(real), made.detach()) if done > self.start else nothing)

    def codec_loss(self, made: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """g, with gradients for the pictures but not for the discriminator."""
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        return -widened(functional_call(self.discriminator, frozen, (made,))).mean()

    def own_loss(self, real: Float[Tensor, "b 3 h w"], made: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """d, with gradients for the discriminator."""
        of_real, of_made = widened(self.discriminator(real)), widened(self.discriminator(made))
        return (F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean()) / 2


def adaptive_weight(nll: Float[Tensor, ""], g: Float[Tensor, ""], last: Tensor, most: float) -> Float[Tensor, ""]:
    """w of the module's formula, a constant for gradients."""
    of_nll, of_g = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (nll, g))
    return (of_nll / (of_g + 1e-4)).clamp(0.0, most).detach()
