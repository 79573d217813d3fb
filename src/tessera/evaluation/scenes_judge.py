"""Reads a picture of the scenes world back and says whether each clause of a caption holds.

Reading is analysis by synthesis. Pixels that are not background form connected blobs; the main colour of a blob's core
names its colour; the coverage that follows from it (how far each pixel lies from background to colour) is compared with
the exact mask of every shape and size at every offset of a pixel or less, and the nearest mask names the thing. A blob counts
as a thing only when it fits its mask tightly, so blur, shear, specks and half-drawn shapes are errors, not approximations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from tessera.data.scenes import BACKGROUNDS, COLOURS, LATTICE, SHAPES, SIZES, mask
from tessera.data.scenes_language import Caption, Mention, Relation, region_of, relation_holds

__all__ = ["SLACK", "Found", "Reading", "Verdict", "fits", "judge", "judge_pictures", "read_picture"]

COLOUR_TOLERANCE = 60.0
"""Largest distance in RGB (0..255) between a core's median and the palette's colour."""
FIT_TOLERANCE = 0.12
"""Largest summed |coverage - mask| of a thing, as a share of the mask's area."""
SPOT_TOLERANCE = 0.17
"""Largest mean |coverage - mask| over any 4 x 4 pixels: finds local damage that the sum forgives."""
CLEAN_TOLERANCE = 24.0
"""Largest distance in RGB from the background, averaged over 2 x 2 pixels, outside the things."""
SLACK = 2.0
"""How many pixels a relation of centres read from a picture may lack. True centres lie on multiples of 4, so none of theirs changes."""


@dataclass(frozen=True)
class Found:
    """A thing read from a picture; `centre` is (y, x) in pixels."""

    shape: str
    colour: str
    size: str
    centre: tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """What a picture shows. `clean`: nothing but background outside the things, and every blob is a thing."""

    background: str | None
    things: tuple[Found, ...]
    clean: bool


