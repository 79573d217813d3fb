"""A palette as the condition (see `palettes`): a context type of its own beside words and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tessera.contexts.context import Context, ContextEncoder
from tessera.errors import UsageError
from tessera.palettes import Swatch, palette_of, parse_palette
from tessera.pictures import to_picture
from tessera.schema import Positive

__all__ = ["Palette"]


class Palette(ContextEncoder):
    """A palette as typed, or a picture for the one that it has. Rows are (red, green, blue, share): colours in [-1, 1], shares in (0, 1].

    Args:
        colours: of a palette at most.

    A prompt of None is one row of zeros.
    """

    of, reads_words = "palette", False
    width = 4

    def __init__(self, colours: Positive = 4) -> None:
        super().__init__()
        if not 1 <= colours <= 256:
            raise UsageError(f"a palette has 1 to 256 colours, not {colours}")
        self.config: dict[str, Any] = {"kind": "palette", "colours": colours}
        self.colours = colours

    def forward(self, prompts: Sequence[str | Image.Image | None]) -> Context:
        """Context of embeddings [B, colours, 4]. UsageError for what is no palette, or has too many colours."""
        shape = (len(prompts), self.colours)
        rows, mask = torch.zeros(*shape, self.width), torch.zeros(shape, dtype=torch.bool)
        mask[:, 0] = True
        for at, prompt in enumerate(prompts):
            palette = self._palette(prompt)
            if palette:
                colours = torch.tensor([swatch.colour for swatch in palette]) / 127.5 - 1
                rows[at, : len(palette)] = torch.cat([colours, torch.tensor([[swatch.share] for swatch in palette])], 1)
                mask[at, : len(palette)] = True
        return Context(rows, mask)

    def see(self, image: Float[Tensor, "b 3 h w"]) -> Context:
        """The palettes of pictures in [-1, 1]."""
        return self([to_picture(one) for one in image])

    def unconditional(self, batch: int) -> Context:
        return self([None] * batch)

    def _palette(self, prompt: str | Image.Image | None) -> list[Swatch]:
        if prompt is None:
            return []
        if isinstance(prompt, Image.Image):
            return palette_of(prompt, self.colours)
        palette = parse_palette(prompt)
        if len(palette) > self.colours:
            raise UsageError(f"the palette {prompt!r} has {len(palette)} colours, but this model takes {self.colours} at most")
        return palette
