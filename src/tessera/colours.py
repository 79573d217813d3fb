"""Colours of one picture given to another: each channel gets the other's mean and standard deviation, or its whole distribution.

    y = (x - mean(x)) / std(x) · std(r) + mean(r),  and in histogram mode then  F_r⁻¹(F_y(y))

Pictures are float32 [3, H, W] in [-1, 1], of any two sizes.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tessera.errors import UsageError

__all__ = ["adjust_colours", "match_colours", "recoloured"]

BINS = 600
MARGIN = 1e-6


def recoloured(image: Float[Tensor, "3 h w"], reference: Float[Tensor, "3 h2 w2"], how: str) -> Float[Tensor, "3 h w"]:
    """`image` with the colours of `reference`: "none", "match" (`match_colours`), "half" or "histogram" (`adjust_colours`)."""
    if how == "none":
        return image
    return match_colours(image, reference) if how == "match" else adjust_colours(image, reference, histogram=how == "histogram")


def match_colours(image: Float[Tensor, "3 h w"], reference: Float[Tensor, "3 h2 w2"]) -> Float[Tensor, "3 h w"]:
    """`image` with the mean and standard deviation of `reference` in each channel, clamped to [-1, 1]."""
    here, there = (x.flatten(1).double() for x in (image, reference))
    scale = there.std(1) / here.std(1).clamp(min=1e-12)
    changed = (image.double() - here.mean(1)[:, None, None]) * scale[:, None, None] + there.mean(1)[:, None, None]
    return changed.clamp(-1, 1).float()


def adjust_colours(
    image: Float[Tensor, "3 h w"], reference: Float[Tensor, "3 h2 w2"], keep: float = 0.5, histogram: bool = False
) -> Float[Tensor, "3 h w"]:
    """The adjustment of Versatile Diffusion's first release, computed and returned in the 256 levels of files, cut off rather than rounded.

    Args:
        keep: share of the picture's own colours.
        histogram: match the distribution of each channel, too.

    Raises UsageError for a share outside [0, 1].
    """
    if not 0 <= keep <= 1:
        raise UsageError(f"the share of a picture's own colours must be between 0 and 1, not {keep:g}")
    here, there = _levels(image), _levels(reference)
    scale = there.std(1) / np.maximum(here.std(1), 1e-12)
    changed = (here - here.mean(1, keepdims=True)) * scale[:, None] + there.mean(1, keepdims=True)
    if histogram:
        changed = np.stack([_redistributed(x, r) for x, r in zip(changed, there, strict=True)])
    mixed = np.clip(changed * (1 - keep) + here * keep, 0, 255).astype(np.uint8)
    return torch.from_numpy(mixed.astype(np.float32)).view(image.shape) / 127.5 - 1


def _levels(image: Float[Tensor, "3 h w"]) -> np.ndarray:
    """[3, pixels], whole numbers 0..255 as float64."""
    # A level k is 2 k / 255 - 1 in float32, which may lie a rounding below it: truncation must not take the next lower one.
    return ((image.double().flatten(1).clamp(-1, 1) + 1) * 127.5 + 1e-4).floor().clamp(max=255).cpu().numpy()


def _redistributed(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`values` mapped so that they are distributed as `reference`, both by histograms of `BINS` bins."""
    low, high = min(values.min(), reference.min()) - MARGIN, max(values.max(), reference.max()) + MARGIN
    (count, edges), (wanted, _) = (np.histogram(x, BINS, (low, high)) for x in (values, reference))
    left = edges[:-1]
    here, there = (np.cumsum(x) / x.sum() for x in (count, wanted))
    target = np.interp(here, there, left)
    target[here <= there[0]], target[here >= there[-1]] = reference.min() - MARGIN, reference.max() + MARGIN
    return np.interp(values, left, target)
