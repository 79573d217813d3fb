"""The parts of a model's flows. What several flows share exists once, in memory and on the disk.

A flow's part can be a *view* of a larger one: the network of one flow, of the network of four. A view has `whole`, the part it is a view
of; `config`, the arguments of `whole.view(…)`; and `uses`, how the names of those tensors of the whole begin that it needs. In a
description a shared part stands once under "parts", and flows name it: {"part": "versatile", "data": "image", "context": "text"}. A class
of wholes may have `only(config, views)`: the configuration of a smaller part that serves these views, so that the rest is not made at all.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from tessera.errors import UsageError, suggest
from tessera.flow import Flow
from tessera.registry import CODECS, CONTEXTS, NETWORKS, build_described, look_up

__all__ = ["ROLES", "Maker", "all_parts", "describe_part", "parts_of", "shared_parts", "tensors_of"]

ROLES = {"codec": ("codec", CODECS), "context": ("context encoder", CONTEXTS), "network": ("network", NETWORKS)}
"""What flows are made of → what it is called in errors, and its registry."""
SHARED = "parts"
"""Where shared parts stand in a description, and how the names of their tensors begin."""


def parts_of(flow: Flow) -> dict[str, nn.Module]:
    """By role, what has weights worth keeping; the loss has only statistics of its training run."""
    return {"codec": flow.codec, "context": flow.context_encoder, "network": flow.network}


def _whole(part: nn.Module) -> nn.Module:
    whole: nn.Module = getattr(part, "whole", part)
    return whole


def shared_parts(flows: Mapping[str, Flow]) -> dict[str, Any]:
    """Wholes of views, and parts that more than one flow has, by names made of their kinds."""
    counts: dict[int, int] = {}
    wholes: dict[int, Any] = {}
    for flow in flows.values():
        for part in parts_of(flow).values():
            whole = _whole(part)
            wholes[id(whole)] = whole
            counts[id(whole)] = counts.get(id(whole), 0) + (1 if whole is part else 2)
    named: dict[str, Any] = {}
    for identity, whole in wholes.items():
        if counts[identity] > 1:
            kind = whole.config["kind"]
            number = 1 + sum(other.config["kind"] == kind for other in named.values())
            named[kind if number == 1 else f"{kind}-{number}"] = whole
    return named


def describe_part(part: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values from which `Maker` makes the same part, but for its weights."""
    whole = _whole(part)
    for name, other in shared.items():
        if other is whole:
            return {"part": name} if whole is part else {"part": name, **part.config}
    config: dict[str, Any] = part.config
    return config


def all_parts(flows: Mapping[str, Flow]) -> list[Any]:
    """Every whole part once."""
    return list({id(_whole(part)): _whole(part) for flow in flows.values() for part in parts_of(flow).values()}.values())


def tensors_of(flows: Mapping[str, Flow], shared: Mapping[str, Any], used: bool = False) -> dict[str, Tensor]:
    """Every tensor once, by `<flow>.<role>.<name>`, of shared parts `parts.<part>.<name>`. `used`: no more than the flows need."""
    tensors: dict[str, Tensor] = {}
    for flow_name, flow in flows.items():
        for role, part in parts_of(flow).items():
            whole = _whole(part)
            starts: tuple[str, ...] = ("",)
            if used and whole is not part:
                starts = cast("Any", part).uses
            place = next((f"{SHARED}.{name}" for name, other in shared.items() if other is whole), f"{flow_name}.{role}")
            for name, tensor in whole.state_dict().items():
                if name.startswith(starts):
                    tensors[f"{place}.{name}"] = tensor
    return tensors


class Maker:
    """Makes the parts of flows from their descriptions, shared ones once.

    Args:
        shared: descriptions of shared parts, by name.
        flows: the descriptions of the flows that will be made.
    """

    def __init__(self, shared: Mapping[str, Mapping[str, Any]], flows: Iterable[Mapping[str, Any]]) -> None:
        self._shared, self._flows = shared, list(flows)
        self.made: dict[str, Any] = {}
        """Shared parts that are there, by name."""

    def make(self, role: str, config: Mapping[str, Any]) -> Any:
        """Raises UsageError for an unknown part or kind, or arguments that it does not take."""
        what, table = ROLES[role]
        if "part" not in config:
            return build_described(what, table, config)
        name, arguments = config["part"], _arguments(config)
        if name not in self._shared:
            raise UsageError(suggest("part", str(name), self._shared))
        if name not in self.made:
            whole = self._shared[name]
            made = look_up(what, table, whole["kind"])
            if arguments and hasattr(made, "only"):
                whole = made.only(whole, [_arguments(flow[role]) for flow in self._flows if flow[role].get("part") == name])
            self.made[name] = build_described(what, table, whole)
        if not arguments:
            return self.made[name]
        try:
            return self.made[name].view(**arguments)
        except TypeError as error:
            raise UsageError(f"bad description of a view of {name!r}: {error}") from error


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "part"}
