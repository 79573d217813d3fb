"""Layers of maps so large that as little as possible of their size should be in memory beside what goes in and what comes out.

A map is computed in strips of rows, each from the rows of the input that it sees: norm, activation, enlarging and the copies that a
convolution makes are of a strip. What would be too much beside its input is never there as a whole: `Rows` are made for the norm's
mean and variance, and again for the layers after it. Without gradients only, which would need all of it. The numbers are those of the
whole map but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Rows", "block_by_rows", "enlarged", "is_large", "norm_by_rows"]

LARGE = 2**24
"""Elements: 64 MB, those of 128 channels at 256x512 pixels."""
MUCH = 3 * 2**24
"""Elements of two maps above which one is rather made again than kept beside the other: 1.5 times 128 channels at 512x512 pixels."""
STRIP = 2**19
"""Elements of a strip."""

Read = Callable[[int, int], Tensor]
"""(first row, the one after the last) → these rows of a map [B, C, rows, W]."""


@dataclass(frozen=True)
class Rows:
    """A map that is made in strips when it is asked for.

    shape: [B, C, H, W]. start: begins a pass from above over its rows, none of which is asked for twice. widest: the most channels of
    what it is made of.
    """

    shape: tuple[int, ...]
    start: Callable[[], Read]
    widest: int

    @classmethod
    def of(cls, x: Tensor | Rows) -> Rows:
        return x if isinstance(x, Rows) else cls(tuple(x.shape), lambda: lambda first, last: x[:, :, first:last], x.shape[1])

    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    def strips(self) -> Iterator[tuple[int, int]]:
        batch, _, height, width = self.shape
        rows = max(1, STRIP // (batch * self.widest * width))
        return ((top, min(top + rows, height)) for top in range(0, height, rows))


def is_large(x: Tensor | Rows, times: int = 1) -> bool:
    """Whether a map, or one with so many times its elements, is better computed in strips."""
    return times * x.numel() >= LARGE and not torch.is_grad_enabled()


def _is_much(x: Tensor, made: Rows) -> bool:
    """Whether a map should not be kept beside the one that it is made of."""
    return x.numel() + made.numel() > MUCH


def norm_by_rows(norm: nn.Module, conv: nn.Conv2d, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """conv(swish(norm(x))), of a convolution that keeps the sides."""
    result = _convolved(conv, _activated(norm, x))
    return _written(result, x.new_empty(result.shape))


def enlarged(conv: nn.Conv2d, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"] | Rows:
    """conv(every value of x four times), of a convolution that keeps the sides; a map, or its rows where it would be too much beside x.

    Only a few different values are under the convolution at a time, so that it is one over x with fewer weights, sums of its own: of 3×3
    weights there are 2×2 left, and these are others for even and odd rows and columns.
    """
    height, width = x.shape[2:]
    edge = (conv.kernel_size[0] // 2 + 1) // 2
    kernels = {(a, b): _folded(conv, a, b) for a in (0, 1) for b in (0, 1)}

    def read(first: int, last: int) -> Tensor:
        top, bottom = first // 2, (last + 1) // 2
        above, below = max(0, top - edge), min(height, bottom + edge)
        around = (edge, edge, edge - top + above, edge - below + bottom)
        seen = F.pad(x[:, :, above:below], around, _padding(conv))
        out = x.new_empty(len(x), conv.out_channels, 2 * (bottom - top), 2 * width)
        for (a, b), (kernel, y, z) in kernels.items():
            part = seen[:, :, edge + y : edge + y + bottom - top + kernel.shape[2] - 1, edge + z : edge + z + width + kernel.shape[3] - 1]
            out[:, :, a::2, b::2] = F.conv2d(part, kernel, conv.bias)
        return out[:, :, first - 2 * top : last - 2 * top]

    rows = Rows((len(x), conv.out_channels, 2 * height, 2 * width), lambda: read, conv.out_channels)
    return rows if _is_much(x, rows) else _written(rows, x.new_empty(rows.shape))


def block_by_rows(
    norms: tuple[nn.Module, nn.Module], convs: tuple[nn.Conv2d, nn.Conv2d], shortcut: nn.Module, x: Float[Tensor, "b c h w"] | Rows
) -> Float[Tensor, "b d h w"]:
    """shortcut(x) + conv(swish(norm(conv(swish(norm(x)))))), of a shortcut that sees each position alone.

    In the place of x where the shortcut is none and the map between the convolutions would be too much beside x.
    """
    inner, read = _convolved(convs[0], _activated(norms[0], x)), Rows.of(x).start()
    if isinstance(x, Tensor) and isinstance(shortcut, nn.Identity) and _is_much(x, inner):
        return _written(_convolved(convs[1], _activated(norms[1], inner)), x, read)
    kept = _written(inner, convs[0].weight.new_empty(inner.shape))
    return _written(_convolved(convs[1], _activated(norms[1], kept)), kept, lambda top, bottom: shortcut(read(top, bottom)))


def _written(rows: Rows, result: Tensor, more: Read | None = None) -> Tensor:
    """All rows, and what `more` adds to them, in `result`, which may be what they are made of."""
    read = rows.start()
    for top, bottom in rows.strips():
        strip = read(top, bottom)
        result[:, :, top:bottom] = strip if more is None else strip.add_(more(top, bottom))
    return result


def _activated(norm: nn.Module, x: Tensor | Rows) -> Rows:
    """swish(norm(x))."""
    normed, rows = _normed(norm, x), Rows.of(x)

    def start() -> Read:
        read = rows.start()
        return lambda first, last: F.silu(normed(read(first, last)), inplace=True)

    return Rows(rows.shape, start, rows.widest)


def _normed(norm: nn.Module, x: Tensor | Rows) -> Callable[[Tensor], Tensor]:
    """The norm of rows of x."""
    if not isinstance(norm, nn.GroupNorm):  # of each position alone
        return norm
    variance, mean = _moments(x, norm.num_groups)
    share = x.shape[1] // norm.num_groups
    scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(share, 1)
    shift = norm.bias - mean.repeat_interleave(share, 1) * scale
    return lambda strip: torch.addcmul(shift[:, :, None, None], strip, scale[:, :, None, None])


def _moments(x: Tensor | Rows, groups: int) -> tuple[Float[Tensor, "b g"], Float[Tensor, "b g"]]:
    """Variance and mean of each group of channels."""
    if isinstance(x, Tensor):
        return torch.var_mean(x.reshape(len(x), groups, -1), -1, correction=0)
    read, found, counts = x.start(), [], []
    for top, bottom in x.strips():
        found.append(torch.stack(torch.var_mean(read(top, bottom).reshape(x.shape[0], groups, -1), -1, correction=0)))
        counts.append(bottom - top)
    variances, means = torch.stack(found, 1)
    shares = (torch.tensor(counts, dtype=means.dtype, device=means.device) / x.shape[2])[:, None, None]
    mean = (shares * means).sum(0)
    return (shares * (variances + (means - mean) ** 2)).sum(0), mean


def _convolved(conv: nn.Conv2d, x: Rows) -> Rows:
    """A convolution that keeps the sides."""
    around, height = conv.kernel_size[0] // 2, x.shape[2]

    def start() -> Read:
        read = _window(x.start())

        def convolved(top: int, bottom: int) -> Tensor:
            first, last = max(0, top - around), min(height, bottom + around)
            borders = (around, around, around - top + first, around - last + bottom)  # of the map; elsewhere a strip has its neighbours
            strip = F.pad(read(first, last), borders, _padding(conv)) if around else read(first, last)
            return F.conv2d(strip, conv.weight, conv.bias)

        return convolved

    return Rows((x.shape[0], conv.out_channels, *x.shape[2:]), start, max(x.widest, conv.out_channels))


def _window(read: Read) -> Read:
    """Rows of which some may be asked for again, with the next ones below."""
    kept: list[tuple[int, Tensor]] = []  # the first row that is kept, and the rows

    def again(first: int, last: int) -> Tensor:
        if not kept:
            kept.append((first, read(first, last)))
        start, old = kept.pop()
        if last > start + old.shape[2]:
            old, start = torch.cat([old[:, :, first - start :], read(start + old.shape[2], last)], 2), first
        kept.append((start, old))
        return old[:, :, first - start : last - start]

    return again


def _folded(conv: nn.Conv2d, *odd: int) -> tuple[Tensor, int, int]:
    """The weights over a map for even or odd rows and columns of the enlarged one, and where the first lies from the middle."""
    kernel, starts = conv.weight, []
    for axis, parity in enumerate(odd, start=2):
        places = [(parity + tap - conv.kernel_size[0] // 2) // 2 for tap in range(conv.kernel_size[0])]
        parts = [
            kernel.index_select(axis, torch.tensor([tap for tap, here in enumerate(places) if here == place], device=kernel.device))
            for place in range(places[0], places[-1] + 1)
        ]
        kernel = torch.stack([part.sum(axis) for part in parts], axis)
        starts.append(places[0])
    return kernel, starts[0], starts[1]


def _padding(conv: nn.Conv2d) -> str:
    return "constant" if conv.padding_mode == "zeros" else conv.padding_mode
