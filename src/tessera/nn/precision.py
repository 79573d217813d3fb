"""The precision of sums that half of it would spoil."""

import torch
from torch import Tensor

__all__ = ["widened"]


def widened(x: Tensor) -> Tensor:
    """Numbers in half precision (float16, bfloat16) in float32, others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
