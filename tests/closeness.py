"""What must be the same on every processor, and how nearly.

The same call with the same shapes gives the same bits. Rows of batches of different sizes do not: products and vectorised functions of
another shape may round otherwise, by some units in the last place, which 8-bit pictures show as one level at most.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["alike", "assert_same_but_for_rounding"]

LEVELS = 1


def assert_same_but_for_rounding(found: Tensor, expected: Tensor) -> None:
    """Values of order 1 that were computed in batches of different sizes."""
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def alike(first: Image.Image, second: Image.Image) -> bool:
    """Whether two pictures of one size differ by `LEVELS` of 255 at most."""
    a, b = (np.asarray(picture.convert("RGB"), np.int16) for picture in (first, second))
    return a.shape == b.shape and bool(np.abs(a - b).max() <= LEVELS)
