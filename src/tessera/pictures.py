"""Pictures as files and as tensors: float32 [3, H, W] in [-1, 1] ⇄ 8-bit RGB."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from tessera.errors import TesseraError, UsageError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["fingerprint", "open_picture", "to_picture", "to_tensor"]


def open_picture(path: Path) -> Image.Image:
    """Reads a picture file whole, so that a truncated one is found here. Raises UsageError (no such file) or TesseraError (unreadable)."""
    if not path.is_file():
        raise UsageError(f"there is no picture {path}: check the path")
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TesseraError(f"{path} is not a readable picture ({error}): save it again as PNG or JPEG") from None


def to_picture(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """The nearest 8-bit picture to values in [-1, 1]."""
    levels = (image.clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(levels.round().byte().permute(1, 2, 0).cpu().numpy())


def to_tensor(picture: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """A picture scaled to cover `size` = (height, width), its centre cut out. Transparent parts become white; EXIF rotation is applied."""
    import numpy as np
    import torch

    picture = ImageOps.exif_transpose(picture)
    if picture.mode not in ("RGB", "L"):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    fitted = ImageOps.fit(picture.convert("RGB"), (size[1], size[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def fingerprint(picture: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB values, whatever file it came from."""
    rgb = picture.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}".encode() + rgb.tobytes()).hexdigest()
