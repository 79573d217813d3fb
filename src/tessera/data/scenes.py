"""Scenes: a small exact world of coloured shapes, drawn on the fly, with captions whose truth can be checked.

A scene is a background and one to three things. A thing is a shape with a colour and a size whose bounding box lies on a
lattice of `LATTICE` pixels, one lattice cell or more away from every other box. Shapes are drawn anti-aliased from masks
sampled `SUPERSAMPLING` times per pixel along each side.

Some combinations are held out: the things (shape, colour, size) of a scene together with its background decide by a hash
whether the scene belongs to the training world or to the held-out one, so a model never trained on any arrangement of a
held-out combination.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tessera.data.dataset import Example
from tessera.data.scenes_language import Caption, describe, reword
from tessera.errors import UsageError
from tessera.randomness import derive_seed
from tessera.schema import Positive

__all__ = [
    "BACKGROUNDS", "COLOURS", "LATTICE", "PICTURE", "SHAPES", "SIZES", "Scene", "Scenes", "Thing", "draw_scene", "is_held_out", "layout",
    "mask", "render",
]  # fmt: skip

PICTURE = 64
LATTICE = 8
SUPERSAMPLING = 8
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = {"small": 2, "large": 3}
"""Side of the bounding box in lattice cells."""
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 165, 70),
    "blue": (45, 85, 225),
    "yellow": (245, 215, 50),
    "orange": (245, 135, 25),
    "purple": (140, 55, 180),
    "pink": (250, 145, 195),
    "cyan": (50, 205, 220),
}
BACKGROUNDS = {"white": (250, 250, 250), "black": (15, 15, 15), "gray": (125, 125, 125), "brown": (95, 60, 35)}
HELD_OUT_SHARE = 10
"""One combination in this many is held out."""


@dataclass(frozen=True)
class Thing:
    """A shape whose bounding box starts at lattice cell (row, column)."""

    shape: str
    colour: str
    size: str
    row: int
    column: int

    @property
    def cells(self) -> int:
        return SIZES[self.size]

    @property
    def kind(self) -> int:
        """The number of its shape and colour, 0..47."""
        return SHAPES.index(self.shape) * len(COLOURS) + list(COLOURS).index(self.colour)

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x) in pixels."""
        return (self.row + self.cells / 2) * LATTICE, (self.column + self.cells / 2) * LATTICE


@dataclass(frozen=True)
class Scene:
    """A background and its things."""

    background: str
    things: tuple[Thing, ...]


def is_held_out(scene: Scene) -> bool:
    """Whether the scene's combination of things and background is kept from training."""
    combination = sorted(f"{thing.size} {thing.colour} {thing.shape}" for thing in scene.things)
    return zlib.crc32("/".join([scene.background, *combination]).encode()) % HELD_OUT_SHARE == 0


