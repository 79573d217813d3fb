"""Data types and context types: the layers that each brings to the network. A new one is a class and a line in its table.

A data type says how its latents become a state [B, C, h, w] and back, and what a block, a change of resolution and so on are for it.
A context type says how its `Context` becomes rows that transformer blocks attend to; there is one block at each of the network's places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from tessera.contexts.context import Context
from tessera.errors import UsageError
from tessera.families.versatile.layers import ContextBlock, Down, Head, Residual, RowLinear, Up
from tessera.nn.attention import KeysValues
from tessera.nn.convolutions import Conv1x1, Conv3x3

__all__ = ["CONTEXT_TYPES", "DATA_TYPES", "ContextLayers", "DataLayers", "Grid", "Labels", "Palettes", "Rows", "Step", "Vector"]


class Step(NamedTuple):
    """A row of the network's table, see `network.steps`: what is done, and the channels before and after."""

    what: str
    enter: int = 0
    leave: int = 0


class DataLayers(nn.Module):
    """The layers of one data type, in the order of the table.

    Args:
        steps: the table; the rows that are no data layers are left out.
        time: width of the time embedding.
    """

    MAKES = ("enter", "block", "down", "up", "leave")
    """What the data layers of the table are called, each by the method that makes it."""

    layers: Any

    def __init__(self, steps: Sequence[Step], time: int) -> None:
        super().__init__()
        self.levels = 1 + sum(step.what == "down" for step in steps)
        self.time_width = time
        self.layers = nn.ModuleList(getattr(self, step.what)(step) for step in steps if step.what in self.MAKES)

    def latent_shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Of one example over so many latent positions. UsageError for a grid that it cannot take."""
        raise NotImplementedError

    def enter(self, step: Step) -> nn.Module:
        raise NotImplementedError

    def block(self, step: Step) -> nn.Module:
        raise NotImplementedError

    def down(self, step: Step) -> nn.Module:
        raise NotImplementedError

    def up(self, step: Step) -> nn.Module:
        raise NotImplementedError

    def leave(self, step: Step) -> nn.Module:
        raise NotImplementedError


class Grid(DataLayers):
    """Latents of pictures, [B, channels, h, w]: 3×3 convolutions, each level at half the side of the one above.

    Args:
        channels: of the latents.
    """

    def __init__(self, steps: Sequence[Step], time: int, channels: int) -> None:
        self.channels = channels
        super().__init__(steps, time)

    def latent_shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        factor = 2 ** (self.levels - 1)
        if len(grid) != 2 or any(side < 1 or side % factor for side in grid):
            given = "x".join(map(str, reversed(grid))) or "no size"
            raise UsageError(f"the network cannot take latents of {given}: both sides must be multiples of {factor}")
        return (self.channels, *grid)

    def enter(self, step: Step) -> nn.Module:
        return Conv3x3(self.channels, step.leave)

    def block(self, step: Step) -> nn.Module:
        return Residual(step.enter, step.leave, self.time_width, Conv3x3, Conv1x1)

    def down(self, step: Step) -> nn.Module:
        return Down(step.enter)

    def up(self, step: Step) -> nn.Module:
        return Up(step.enter)

    def leave(self, step: Step) -> nn.Module:
        return Head(step.enter, Conv3x3(step.enter, self.channels))


class Vector(DataLayers):
    """Latents of texts, [B, width]: linear layers. The state has `positions` positions, [B, C, positions, 1], at every level.

    Args:
        width: of the latents.
        positions: of the state.
    """

    def __init__(self, steps: Sequence[Step], time: int, width: int, positions: int = 4) -> None:
        self.width, self.positions = width, positions
        super().__init__(steps, time)

    def latent_shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        if grid:
            raise UsageError(f"the network takes vectors, which have no size: leave {'x'.join(map(str, reversed(grid)))} out")
        return (self.width,)

    def enter(self, step: Step) -> nn.Module:
        return nn.Sequential(RowLinear(self.width, step.leave * self.positions), self._positions(step.leave))

    def block(self, step: Step) -> nn.Module:
        return VectorBlock(step.enter, step.leave, self.time_width, self.positions)

    def down(self, step: Step) -> nn.Module:
        features = step.enter * self.positions
        return nn.Sequential(nn.Flatten(), RowLinear(features, features), self._positions(step.enter))

    up = down

    def leave(self, step: Step) -> nn.Module:
        return Head(step.enter, nn.Sequential(nn.Flatten(), RowLinear(step.enter * self.positions, self.width)))

    def _positions(self, channels: int) -> nn.Module:
        return nn.Unflatten(1, (channels, self.positions, 1))


class VectorBlock(Residual):
    """The residual block over all positions at once."""

    def __init__(self, enter: int, leave: int, time: int, positions: int) -> None:
        super().__init__(enter * positions, leave * positions, time, RowLinear, RowLinear)
        self.positions = positions

    def forward(self, x: Float[Tensor, "b c n 1"], e: Float[Tensor, "b d"]) -> Float[Tensor, "b c2 n 1"]:
        return super().forward(x.flatten(1), e).unflatten(1, (-1, self.positions, 1))


class ContextLayers(nn.Module):
    """The layers of one context type: a block at each place of the network.

    Args:
        widths: channels of the state at each place.
        heads: of attention.
        width: features per row of the context.
        factor: of the blocks' MLPs, see `layers.GatedMLP`.
    """

    blocks: Any
    context_width: int | None = None
    """Features per row of the embeddings that it takes; None where it takes none."""

    def __init__(self, widths: Sequence[int], heads: int, width: int, factor: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ContextBlock(channels, heads, width, factor) for channels in widths)

    def rows(self, context: Context) -> Float[Tensor, "b l d"]:
        """The context as rows of `width` features."""
        raise NotImplementedError

    def keys_values(self, context: Context) -> tuple[list[KeysValues], Bool[Tensor, "b 1 1 l"] | None]:
        """What the blocks attend to, computed once per request, and where it counts."""
        rows = self.rows(context)
        mask = None if context.mask is None else context.mask[:, None, None]
        return [block.cross_attention.keys_values(rows) for block in self.blocks], mask


class Rows(ContextLayers):
    """Embeddings [B, L, width], as they are."""

    def __init__(self, widths: Sequence[int], heads: int, width: int, factor: int = 4) -> None:
        super().__init__(widths, heads, width, factor)
        self.context_width = width

    def rows(self, context: Context) -> Float[Tensor, "b l d"]:
        given = context.embeddings
        if given is None or given.shape[2] != self.context_width:
            what = "none" if given is None else f"embeddings of width {given.shape[2]}"
            raise UsageError(f"this context type takes embeddings of width {self.context_width}, not {what}: use its own context encoder")
        return given


class Labels(ContextLayers):
    """Class labels 0..count - 1, and count for "no label": one learned row for each.

    Args:
        count: number of classes.
    """

    def __init__(self, widths: Sequence[int], heads: int, width: int, count: int, factor: int = 4) -> None:
        super().__init__(widths, heads, width, factor)
        self.embedding = nn.Embedding(count + 1, width)

    def rows(self, context: Context) -> Float[Tensor, "b l d"]:
        if context.labels is None:
            raise UsageError("this context type takes class labels: use the context encoder of labels")
        return self.embedding(context.labels.clamp(max=self.embedding.num_embeddings - 1))[:, None]


class Palettes(ContextLayers):
    """Rows of colours and shares, [B, L, 4] (`contexts.palette.Palette`), each as the learned features of a small network."""

    context_width = 4

    def __init__(self, widths: Sequence[int], heads: int, width: int = 64, factor: int = 4) -> None:
        super().__init__(widths, heads, width, factor)
        self.embedding = nn.Sequential(nn.Linear(self.context_width, width), nn.SiLU(), nn.Linear(width, width))

    def rows(self, context: Context) -> Float[Tensor, "b l d"]:
        given = context.embeddings
        if given is None or given.shape[2] != self.context_width:
            raise UsageError("this context type takes palettes: use the context encoder of palettes")
        features: Tensor = self.embedding(given)
        return features


DATA_TYPES: dict[str, type[DataLayers]] = {"grid": Grid, "vector": Vector}
CONTEXT_TYPES: dict[str, type[ContextLayers]] = {"rows": Rows, "labels": Labels, "palette": Palettes}
