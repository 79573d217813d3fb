"""A prompt of several contexts at once: pictures, each with what of it counts, words, and a palette, mixed by their shares. No torch here.

What is drawn or written from one is said in `families.versatile.blending`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tessera.contexts.prompt_warnings import valid
from tessera.errors import UsageError, suggest
from tessera.palettes import parse_palette
from tessera.pictures import fingerprint
from tessera.record import BlendDescription, SeenDescription

__all__ = ["COLOURS", "LEVELS", "MIXINGS", "PALETTE_SHARE", "WORDS_SHARE", "Blend", "MaskedPicture", "Seen", "check_focus", "directions_of"]

PALETTE_SHARE = 0.3
"""Of a palette in a blend with words or pictures."""
MIXINGS = ("attention", "layer")
"""How contexts are mixed; see `families.versatile.mixing`."""
COLOURS = ("none", "match", "half", "histogram")
"""How a result takes the colours of a picture; see `colours.recoloured`."""
WORDS_SHARE = 0.7
"""Of the words in a blend of words and pictures, as in Versatile Diffusion's first release."""
LEVELS: dict[int, tuple[int, int] | None] = {-2: (2, 50), -1: (1, 50), 0: None, 1: (0, 10), 2: (0, 2)}
"""The first release's levels, from what a picture shows to how it looks → the directions of its tokens that are kept, from - to."""


