"""The released files of Versatile Diffusion: which network each of them is, and the model made of it and of what it needs beside it.

Recognised are the network in each of its layouts, with or without autoencoders and CLIP in the same file, and the autoencoders alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from tessera.checkpoints.cards import card, cards
from tessera.checkpoints.recognise import CODEC, MODEL, Extras, Finding
from tessera.checkpoints.registry import find_local
from tessera.checkpoints.safe_read import Archive, StoredTensor, Tensors, read_archive
from tessera.codecs.kl import KLAutoencoder
from tessera.codecs.text_vae import TextVAE
from tessera.contexts.clip_tokens import CLIPTokens, load_clip_tokens
from tessera.contexts.tokenizer import read_merges
from tessera.errors import UsageError, suggest
from tessera.families.versatile.checkpoint import LAYOUTS, load_network, network_names
from tessera.families.versatile.kl_checkpoint import kl_config, kl_names, load_kl
from tessera.families.versatile.network import MultiFlowUNet
from tessera.families.versatile.parts_checkpoint import clip_config, load_part_state, text_vae_config
from tessera.families.versatile.presets import CODECS, FLOWS, PRESETS
from tessera.families.versatile.shapes import HEADS, find_layout, network_config
from tessera.float_flow import FloatFlow
from tessera.flow import SamplingSettings
from tessera.model import Model
from tessera.nn.initialisation import without_initialisation
from tessera.part_description import CONFIG
from tessera.part_folder import load_part
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.processes.gaussian_schedules import LinearBeta
from tessera.registry import CODECS as CODEC_KINDS

__all__ = ["FAMILY", "SETTINGS", "build", "recognise"]

FAMILY = "versatile"
SETTINGS = SamplingSettings("ddim", steps=50, guidance=7.5, beams=0)
"""As the originals' scripts draw."""

INSIDE = {
    "kl": ("vae.image.", "autokl.", "first_stage_model."),
    "text-vae": ("vae.text.", "optimus."),
    "clip": ("ctx.text.model.", "clip.model."),
}
"""Parts that can be in a file, and how their names begin there. The autoencoders are files of their own too."""
MARKS = {
    "kl": "post_quant_conv.weight",
    "text-vae": "decoder.transformer.linear_emb.weight",
    "clip": "visual_projection.weight",
}
_AVERAGE = "model_ema.diffusion_modelinput_blocks00weight"
_TABLES = ("betas", "alphas_cumprod", "sqrt_", "log_one_minus_alphas_cumprod", "posterior_", "logvar", "decay", "num_updates", "model_ema.")
"""Beginnings of what is not read: tables of the schedule, which are computed, and beside a moving average its counters."""
BLANK = {"image_to_text": 0}
"""Flow → the picture that stands for "no prompt" where it is not zero embeddings."""


@dataclass(frozen=True)
class _Contents:
    """stored: every tensor that counts. layout: of the network, if there is one. prefixes: of the other parts that are there."""

    stored: Mapping[str, StoredTensor]
    layout: str | None
    prefixes: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.stored.items()}


def recognise(archive: Archive) -> Finding | None:
    """See `checkpoints.recognise`."""
    found = _contents(archive)
    if found is None:
        return None
    names, beginnings = _read(found)
    unexpected = tuple(sorted(name for name in found.stored if name not in names and not name.startswith(beginnings)))
    if found.layout is None:
        (part, prefix), *_ = found.prefixes.items()
        config = {"kind": part, **(kl_config(found.shapes, prefix) if part == "kl" else text_vae_config(found.shapes, prefix))}
        count = sum(prod(found.stored[name].shape) for name in found.stored if name in names)
        preset = next((name for name, known in CODECS.items() if known == config), None)
        files = tuple(name for name, known in cards().items() if known.family == FAMILY and preset and known.configuration == preset)
        return Finding(FAMILY, CODEC, preset, config, {"codec": count}, cards=files, unexpected=unexpected)
    config = network_config(found.shapes, found.layout)
    preset = next((name for name, size in PRESETS.items() if all(config[key] == value for key, value in size.config.items())), None)
    parameters = {"network": sum(prod(found.stored[name].shape) for name in _network_names(config, found.layout))}
    same = [known for known in cards().values() if (known.family, known.configuration, known.kind) == (FAMILY, preset, MODEL)]
    whole = {"kl", "clip"} <= found.prefixes.keys()
    return Finding(
        family=FAMILY,
        kind=MODEL,
        preset=preset,
        config={"network": config, "flows": sorted(_flows(config)), "layout": found.layout},
        parameters=parameters,
        needs=tuple(_NEEDS[part] for part in _lacking(config, found)),
        cards=tuple(known.name for known in same if (_CARDS["kl"] not in known.needs) == whole),
        ema="average" in found.layout or _AVERAGE in found.stored,
        notes=tuple(f"its {what} is inside" for part, what in _WHAT.items() if part in found.prefixes),
        unexpected=unexpected,
    )


