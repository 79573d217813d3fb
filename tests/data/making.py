"""Small real dataset files for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["picture", "stripes", "truncate"]


def stripes(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise with much detail, so that a JPEG of it is long enough to be cut."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def picture(path: Path, width: int = 40, height: int = 30, colour: tuple[int, int, int] | None = None) -> Path:
    """A picture file of the format its name says; noise, or one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = stripes(width, height, seed=len(path.name)) if colour is None else Image.new("RGB", (width, height), colour)
    made.save(path)
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