def _inside(shape: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Membership of points in a shape; coordinates in [-1, 1] over the bounding box, y downwards."""
    radius = np.hypot(x, y)
    if shape == "circle":
        return radius <= 0.92
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.82
    if shape == "triangle":
        return (y <= 0.84) & (abs(x) <= (y + 0.92) * 0.54)
    if shape == "ring":
        return (radius <= 0.94) & (radius >= 0.50)
    if shape == "cross":
        return (np.maximum(abs(x), abs(y)) <= 0.9) & (np.minimum(abs(x), abs(y)) <= 0.28)
    # star: five points; between a tip (radius 1) and a notch the edge is a straight line
    tip, notch = 0.98, 0.42
    angle = np.abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    px, py = notch * np.cos(np.pi / 5), notch * np.sin(np.pi / 5)
    return radius * ((tip - px) * np.sin(angle) + py * np.cos(angle)) <= tip * py


@cache
def mask(shape: str, size: str) -> np.ndarray:
    """Coverage of each pixel of the bounding box, float32 [side, side] in [0, 1]."""
    side = SIZES[size] * LATTICE
    fine = (np.arange(side * SUPERSAMPLING) + 0.5) / (side * SUPERSAMPLING) * 2 - 1
    inside = _inside(shape, fine[:, None], fine[None, :])
    return inside.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING).mean((1, 3)).astype(np.float32)


@cache
def _patch(shape: str, size: str, colour: str, background: str) -> np.ndarray:
    """The thing's bounding box drawn over its background, uint8 [3, side, side]."""
    cover = mask(shape, size)
    fore, back = (np.array(rgb, np.float32)[:, None, None] for rgb in (COLOURS[colour], BACKGROUNDS[background]))
    return np.rint(back + cover * (fore - back)).astype(np.uint8)


def render(scene: Scene) -> np.ndarray:
    """The picture, uint8 [3, 64, 64]."""
    picture = np.empty((3, PICTURE, PICTURE), np.uint8)
    picture[:] = np.array(BACKGROUNDS[scene.background], np.uint8)[:, None, None]
    for thing in scene.things:
        y, x, side = thing.row * LATTICE, thing.column * LATTICE, thing.cells * LATTICE
        picture[:, y : y + side, x : x + side] = _patch(thing.shape, thing.size, thing.colour, scene.background)
    return picture


def layout(scene: Scene) -> np.ndarray:
    """What is in each lattice cell, row by row: int64 [64]. 0..47 are the kinds of thing, the classes after them the backgrounds."""
    cells = PICTURE // LATTICE
    classes = np.full((cells, cells), len(SHAPES) * len(COLOURS) + list(BACKGROUNDS).index(scene.background), np.int64)
    for thing in scene.things:
        classes[thing.row : thing.row + thing.cells, thing.column : thing.column + thing.cells] = thing.kind
    return classes.reshape(-1)


def _pick(rng: random.Random, items: Sequence[str]) -> str:
    # Only random() is used: its sequence is the one part of the module that is promised to stay the same.
    return items[int(rng.random() * len(items))]


def _apart(place: tuple[int, int], side: int, other: Thing) -> bool:
    """Whether a box of `side` cells at `place` (row, column) leaves a cell between itself and the other thing's."""
    return any(
        first + side < second or second + other.cells < first for first, second in zip(place, (other.row, other.column), strict=True)
    )


def _place(rng: random.Random, kinds: Sequence[tuple[str, str, str]]) -> tuple[Thing, ...] | None:
    """Free places for the things, a cell apart; None when this attempt found no room."""
    cells = PICTURE // LATTICE
    placed: list[Thing] = []
    for shape, colour, size in kinds:
        side = SIZES[size]
        places = [(row, column) for row in range(cells - side + 1) for column in range(cells - side + 1)]
        free = [place for place in places if all(_apart(place, side, other) for other in placed)]
        if not free:
            return None
        row, column = free[int(rng.random() * len(free))]
        placed.append(Thing(shape, colour, size, row, column))
    return tuple(placed)


def draw_scene(rng: random.Random) -> Scene:
    """A random scene: one thing (30 %), two different ones (40 %), three (15 %), or two or three alike (15 %)."""
    shapes, colours, sizes, backgrounds = SHAPES, tuple(COLOURS), tuple(SIZES), tuple(BACKGROUNDS)
    while True:
        u = rng.random()
        count = 1 if u < 0.3 else 2 if u < 0.7 else 3
        alike = u >= 0.85
        if alike:
            kinds = [(_pick(rng, shapes), _pick(rng, colours), _pick(rng, sizes))] * (2 if rng.random() < 0.5 else 3)
        else:
            kinds = [(_pick(rng, shapes), _pick(rng, colours), _pick(rng, sizes)) for _ in range(count)]
            if len({kind[:2] for kind in kinds}) < count:
                continue  # things that are not meant to be alike differ in shape or colour
        things = _place(rng, kinds)
        if things is not None:
            return Scene(_pick(rng, backgrounds), things)


class Scenes:
    """Endless scenes with captions: example i of a split is the same in every process and every run.

    Args:
        split: "train" (held-out combinations never occur) or "held-out" (only those).
        seed: another seed is another sequence of examples.
        length: how many examples count as one pass.
    """

    skipped: dict[str, str]
    layout_classes = len(SHAPES) * len(COLOURS) + len(BACKGROUNDS)

    def __init__(self, split: str = "train", seed: int = 0, length: Positive = 1_000_000) -> None:
        if split not in ("train", "held-out"):
            raise UsageError(f"unknown scenes split {split!r}: use 'train' or 'held-out'")
        self.split, self.seed, self.length, self.skipped = split, seed, length, {}

    def __len__(self) -> int:
        return self.length

    @property
    def fingerprint(self) -> str:
        return f"scenes-1/{self.split}/{self.seed}/{self.length}"

    def describe(self, index: int, seed: int = 0) -> tuple[Scene, Caption]:
        """The scene of an index and one of its captions, chosen by `seed`."""
        rng = random.Random(derive_seed("scenes", self.split, self.seed, index))
        while True:
            scene = draw_scene(rng)
            if is_held_out(scene) == (self.split == "held-out"):
                break
        return scene, describe(scene, random.Random(derive_seed("caption", self.seed, index, seed)))

    def example(self, index: int, seed: int) -> Example:
        scene, caption = self.describe(index, seed)
        return Example(torch.from_numpy(render(scene)), caption.text)

    def batch(self, indices: Sequence[int], seed: int) -> tuple[UInt8[Tensor, "b 3 h w"], list[str]]:
        """Many examples at once: pictures and captions."""
        described = [self.describe(index, seed) for index in indices]
        return torch.from_numpy(np.stack([render(scene) for scene, _ in described])), [caption.text for _, caption in described]

    def layouts(self, indices: Sequence[int]) -> Int[Tensor, "b n"]:
        """What is in each lattice cell of the pictures of `batch`: classes below `layout_classes`, see `layout`."""
        return torch.from_numpy(np.stack([layout(self.describe(index)[0]) for index in indices]))

    def reworded(self, indices: Sequence[int], seed: int) -> list[str]:
        """The captions of `batch` in other words: the same facts."""
        return [reword(self.describe(index, seed)[1], random.Random(derive_seed("reword", self.seed, index, seed))) for index in indices]
