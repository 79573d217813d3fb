"""Names in the released VQ-Diffusion files ⇄ ours: the network's. The codec's and the text tower's are in the files beside.

A released file holds `ckpt["model"]`: the codec under `content_codec.`, the text tower under `transformer.condition_emb.`, the network
under `transformer.transformer.`, the learned null embedding as `transformer.empty_text_embed`, and buffers that are computed anew here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from tessera.errors import TesseraError
from tessera.families.vq_diffusion.network import TokenTransformer

__all__ = ["NETWORK", "export_network", "load_network", "network_names"]

NETWORK = "transformer.transformer."

# Ours → released. Some of ours are several of theirs, one below the other.
_RULES = [
    (r"embedding\.token\.weight", ("content_emb.emb.weight",)),
    (r"embedding\.row\.weight", ("content_emb.height_emb.weight",)),
    (r"embedding\.column\.weight", ("content_emb.width_emb.weight",)),
    (r"blocks\.(\d+)\.norm_self\.embedding\.weight", ("blocks.{0}.ln1.emb.weight",)),
    (r"blocks\.(\d+)\.norm_self\.linear\.(\w+)", ("blocks.{0}.ln1.linear.{1}",)),
    (r"blocks\.(\d+)\.norm_cross\.embedding\.weight", ("blocks.{0}.ln1_1.emb.weight",)),
    (r"blocks\.(\d+)\.norm_cross\.linear\.(\w+)", ("blocks.{0}.ln1_1.linear.{1}",)),
    (r"blocks\.(\d+)\.norm_mlp\.embedding\.weight", ("blocks.{0}.ln2.emb.weight",)),
    (r"blocks\.(\d+)\.norm_mlp\.((?:linear\.)?\w+)", ("blocks.{0}.ln2.{1}",)),
    (
        r"blocks\.(\d+)\.self_attention\.query_key_value\.(\w+)",
        ("blocks.{0}.{self}.query.{1}", "blocks.{0}.{self}.key.{1}", "blocks.{0}.{self}.value.{1}"),
    ),
    (r"blocks\.(\d+)\.self_attention\.out\.(\w+)", ("blocks.{0}.{self}.proj.{1}",)),
    (r"blocks\.(\d+)\.cross_attention\.query\.(\w+)", ("blocks.{0}.attn2.query.{1}",)),
    (r"blocks\.(\d+)\.cross_attention\.key_value\.(\w+)", ("blocks.{0}.attn2.key.{1}", "blocks.{0}.attn2.value.{1}")),
    (r"blocks\.(\d+)\.cross_attention\.out\.(\w+)", ("blocks.{0}.attn2.proj.{1}",)),
    (r"blocks\.(\d+)\.mlp\.(up|down)\.(\w+)", ("blocks.{0}.mlp.{mlp}.{2}",)),
    (r"norm_out\.(\w+)", ("to_logits.0.{0}",)),
    (r"head\.(\w+)", ("to_logits.1.{0}",)),
]
_LAYERS = {"linear": {"up": "0", "down": "2"}, "conv": {"up": "conv1", "down": "conv2"}}


def network_names(network: TokenTransformer) -> dict[str, tuple[str, ...]]:
    """Every parameter of the network → the released names (without prefix) that it holds, concatenated along the first axis."""
    return {name: _released(name, network.config) for name in network.state_dict()}


def _released(name: str, config: Mapping[str, object]) -> tuple[str, ...]:
    attention = "attn1" if config["condition"] == "text" else "attn"
    for pattern, templates in _RULES:
        if found := re.fullmatch(pattern, name):
            layer = _LAYERS[str(config["mlp"])].get(found.group(2), "") if ".mlp." in name else ""
            return tuple(template.format(*found.groups(), self=attention, mlp=layer) for template in templates)
    raise KeyError(name)


def load_network(network: TokenTransformer, tensors: Mapping[str, Tensor], prefix: str = NETWORK) -> None:
    """Fill the network from a released file's tensors. TesseraError names the first tensor that is missing or does not fit."""
    own = network.state_dict()
    for name, sources in network_names(network).items():
        parts = [_part(tensors, prefix + source) for source in sources]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        if value.shape != own[name].shape:
            raise TesseraError(
                f"{prefix + sources[0]!r} has shape {list(value.shape)} where the network needs {list(own[name].shape)}: "
                "the file belongs to another configuration"
            )
        own[name].copy_(value)


def _part(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    # An unused option of the originals holds the position tables as plain parameters [1, size, width].
    if name.endswith("_emb.weight") and name not in tensors and name.removesuffix(".weight") in tensors:
        return tensors[name.removesuffix(".weight")][0]
    if name not in tensors:
        raise TesseraError(f"the file has no tensor {name!r}: it is not a VQ-Diffusion checkpoint of this configuration")
    return tensors[name]


def export_network(network: TokenTransformer, prefix: str = NETWORK) -> dict[str, Tensor]:
    """The network's tensors under their released names (views, not copies)."""
    own = network.state_dict()
    released = {}
    for name, targets in network_names(network).items():
        for target, part in zip(targets, own[name].chunk(len(targets)), strict=True):
            released[prefix + target] = part
    return released
