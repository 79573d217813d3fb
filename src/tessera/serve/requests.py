"""What users ask for, checked as far as that goes without a model, and made into drawings once there is one."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from tessera.errors import UsageError, suggest
from tessera.serve.limits import Limits

if TYPE_CHECKING:
    from PIL import Image

    from tessera.contexts.blend import Blend
    from tessera.drawing import Drawing
    from tessera.flow import SamplingSettings
    from tessera.model import Model
    from tessera.repainting import Repaint
    from tessera.samplers.loop import Callback

__all__ = ["Call", "Draw", "Edit", "Request", "visible"]

ISOLATES = {chr(code) for code in (*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Characters that turn the direction of the text around them."""


def visible(text: str) -> str:
    """The text with control characters as the signs that stand for them, so that they are shown and do nothing; line ends become spaces."""

    def sign(character: str) -> str:
        if character in "\t\n\r":
            return " "
        if character in ISOLATES or "\ud800" <= character <= "\udfff":
            return "\ufffd"
        if unicodedata.category(character) != "Cc":
            return character
        return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\u2421" if ord(character) == 0x7F else "\ufffd"

    return "".join(map(sign, text))


@dataclass(frozen=True)
class Request:
    """What all requests have.

    model: a name on the shelf. frames: how many pictures of the way there are kept, for an animation.
    """

    model: str
    frames: int = 0

    def check(self, limits: Limits) -> None:
        """Raises UsageError for what is wrong whatever the model."""
        limits.at_most("frames", self.frames, limits.frames)


@dataclass(frozen=True)
class Call(Request):
    """Something else that a model can do, drawn alone. `run(model, callback)` gives pictures or texts, and passes the callback on.

    drawn: what it comes to, whose limits it has.
    """

    run: Callable[[Model, Callback], list[Any]] = lambda model, callback: []
    drawn: Draw | None = None

    def check(self, limits: Limits) -> None:
        super().check(limits)
        if self.drawn is not None:
            self.drawn.check(limits)


@dataclass(frozen=True)
class Edit:
    """A picture of which part is drawn anew: what is white in `mask`, or what is around it on a canvas of `size` = (height, width).

    anchor, feather: see `repainting.Repaint`.
    """

    picture: Image.Image
    mask: Image.Image | None = None
    size: tuple[int, int] | None = None
    anchor: str = "center"
    feather: int = 0

    def repaint(self, model: Model) -> Repaint:
        """Raises UsageError for a mask or a size that does not fit."""
        from tessera.repainting import Repaint

        if self.mask is not None:
            return Repaint.masked(self.picture, self.mask, self.feather)
        if self.size is None:
            raise UsageError("nothing says what to draw anew: give a mask, or a larger size")
        return Repaint.extended(self.picture, self.size, model.place(self.picture, self.size, self.anchor), self.feather)


@dataclass(frozen=True)
class Draw(Request):
    """Pictures of prompts, which are drawn together with those of other requests that fit.

    prompts: none where the model takes none. settings: fields of `SamplingSettings`; None is the method's, or else the model's own.
    method: a published composition, see `methods`. size: (height, width). init: a picture to start from, of which
    settings["start"] says how much is changed. blends: prompts of pictures and words, in place of `prompts`, for models of several flows.
    to: "image", or "text" for words of blends.
    """

    prompts: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    size: tuple[int, int] | None = None
    init: Image.Image | None = None
    edit: Edit | None = None
    blends: tuple[Blend, ...] = ()
    to: str = "image"

    @property
    def pictures(self) -> int:
        return self.n * max(1, len(self.prompts), len(self.blends))

    def starting(self, picture: Image.Image, share: float) -> Draw:
        """The same from a picture, of which the last `share` of the process is run."""
        return replace(self, init=picture, settings={**self.settings, "start": share})

    def check(self, limits: Limits) -> None:
        super().check(limits)
        told = [text for blend in self.blends for text in (*blend.texts, blend.remove, blend.add)]
        words = [text for text in (*self.prompts, *told) if text is not None]
        limits.at_most("characters of prompts", sum(map(len, words)), limits.prompt_characters)
        limits.at_most("prompts", len(self.prompts), limits.prompts)
        limits.at_most("pictures", self.pictures, limits.pictures)
        if self.n < 1:
            raise UsageError(f"the number of pictures must be at least 1, not {self.n}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"the seed must be a whole number from 0 and below 2^63, not {self.seed}")
        limits.at_most("steps", self.settings.get("steps") or 1, limits.steps)
        limits.at_most("passes of each step", self.settings.get("resample") or 1, 16)
        size = self.edit.size if self.edit is not None and self.edit.size is not None else self.size
        if size is None and self.edit is not None:
            size = self.edit.picture.height, self.edit.picture.width
        if size is not None:
            if min(size) < 1:
                raise UsageError(f"the sides of a picture must be at least 1 pixel, not {size[1]}x{size[0]}")
            limits.at_most("pixels of a picture", size[0] * size[1], limits.pixels)

    def drawing(self, model: Model) -> Drawing:
        """Raises UsageError for what is wrong with this model."""
        settings = self.chosen(model)
        if self.blends:
            return model.drawing(list(self.blends), self.n, self.seed, settings, size=self.size, init=self.init, to=self.to)
        repaint = None if self.edit is None else self.edit.repaint(model)
        flow = model.drawing_flow
        prompts = [visible(prompt).strip() for prompt in self.prompts]
        if flow.kind == "floats":
            refuse_pictures(prompts)
        return model.drawing(prompts or None, self.n, self.seed, settings, size=self.size, init=self.init, repaint=repaint)

    def chosen(self, model: Model) -> SamplingSettings:
        """The settings that it is drawn with. Raises UsageError for one that does not exist or is out of range."""
        from tessera.flow import SamplingSettings
        from tessera.methods import method
        from tessera.model import override

        known = [setting.name for setting in fields(SamplingSettings)]
        for name in self.settings:
            if name not in known:
                raise UsageError(suggest("setting", name, known))
        base = model.defaults if self.method is None else method(self.method)
        given = dict(self.settings)
        if self.init is not None and given.get("start") is None:
            given["start"] = model.own_strength
        return override(base, **given)


def refuse_pictures(prompts: list[str]) -> None:
    """Raises UsageError for the name or address of a picture in a prompt: the server opens no files for those who use its page."""
    from tessera.contexts.weighted_prompts import split_prompt

    for prompt in prompts:
        if any(part.is_picture for part in split_prompt(prompt or None, 1.0)):
            raise UsageError("a prompt here is words, not the name or address of a picture: upload the picture instead")
