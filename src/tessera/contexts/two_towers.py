"""A small CLIP of one's own: words and pictures of a known world in one space, trained by `training.clip`.

    text:     words → embeddings, neighbours, transformer (`Words`) → mean over the words → W_t
    picture:  three convolutions of stride 2, SiLU between them → features of 8 × 8 pixels + positions → transformer → mean → W_i

Every operation is smooth in the pixels, for guidance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.contexts.joint import JointEncoder
from tessera.contexts.words import Block, Words
from tessera.errors import UsageError
from tessera.schema import Depth, Positive

__all__ = ["TwoTowers"]

STRIDE = 8
"""Pixels along each side that become one position of the image tower."""
WARMEST = math.log(100.0)


class TwoTowers(JointEncoder):
    """Text and image tower.

    Args:
        vocabulary, length, text_width, text_depth, text_heads: of the text tower; see `Words`.
        size: side in pixels of the pictures, a multiple of 8.
        image_width, image_depth, image_heads: features, layers and heads of the image tower.
        width: D, features of the embeddings.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        length: Positive = 24,
        text_width: Positive = 128,
        text_depth: Depth = 2,
        text_heads: Positive = 4,
        size: Positive = 64,
        image_width: Positive = 128,
        image_depth: Depth = 4,
        image_heads: Positive = 4,
        width: Positive = 128,
    ) -> None:
        super().__init__()
        if (
            size < STRIDE
            or size % STRIDE
            or width < 1
            or image_depth < 0
            or image_width < 4
            or image_width % 4
            or image_width % image_heads
        ):
            raise UsageError(
                f"two towers: size {size} must be a multiple of {STRIDE}, width {width} positive, and image_width {image_width} "
                f"a multiple of 4 and of image_heads {image_heads}"
            )
        self.config = {
            "kind": "two-towers", "vocabulary": list(vocabulary), "length": length, "text_width": text_width, "text_depth": text_depth,
            "text_heads": text_heads, "size": size, "image_width": image_width, "image_depth": image_depth, "image_heads": image_heads,
            "width": width,
        }  # fmt: skip
        self.size, self.width = size, width
        self.words = Words(vocabulary, length, text_width, text_depth, text_heads, attend_padding=False)
        self.text_projection = nn.Linear(text_width, width, bias=False)
        self.stem = nn.Sequential(
            nn.Conv2d(3, image_width // 4, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(image_width // 4, image_width // 2, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(image_width // 2, image_width, 3, 2, 1),
        )  # fmt: skip
        self.position_embedding = nn.Parameter(torch.randn((size // STRIDE) ** 2, image_width) * 0.1)
        self.blocks = nn.ModuleList(Block(image_width, image_heads) for _ in range(image_depth))
        self.norm = nn.LayerNorm(image_width)
        self.image_projection = nn.Linear(image_width, width, bias=False)
        self.log_warmth = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def warmth(self) -> Float[Tensor, ""]:
        """What cosines are multiplied with before the softmax in training: learnt, at most 100."""
        return self.log_warmth.clamp(max=WARMEST).exp()

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """One embedding per text. Warns of unknown words and of what was cut."""
        context = self.words(texts)
        assert context.embeddings is not None
        assert context.mask is not None
        real = context.mask.to(context.embeddings.dtype).unsqueeze(-1)
        return self.text_projection((context.embeddings * real).sum(1) / real.sum(1))

    def encode_image(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.image_projection(self.positions(image).mean(1))

    def positions(self, image: Float[Tensor, "b 3 h w"], weights: Float[Tensor, "b n 1"] | None = None) -> Float[Tensor, "b n d"]:
        """Features of each position, row-major, of pictures in [-1, 1]. weights: how much of each position enters.

        Raises UsageError for pictures of another size.
        """
        if image.shape[2:] != (self.size, self.size):
            raise UsageError(f"this encoder sees pictures of {self.size}x{self.size}, not {image.shape[3]}x{image.shape[2]}")
        x = self.stem(image).flatten(2).transpose(1, 2)
        x = (x if weights is None else x * weights) + self.position_embedding
        for block in self.blocks:
            x = block(x, None)
        return self.norm(x)
