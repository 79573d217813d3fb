"""The multi-flow U-Net of Versatile Diffusion (Xu et al. 2022, arXiv 2211.08332): eps (or v, x_0) from x_t, t and contexts.

A network has layers of three sorts. The global ones, of the time, serve every flow; data layers belong to a data type, context layers to a
context type. A flow of one data type and one context type runs the table of `steps`, taking each layer from its owner:

    level 0    enter (block context)×n ───────────── join, (block context)×(n+1) leave
    level 1      └ down (block context)×n ──────── join … up ┘                        join: with the skips, last in first out
    …                    └ block context block ┘                                      context: where the level has one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.contexts.context import Context
from tessera.errors import UsageError, suggest
from tessera.families.versatile.kinds import CONTEXT_TYPES, DATA_TYPES, ContextLayers, DataLayers, Step
from tessera.families.versatile.layers import GROUPS, TimeEmbedding
from tessera.families.versatile.mixing import Prepared, Share
from tessera.heap import give_back
from tessera.nn.convolutions import overwrites
from tessera.processes.gaussian import PARAMETRISATIONS
from tessera.schema import Depth, Positive

__all__ = ["FlowNetwork", "MultiFlowUNet", "steps"]


def steps(widths: Sequence[int], blocks: int | Sequence[int], context_levels: Sequence[int]) -> list[Step]:
    """The table: what is done, in order. `widths`: channels at each level; `blocks`: of every level, or of each, on the way down; a level
    has one more on the way up."""
    counts = [blocks] * len(widths) if isinstance(blocks, int) else blocks
    table = [Step("enter", 0, widths[0]), Step("save")]
    saved, now = [widths[0]], widths[0]
    for level, width in enumerate(widths):
        for _ in range(counts[level]):
            table.append(Step("block", now, width))
            if level in context_levels:
                table.append(Step("context", width, width))
            table.append(Step("save"))
            saved.append(now := width)
        if level < len(widths) - 1:
            table += [Step("down", width, width), Step("save")]
            saved.append(width)
    table += [Step("block", now, now), Step("context", now, now), Step("block", now, now)]
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(counts[level] + 1):
            table += [Step("join"), Step("block", now + saved.pop(), width)]
            now = width
            if level in context_levels:
                table.append(Step("context", width, width))
        if level:
            table.append(Step("up", width, width))
    return [*table, Step("leave", now, 0)]


class MultiFlowUNet(nn.Module):
    """Global layers, data layers by data type, context layers by context type. `view` puts the layers of a flow together.

    Args:
        widths: channels at each level, from the full resolution down.
        blocks: residual blocks on the way down, of every level or one number for each; at least 1.
        context_levels: levels with context layers; the middle always has one.
        heads: of attention, of every context type or one number for each by name; divide the widths there.
        data: data types by name: {"kind": an entry of `DATA_TYPES`, …its arguments}.
        contexts: context types by name: {"kind": an entry of `CONTEXT_TYPES`, …its arguments}.
        timesteps: number of discrete times that it tells apart.
        parametrisation: what it predicts, see `processes.gaussian`; released networks predict eps.
    """

    time: Any
    data: Any
    contexts: Any

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Depth | Sequence[Depth],
        context_levels: Sequence[int],
        heads: Positive | Mapping[str, Positive],
        data: Mapping[str, Mapping[str, Any]],
        contexts: Mapping[str, Mapping[str, Any]],
        timesteps: Positive = 1000,
        parametrisation: str = "eps",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "kind": "versatile", "widths": list(widths), "blocks": blocks if isinstance(blocks, int) else list(blocks),
            "context_levels": list(context_levels), "heads": heads if isinstance(heads, int) else dict(heads),
            "data": {name: dict(value) for name, value in data.items()},
            "contexts": {name: dict(value) for name, value in contexts.items()}, "timesteps": timesteps,
            "parametrisation": parametrisation,
        }  # fmt: skip
        _check(self.config)
        self.steps = steps(widths, blocks, context_levels)
        time = 4 * widths[0]
        self.time = TimeEmbedding(widths[0])
        places = [step.enter for step in self.steps if step.what == "context"]
        self.data = nn.ModuleDict({name: _made("data type", DATA_TYPES, value)(self.steps, time) for name, value in data.items()})
        of_each = _heads(self.config)
        self.contexts = nn.ModuleDict(
            {name: _made("context type", CONTEXT_TYPES, value)(places, of_each[name]) for name, value in contexts.items()}
        )

    def view(self, data: str, context: str) -> FlowNetwork:
        """The network of a flow: that data type from that context type. Its weights are these. UsageError for an unknown type."""
        for what, name, known in [("data type", data, self.data), ("context type", context, self.contexts)]:
            if name not in known:
                raise UsageError(suggest(what, name, list(known)))
        return FlowNetwork(self, data, context)

    @classmethod
    def only(cls, config: Mapping[str, Any], views: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """The configuration with no more types than some flows (the arguments of `view`) use: what need not be loaded is not made."""
        used = {key: [view[key] for view in views] for key in ("data", "context")}
        heads = config["heads"]
        return {
            **config,
            "heads": heads if isinstance(heads, int) else {name: count for name, count in heads.items() if name in used["context"]},
            "data": {name: value for name, value in config["data"].items() if name in used["data"]},
            "contexts": {name: value for name, value in config["contexts"].items() if name in used["context"]},
        }


class FlowNetwork(nn.Module):
    """One flow's way through a `MultiFlowUNet`, whose layers it shares. See `MultiFlowUNet.view`.

    It takes prepared contexts of every type, and mixtures of them (`mix`), not only those of its own.
    """

    takes_any_grid = True
    prompted = True

    time: Any
    data: Any
    contexts: Any

    def __init__(self, whole: MultiFlowUNet, data: str, context: str) -> None:
        super().__init__()
        self.config = {"data": data, "context": context}
        self._whole = (whole,)  # in a tuple, because its layers are not all of this flow
        self.time = whole.time
        self.data, self.contexts = nn.ModuleDict({data: whole.data[data]}), nn.ModuleDict({context: whole.contexts[context]})

    @property
    def whole(self) -> MultiFlowUNet:
        """The network that it is part of."""
        return self._whole[0]

    @property
    def parametrisation(self) -> str:
        """What the output is; see `processes.gaussian`."""
        kind: str = self.whole.config["parametrisation"]
        return kind

    @property
    def uses(self) -> tuple[str, ...]:
        """How the names of its tensors begin in the whole network."""
        return ("time.", f"data.{self.config['data']}.", f"contexts.{self.config['context']}.")

    @property
    def data_layers(self) -> DataLayers:
        layers: DataLayers = self.data[self.config["data"]]
        return layers

    @property
    def context_layers(self) -> ContextLayers:
        layers: ContextLayers = self.contexts[self.config["context"]]
        return layers

    @property
    def context_width(self) -> int | None:
        """Features per row of the embeddings that it takes; None where its context is something else."""
        return self.context_layers.context_width

    @property
    def places(self) -> int:
        """Number of context blocks."""
        return len(self.context_layers.blocks)

    def check_size(self, *grid: int) -> None:
        """UsageError unless it takes latents of so many positions."""
        self.data_layers.latent_shape(grid)

    def prepare(self, context: Context) -> Prepared:
        """What depends on a context of this flow's type alone."""
        layers = self.context_layers
        return Prepared((Share(layers, *layers.keys_values(context)),))

    def forward(self, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"], context: Context | Prepared) -> Float[Tensor, "b ..."]:
        """eps, or what its parametrisation says, in the precision of x_t.

        x_t: noisy latents. t: times in (0, 1]: those of the process's schedule; t · timesteps - 1 is what the network is told.
        context: a `Context` of this flow's type, or what `prepare` or `mix` made.
        """
        self.check_size(*x_t.shape[2:])
        prepared = context if isinstance(context, Prepared) else self.prepare(context)
        dtype = next(self.data.parameters()).dtype
        e = self.time(t.double() * self.whole.config["timesteps"] - 1).to(dtype)
        x = x_t.to(dtype)
        # The layout that convolutions need no copy for; training in bfloat16 is 1.2 times faster without it, for the norms' sake.
        if x.ndim == 4 and x.device.type == "cpu" and not torch.is_grad_enabled():
            x = x.contiguous(memory_format=torch.channels_last)
        layers, place, saved = iter(self.data_layers.layers), 0, []
        for step in self.whole.steps:
            if step.what == "save":
                saved.append(x)
            elif step.what == "join":
                x = torch.cat([x, saved.pop()], dim=1)
            elif step.what == "context":
                branch = prepared.branch(x, place)
                x = x + branch if torch.is_grad_enabled() else branch.add_(x)
                place += 1
            elif step.what == "block":
                x = next(layers)(x, e)
            else:
                if step.what in ("down", "up") and overwrites(x):
                    give_back()
                x = next(layers)(x)
        return x.to(x_t.dtype).contiguous()


def _made(what: str, table: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """The class of a type, which needs nothing more than what all of them get."""
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    if kind not in table:
        raise UsageError(suggest(f"kind of {what}", str(kind), table))

    def make(*given: Any) -> nn.Module:
        try:
            made: nn.Module = table[kind](*given, **arguments)
        except TypeError as error:
            raise UsageError(f"bad configuration of {what} {kind!r}: {error}") from error
        return made

    return make


def _heads(config: Mapping[str, Any]) -> dict[str, int]:
    """Of each context type."""
    heads, types = config["heads"], config["contexts"]
    if isinstance(heads, int):
        return dict.fromkeys(types, heads)
    if heads.keys() != types.keys():
        raise UsageError(
            f"heads are given for {', '.join(heads) or 'no context type'}: give one number, or one for each of {', '.join(types)}"
        )
    return dict(heads)


def _check(config: dict[str, Any]) -> None:
    widths, levels = config["widths"], config["context_levels"]
    counts = [config["blocks"]] * len(widths) if isinstance(config["blocks"], int) else config["blocks"]
    if not widths or len(counts) != len(widths) or min(counts) < 1:
        raise UsageError(
            f"a network needs widths, and blocks of at least 1 for all levels or each, not widths {widths} and blocks {config['blocks']}"
        )
    if strange := [width for width in widths if width < GROUPS or width % GROUPS]:
        raise UsageError(f"width {strange[0]} is no multiple of {GROUPS}, the groups that are normalised together")
    if strange := [level for level in levels if not 0 <= level < len(widths)]:
        raise UsageError(f"context level {strange[0]} is none of the levels 0 to {len(widths) - 1} of widths {widths}")
    for heads in _heads(config).values():
        for width in [*(widths[level] for level in levels), widths[-1]]:
            if width % heads:
                raise UsageError(f"{heads} heads do not divide the width {width} of a level with context")
    if config["parametrisation"] not in PARAMETRISATIONS:
        raise UsageError(suggest("parametrisation", str(config["parametrisation"]), PARAMETRISATIONS))
    if not config["data"] or not config["contexts"]:
        raise UsageError("a network needs at least one data type and one context type")
