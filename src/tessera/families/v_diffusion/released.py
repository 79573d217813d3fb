"""The released files of v-diffusion: which network each of them is, and the network filled from it.

Names and shapes give the widths, the blocks and the levels with attention. Not in a file: the width of attention heads, and whether the
last block ends with a ReLU. They are those of the released network with these shapes, or of the released networks of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

import torch
from torch import nn

from tessera.checkpoints.cards import card, cards
from tessera.checkpoints.recognise import MODEL, TEXT_ENCODER, Extras, Finding
from tessera.checkpoints.registry import card_of, find_local
from tessera.checkpoints.safe_read import Archive, StoredTensor, Tensors
from tessera.codecs.pixels import Pixels
from tessera.contexts.clip_joint import load_clip
from tessera.contexts.context import Unconditional
from tessera.contexts.joint import JointEncoder
from tessera.contexts.weighted_prompts import CFG_WEIGHT
from tessera.errors import TesseraError, UsageError
from tessera.families.v_diffusion.checkpoint import load_network, network_names
from tessera.families.v_diffusion.network import UNet
from tessera.families.v_diffusion.presets import KINDS, PRESETS, preset
from tessera.float_flow import FloatFlow
from tessera.model import Model
from tessera.nn.initialisation import without_initialisation
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.registry import NETWORKS
from tessera.registry import build as build_part

__all__ = ["FAMILY", "build", "build_network", "network_config", "recognise"]

FAMILY = "v-diffusion"
TIME, FIRST = "timestep_embed.weight", "net.0.main.0.weight"
"""Tensors that every file has."""
MAPPING_TIME, MAPPING_FIRST = "mapping_timestep_embed.weight", "mapping.0.main.0.weight"
SIDES = 4
"""Sides of the released networks' pictures, in what the deepest level halves them by."""

Shapes = Mapping[str, Sequence[int]]


def recognise(archive: Archive) -> Finding | None:
    """See `checkpoints.recognise`."""
    stored = _contents(archive)
    if stored is None:
        return None
    config, name = network_config({key: tensor.shape for key, tensor in stored.items()})
    read = _names(config)
    prompted = config["context_width"] is not None
    width = config["context_width"]
    notes = []
    if name is None:
        notes.append(
            f"it is none of the released networks: what no file says, such as attention heads of {config['head_width']} features, "
            "is taken from the released one that is most like it"
        )
    if prompted:
        notes.append("whether it learned to draw without a prompt, which guidance needs, is not in the file: cc12m_1_cfg did")
    return Finding(
        family=FAMILY,
        kind=MODEL,
        preset=name,
        config={
            "kind": "floats",
            "codec": {"kind": "pixels"},
            "context": None if prompted else {"kind": "none"},
            "network": config,
            "process": {"schedule": {"kind": "cosine"}},
        },
        parameters={"network": sum(prod(stored[key].shape) for key in stored if key in read)},
        needs=(f"CLIP whose embeddings are {width} wide (ViT-B/16): --clip FILE, folder or hub id",) if prompted else (),
        cards=tuple(key for key, card in cards().items() if card.family == FAMILY and name is not None and card.configuration == name),
        notes=tuple(notes),
        unexpected=tuple(sorted(key for key in stored if key not in read)),
    )


def build(archive: Archive, finding: Finding, extras: Extras) -> Model | nn.Module:
    """See `checkpoints.recognise`. A CLIP given with a network that takes no prompt serves CLIP guidance."""
    for name in ("codec", "mapping", "heads"):
        if getattr(extras, name) is not None:
            raise UsageError(f"{archive.path} is a v-diffusion network, which needs no {name}: leave it out")
    prompted = finding.config["context"] is None
    if extras.merges is not None and extras.clip is None and not prompted:
        raise UsageError(f"{archive.path} takes no words, so it needs no merges: leave them out, or give a CLIP too, for CLIP guidance")
    encoder = _clip(archive, finding, extras)
    if prompted and encoder is None:
        raise UsageError(f"{archive.path} draws from embeddings of CLIP, which is not inside: give {finding.needs[0]}")
    width = finding.config["network"]["context_width"]
    if prompted and encoder is not None and encoder.width != width:
        raise UsageError(f"{archive.path} draws from embeddings of width {width}, but this CLIP's are {encoder.width} wide: give ViT-B/16")
    network = build_network(archive, finding)
    loss = GaussianLoss(GaussianProcess.from_config(finding.config["process"]), network.parametrisation)
    flow = FloatFlow(Pixels(), encoder or Unconditional(), network, loss)
    released = card_of(archive.path)
    learned_null = released is not None and released.name in finding.cards and released.learned_null
    settings = replace(FloatFlow.own_settings, guidance=CFG_WEIGHT if learned_null else 1.0)
    side = network.config["size"]
    about = {"file": archive.path.name, "configuration": finding.preset}
    return Model(archive.path.stem, FAMILY, {"text_to_image": flow}, (side, side), settings, about)


