"""Blends as they are typed, and as a picture that is made again remembers them: what `vary`, `blend` and `edit` have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.apps.console import say
from tessera.contexts.blend import COLOURS, Blend, MaskedPicture, Seen, directions_of
from tessera.errors import UsageError
from tessera.pictures import open_picture
from tessera.record import Record

__all__ = ["Colour", "Focus", "Level", "Masks", "Typed", "each_of", "is_picture", "made_of", "read_blended"]

Colour = Annotated[
    str | None, typer.Option(metavar="KIND", help=f"How the result takes the colours of the (first) picture: {', '.join(COLOURS)}.")
]
Focus = Annotated[
    list[float] | None,
    typer.Option(help="Between what a picture shows (0) and how it looks (1); 0.5 is both. Of several: one for all, or one of each."),
]
Level = Annotated[
    list[int] | None, typer.Option(help="-2, -1: what it shows, 1, 2: how it looks, as Versatile Diffusion's first release has it.")
]
Masks = Annotated[
    list[str] | None,
    typer.Option("--mask", metavar="PICTURE", help="White hides a part of a picture; of its size. One of each, in order; - is none."),
]
NO_MASK = "-"


@dataclass(frozen=True)
class Typed:
    """What was typed of a blend; None, or an empty list, is what the picture to make again has, or else the usual.

    masks, strengths, focus, level: one for each picture, in their order; of focus and level one is for all. A mask `-` is none.
    """

    pictures: Sequence[str]
    text: str | None = None
    mix: tuple[float, float] | None = None
    masks: Sequence[str] = ()
    strengths: Sequence[float | None] = ()
    focus: Sequence[float] = ()
    level: Sequence[int] = ()
    by: str | None = None
    colour: str | None = None
    palette: str | None = None
    palette_share: float | None = None


def made_of(typed: Typed, old: Record | None) -> Blend:
    """The blend that is meant. Warns where pictures or masks are not those of `old`. Raises UsageError for what does not go together."""
    count = len(typed.pictures)
    if not count and not typed.palette and not (old and old.blend):
        raise UsageError("a blend needs a picture: give one, or several")
    opened = {name: open_picture(name) for name in dict.fromkeys([*typed.pictures, *typed.masks]) if name != NO_MASK}
    pictures = [opened[name] for name in typed.pictures]
    masks = [opened.get(name) for name in _each("masks", typed.masks, count, NO_MASK, alone=count == 1)]
    if old is None or old.blend is None:
        seen = tuple(Seen(one if mask is None else MaskedPicture(one, mask)) for one, mask in zip(pictures, masks, strict=True))
        base = Blend(seen, palette=typed.palette)
    else:
        base = Blend.again(old.blend, pictures, masks)
        for number, (now, then) in enumerate(zip(base.description["pictures"], old.blend["pictures"], strict=True), start=1):
            if (now["sha256"], now["hidden"]) != (then["sha256"], then["hidden"]):
                say(f"warning: picture {number} or its mask is not the one that was given then, so the result differs")
    columns = typed.strengths or [None] * count, _each("focus", typed.focus, count, None), _each("level", typed.level, count, None)
    shown = tuple(_changed(*row) for row in zip(base.pictures, *columns, strict=True))
    texts = None if typed.text is None else (typed.text,)
    changed: dict[str, Any] = {"texts": texts, "mix": typed.mix, "by": typed.by, "colour": typed.colour}
    changed |= {"palette": typed.palette, "palette_share": typed.palette_share}
    return replace(base, pictures=shown, **{name: value for name, value in changed.items() if value is not None})


def each_of(typed: Typed, old: Record | None) -> list[Blend]:
    """Each of the pictures by itself, with what was typed of it. Raises UsageError as `made_of`, and for several of them with `old`."""
    count = len(typed.pictures)
    if old is not None and count != 1:
        raise UsageError("--from makes one picture again: give the one that it was made of, alone")
    masks = _each("masks", typed.masks, count, NO_MASK, alone=count == 1)
    columns = [[] if one is None else [one] for what in ("focus", "level") for one in _each(what, getattr(typed, what), count, None)]
    return [
        made_of(replace(typed, pictures=[picture], masks=[mask], focus=focus, level=level), old)
        for picture, mask, focus, level in zip(typed.pictures, masks, columns[:count], columns[count:], strict=True)
    ]


def _changed(seen: Seen, strength: float | None, focus: float | None, level: int | None) -> Seen:
    if strength is not None:
        seen = replace(seen, weight=strength)
    if focus is None and level is None:
        return seen
    directions = None if level is None else directions_of(level)
    return replace(seen, focus=0.5 if focus is None else focus, directions=directions, class_token=True)


def _each(what: str, given: Sequence[Any], count: int, usual: Any, alone: bool = True) -> list[Any]:
    """One for each picture. alone: whether one is for all."""
    if not given:
        return [usual] * count
    if len(given) == 1 and alone:
        return list(given) * count
    if len(given) != count:
        raise UsageError(f"there are {count} pictures, but {len(given)} of {what}: give one of each, in their order (no mask is -)")
    return list(given)


def read_blended(path: Path | None) -> Record | None:
    """The record of a picture to make again. UsageError where it was made in another way."""
    old = None if path is None else Record.read(path)
    if old is not None and old.blend is None:
        raise UsageError(f"{path} was made without pictures as a context: make it again with `tessera generate --from {path}`")
    return old


def is_picture(typed: str) -> bool:
    """Whether what was typed names a picture: an address, an existing file, or something that ends as picture files do."""
    from tessera.contexts.weighted_prompts import WeightedPrompt

    return WeightedPrompt(typed, 1.0).is_picture or Path(typed).is_file()
