"""Versatile Diffusion's networks: the four flows, mixed contexts, and the two-flow and single-flow relatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tessera.contexts.context import Context
from tessera.families.versatile.checkpoint import LAYOUTS, load_network
from tessera.families.versatile.mixing import Prepared, mix
from tessera.families.versatile.network import FlowNetwork, MultiFlowUNet
from tessera.nn.initialisation import without_initialisation
from tests.conformance.cases import Case
from tests.conformance.settings import Settings, UnknownSetting, agree, known

__all__ = ["COMPONENTS", "flow_of", "network_config"]

LAYOUT = {
    "four_flow_diffuser": "four-flow", "multi_context_diffuser": "four-flow", "ddim_sampler": "four-flow",
    "diffusion_losses": "four-flow", "applications": "four-flow",
    "deprecated_vd_unet": "four-flow-deprecated", "dual_context_unet": "two-flow", "sd_unet": "single-flow",
}  # fmt: skip
"""Component → how its weights are named."""
TYPES = {"two-flow": ("text", "image"), "single-flow": ("text",)}
"""Context types of the layouts that have no types of their own."""


def network_config(case: Case) -> dict[str, Any]:
    """`MultiFlowUNet` of the originals' words. What its two halves say must agree, but for heads and widths of their contexts."""
    layout, config = LAYOUT[case.component], case.config
    halves = ["unet_config"] if "unet_config" in config else [name if name in config else f"unet_{name}_cfg" for name in ("image", "text")]
    args = [config[name]["args"] for name in halves]
    found = [_shared(name, each) for name, each in zip(halves, args, strict=True)]
    agree("image and text networks", found)
    names = TYPES.get(layout, ("image", "text"))
    of_context = dict(zip(names, args * len(names), strict=False))
    image, text = args[0], args[-1]
    data: dict[str, Any] = {"image": {"kind": "grid", "channels": _channels("image", image)}}
    if "second_dim" in text:
        positions = agree("config.text.args.second_dim", text["second_dim"])
        data["text"] = {"kind": "vector", "width": _channels("text", text), "positions": positions}
    return {
        **found[0],
        "data": data,
        "heads": {name: each["num_heads"] for name, each in of_context.items()},
        "contexts": {name: {"kind": "rows", "width": each["context_dim"]} for name, each in of_context.items()},
        "timesteps": timesteps(case),
    }


def _shared(name: str, args: Settings) -> dict[str, Any]:
    """What both halves have."""
    multipliers = args["channel_mult"]
    blocks = args["num_res_blocks" if "num_res_blocks" in args else "num_noattn_blocks"]
    if "with_attn" in args:
        levels = [level for level, attention in enumerate(args["with_attn"]) if attention]
    else:
        levels = [level for level in range(len(multipliers)) if 2**level in args["attention_resolutions"]]
    if multipliers[0] != 1:
        raise UnknownSetting(f"config.{name}.args.channel_mult {multipliers}: the originals' first level has the width of their entry")
    return {
        "widths": [args["model_channels"] * multiplier for multiplier in multipliers],
        "blocks": blocks,
        "context_levels": levels,
    }


def _channels(name: str, args: Settings) -> int:
    ways = [args[f"{way}_channels"] for way in (("in", "out") if "in_channels" in args else ("input", "output"))]
    return int(agree(f"channels of config.{name}.args", ways))


def timesteps(case: Case) -> int:
    """Number of discrete times; networks without a process have the usual one."""
    return case.config["vd"]["timesteps"] if "vd" in case.config else 1000


def flow_of(case: Case, data: str, *contexts: str) -> tuple[FlowNetwork, ...]:
    """The networks of flows to one data type, which share what they can. Nothing else of the file is read."""
    config = network_config(case)
    kept = MultiFlowUNet.only(config, [{"data": data, "context": context} for context in contexts])
    with without_initialisation():
        network = MultiFlowUNet(**kept)
    load_network(network.eval(), case.weights(), LAYOUTS[LAYOUT[case.component]])
    return tuple(network.view(data, context) for context in contexts)


def times(case: Case) -> Tensor:
    return (case.io["t"].double() + 1) / timesteps(case)


@torch.inference_mode()
def flows(case: Case) -> dict[str, Tensor]:
    """Each flow with only its own parts read, and the first release's mixtures of two contexts."""
    io, outputs = case.io, {}
    for data in ("image", "text"):
        for context in ("text", "image"):
            (network,) = flow_of(case, data, context)
            outputs[f"eps_{data}_from_{context}"] = network(io[f"x_{data}"], times(case), Context(io[f"c_{context}"]))
    types = {"vision": "image", "prompt": "text"}
    for dual in case.spec.get("dual", []):
        kinds = [types[dual[f"c{place}_type"]] for place in (0, 1)]
        networks = flow_of(case, dual["xtype"], *kinds)
        contexts = [one.prepare(Context(io[dual[f"c{place}"]])) for place, one in enumerate(networks)]
        ratio = dual["mixed_ratio"]
        outputs[dual["output"]] = networks[0](io[f"x_{dual['xtype']}"], times(case), mix(contexts, [ratio, 1 - ratio]))
    return outputs


@torch.inference_mode()
def mixed(case: Case) -> dict[str, Tensor]:
    io, outputs = case.io, {}
    networks = dict(zip(("text", "image"), flow_of(case, "image", "text", "image"), strict=True))
    for described in case.spec["mixes"]:
        prepared = prepared_of(networks, described["contexts"], io)
        if known("mixes.mixing_type", described["mixing_type"], {"layer": True, "attention": False}):
            choices = io[described["choices"]].expand(len(io["x_image"]), -1)
            prepared = Prepared(prepared.shares, choices)
        outputs[described["output"]] = networks["text"](io["x_image"], times(case), prepared)
    return outputs


def prepared_of(networks: Mapping[str, FlowNetwork], described: list[dict[str, Any]], io: Mapping[str, Tensor]) -> Prepared:
    """A list of contexts in the originals' words."""
    return mix([networks[one["type"]].prepare(Context(io[one["c"]])) for one in described], [one["ratio"] for one in described])


@torch.inference_mode()
def two_flows(case: Case) -> dict[str, Tensor]:
    io = case.io
    text, image = flow_of(case, "image", "text", "image")
    x, t = io["x_image"], times(case)
    contexts = [text.prepare(Context(io["c_text"])), image.prepare(Context(io["c_image"]))]
    outputs = {"eps_text": text(x, t, contexts[0]), "eps_image": image(x, t, contexts[1])}
    return outputs | {f"eps_mixed_{share}": text(x, t, mix(contexts, [share, 1 - share])) for share in case.spec["mixed"]}


@torch.inference_mode()
def single_flow(case: Case) -> dict[str, Tensor]:
    (network,) = flow_of(case, "image", "text")
    return {"eps": network(case.io["x_image"], times(case), Context(case.io["c"]))}


COMPONENTS = {
    "four_flow_diffuser": flows,
    "deprecated_vd_unet": flows,
    "multi_context_diffuser": mixed,
    "dual_context_unet": two_flows,
    "sd_unet": single_flow,
}
