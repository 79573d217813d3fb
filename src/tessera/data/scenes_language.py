"""The words of the scenes world: captions with the facts they state.

A caption states facts about a scene, each of which a judge can check: which things there are (`Mention`), how two of them
lie (`Relation`), where a lone thing lies (`Region`), and the background. What a caption leaves out is free.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tessera.data.scenes import Scene, Thing

__all__ = [
    "NUMBERS", "REGIONS", "RELATIONS", "VOCABULARY", "Caption", "Mention", "Relation", "describe", "phrase", "region_of", "relation_holds",
    "reword",
]  # fmt: skip

NUMBERS = {1: "a", 2: "two", 3: "three"}
RELATIONS = {
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
}
INVERSE = {"above": "below", "below": "above", "left": "right", "right": "left"}
"""B lies so where A lies `kind` B."""
REGIONS = {
    (0, 0): "in the top left",
    (0, 1): "at the top",
    (0, 2): "in the top right",
    (1, 0): "on the left",
    (1, 1): "in the middle",
    (1, 2): "on the right",
    (2, 0): "in the bottom left",
    (2, 1): "at the bottom",
    (2, 2): "in the bottom right",
}
_OPENINGS = ("", "", "", "a picture of ", "there is ")
_PLURAL_OPENINGS = ("", "", "", "a picture of ", "there are ")
_WORDS = (
    "a and , picture of there is are two three on the in at to top bottom left right middle above over below under beneath "
    "background small large circle circles square squares triangle triangles star stars ring rings cross crosses "
    "red green blue yellow orange purple pink cyan white black gray brown an"
)
VOCABULARY = tuple(_WORDS.split())


@dataclass(frozen=True)
class Mention:
    """`count` things of this shape and colour; `size` None leaves the size free."""

    shape: str
    colour: str
    size: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Relation:
    """Mention number `first` lies `kind` (a key of RELATIONS) mention number `second`."""

    first: int
    kind: str
    second: int


@dataclass(frozen=True)
class Caption:
    """Words and the facts they state. `region`: (row, column) thirds of the picture where the only thing's centre lies."""

    text: str
    mentions: tuple[Mention, ...]
    relations: tuple[Relation, ...] = ()
    region: tuple[int, int] | None = None
    background: str | None = None


def relation_holds(kind: str, first: tuple[float, float], second: tuple[float, float], slack: float = 0.0) -> bool:
    """Whether centre `first` (y, x) lies `kind` centre `second`: at least 12 pixels that way, and further that way than across."""
    dy, dx = first[0] - second[0], first[1] - second[1]
    along, across = {"above": (-dy, dx), "below": (dy, dx), "left": (-dx, dy), "right": (dx, dy)}[kind]
    return along >= 12 - slack and along >= abs(across) - slack


def region_of(centre: tuple[float, float], picture: int) -> tuple[int, int]:
    """The third of the picture, (row, column) in 0..2, in which a centre (y, x) lies."""
    return min(int(centre[0] * 3 / picture), 2), min(int(centre[1] * 3 / picture), 2)


def _pick(rng: random.Random, items: Sequence[str]) -> str:
    return items[int(rng.random() * len(items))]


def phrase(mention: Mention) -> str:
    """ "two large red circles"."""
    size = f"{mention.size} " if mention.size else ""
    shape = mention.shape if mention.count == 1 else ("crosses" if mention.shape == "cross" else mention.shape + "s")
    words = f"{size}{mention.colour} {shape}"
    number = NUMBERS[mention.count] if mention.count > 1 or words[0] not in "aeiou" else "an"
    return f"{number} {words}"


def _mention(thing: Thing, rng: random.Random, count: int = 1) -> Mention:
    return Mention(thing.shape, thing.colour, thing.size if rng.random() < 0.5 else None, count)


def describe(scene: Scene, rng: random.Random) -> Caption:
    """One of the many captions of a scene. It always names every thing; size, relation, region and background may be left out."""
    from tessera.data.scenes import PICTURE

    things = list(scene.things)
    relations: tuple[Relation, ...] = ()
    region = None
    alike = len(things) > 1 and len({(thing.shape, thing.colour) for thing in things}) == 1
    if alike:
        mentions: tuple[Mention, ...] = (_mention(things[0], rng, len(things)),)
        text = phrase(mentions[0])
    elif len(things) == 1:
        mentions = (_mention(things[0], rng),)
        text = phrase(mentions[0])
        if rng.random() < 0.5:
            region = region_of(things[0].centre, PICTURE)
            text = f"{text} {REGIONS[region]}"
    else:
        order = sorted(range(len(things)), key=lambda _: rng.random())
        things = [things[i] for i in order]
        mentions = tuple(_mention(thing, rng) for thing in things)
        phrases = [phrase(mention) for mention in mentions]
        holding = [kind for kind in RELATIONS if relation_holds(kind, things[0].centre, things[1].centre)]
        if holding and rng.random() < 0.7:
            kind = _pick(rng, holding)
            relations = (Relation(0, kind, 1),)
            text = f"{phrases[0]} {_pick(rng, RELATIONS[kind])} {phrases[1]}"
        else:
            text = f"{phrases[0]} and {phrases[1]}" if len(things) == 2 else f"{phrases[0]} , {phrases[1]}"
        if len(things) == 3:
            text = f"{text} and {phrases[2]}"
    background = scene.background if rng.random() < 0.7 else None
    text = _pick(rng, _PLURAL_OPENINGS if alike else _OPENINGS) + text
    if background:
        text = f"{text} on {background}" if rng.random() < 0.4 else f"{text} on a {background} background"
    return Caption(text.replace(" ,", ","), mentions, relations, region, background)


def reword(caption: Caption, rng: random.Random) -> str:
    """Other words for the same facts: another opening, another order of the things, another word for how they lie."""
    mentions, relation = list(caption.mentions), caption.relations[0] if caption.relations else None
    while True:
        kind = None if relation is None else relation.kind
        order = list(mentions)
        if kind is None:
            order = sorted(mentions, key=lambda _: rng.random())
        elif rng.random() < 0.5:
            order[:2], kind = order[1::-1], INVERSE[kind]
        phrases = [phrase(mention) for mention in order]
        text = phrases[0]
        if kind is not None:
            text = f"{text} {_pick(rng, RELATIONS[kind])} {phrases[1]}"
        elif len(phrases) == 2:
            text = f"{text} and {phrases[1]}"
        elif len(phrases) == 3:
            text = f"{text}, {phrases[1]}"
        if len(phrases) == 3:
            text = f"{text} and {phrases[2]}"
        if caption.region is not None:
            text = f"{text} {REGIONS[caption.region]}"
        text = _pick(rng, _OPENINGS if mentions[0].count == 1 else _PLURAL_OPENINGS) + text
        if caption.background is not None:
            text = f"{text} on {caption.background}" if rng.random() < 0.5 else f"{text} on a {caption.background} background"
        if text != caption.text:
            return text
