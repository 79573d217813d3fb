"""What a model of several flows does beside pictures of prompts: variations, captions, rewritings, blends, editing by words.

Each of these is a method of `Model`. They make blends (`contexts.blend`) of what they are given, and have them drawn or written as any
prompt. `how` is in all of them: settings (see `SamplingSettings`), and `size`, `batch_size`, `precision`, `index` and `callback` as in
`Model.text_to_image`. Pictures are Pillow's, or paths and addresses of some.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tessera.contexts.blend import PALETTE_SHARE, WORDS_SHARE, Blend, MaskedPicture, Seen, directions_of
from tessera.errors import TesseraError, UsageError
from tessera.flow import SamplingSettings
from tessera.pictures import open_picture, to_picture, to_tensor
from tessera.randomness import derive_seed

if TYPE_CHECKING:
    from tessera.model import Model
    from tessera.samplers.loop import Callback

__all__ = ["blend", "blend_of", "edit", "image_to_text", "image_variation", "redrawn", "text_variation", "vary", "writing"]

Picture = Any
"""A Pillow picture, or the path or address of one; what is none is refused in a sentence. Words are too."""
STREAMED = ("size", "batch_size", "precision", "index", "callback")


def image_variation(
    model: Model, pictures: Picture | Sequence[Picture], n: int = 1, seed: int | None = None, *, fidelity: float = 0.0, focus: float = 0.5,
    level: int = 0, colour: str = "none", **how: Any,
) -> list[Image.Image]:  # fmt: skip
    """Pictures like each of `pictures`, `n` of each in a row.

    Args:
        fidelity: 0 draws anew; above it starts from the picture itself, with so much less noise; 1 is the picture.
        focus: between what the picture shows (0) and how it looks (1).
        level: the same as the first release has it, -2 to 2; see `contexts.blend.LEVELS`.
        colour: an entry of `contexts.blend.COLOURS`.

    Raises UsageError for a model without the flow, and values out of range.
    """
    settings, given = _split(model, how)
    blends = [blend_of([one], focus=focus, level=level, colour=colour) for one in _listed(pictures)]
    return list(vary(model, blends, n, seed, settings, fidelity, **given))


def vary(
    model: Model, blends: Sequence[Blend], n: int, seed: int | None, settings: SamplingSettings, fidelity: float = 0.0, **given: Any
) -> Iterator[Image.Image]:
    """Pictures of blends; above 0 `fidelity` starts from the first picture of each."""
    if not 0 <= fidelity <= 1:
        raise UsageError(f"fidelity must be between 0 (drawn anew) and 1 (the picture itself), not {fidelity:g}")
    if fidelity == 0:
        return model.stream(blends, n, seed, settings, **given)
    if fidelity == 1:
        return (to_picture(to_tensor(one.pictures[0].plain, given.get("size") or model.size)) for one in blends for _ in range(n))
    return _started(model, blends, n, secrets.randbelow(2**32) if seed is None else seed, replace(settings, start=1 - fidelity), given)


def _started(
    model: Model, blends: Sequence[Blend], n: int, seed: int, settings: SamplingSettings, given: dict[str, Any]
) -> Iterator[Image.Image]:
    index = given.pop("index", 0)
    for number, one in enumerate(blends):
        yield from model.stream(one, n, seed, settings, init=one.pictures[0].plain, index=index + number * n, **given)


def blend(
    model: Model, pictures: Picture | Sequence[Picture] = (), text: Any = None, n: int = 1, seed: int | None = None, *,
    mix: float | tuple[float, float] = WORDS_SHARE, masks: Picture | Sequence[Picture | None] | None = None,
    focus: float | Sequence[float] = 0.5, strengths: float | Sequence[float] = 1.0, level: int | Sequence[int] = 0, by: str = "attention",
    colour: str = "none", palette: str | None = None, palette_share: float = PALETTE_SHARE, **how: Any,
) -> list[Image.Image]:  # fmt: skip
    """Pictures made of all of `pictures` together, words and a palette; `n` for each text.

    Args:
        mix: the share of the words, the rest is the pictures'; or both shares, which need not sum to 1.
        masks: of each picture, white hides a part of it; of its size.
        focus, level: as in `image_variation`, of all pictures or one for each. strengths: how much each picture counts.
        by: an entry of `contexts.blend.MIXINGS`.
        colour: of the first picture.
        palette: colours and how much of each, `white:8, red:2` (see `palettes`), for models with the flow palette_to_image.
        palette_share: what the palette counts beside words and pictures, in [0, 1].

    Raises UsageError for a model without the flows, a mask of another size, and shares or strengths that are negative or sum to zero.
    """
    settings, given = _split(model, how)
    shown = _listed(pictures)
    blends = [blend_of(shown, one, mix, masks, focus, strengths, level, by, colour, palette, palette_share) for one in _listed(text)]
    return list(model.stream(blends, n, seed, settings, **given))


def edit(
    model: Model, picture: Picture, remove: str | None = None, add: str | None = None, n: int = 1, seed: int | None = None, *,
    mix: float | None = None, mask: Picture | None = None, colour: str = "none", **how: Any,
) -> list[Image.Image]:  # fmt: skip
    """The picture as words, without the words `remove` and with the words `add`, and as a picture again, `n` times.

    Args:
        mix: share of the new words beside how the picture looks; 0.67 unless given.
        mask: white hides a part of the picture.

    Raises:
        UsageError: a model without the flows, values out of range.
        TesseraError: no words are left.
    """
    settings, given = _split(model, how)
    return list(redrawn(model, _shown(picture, mask), remove, add, n, seed, settings, mix, colour, **given))


def redrawn(
    model: Model, picture: Image.Image | MaskedPicture, remove: str | None, add: str | None, n: int, seed: int | None,
    settings: SamplingSettings, mix: float | None = None, colour: str = "none", *, size: tuple[int, int] | None = None,
    callback: Callback | None = None, **given: Any,
) -> Iterator[Image.Image]:  # fmt: skip
    """The pictures of `edit`, as they are finished. callback: of the words' steps it is told no progress."""
    from tessera.families.versatile.editing import edit_blend

    edit_blend(picture, "words", add, mix, colour)  # what is wrong is said before anything is computed
    seed = secrets.randbelow(2**32) if seed is None else seed
    silent = None if callback is None else lambda progress: callback(replace(progress, index=0))
    told = Blend((Seen(picture),), remove=remove, add=add)
    texts = list(model.write(told, n, derive_seed("edit", seed), settings, callback=silent, **given))
    if not all(texts):
        raise TesseraError(f"the picture decoded to no words (seed {seed}): take another seed, or give words to add")
    blends = [edit_blend(picture, str(text), add, mix, colour) for text in texts]
    yield from model.stream(blends, 1, seed, replace(settings, temperature=1.0, truncation=None), size=size, callback=callback, **given)


