"""Pictures drawn, or texts written, together: of one request, or of several that fit each other.

Every picture has its own random numbers, those of its request's seed and its number there, so it comes out the same whoever else is in
its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tessera.contexts.blend import Blend
from tessera.finite import require_finite
from tessera.flow import Flow, SamplingSettings
from tessera.guidance.inpaint import Known
from tessera.pictures import to_picture, to_tensor
from tessera.randomness import Draws
from tessera.record import Record, Written
from tessera.repainting import Repaint
from tessera.samplers.loop import Callback

__all__ = ["Drawing", "draw"]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A request for pictures or texts that was found to be right; `Model.drawing` makes them.

    prompts: of each. grid: of its latents. record: of the first picture, without its prompt. init: the picture that it starts from.
    repaint: the picture of which part is drawn anew.
    """

    flow: Flow
    prompts: Sequence[Any]
    grid: tuple[int, ...]
    settings: SamplingSettings
    record: Record
    init: Image.Image | None = None
    repaint: Repaint | None = None

    def __len__(self) -> int:
        """Pictures or texts."""
        return len(self.prompts)

    def fits(self, other: Drawing) -> bool:
        """Whether pictures of both can be drawn in one batch. Not where part of a picture stays, which is the same for all of a batch."""
        if self is other:
            return True
        alike = self.flow is other.flow and self.grid == other.grid and self.record.precision == other.record.precision
        whole = self.repaint is None and other.repaint is None and (self.init is None) == (other.init is None)
        return alike and whole and repr(self.settings) == repr(other.settings)  # 1 == 1.0, which are different truncations

    @cached_property
    def start(self) -> Tensor | None:
        """Latents [1, …] that the run starts from."""
        return self._given if self.init is not None or self.settings.start < 1 else None

    @cached_property
    def known(self) -> Known | None:
        """What stays."""
        if self.repaint is None or self._given is None:
            return None
        keep = self.repaint.keep(self.flow.codec.factor).to(self.flow.device)
        return Known(self._given[0], keep) if keep.any() else None

    @cached_property
    def _given(self) -> Tensor | None:
        picture = self.init if self.repaint is None else self.repaint.picture
        if picture is None:
            return None
        with torch.inference_mode():  # in float32, because rounding could change a token
            latents: Tensor = self.flow.codec.encode(to_tensor(picture, self.record.size)[None].to(self.flow.device))
        return latents

    def finished(self, number: int, made: Tensor | str) -> Image.Image | Written:
        """Picture or text `number` with its record, a picture with what stays of a given one."""
        prompt, record = self.prompts[number], replace(self.record, index=self.record.index + number)
        if isinstance(prompt, Blend):
            record = replace(record, prompt=prompt.words, blend=prompt.description)
        else:
            record = replace(record, prompt=prompt)
        if isinstance(made, str):
            return Written(made, record)
        require_finite(made, "decoding", "the codec's weights may be damaged; load the model again, in float32")
        picture = to_picture(made)
        return record.attach(picture if self.repaint is None else self.repaint.composite(picture))


def draw(pictures: Sequence[tuple[Drawing, int]], callback: Callback | None = None) -> list[Any]:
    """One batch of pictures, or of `Written` texts. `pictures`: drawings that all fit each other, and the number of each within its own."""
    first = pictures[0][0]
    flow, device, starts = first.flow, first.flow.device, [drawing.start for drawing, _ in pictures]
    draws = Draws([drawing.record.seed for drawing, _ in pictures], [drawing.record.index + number for drawing, number in pictures], device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=first.record.precision == "bfloat16"):
        start = None if starts[0] is None else torch.cat([latents for latents in starts if latents is not None])
        prompts = [drawing.prompts[number] for drawing, number in pictures]
        latents = flow.sample(prompts, first.grid, first.settings, draws, callback, start, first.known)
        require_finite(latents, "sampling", "take more steps, another sampler, less guidance, or precision float32")
    with torch.inference_mode():
        # One by one: a picture's last bits must not depend on the batch it was decoded in.
        made = [
            flow.finish(row[None], first.grid, prompt, first.settings, draws.rows([number]))
            for number, (row, prompt) in enumerate(zip(latents, prompts, strict=True))
        ]
    return [drawing.finished(number, one) for (drawing, number), one in zip(pictures, made, strict=True)]