@dataclass(frozen=True)
class MaskedPicture:
    """A picture, parts of which do not count. hidden: a picture of the same size; what is white in it is hidden, what is black is seen.

    Raises UsageError when the sizes differ.
    """

    picture: Image.Image
    hidden: Image.Image

    def __post_init__(self) -> None:
        here, there = self.picture.size, self.hidden.size
        if here != there:
            raise UsageError(
                f"the mask has {there[0]}x{there[1]} pixels, its picture {here[0]}x{here[1]}: give a mask of the picture's size"
            )


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as a part of a prompt.

    picture: it, or with a mask that hides parts of it.
    focus: between what it shows (0) and how it looks (1); 0.5 leaves its tokens as they are. See `contexts.focus`.
    weight: what its tokens are multiplied with, from 0.
    directions: keep only these singular directions of its tokens, from - to, as the first release does, see `LEVELS`; then "no prompt" is
        a grey picture.
    class_token: whether the token of the picture as a whole counts too.

    Raises UsageError for values out of range.
    """

    picture: Image.Image | MaskedPicture
    focus: float = 0.5
    weight: float = 1.0
    directions: tuple[int, int] | None = None
    class_token: bool = True

    def __post_init__(self) -> None:
        check_focus(self.focus)
        if self.focus != 0.5 and self.directions is not None:
            raise UsageError("a focus and a level are two ways to the same end: leave one of them out")
        if not 0 <= self.weight < math.inf:
            raise UsageError(f"the strength of a picture must be a number from 0, not {self.weight}")

    @property
    def plain(self) -> Image.Image:
        """The picture without its mask."""
        return self.picture.picture if isinstance(self.picture, MaskedPicture) else self.picture

    @property
    def hidden(self) -> Image.Image | None:
        return self.picture.hidden if isinstance(self.picture, MaskedPicture) else None

    @property
    def description(self) -> SeenDescription:
        """JSON values; of pictures their fingerprints."""
        hidden = None if self.hidden is None else fingerprint(self.hidden)
        return {
            "sha256": fingerprint(self.plain), "hidden": hidden, "focus": self.focus, "weight": self.weight,
            "directions": self.directions and list(self.directions), "class_token": self.class_token,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Blend:
    """What one example is made of.

    pictures: their tokens, one after the other, are one context. texts: the same.
    mix: shares of words and of pictures, where there are both; what has a share of 0 is left out.
    by: an entry of `MIXINGS`.
    colour: an entry of `COLOURS`, by which the result takes the colours of the first picture.
    remove, add: words to take out of what is written, and to put in: for results that are words.
    palette: colours and how much of each, see `palettes.parse_palette`. palette_share: of the palette, the rest is for words and pictures.

    Raises UsageError for nothing to make anything of, empty words, no palette, and shares that are negative or sum to zero.
    """

    pictures: tuple[Seen, ...] = ()
    texts: tuple[str, ...] = ()
    mix: tuple[float, float] = (WORDS_SHARE, 1 - WORDS_SHARE)
    by: str = "attention"
    colour: str = "none"
    remove: str | None = None
    add: str | None = None
    palette: str | None = None
    palette_share: float = PALETTE_SHARE

    def __post_init__(self) -> None:
        for text in (*self.texts, *(word for word in (self.remove, self.add) if word is not None)):
            if not valid(text).strip():
                raise UsageError("the prompt is empty: say something, or leave it out")
        if not self.pictures and not self.texts and self.palette is None:
            raise UsageError("the prompt is empty: give a picture, words, or both")
        if self.palette is not None:
            parse_palette(self.palette)
        if not 0 <= self.palette_share <= 1:
            raise UsageError(f"the share of the palette must be between 0 and 1, not {self.palette_share:g}")
        if not all(0 <= share < math.inf for share in self.mix) or not sum(self.mix):
            raise UsageError(
                f"the shares of words and pictures must be numbers from 0 whose sum is above 0, not {self.mix[0]:g} and {self.mix[1]:g}"
            )
        if self.pictures and not any(seen.weight for seen in self.pictures):
            raise UsageError("the strengths of the pictures sum to 0, so none of them counts: give at least one above 0")
        if self.by not in MIXINGS:
            raise UsageError(suggest("mixing", self.by, MIXINGS))
        if self.colour not in COLOURS:
            raise UsageError(suggest("colour adjustment", self.colour, COLOURS))
        if self.colour != "none" and not self.pictures:
            raise UsageError("there is no picture whose colours the result could take: leave colour out")

    @property
    def shares(self) -> dict[str, float]:
        """Of each context type that counts: "text", "image", "palette"."""
        words, pictures = self.mix if self.pictures and self.texts else (float(bool(self.texts)), float(bool(self.pictures)))
        palette = 0.0
        if self.palette is not None:
            palette = self.palette_share if self.pictures or self.texts else 1.0
            whole = (words + pictures) or 1.0
            words, pictures = ((1 - palette) * share / whole for share in (words, pictures))
        return {name: share for name, share in (("text", words), ("image", pictures), ("palette", palette)) if share}

    @property
    def words(self) -> str | None:
        """The texts as one, or the palette alone, for a picture's metadata."""
        return ", ".join(self.texts) or (None if self.pictures else self.palette)

    @property
    def description(self) -> BlendDescription:
        """JSON values from which `again` makes the same blend of the same pictures."""
        return {
            "pictures": [seen.description for seen in self.pictures], "texts": list(self.texts), "mix": list(self.mix), "by": self.by,
            "colour": self.colour, "remove": self.remove, "add": self.add, "palette": self.palette, "palette_share": self.palette_share,
        }  # fmt: skip

    @staticmethod
    def again(description: Mapping[str, Any], pictures: Sequence[Image.Image], hidden: Sequence[Image.Image | None]) -> Blend:
        """The blend of a description. UsageError for another number of pictures, or where a mask is missing or was none."""
        described = description["pictures"]
        if len(pictures) != len(described):
            raise UsageError(f"that was made from {len(described)} pictures, but {len(pictures)} are given: give the same ones")
        seen = []
        for number, (one, picture, mask) in enumerate(zip(described, pictures, hidden, strict=True), start=1):
            if (mask is None) != (one["hidden"] is None):
                raise UsageError(f"picture {number} had {'no' if one['hidden'] is None else 'a'} mask then: give the same ones")
            directions = one["directions"] and (one["directions"][0], one["directions"][1])
            shown = picture if mask is None else MaskedPicture(picture, mask)
            seen.append(Seen(shown, one["focus"], one["weight"], directions, one["class_token"]))
        words, shown_share = description["mix"]
        return Blend(
            tuple(seen), tuple(description["texts"]), (words, shown_share), description["by"], description["colour"],
            description["remove"], description["add"], description["palette"], description["palette_share"],
        )  # fmt: skip


def directions_of(level: int) -> tuple[int, int] | None:
    """An entry of `LEVELS`. UsageError for another level."""
    if level not in LEVELS:
        raise UsageError(f"the level must be one of {', '.join(map(str, LEVELS))}, not {level}")
    return LEVELS[level]


def check_focus(level: float) -> None:
    """UsageError for a focus outside [0, 1]."""
    if not 0 <= level <= 1:
        raise UsageError(f"the focus must be between 0 (what it shows) and 1 (how it looks), not {level:g}")
