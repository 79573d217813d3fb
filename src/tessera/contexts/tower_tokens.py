"""A small CLIP of one's own (`two_towers`) as Versatile Diffusion reads CLIP: every word, and every position of a picture.

    words:    z_i = √D W_t h_i / |W_t h|,  h the mean over the words
    picture:  z_0 = √D W_i h / |W_i h|,  h the mean over the positions, then z_j = √D W_i h_j / |W_i h| + p_j of each position

The class token of the original is the mean here. The original has no √D: with it the rows are of unit size in every feature, as a network
needs that sees a thousandth of the original's pictures. Nor has it p, sines and cosines of the position's row and column (He et al. 2022,
arXiv 2111.06377, appendix A.1): the last tokens of a small tower, trained for its mean alone, forget where they were (a linear map finds
a fifth of the variance of their position), and a network that read them put everything elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tessera.contexts.blend import MaskedPicture
from tessera.contexts.clip_tokens import CLIPView, picture_input, seen_of
from tessera.contexts.context import Context
from tessera.contexts.two_towers import STRIDE, TwoTowers
from tessera.errors import UsageError

__all__ = ["TowerTokens"]

SLOWEST = 0.1
"""Radians per position of the slowest of a position's sines; the fastest has 1."""


class TowerTokens(TwoTowers):
    """Arguments and weights are those of `TwoTowers`. A prompt is words, None (the empty text), a picture or a masked one, and all of a
    batch are of one kind."""

    kind = "tower-tokens"
    towers: ClassVar[dict[str, tuple[str, ...]]] = {
        "words": ("words.", "text_projection."),
        "pictures": ("stem.", "position_embedding", "blocks.", "norm.", "image_projection."),
    }
    takes_masks = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.config = {**self.config, "kind": self.kind}

    @property
    def image_tokens(self) -> int:
        """Tokens of a picture: that of the whole, and the positions."""
        return 1 + (self.size // STRIDE) ** 2

    def read(self, texts: Sequence[str]) -> Context:
        """Rows of texts, which count up to their end marker. Warns of unknown words and of what was cut."""
        found = self.words(texts)
        assert found.embeddings is not None
        assert found.mask is not None
        rows = self.text_projection(found.embeddings)
        real = found.mask.to(rows.dtype).unsqueeze(-1)
        return Context(self._sized(rows, (rows * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)), found.mask)

    def see(self, image: Float[Tensor, "b 3 h w"], seen: Float[Tensor, "m 1 y x"] | None = None) -> Float[Tensor, "b n d"]:
        """Rows of pictures of `size` × `size` pixels in [-1, 1].

        seen: masks in [0, 1], 1 where the picture counts, resized to it from any size.

        Raises UsageError for pictures of another size, or another number of masks.
        """
        if seen is not None and len(seen) != len(image):
            raise UsageError(f"{len(seen)} masks do not belong to {len(image)} pictures: give one of each")
        if seen is None:
            rows = self.image_projection(self.positions(image))
            whole = rows.mean(1, keepdim=True)
            return self._located(self._sized(torch.cat([whole, rows], 1), whole))
        mask = F.interpolate(seen.clamp(0, 1).to(image), (self.size, self.size), mode="bilinear", align_corners=False)
        weights = F.avg_pool2d(mask, STRIDE).flatten(1)[..., None]
        rows = self.image_projection(self.positions(image, weights))
        whole = rows.mean(1, keepdim=True)
        counting = torch.cat([weights.mean(1, keepdim=True), weights], 1)
        return self._located(self._sized(torch.cat([whole, rows], 1), whole)) * counting

    def _sized(self, rows: Float[Tensor, "b n d"], whole: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b n d"]:
        return rows * (self.width**0.5 / whole.norm(dim=-1, keepdim=True).clamp(min=1e-6))

    def _located(self, rows: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The rows with the code of each position, of variance 1; the first, of the whole, has none."""
        side, quarter = self.size // STRIDE, self.width // 4
        frequencies = SLOWEST ** (torch.arange(quarter, device=rows.device) / max(quarter - 1, 1))
        angle = torch.arange(side, device=rows.device)[:, None] * frequencies
        code = 2**0.5 * torch.cat([angle.sin(), angle.cos()], 1).to(rows.dtype)
        both = torch.cat([code[:, None].expand(-1, side, -1), code[None].expand(side, -1, -1)], 2).flatten(0, 1)
        return rows + F.pad(both, (0, self.width - both.shape[1], 1, 0))

    def forward(self, prompts: Sequence[object]) -> Context:
        """Context of embeddings [B, tokens, D]; of words with a mask. UsageError for words and pictures in one batch."""
        words = [prompt is None or isinstance(prompt, str) for prompt in prompts]
        if len(set(words)) > 1:
            raise UsageError("words and pictures have contexts of their own: encode them apart, and mix what they lead to")
        if not prompts or words[0]:
            return self.read(["" if prompt is None else str(prompt) for prompt in prompts])
        return Context(torch.cat([self._see_one(prompt) for prompt in prompts]))  # one by one, so that no picture depends on its batch

    def _see_one(self, prompt: object) -> Float[Tensor, "1 n d"]:
        picture = prompt.picture if isinstance(prompt, MaskedPicture) else prompt
        if not isinstance(picture, Image.Image):
            raise UsageError(f"a prompt must be words or a picture, not {type(picture).__name__}")
        seen = seen_of(prompt.hidden)[None].to(self.device) if isinstance(prompt, MaskedPicture) else None
        return self.see(picture_input(picture, self.size)[None].to(self.device), seen)

    def view(self, of: str, blank: int | None = None) -> CLIPView:
        """The encoder of one kind of prompts, with a "no prompt" of its own; see `CLIPView`."""
        return CLIPView(self, of, blank)

    def unconditional(self, batch: int) -> Context:
        """The context of the empty text."""
        return self([None]).repeat(batch)

    def blank(self, batch: int, level: int | None = None) -> Context:
        """A picture's context without a picture; see `CLIPTokens.blank`."""
        if level is None:
            return Context(torch.zeros(batch, self.image_tokens, self.width, device=self.device))
        if not 0 <= level <= 255:
            raise UsageError(f"the level of a blank picture must be in 0..255, not {level}")
        return Context(self.see(torch.full((1, 3, self.size, self.size), level / 127.5 - 1, device=self.device))).repeat(batch)