_CODECS = {"image": "kl", "text": "text-vae"}
"""Data type → the kind of its codec."""
_ENCODERS = {"single-flow": {"text": "states"}, "single-flow-bare-average": {"image": "vectors"}}
_ALL_TOKENS = {"text": "words", "image": "pictures"}
"""Layout, of those that are not Versatile Diffusion's own, → context type → how CLIP is read; see `CLIPView`."""
_WHAT = {"kl": "picture autoencoder", "text-vae": "text autoencoder", "clip": "CLIP"}
_CARDS = {"kl": "kl-f8", "text-vae": "optimus-vae", "clip": "ViT-L-14"}
_NEEDS = {
    "kl": "the picture autoencoder kl-f8.pth: --codec FILE",
    "text-vae": "for flows to words the text autoencoder optimus-vae.pth: --text-codec FILE",
    "clip": "CLIP ViT-L/14: --clip FILE, folder or hub id",
}


def build(archive: Archive, finding: Finding, extras: Extras) -> Model | nn.Module:
    """See `checkpoints.recognise`. No more is read than the wanted flows need."""
    found = _contents(archive)
    assert found is not None, "recognised before"
    if finding.kind == CODEC:
        return _codec(finding.config["kind"], found)
    if extras.mapping is not None:
        raise UsageError(f"{archive.path} is a Versatile Diffusion network, which needs no mapping: leave it out")
    config = dict(finding.config["network"])
    config["heads"] = HEADS if extras.heads is None else extras.heads
    every = _flows(config)
    wanted = list(every) if extras.flows is None else list(extras.flows)
    for name in wanted:
        if name not in every:
            raise UsageError(f"{archive.path}: {suggest('flow', name, every)}")
    views = [dict(zip(("data", "context"), every[name], strict=True)) for name in wanted]
    assert found.layout is not None
    encoders = [_ENCODERS.get(found.layout, _ALL_TOKENS)[view["context"]] for view in views]
    clip = _clip(archive, found, extras, {*encoders} if len(wanted) < len(every) else None)
    makes = {view["data"] for view in views}
    codecs = {data: _given_codec(archive, found, part, extras) for data, part in _CODECS.items() if data in makes}
    arguments = {key: value for key, value in MultiFlowUNet.only(config, views).items() if key != "kind"}
    with without_initialisation():
        network = MultiFlowUNet(**arguments).eval()
    layout = "single-flow-average" if extras.ema and _AVERAGE in found.stored else found.layout
    load_network(network, Tensors(found.stored), LAYOUTS[layout])
    loss = GaussianLoss(GaussianProcess(LinearBeta(network.config["timesteps"])), "eps")
    flows = {}
    for name, view, of in zip(wanted, views, encoders, strict=True):
        flows[name] = FloatFlow(codecs[view["data"]], clip.view(of, BLANK.get(name)), network.view(**view), loss)
    about = {"file": archive.path.name, "configuration": finding.preset}
    return Model(archive.path.stem, FAMILY, flows, (512, 512), SETTINGS, about, partial=len(wanted) < len(every))


