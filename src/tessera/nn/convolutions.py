"""Convolutions that keep the size of a map, as matrix products where a CPU is faster with them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tessera.nn.linear import product

__all__ = ["Conv1x1", "Conv3x3", "in_own_layout", "overwrites"]

# Up to this many pixels a 3×3 convolution without gradients on a CPU is one matrix product. The convolution there rearranges its weights
# at every call, which costs more than the arithmetic: 2048 channels at 4×4 take 20 ms as a product in place of 125, 1024 at 8×8 14 in
# place of 37, 512 at 16×16 13 either way.
_PIXELS = 256


def overwrites(x: Tensor) -> bool:
    """Whether layers may work in place and choose the faster of several ways: eager, on a CPU, without gradients."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def in_own_layout(conv: Callable[[Tensor], Tensor], x: Float[Tensor, "b c h w"], weight: Tensor) -> Float[Tensor, "b d h2 w2"]:
    """A convolution without gradients on a CPU that copies the smaller of an example and its weights where their layouts differ."""
    if x[0].numel() > weight.numel() or x.is_contiguous():
        return conv(x)
    return conv(x.contiguous()).contiguous(memory_format=torch.channels_last)


class Conv3x3(nn.Conv2d):
    """3×3 convolution that keeps the size."""

    def __init__(self, enter: int, leave: int) -> None:
        super().__init__(enter, leave, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        height, width = x.shape[2:]
        if not overwrites(x) or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if height * width > _PIXELS:
            return in_own_layout(super().forward, x, self.weight)
        around = x.new_empty(len(x), height * width, self.weight[0].numel())
        for rows, image in zip(around, x.split(1), strict=True):  # one by one: unfolded, they are nine times as large
            rows.copy_(F.unfold(image, 3, padding=1)[0].T)
        return product(around, self.weight.flatten(1), self.bias).unflatten(1, (height, width)).permute(0, 3, 1, 2)


class Conv1x1(nn.Conv2d):
    """1×1 convolution."""

    def __init__(self, enter: int, leave: int, bias: bool = True) -> None:
        super().__init__(enter, leave, 1, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        if not overwrites(x) or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        # The convolution shares small sums out among threads by the batch, and a picture's bits must not depend on its batch.
        return product(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
