"""Pictures → uint8 [3, size, size], cropped as VQ-Diffusion crops.

    centre   the shorter side resized to `size`, the longer in proportion (rounded down); the centre cut out
    random   a square of side s = min(height, width), its offset between 3/8 and 5/8 of the slack; resized to a random side in
             [size, max(size, min(s, 9/8 size))]; a random `size` × `size` part of that

Resizing is Pillow's bicubic filter with antialiasing.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from tessera.errors import TesseraError, UsageError, suggest

__all__ = ["Crop"]

CROPS = ("centre", "random")
LARGEST_ASPECT = 64
"""Longer side / shorter side above which resizing the shorter side would need absurd memory."""


@dataclass(frozen=True)
class Crop:
    """How a picture of any size becomes a square one.

    size: side in pixels. mode: "centre" or "random" (see the module). flip: mirror every second picture, by chance.
    """

    size: int = 256
    mode: str = "centre"
    flip: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"the side of the pictures must be at least 1 pixel, not {self.size}")
        if self.mode not in CROPS:
            raise UsageError(suggest("crop", self.mode, CROPS))

    def __call__(self, picture: Image.Image, seed: int) -> UInt8[Tensor, "3 h w"]:
        """The cropped RGB picture; `seed` decides what is random about it."""
        rng = random.Random(seed)
        picture = self._random(picture, rng) if self.mode == "random" else self._centre(picture)
        if self.flip and rng.random() < 0.5:
            picture = ImageOps.mirror(picture)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    def _centre(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        short = min(width, height)
        if max(width, height) > LARGEST_ASPECT * short:
            raise TesseraError(f"a picture of {width}x{height} pixels is too long and narrow to be cropped")
        picture = picture.resize((width * self.size // short, height * self.size // short), Image.Resampling.BICUBIC)
        left, top = (picture.width - self.size) // 2, (picture.height - self.size) // 2
        return picture.crop((left, top, left + self.size, top + self.size))

    def _random(self, picture: Image.Image, rng: random.Random) -> Image.Image:
        width, height = picture.size
        short = min(width, height)
        left, top = _near_middle(width - short, rng), _near_middle(height - short, rng)
        square = picture.crop((left, top, left + short, top + short))
        side = _between(self.size, max(self.size, min(short, round(self.size * 9 / 8))), rng)
        square = square.resize((side, side), Image.Resampling.BICUBIC)
        left, top = _between(0, side - self.size, rng), _between(0, side - self.size, rng)
        return square.crop((left, top, left + self.size, top + self.size))


def _between(low: int, high: int, rng: random.Random) -> int:
    """An integer in [low, high]."""
    # Only random() is used: its sequence is the one part of the module that is promised to stay the same.
    return low + int(rng.random() * (high - low + 1))


def _near_middle(slack: int, rng: random.Random) -> int:
    low, high = 3 * slack // 8, 5 * slack // 8
    return _between(low, max(low, high - 1), rng)
