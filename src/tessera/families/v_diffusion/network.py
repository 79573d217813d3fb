"""The U-Nets of v-diffusion (v-diffusion-pytorch; v of Salimans & Ho 2022, arXiv 2202.00512): v from x_t, t and a CLIP embedding.

    level 0    blocks ───────────────── join ── blocks        one table of stages: down to the deepest level, and up again
    level 1      └ pool ─ blocks … blocks ─ up ┘              pool halves the side, up doubles it
    …

Every block of a level has that level's width inside; at some levels an attention block follows each block. The time enters as Fourier
features beside the three colours. With an embedding, features of time and embedding also modulate every block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tessera.contexts.context import Context
from tessera.errors import UsageError, nearest_sizes, suggest
from tessera.families.v_diffusion.layers import UPSAMPLINGS, Attention, Block, Channels, FourierFeatures, Mapping, embedding_of, join
from tessera.processes.gaussian_schedules import DDPM, Cosine
from tessera.schema import Depth, Positive

__all__ = ["COLOURS", "TIME_FEATURES", "Prepared", "StageShape", "UNet", "stage_shapes"]

COLOURS = 3
TIME_FEATURES = 16

JOINS = ("inner-first", "outer-first")
TIMES = ("t", "log-snr")


class StageShape(NamedTuple):
    """The blocks between two changes of resolution. heads: of the attention after each of them; 0: there is none."""

    level: int
    blocks: tuple[Channels, ...]
    heads: tuple[int, ...]


def stage_shapes(widths: Sequence[int], blocks: int, attention_levels: Sequence[int], head_width: int) -> list[StageShape]:
    """The table of stages, in the order they are run: level 0 down to the deepest one L, whose two halves are one stage, and up again.

    With one width per level 0..L it has 2 L + 1 rows.
    """
    deepest = len(widths) - 1
    rows = []
    for place in range(2 * deepest + 1):
        level = min(place, 2 * deepest - place)
        width = widths[level]
        above = widths[level - 1] if level else COLOURS
        enter = 2 * width if place > deepest else above if level else COLOURS + TIME_FEATURES
        leave = above if place >= deepest else width
        count = 2 * blocks if place == deepest else blocks
        sides = [enter, *[width] * (count - 1), leave]
        channels = tuple(Channels(sides[i], width, sides[i + 1]) for i in range(count))
        heads = tuple(each.leave // head_width if level in attention_levels else 0 for each in channels)
        rows.append(StageShape(level, channels, heads))
    return rows


@dataclass(frozen=True)
class Prepared:
    """What a context contributes: its embeddings at length √D, or nothing."""

    embedding: Float[Tensor, "b d"] | None = None

    def __getitem__(self, rows: slice) -> Prepared:
        """The part of some pictures of the batch."""
        return Prepared(None if self.embedding is None else self.embedding[rows])


class Stage(nn.Module):
    """A row of the table: blocks at one resolution, each followed by attention or not."""

    def __init__(self, shape: StageShape, condition: int | None, attention_norm: bool, last_rectified: bool) -> None:
        super().__init__()
        last = len(shape.blocks) - 1
        self.blocks = nn.ModuleList(
            Block(channels, condition, rectified=last_rectified or i < last) for i, channels in enumerate(shape.blocks)
        )
        self.attentions = nn.ModuleList(
            Attention(channels.leave, heads, attention_norm) if heads else nn.Identity()
            for channels, heads in zip(shape.blocks, shape.heads, strict=True)
        )

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Every block and what follows it. The network runs them itself: a call of the stage would keep its input to the end."""
        return zip(self.blocks, self.attentions, strict=True)