def image_to_text(
    model: Model, pictures: Picture | Sequence[Picture], n: int = 1, seed: int | None = None, *, remove: str | None = None,
    add: str | None = None, **how: Any,
) -> list[str]:  # fmt: skip
    """What each picture shows in words, `n` times in a row; "" for what decoded to no words. Each text has its `record`.

    remove, add: words to take out of the text, and to put in.

    Words are the most probable ones unless `temperature` or `truncation` is given (then they are drawn), or `beams`.
    """
    settings, given = _split(model, how)
    blends = [Blend((Seen(_opened(one)),), remove=remove, add=add) for one in _listed(pictures)]
    return list(model.write(blends, n, seed, settings, **given))


def text_variation(
    model: Model, texts: Any, n: int = 1, seed: int | None = None, *, remove: str | None = None, add: str | None = None,
    **how: Any,
) -> list[str]:  # fmt: skip
    """The same in other words, of each text, as `image_to_text` gives them."""
    settings, given = _split(model, how)
    blends = [Blend(texts=(_worded(one),), remove=remove, add=add) for one in _listed(texts)]
    return list(model.write(blends, n, seed, settings, **given))


def writing(**given: Any) -> dict[str, Any]:
    """Settings as they are meant: who asks for a temperature or a truncation of words wants them drawn, unless `beams` says otherwise."""
    if given.get("beams") is None and (given.get("temperature") is not None or given.get("truncation") is not None):
        return {**given, "beams": 0}
    return given


def blend_of(
    pictures: Sequence[Picture], text: Any = None, mix: float | tuple[float, float] = WORDS_SHARE,
    masks: Picture | Sequence[Picture | None] | None = None, focus: float | Sequence[float] = 0.5,
    strengths: float | Sequence[float] = 1.0, level: int | Sequence[int] = 0, by: str = "attention", colour: str = "none",
    palette: str | None = None, palette_share: float = PALETTE_SHARE,
) -> Blend:  # fmt: skip
    """The blend that `blend` describes. Raises as it does."""
    if not pictures and palette is None:
        raise UsageError("a blend needs a picture: give one, or several")
    count, seen = len(pictures), []
    each = {"masks": masks, "focus": focus, "strengths": strengths, "level": level}
    columns = [_each(what, given, count) for what, given in each.items()]
    for picture, mask, here, strength, of in zip(pictures, *columns, strict=True):
        seen.append(Seen(_shown(picture, mask), here, strength, directions_of(of)))
    shares = (float(mix), 1.0 - mix) if isinstance(mix, int | float) else mix
    texts = () if text is None else (_worded(text),)
    return Blend(tuple(seen), texts, shares, by, colour, palette=palette, palette_share=palette_share)


def _each(what: str, given: Any, count: int) -> list[Any]:
    """One for each picture. UsageError for another number of them."""
    if given is None or isinstance(given, int | float | str | Path | Image.Image):
        if isinstance(given, str | Path | Image.Image) and count > 1:
            raise UsageError(f"there are {count} pictures, but one of {what}: give a list, one of each, None for none")
        return list(repeat(given, count))
    if len(given) != count:
        raise UsageError(f"there are {count} pictures, but {len(given)} of {what}: give one of each")
    return list(given)


def _shown(picture: Picture, mask: Picture | None) -> Image.Image | MaskedPicture:
    return _opened(picture) if mask is None else MaskedPicture(_opened(picture), _opened(mask))


def _opened(picture: Any) -> Image.Image:
    picture = open_picture(picture) if isinstance(picture, str | Path) else picture
    if not isinstance(picture, Image.Image):
        raise UsageError(f"this takes pictures, not {picture!r}")
    return picture


def _worded(text: Any) -> str:
    if not isinstance(text, str):
        raise UsageError(f"this takes words, not {'a picture' if isinstance(text, Image.Image) else repr(text)}")
    return text


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _split(model: Model, how: dict[str, Any]) -> tuple[SamplingSettings, dict[str, Any]]:
    """Settings, and what `Model.stream` takes beside them."""
    given = {name: how[name] for name in STREAMED if name in how}
    return model.settings(**writing(**{name: value for name, value in how.items() if name not in given})), given