def _flows(config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {name: (data, context) for name, (data, context) in FLOWS.items() if data in config["data"] and context in config["contexts"]}


def _lacking(config: Mapping[str, Any], found: _Contents) -> list[str]:
    needed = ["kl", *(["text-vae"] if "text" in config["data"] else []), "clip"]
    return [part for part in needed if part not in found.prefixes]


def _contents(archive: Archive) -> _Contents | None:
    for state in archive.states().values():
        layout = find_layout(state)
        prefixes = {part: prefix for part, known in INSIDE.items() for prefix in known if prefix + MARKS[part] in state}
        if layout is None:
            prefixes |= {part: "" for part in ("kl", "text-vae") if MARKS[part] in state}
        # A codec with a codebook has the same decoder: it is not of this family.
        if layout is not None or (prefixes and not any("quantize" in name for name in state)):
            return _Contents(state, layout, prefixes)
    return None


def _read(found: _Contents) -> tuple[set[str], tuple[str, ...]]:
    """Names, and beginnings of names, of what something reads, or what is nothing but a table that can be computed again."""
    names: set[str] = set()
    beginnings = [*_TABLES, *(prefix for prefix in found.prefixes.values() if prefix), "ctx.image.model."]
    if found.layout is not None:
        names |= _network_names(network_config(found.shapes, found.layout), found.layout)
    for part, prefix in found.prefixes.items():
        if prefix == "":
            made = _empty(part, found, prefix)
            names |= set(kl_names(made).values()) if part == "kl" else set(made.state_dict())
            beginnings += ["decoder.lm_head.weight", "decoder.transformer.h."] if part == "text-vae" else []
    return names, tuple(beginnings)


def _network_names(config: Mapping[str, Any], layout: str) -> set[str]:
    with torch.device("meta"):
        made = MultiFlowUNet(**{key: value for key, value in config.items() if key != "kind"})
    return {name for names in network_names(made, LAYOUTS[layout]).values() for name in names}


def _empty(part: str, found: _Contents, prefix: str) -> Any:
    with without_initialisation():
        if part == "kl":
            return KLAutoencoder(**kl_config(found.shapes, prefix)).eval()
        if part == "text-vae":
            return TextVAE(**text_vae_config(found.shapes, prefix)).eval()
        return CLIPTokens(**clip_config(found.shapes, prefix)).eval()


def _codec(part: str, found: _Contents) -> Any:
    prefix = found.prefixes[part]
    made, tensors = _empty(part, found, prefix), Tensors(found.stored)
    if part == "kl":
        load_kl(made, tensors, prefix)
    else:
        load_part_state(made, tensors, "text autoencoder", prefix)
    return made


def _given_codec(archive: Archive, found: _Contents, part: str, extras: Extras) -> Any:
    """The autoencoder of pictures or of texts: inside, given, or in the local store."""
    what, option, given = (
        ("picture autoencoder", "--codec", extras.codec) if part == "kl" else ("text autoencoder", "--text-codec", extras.text_codec)
    )
    if part in found.prefixes:
        if given is not None:
            raise UsageError(f"{archive.path} has its {what} inside: leave {option} out")
        return _codec(part, found)
    place = given or find_local(card(_CARDS[part]))
    if place is None:
        raise UsageError(f"{archive.path} needs {_NEEDS[part]}; or name the flows that are wanted, if these do without it")
    if place.is_dir() or (place / CONFIG).is_file():
        made: Any = load_part("codec", CODEC_KINDS, place)
        if made.config["kind"] != part:
            raise UsageError(f"{place} is a codec {made.config['kind']!r}, not a {what}: give {_NEEDS[part]}")
        return made
    other = _contents(read_archive(place))
    if other is None or part not in other.prefixes:
        raise UsageError(f"{place} holds no {what}: give {_NEEDS[part]}")
    return _codec(part, other)


def _clip(archive: Archive, found: _Contents, extras: Extras, views: set[str] | None) -> CLIPTokens:
    """CLIP: inside, of which only what some views need is read, or given."""
    if "clip" in found.prefixes:
        if extras.clip is not None:
            raise UsageError(f"{archive.path} has its CLIP inside: leave clip out, and give the tokenizer's merges alone")
        made = _empty("clip", found, found.prefixes["clip"])
        towers = ["clip."] if views is None else sorted({tower for view in views for tower in CLIPTokens.towers[view]})
        for tower in towers:
            part = tower.removeprefix("clip.")
            load_part_state(made.clip.get_submodule(part.rstrip(".")), Tensors(found.stored), "CLIP", found.prefixes["clip"] + part)
        if extras.merges is not None:
            made.use_merges(read_merges(extras.merges))
        inside: CLIPTokens = made
        return inside
    place = extras.clip or find_local(card(_CARDS["clip"]))
    if place is None:
        raise UsageError(f"{archive.path} needs {_NEEDS['clip']}")
    clip = load_clip_tokens(str(place), extras.merges)
    if views is not None:
        clip.keep_only(views)
    return clip