def _clip(archive: Archive, finding: Finding, extras: Extras) -> JointEncoder | None:
    """The CLIP that is given, or the released one that the network needs, from the local store."""
    if extras.clip is not None:
        return load_clip(extras.clip, extras.merges)
    needed = {need for name in finding.cards for need in card(name).needs if card(need).kind == TEXT_ENCODER}
    here = [path for need in sorted(needed) if (path := find_local(card(need))) is not None]
    return load_clip(here[0], extras.merges) if here else None


def build_network(archive: Archive, finding: Finding) -> UNet:
    """The network of a recognised file, on the CPU in float32, its tensors read one by one. TesseraError when the file is incomplete."""
    stored = _contents(archive)
    assert stored is not None, "recognised before"
    with without_initialisation():
        network: UNet = build_part("network", NETWORKS, finding.config["network"])
    load_network(network, Tensors(stored))
    return network.eval()


def network_config(shapes: Shapes) -> tuple[dict[str, Any], str | None]:
    """The `UNet` whose weights have these shapes, and its preset's name. TesseraError where they are of none."""
    levels = _levels(shapes)
    found: dict[str, Any] = {
        "widths": [level.width for level in levels],
        "blocks": levels[0].blocks,
        "attention_levels": [i for i, level in enumerate(levels) if level.attention],
    }
    prompted = MAPPING_FIRST in shapes
    if prompted:
        width, entering = _shape(shapes, MAPPING_FIRST, 2)
        found |= {"context_width": entering - 2 * _shape(shapes, MAPPING_TIME, 2)[0], "mapping_width": width}
    for name in PRESETS:
        config = preset(name)
        same = all(config.get(key) == value for key, value in {"kind": FAMILY, **found}.items())
        if same and bool(config.get("context_width")) == prompted:
            return _whole(config), name
    normed = any(name.endswith(".norm.weight") for name in shapes)
    kind = KINDS["modulated" if prompted else "yfcc" if normed else "jax"]
    meets = [width for i in found["attention_levels"] for width in found["widths"][max(i - 1, 0) : i + 1]]
    head_width = gcd(64 if prompted or normed else 128, *meets)
    size = SIDES * 2 ** (len(levels) - 1)
    return _whole({"kind": FAMILY, "size": size, "head_width": head_width, **kind, **found}), None


@dataclass(frozen=True)
class _Level:
    width: int
    blocks: int
    attention: bool


def _levels(shapes: Shapes) -> list[_Level]:
    """The nested lists, from the outermost in. The innermost one has the blocks of both ways."""
    levels: list[_Level] = []
    prefix, first = "net.", 0
    while True:
        attention = f"{prefix}{first + 1}.qkv_proj.weight" in shapes
        entries, place = 1 + attention, first
        while f"{prefix}{place}.main.0.weight" in shapes:
            place += entries
        levels.append(_Level(_shape(shapes, f"{prefix}{first}.main.0.weight", 4)[0], (place - first) // entries, attention))
        inner = f"{prefix}{place}.main."
        if not any(name.startswith(inner) for name in shapes):
            break
        prefix, first = inner, 1
    counts = [level.blocks for level in levels]
    if len(levels) < 2 or counts != [counts[0]] * (len(counts) - 1) + [2 * counts[0]]:
        raise TesseraError(
            f"the file names {counts} blocks at its levels, where a v-diffusion network has equally many at all and twice as many at the "
            "last: it is incomplete or of another kind of network"
        )
    return levels


def _whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """With the values of the arguments that `config` leaves out."""
    with torch.device("meta"):
        made: UNet = build_part("network", NETWORKS, config)
    return made.config


def _names(config: Mapping[str, Any]) -> set[str]:
    with torch.device("meta"):
        return set(network_names(build_part("network", NETWORKS, config)).values())


def _shape(shapes: Shapes, name: str, axes: int) -> Sequence[int]:
    if name not in shapes:
        raise TesseraError(f"the checkpoint is incomplete: it has no tensor {name!r}; copy it again, or take another copy of it")
    if len(shapes[name]) != axes:
        raise TesseraError(f"{name!r} has shape {list(shapes[name])}, not {axes} axes: this is no v-diffusion checkpoint")
    return shapes[name]


def _contents(archive: Archive) -> dict[str, StoredTensor] | None:
    """The network's tensors under their released names; None when there is no such network. Training may have put a prefix before them."""
    for state in archive.states().values():
        for name in state:
            prefix = name.removesuffix(FIRST)
            if name.endswith(FIRST) and prefix + TIME in state:
                return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    return None