@dataclass(frozen=True)
class Verdict:
    """Whether each clause holds; relation and region are None when the caption states none or the things are not there."""

    things: bool
    clean: bool
    relation: bool | None = None
    region: bool | None = None
    background: bool | None = None
    right: bool = False
    """Every clause of the caption holds."""


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str | None:
    distances = {name: float(np.linalg.norm(colour - np.array(rgb))) for name, rgb in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= COLOUR_TOLERANCE else None


@cache
def _templates() -> list[tuple[str, str, np.ndarray]]:
    """Every mask with a margin of one lattice cell."""
    return [(shape, size, np.pad(mask(shape, size), LATTICE)) for shape in SHAPES for size in SIZES]


def _identify(cover: np.ndarray, box: tuple[slice, slice]) -> Found | None:
    """The thing whose mask fits `cover` (coverage over the whole picture, 0 outside the blob), or None."""
    (top, bottom), (left, right) = ((s.start, s.stop) for s in box)
    centre_y, centre_x = (top + bottom) / 2, (left + right) / 2
    padded = np.pad(cover, 4 * LATTICE)
    best: tuple[float, Found | None, np.ndarray] = (np.inf, None, cover)
    for shape, size, template in _templates():
        rows, columns = np.nonzero(template > 0.5)
        height, width = rows[-1] - rows[0] + 1, columns.max() - columns.min() + 1
        if abs(height - (bottom - top)) > 3 or abs(width - (right - left)) > 3:
            continue
        # Align the template's box with the blob's, then try a pixel either way.
        y_0 = round(centre_y - (rows[0] + height / 2)) + 4 * LATTICE
        x_0 = round(centre_x - (columns.min() + width / 2)) + 4 * LATTICE
        side = template.shape[0]
        for y in range(y_0 - 1, y_0 + 2):
            for x in range(x_0 - 1, x_0 + 2):
                difference = np.abs(padded[y : y + side, x : x + side] - template)
                misfit = float(difference.sum() / template.sum())
                if misfit < best[0]:
                    half = side / 2 - 4 * LATTICE
                    best = misfit, Found(shape, "", size, (y + half, x + half)), difference
    misfit, found, difference = best
    if found is None or misfit > FIT_TOLERANCE or ndimage.uniform_filter(difference, 4).max() > SPOT_TOLERANCE:
        return None
    return found


def read_picture(picture: UInt8[np.ndarray, "3 h w"]) -> Reading:
    """The background and the things of a picture of any size."""
    pixels = picture.astype(np.float32)
    distances = np.stack([np.linalg.norm(pixels - np.array(rgb, np.float32)[:, None, None], axis=0) for rgb in BACKGROUNDS.values()])
    votes = np.bincount(distances.argmin(0)[distances.min(0) < COLOUR_TOLERANCE], minlength=len(BACKGROUNDS))
    if votes.max() < 0.3 * pixels[0].size:
        return Reading(None, (), False)
    background = list(BACKGROUNDS)[int(votes.argmax())]
    back = np.array(BACKGROUNDS[background], np.float32)
    away = np.linalg.norm(pixels - back[:, None, None], axis=0)
    blobs, _ = ndimage.label(away > CLEAN_TOLERANCE, structure=np.ones((3, 3)))
    things, clean = [], True
    for number in range(1, blobs.max() + 1):
        inside = blobs == number
        if inside.sum() < 9:  # specks: judged as unclean below when they can be seen
            continue
        clean_blob, found = False, None
        threshold = np.quantile(away[inside], 0.6)
        colour = np.median(pixels[:, inside & (away >= threshold)], axis=1)
        name = _nearest(colour, COLOURS)
        if name is not None:
            # The blob's own core colour is the unit of coverage, so a small error of colour is no error of shape.
            direction = colour - back
            cover = np.tensordot(direction, pixels - back[:, None, None], axes=1) / float(direction @ direction)
            near = ndimage.binary_dilation(inside, iterations=2) & ((blobs == number) | (blobs == 0))
            whole = (cover > 0.5) & inside
            if whole.any():
                tight = ndimage.find_objects(whole.astype(int))[0]
                found = _identify(np.where(near, cover.clip(0, 1.3), 0), tight)
                stray = np.linalg.norm(pixels - back[:, None, None] - cover * direction[:, None, None], axis=0)
                clean_blob = ndimage.uniform_filter(np.where(inside, stray, 0), 3).max() < 2 * CLEAN_TOLERANCE
        if found is None or name is None or not clean_blob:
            clean = False
        else:
            things.append(Found(found.shape, name, found.size, found.centre))
            away = np.where(ndimage.binary_dilation(inside, iterations=1), 0, away)
    clean = clean and bool(ndimage.uniform_filter(away, 2).max() < CLEAN_TOLERANCE)
    return Reading(background, tuple(things), clean)


def fits(mention: Mention, found: Found) -> bool:
    """Whether the thing can be one of those mentioned."""
    return mention.shape == found.shape and mention.colour == found.colour and mention.size in (None, found.size)


def _related(relation: Relation, wanted: Sequence[int], order: Sequence[Found]) -> bool:
    first, second = (order[wanted.index(mention)].centre for mention in (relation.first, relation.second))
    return relation_holds(relation.kind, first, second, SLACK)


def judge(reading: Reading, caption: Caption, picture: int = 64) -> Verdict:
    """Whether the picture shows the caption's things and no others, related and placed as it says, cleanly."""
    wanted = [i for i, mention in enumerate(caption.mentions) for _ in range(mention.count)]
    things = relation = region = None
    if len(wanted) == len(reading.things):
        mentions = [caption.mentions[i] for i in wanted]
        fitting = [order for order in permutations(reading.things) if all(map(fits, mentions, order))]
        things = bool(fitting)
        if things and caption.relations:
            relation = any(all(_related(r, wanted, order) for r in caption.relations) for order in fitting)
        if things and caption.region is not None:
            region = region_of(reading.things[0].centre, picture) == caption.region
    background = None if caption.background is None else reading.background == caption.background
    right = bool(things) and reading.clean and relation is not False and region is not False and background is not False
    return Verdict(bool(things), reading.clean, relation, region, background, right)


def judge_pictures(pictures: UInt8[np.ndarray, "b 3 h w"], captions: Sequence[Caption]) -> list[Verdict]:
    """A verdict for each picture and its caption."""
    return [judge(read_picture(picture), caption, picture.shape[-1]) for picture, caption in zip(pictures, captions, strict=True)]
