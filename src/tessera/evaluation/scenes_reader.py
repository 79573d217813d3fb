"""A small network that reads the built-in world, whose features stand in for Inception's where there is nothing to download.

    picture → patches of 2 × 2 → three convolutions → 8 × 8 lattice cells → two residual blocks → features h [B, C, 8, 8]
    each cell → damage, background, and of the thing that covers it: is there one, shape, colour, size, which of its cells (row, column)

The question of damage makes the features tell a blurred or broken picture from a whole one, which the others are better off to ignore.

The features of a picture are the means of h over its quarters: [B, 4 C]. Trained by recipes/scenes_features.yaml.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.data.scenes import BACKGROUNDS, COLOURS, LATTICE, PICTURE, SHAPES, SIZES, Scene
from tessera.errors import UsageError
from tessera.schema import Depth, Positive

__all__ = ["ABSENT", "CELLS", "DAMAGE", "QUESTIONS", "ScenesReader", "answers"]

CELLS = PICTURE // LATTICE
LARGEST = max(SIZES.values())
QUESTIONS = {
    "damage": 5, "background": len(BACKGROUNDS), "thing": 2, "shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES),
    "row": LARGEST, "column": LARGEST,
}  # fmt: skip
"""What is asked of every cell → number of answers."""
ABSENT = -100
"""The answer to questions about the thing in a cell that has none: cross-entropy leaves it out."""
DAMAGE = (4.0, 8.0, 14.0, 24.0)
"""Mean differences of a cell from how it should be, in levels of 0..255, where the answers to the question of damage change.

Less cannot be seen; a network that is asked for it makes invisible noise the largest of all differences."""


def answers(scene: Scene) -> Int[Tensor, "questions h w"]:
    """The true answers for every cell of an undamaged picture, in the order of `QUESTIONS`."""
    names = {"shape": list(SHAPES), "colour": list(COLOURS), "size": list(SIZES)}
    made = torch.full((len(QUESTIONS), CELLS, CELLS), ABSENT, dtype=torch.int64)
    made[:3] = torch.tensor([0, list(BACKGROUNDS).index(scene.background), 0])[:, None, None]
    for thing in scene.things:
        kind = [names[question].index(getattr(thing, question)) for question in names]
        for row in range(thing.cells):
            for column in range(thing.cells):
                made[2:, thing.row + row, thing.column + column] = torch.tensor([1, *kind, row, column])
    return made


class Residual(nn.Module):
    """x + conv(silu(conv(silu(norm(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


class ScenesReader(nn.Module):
    """Answers `QUESTIONS` for every lattice cell of a picture of 64 × 64 pixels.

    Args:
        width: features C of a cell; a multiple of 16.
        blocks: residual blocks over the cells.
    """

    size = PICTURE

    def __init__(self, width: Positive = 64, blocks: Depth = 2) -> None:
        super().__init__()
        if width < 16 or width % 16 or blocks < 0:
            raise UsageError(f"scenes reader: width {width} must be a positive multiple of 16, blocks {blocks} not negative")
        self.config = {"kind": "scenes-reader", "width": width, "blocks": blocks}
        self.width = 4 * width
        # Sharpness lies between adjacent pixels, which a first convolution of stride 2 has too few channels for.
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, width // 2, 3, 1, 1), nn.SiLU(), nn.Conv2d(width // 2, width // 2, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
        )  # fmt: skip
        self.blocks = nn.ModuleList(Residual(width) for _ in range(blocks))
        self.norm = nn.GroupNorm(8, width)
        self.head = nn.Conv2d(width, sum(QUESTIONS.values()), 1)

    def cells(self, image: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b c 8 8"]:
        """h: what the answers are a linear function of. Pictures in [-1, 1]."""
        h = self.stem(image)
        for block in self.blocks:
            h = block(h)
        return F.silu(self.norm(h))

    def forward(self, image: Float[Tensor, "b 3 64 64"]) -> dict[str, Float[Tensor, "b answers 8 8"]]:
        """Logits of the answers, by question."""
        return dict(zip(QUESTIONS, self.head(self.cells(image)).split(list(QUESTIONS.values()), 1), strict=True))

    def features(self, image: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b d"]:
        """[B, 4 C]: the means of h over each quarter."""
        return F.adaptive_avg_pool2d(self.cells(image), 2).flatten(1)
