"""Layers of maps so large that nothing of their size should be in memory beside what goes in and what comes out.

A map is computed in strips of rows, each from the rows of the input that it sees: norm, activation, enlarging and the copies that a
convolution makes are of a strip. Without gradients only, which would need all of it. The numbers are those of the whole map but for
rounding.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["add_by_rows", "enlarge_by_rows", "is_large", "norm_by_rows"]

LARGE = 2**25
"""Elements: 128 MB, those of 128 channels at 512x512 pixels."""
STRIP = 2**20
"""Elements of a strip."""

Rows = Callable[[int, int], Tensor]
"""(first row, the one after the last) → these rows of a map [B, C, rows, W]. Asked for from above, some of them again."""


def is_large(x: Tensor, times: int = 1) -> bool:
    """Whether a map, or one with so many times its elements, is better computed in strips."""
    return times * x.numel() >= LARGE and not torch.is_grad_enabled()


def norm_by_rows(norm: nn.Module, conv: nn.Conv2d, x: Float[Tensor, "b c h w"], in_place: bool = False) -> Float[Tensor, "b d h w"]:
    """conv(swish(norm(x))), of a convolution that keeps the sides; `in_place` of x where it keeps the channels too."""
    normed = _normed(norm, x)
    rows = _overwritten(x, conv.kernel_size[0] // 2) if in_place else lambda first, last: x[:, :, first:last]
    result = x if in_place else x.new_empty(len(x), conv.out_channels, *x.shape[2:])
    return _convolve(conv, lambda first, last: F.silu(normed(rows(first, last)), inplace=True), x.shape[1], result)


def enlarge_by_rows(conv: nn.Conv2d, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
    """conv(every value of x four times)."""

    def rows(first: int, last: int) -> Tensor:
        start = first // 2
        larger = F.interpolate(x[:, :, start : (last + 1) // 2], scale_factor=2.0, mode="nearest")
        return larger[:, :, first - 2 * start : last - 2 * start]

    return _convolve(conv, rows, x.shape[1], x.new_empty(len(x), conv.out_channels, 2 * x.shape[2], 2 * x.shape[3]))


def add_by_rows(y: Float[Tensor, "b d h w"], layer: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """y + layer(x), in the place of y; the layer sees each position alone."""
    for top, bottom in _strips(x.shape[2], x[:, :, 0].numel()):
        y[:, :, top:bottom] += layer(x[:, :, top:bottom])
    return y


def _strips(height: int, per_row: int, least: int = 1) -> Iterator[tuple[int, int]]:
    rows = max(least, STRIP // per_row)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _normed(norm: nn.Module, x: Float[Tensor, "b c h w"]) -> Callable[[Tensor], Tensor]:
    """The norm of rows of x."""
    if not isinstance(norm, nn.GroupNorm):  # of each position alone
        return norm
    variance, mean = torch.var_mean(x.reshape(len(x), norm.num_groups, -1), -1, correction=0)
    share = x.shape[1] // norm.num_groups
    scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(share, 1)
    shift = norm.bias - mean.repeat_interleave(share, 1) * scale
    return lambda strip: torch.addcmul(shift[:, :, None, None], strip, scale[:, :, None, None])


def _overwritten(x: Float[Tensor, "b c h w"], around: int) -> Rows:
    """Rows as they were, of a map that is written over from above, in strips of no fewer rows than a strip sees of its neighbours."""
    kept: list[tuple[int, Tensor]] = []  # the first of the rows that the next strip may ask for again, and those rows

    def rows(first: int, last: int) -> Tensor:
        piece = x[:, :, first:last]
        if kept:
            start, old = kept.pop()
            piece = torch.cat([old[:, :, first - start :], x[:, :, start + old.shape[2] : last]], 2)
        if around:
            start = max(first, last - 2 * around)
            kept.append((start, piece[:, :, start - first :].clone()))
        return piece

    return rows


def _convolve(conv: nn.Conv2d, rows: Rows, channels: int, result: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
    """The convolution of a map of so many channels, which keeps the sides, written into `result`."""
    around, (height, width) = conv.kernel_size[0] // 2, result.shape[2:]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    for top, bottom in _strips(height, len(result) * channels * width, max(1, around)):
        first, last = max(0, top - around), min(height, bottom + around)
        borders = (around, around, around - top + first, around - last + bottom)  # of the map; elsewhere a strip has its neighbours
        strip = F.pad(rows(first, last), borders, mode) if around else rows(first, last)
        result[:, :, top:bottom] = F.conv2d(strip, conv.weight, conv.bias)
    return result
