"""Palettes: a few colours and how much of a picture each takes, as they are typed and as a picture has them. No torch here.

`white:8, red, #2080ff:0.5` — colours as CSS names them or in hexadecimal, each with a number that says how much of it there is, 1 unless
given.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from PIL import Image, ImageColor

from tessera.contexts.prompt_warnings import valid
from tessera.errors import UsageError
from tessera.pictures import upright_rgb

__all__ = ["LEAST_SHARE", "Swatch", "palette_of", "parse_palette", "written"]

LEAST_SHARE = 0.02
"""Of a picture; colours that cover less, such as those of smooth edges, are left out of its palette."""


class Swatch(NamedTuple):
    """A colour, in levels of 0..255, and its share of the palette."""

    colour: tuple[int, int, int]
    share: float


def parse_palette(text: str) -> list[Swatch]:
    """The palette that was typed, the largest share first. UsageError for what is no colour, and amounts that are not above 0."""
    amounts: list[Swatch] = []
    for part in valid(text).split(","):
        name, colon, amount = part.strip().partition(":")
        try:
            red, green, blue = ImageColor.getrgb(name.strip())[:3]
            number = float(amount) if colon else 1.0
        except ValueError:
            raise UsageError(
                f"{part.strip()!r} is no colour of a palette: write a name or #rrggbb, and how much of it, such as red:2"
            ) from None
        if not 0 < number < math.inf:
            raise UsageError(f"there must be more than none of each colour of a palette, not {part.strip()!r}: leave it out")
        amounts.append(Swatch((red, green, blue), number))
    return _shared(amounts)


def palette_of(picture: Image.Image, colours: int) -> list[Swatch]:
    """The palette of a picture: so many colours at most, the largest share first."""
    reduced = upright_rgb(picture).quantize(colours, method=Image.Quantize.FASTOCTREE)
    levels = reduced.getpalette() or []
    counted = [(count, int(index)) for count, index in reduced.getcolors() or []]  # type: ignore[arg-type]  # of a palette it is a number
    whole = sum(count for count, _ in counted)
    kept = [one for one in counted if one[0] >= LEAST_SHARE * whole] or [max(counted)]
    return _shared([Swatch((levels[3 * at], levels[3 * at + 1], levels[3 * at + 2]), count) for count, at in kept])


def written(palette: list[Swatch]) -> str:
    """The palette as text, from which `parse_palette` makes it again."""
    return ", ".join(f"#{red:02x}{green:02x}{blue:02x}:{share:.4g}" for (red, green, blue), share in palette)


def _shared(amounts: list[Swatch]) -> list[Swatch]:
    whole = sum(one.share for one in amounts)
    return sorted((one._replace(share=one.share / whole) for one in amounts), key=lambda one: -one.share)
