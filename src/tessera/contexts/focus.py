"""A picture's tokens led towards what it shows or towards how it looks, by their largest singular values.

The first directions of the tokens around their means carry the style, the later ones what is shown (Xu et al. 2022, arXiv 2211.08332,
on disentanglement):

    tokens - their means over the features = U diag(s) V + the rest

Class tokens are left out by who calls. The singular values are exact, where the original draws an approximation.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.contexts.blend import check_focus

__all__ = ["RANK", "directions", "focus", "focus_weights"]

RANK = 20
"""Singular values that the focus tells apart."""
REMOVED, KEPT = 2, 5
"""Directions that are removed at level 0, and that alone are kept at level 1."""


def focus_weights(level: float, rank: int = RANK, removed: int = REMOVED, kept: int = KEPT) -> Float[Tensor, " r"]:
    """What the `rank` largest singular values are multiplied with; see `focus`. UsageError for a level outside [0, 1]."""
    check_focus(level)
    factors = torch.ones(rank, dtype=torch.float64)
    if level < 0.5:
        share = (math.exp(2 * level - 1) - math.exp(-1)) / (1 - math.exp(-1))
        start = removed * share - (removed - 1)
        places = torch.arange(min(removed, rank), dtype=torch.float64)
        factors[:removed] = start + places / removed * (1 - start)
    elif level > 0.5:
        share = (math.exp(2 * level - 1) - math.e) / (1 - math.e)
        tail = rank - kept
        start = (1 + tail) * share - tail
        places = torch.arange(kept, rank, dtype=torch.float64)
        factors[kept:] = start + (rank - 1 - places) / tail * (1 - start)
    return factors.clamp(min=0).float()


def focus(
    tokens: Float[Tensor, "b n d"], level: float, rank: int = RANK, removed: int = REMOVED, kept: int = KEPT
) -> Float[Tensor, "b n d"]:
    """Tokens between what the picture shows (level 0) and how it looks (1); 0.5 leaves them as they are.

    Below 0.5 the first directions fade, at 0 `removed` of them are gone. Above it the later ones fade and what is beyond the first `rank`
    is dropped; at 1 only `kept` are left. The standard deviation of each picture's tokens stays the same.

    Raises UsageError for a level outside [0, 1].
    """
    factors = focus_weights(level, rank, removed, kept).to(tokens)
    if level == 0.5:
        return tokens
    means = tokens.mean(-1, keepdim=True)
    u, s, v = torch.linalg.svd(tokens - means, full_matrices=False)
    share = torch.zeros_like(s) if level > 0.5 else torch.ones_like(s)
    share[:, :rank] = factors[: s.shape[1]]
    changed = (u * (s * share)[:, None]) @ v + means
    return changed * (tokens.std((1, 2), keepdim=True) / changed.std((1, 2), keepdim=True).clamp(min=1e-12))


def directions(tokens: Float[Tensor, "b n d"], first: int, last: int, centred: bool = True) -> Float[Tensor, "b n d"]:
    """The means and the directions number `first` to `last` - 1 alone, as the first release does it: from 0 how the picture looks, from a
    later one what it shows. `centred`: around the means; otherwise around 0, and without them."""
    means = tokens.mean(-1, keepdim=True) * centred
    u, s, v = torch.linalg.svd(tokens - means, full_matrices=False)
    return (u[..., first:last] * s[:, None, first:last]) @ v[:, first:last] + means