class UNet(nn.Module):
    """v for every pixel of x_t.

    Args:
        size: side in pixels of the pictures it is made for. It takes any whose sides are multiples of `factor`.
        widths: features at each level, from the full resolution down.
        blocks: blocks of a level on the way down, and as many on the way up.
        attention_levels: levels with attention.
        head_width: features per attention head; divides the widths there.
        context_width: features of the CLIP embedding; None: unconditional, blocks are not modulated.
        mapping_width: features of the condition made of embedding and time.
        join: "inner-first" or "outer-first", the order in which a level's own features and those from below it are joined.
        upsampling: "bilinear" or "nearest".
        time: what tells the time: "t", or "log-snr", the logarithm of alpha_t² / sigma_t², which is kept to DDPM's range.
        attention_norm: whether attention normalises.
        last_rectified: whether the very last block ends as all others do.
        frequency_std: standard deviation of the frequencies of the time features at the start.
        frozen_frequencies: they do not train.
        initial_scale: of all other weights at the start, relative to the framework's.
    """

    parametrisation = "v"
    """What the output is; see `processes.gaussian`."""
    takes_any_grid = True

    def __init__(
        self,
        size: Positive,
        widths: Sequence[int],
        blocks: Depth,
        attention_levels: Sequence[int] = (),
        head_width: Positive = 64,
        context_width: int | None = None,
        mapping_width: int | None = None,
        join: str = "inner-first",
        upsampling: str = "bilinear",
        time: str = "t",
        attention_norm: bool = True,
        last_rectified: bool = False,
        frequency_std: float = 1.0,
        frozen_frequencies: bool = False,
        initial_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "kind": "v-diffusion", "size": size, "widths": list(widths), "blocks": blocks, "attention_levels": list(attention_levels),
            "head_width": head_width, "context_width": context_width, "mapping_width": mapping_width, "join": join,
            "upsampling": upsampling, "time": time, "attention_norm": attention_norm, "last_rectified": last_rectified,
            "frequency_std": frequency_std, "frozen_frequencies": frozen_frequencies, "initial_scale": initial_scale,
        }  # fmt: skip
        _check(self.config)
        shapes = stage_shapes(widths, blocks, attention_levels, head_width)
        self.factor, self.grid = 2 ** (len(widths) - 1), (size, size)
        condition = mapping_width if context_width else None
        self.time_features = FourierFeatures(TIME_FEATURES, frequency_std, frozen_frequencies)
        self.mapping = Mapping(context_width, mapping_width, frozen_frequencies) if context_width and mapping_width else None
        self.stages: Any = nn.ModuleList(
            Stage(shape, condition, attention_norm, last_rectified or place < len(shapes) - 1) for place, shape in enumerate(shapes)
        )
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if initial_scale != 1 and not name.startswith(("time_features.", "mapping.time.")):
                    parameter.mul_(initial_scale)

    @property
    def times(self) -> tuple[float, float]:
        """The least and the greatest time that it can be told; others are told as the nearest of these."""
        if self.config["time"] == "t":
            return 0.0, 1.0
        ends = DDPM().log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
        first, last = Cosine().time(ends).tolist()
        return first, last

    @property
    def prompted(self) -> bool:
        """Whether it takes an embedding."""
        return self.mapping is not None

    def check_size(self, height: int, width: int) -> None:
        """UsageError unless it takes pictures of this size."""
        if height % self.factor or width % self.factor or not height * width:
            raise UsageError(
                f"the network cannot take pictures of {width}x{height}: both sides must be multiples of {self.factor}, "
                f"such as {nearest_sizes(height, width, self.factor)}"
            )

    def prepare(self, context: Context) -> Prepared:
        """What depends on the context alone: see `embedding_of`."""
        return Prepared() if self.mapping is None else Prepared(embedding_of(context, self.config["context_width"]))

    def forward(self, x_t: Float[Tensor, "b 3 h w"], t: Float[Tensor, " b"], context: Context | Prepared) -> Float[Tensor, "b 3 h w"]:
        """v in the precision of x_t.

        x_t: noisy pictures. t: times in [0, 1]. context: a `Context`, or what `prepare` made of it.
        """
        self.check_size(*x_t.shape[2:])
        prepared = context if isinstance(context, Prepared) else self.prepare(context)
        dtype = next(self.stages.parameters()).dtype
        condition = self._condition(prepared, t, dtype)
        time = self.time_features(self.told(t)).to(x_t.dtype)
        x = torch.cat([x_t, time[:, :, None, None].expand(-1, -1, *x_t.shape[2:])], dim=1).to(dtype)
        if x.device.type == "cpu":  # the layout that convolutions need no copy for
            x = x.contiguous(memory_format=torch.channels_last)
        deepest = len(self.stages) // 2
        held: list[Tensor] = []
        for place, stage in enumerate(self.stages):
            if place > deepest:
                x = join(x, held, self.config["join"] == "inner-first", self.config["upsampling"])
            elif place:
                x = F.avg_pool2d(x, 2)
            for block, attention in stage.layers():
                x = attention(block(x, condition))
            if place < deepest:
                held.append(x)
        return x.to(x_t.dtype).contiguous()

    def told(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What tells the network the time: t itself, or its log-SNR."""
        if self.config["time"] == "t":
            return t
        # At t = 0 and t = 1 the ratio is infinite, and a network trained on DDPM's range knows nothing outside it.
        most, least = DDPM().log_snr(t.new_tensor([0.0, 1.0], dtype=torch.float64))
        return Cosine().log_snr(t).clamp(least, most)

    def _condition(self, prepared: Prepared, t: Float[Tensor, " b"], dtype: torch.dtype) -> Float[Tensor, "b2 d"] | None:
        """Of every block; a row per picture, the first ones of at least two."""
        if self.mapping is None or prepared.embedding is None:
            return None
        e = prepared.embedding.to(dtype)
        if len(e) == 1 and not torch.is_grad_enabled():  # products of one row round differently, and a picture must not depend on its batch
            e, t = e.expand(2, -1), t.expand(2)
        return self.mapping(e, t)


def _check(config: dict[str, Any]) -> None:
    for name, known in {"join": JOINS, "upsampling": UPSAMPLINGS, "time": TIMES}.items():
        if config[name] not in known:
            raise UsageError(suggest(name, config[name], known))
    widths, levels = config["widths"], config["attention_levels"]
    if not widths or config["blocks"] < 1 or min(widths) < 1:
        raise UsageError(f"a network needs widths and blocks of at least 1, not widths {widths} and blocks {config['blocks']}")
    if strange := [level for level in levels if not 0 <= level < len(widths)]:
        raise UsageError(f"attention level {strange[0]} is none of the levels 0 to {len(widths) - 1} of widths {widths}")
    for level in levels:
        for width in (widths[level], widths[level - 1] if level else COLOURS):
            if width % config["head_width"]:
                raise UsageError(
                    f"head_width {config['head_width']} does not divide the {width} features that attention meets at level {level}: "
                    "choose another, or other attention levels"
                )
    if bool(config["context_width"]) != bool(config["mapping_width"]):
        raise UsageError("context_width and mapping_width go together: give both, or neither for a network without prompts")
    if config["size"] % 2 ** (len(widths) - 1):
        raise UsageError(f"size {config['size']} is not a multiple of {2 ** (len(widths) - 1)}, as {len(widths)} levels need it")
