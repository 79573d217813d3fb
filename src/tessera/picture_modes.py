"""From any of Pillow's modes to upright 8-bit RGB, in one way.

16-bit grey has its white at 65535. Integers of 32 bits and floats do not say where theirs is: it is at the least of the usual ends of scale
(1 of floats; 255; 65535; 2^31 - 1) that no value exceeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tessera.errors import TesseraError

__all__ = ["eight_bits", "upright_rgb"]

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes a picture of that EXIF orientation upright."""
DEEP = ("I", "F")
"""Modes of one number a pixel that is no byte; those of 16 bits begin with "I;16"."""


def upright_rgb(picture: Image.Image) -> Image.Image:
    """As RGB: EXIF orientation applied where EXIF can be read, transparent parts white. The result carries no metadata, so it is its own
    upright RGB. TesseraError for a mode that cannot become RGB, such as La."""
    turn = _turn(picture)
    try:
        shown = eight_bits(picture)
        if shown.has_transparency_data:
            shown = _with_alpha(shown)
            shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
        shown = shown.convert("RGB")
    except ValueError as error:
        raise TesseraError(f"a picture of the mode {picture.mode} cannot become RGB ({error}): save it again as RGB") from None
    shown = shown if turn is None else shown.transpose(turn)
    shown.info = {}
    return shown


def eight_bits(picture: Image.Image) -> Image.Image:
    """The picture itself, or one of 16-bit, 32-bit or float grey as 8-bit grey, with alpha where one of its values means transparent."""
    if picture.mode not in DEEP and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture)
    grey = Image.fromarray(_levels(values, picture.mode))
    clear = picture.info.get("transparency")
    if isinstance(clear, int | float):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    grey.info.update({key: value for key, value in picture.info.items() if key != "transparency"})
    return grey


def _levels(values: np.ndarray, mode: str) -> np.ndarray:
    """uint8 of values that are no bytes."""
    if mode.startswith("I;16"):
        return (values.astype(np.uint16) >> 8).astype(np.uint8)
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    most = float(wide.max(initial=0.0))
    ends = (1.0, 255.0, 65535.0, 2.0**31 - 1) if mode == "F" else (255.0, 65535.0, 2.0**31 - 1)
    white = next((end for end in ends if most <= end), most)
    return (wide.clip(0, white) / white * 255).round().astype(np.uint8)


def _with_alpha(picture: Image.Image) -> Image.Image:
    clear = picture.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits a channel, of which Pillow keeps the upper eight
        picture = picture.copy()
        picture.info["transparency"] = tuple(value >> 8 for value in clear)
    return picture.convert("RGBA")


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        orientation: Any = picture.getexif().get(ORIENTATION)
        return TURNS.get(orientation)
    except Exception:  # damaged EXIF can raise nearly anything, and says nothing then
        return None
