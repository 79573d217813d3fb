"""The released files of VQ-Diffusion: what each of them is, and the model or part made of it.

A diffusion checkpoint is a training state: `model` holds codec, text tower and network; `ema` the moving average of what `model` holds
under `transformer.`, without that prefix, and takes its place as it does in the original. Codecs come alone as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from tessera.checkpoints.cards import cards
from tessera.checkpoints.recognise import CODEC, MODEL, TEXT_ENCODER, Extras, Finding
from tessera.checkpoints.safe_read import Archive, StoredTensor
from tessera.codecs.presets import PRESETS as CODEC_PRESETS
from tessera.data.class_folders import imagenet_synsets
from tessera.families.vq_diffusion.checkpoint import NETWORK
from tessera.families.vq_diffusion.codec_checkpoint import IN_DIFFUSION, LAYOUTS, place
from tessera.families.vq_diffusion.released_names import is_parameter, names_read, unexpected_names
from tessera.families.vq_diffusion.shapes import HEADS, Shapes, codec_config, network_config, preset_name
from tessera.families.vq_diffusion.text_checkpoint import NULL, TOWER, text_config
from tessera.model import Model

__all__ = ["FAMILY", "Contents", "build", "contents", "recognise"]

FAMILY = "vq-diffusion"
INNER = "transformer."
"""Prefix, in `ckpt["model"]`, of what `ckpt["ema"]` averages."""
MARK = "content_emb.emb.weight"
CLIP_MARKS = ("token_embedding.weight", "transformer.resblocks.0.attn.in_proj_weight", "text_projection")
NULL_LABELS = 1001
"""Class rows of a network that was tuned for guidance: ImageNet's 1000 and "no label"."""
LOSS_WEIGHT = {"text": 5e-4, "class": 1e-3, "none": 1e-3}


@dataclass(frozen=True)
class Contents:
    """The tensors of a file under the names of `ckpt["model"]`. ema: whether it has a moving average; `stored` is it, where asked for."""

    kind: str
    stored: Mapping[str, StoredTensor]
    ema: bool

    @property
    def shapes(self) -> Shapes:
        return {name: tensor.shape for name, tensor in self.stored.items()}

    @property
    def has_codec(self) -> bool:
        return self.kind == CODEC or place(IN_DIFFUSION, "encoder.conv_in.weight") in self.stored

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers of parameters by part, of what is read."""
        parts: dict[str, int] = {}
        for name in filter(is_parameter, names_read(self.kind, self.stored)):
            part = "network" if name.startswith(NETWORK) else "text encoder" if name.startswith(INNER) else "codec"
            part = self.kind if self.kind != MODEL else part
            parts[part] = parts.get(part, 0) + prod(self.stored[name].shape)
        return parts

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Tensors that nobody reads, nor is known not to."""
        return unexpected_names(self.kind, self.stored)


def contents(archive: Archive, ema: bool = True) -> Contents | None:
    """What of this family is in the file; None when nothing is.

    ema: take the moving average, if there is one, rather than the last weights.
    """
    states = archive.states()
    models = {path: inner for path, state in states.items() if (inner := _inner(state)) is not None}
    last = {path: inner for path, inner in models.items() if not _is_average(path)}
    averages = {path: inner for path, inner in models.items() if _is_average(path)}
    if models:
        path, inner = next(iter(last.items() or averages.items()))
        stored = _as_released(states[path], inner)
        if last and averages and ema:
            path, inner = next(iter(averages.items()))
            stored |= _as_released(states[path], inner)
        return Contents(MODEL, stored, bool(averages))
    for state in states.values():
        for layout in LAYOUTS:
            if place(layout, "encoder.conv_in.weight") in state and any(place(layout, "quantize.") in name for name in state):
                return Contents(CODEC, dict(state), False)
    for state in states.values():
        if all(mark in state for mark in CLIP_MARKS):
            return Contents(TEXT_ENCODER, dict(state), False)
    return None


def recognise(archive: Archive) -> Finding | None:
    """See `checkpoints.recognise`."""
    found = contents(archive)
    if found is None:
        return None
    return {MODEL: _model, CODEC: _codec, TEXT_ENCODER: _text_encoder}[found.kind](found)


def build(archive: Archive, finding: Finding, extras: Extras) -> Model | nn.Module:
    """See `checkpoints.recognise`."""
    from tessera.families.vq_diffusion import building

    found = contents(archive, extras.ema)
    assert found is not None, "recognised before"
    if finding.kind == CODEC:
        return building.build_codec(found, finding, extras)
    if finding.kind == TEXT_ENCODER:
        return building.build_text_encoder(found, finding, extras)
    return building.build_model(archive, found, finding, extras)


def _inner(state: Mapping[str, StoredTensor]) -> str | None:
    """The prefix of the network's tensors, ending in "transformer.", or None."""
    for name in state:
        if name.endswith(MARK) and (prefix := name.removesuffix(MARK)).endswith(INNER):
            return prefix
    return None


def _is_average(path: str) -> bool:
    return path.rsplit(".", 1)[-1] == "ema"


def _as_released(state: Mapping[str, StoredTensor], inner: str) -> dict[str, StoredTensor]:
    """Under the names of `ckpt["model"]`, whichever of its outer prefixes the names have here."""
    if inner.endswith(NETWORK):
        outer = inner.removesuffix(NETWORK)
        return {name.removeprefix(outer): tensor for name, tensor in state.items()}
    outer = inner.removesuffix(INNER)
    return {INNER + name.removeprefix(outer): tensor for name, tensor in state.items()}


def _model(found: Contents) -> Finding:
    shapes = found.shapes
    network = network_config(shapes)
    name = preset_name(network)
    context, learned_null = _context(network, shapes)
    codec = codec_config(shapes) if found.has_codec else None
    if codec is not None and codec["codebook"] > network["classes"]:
        codec["classes"] = network["classes"]
    schedule = {"kind": "vq-diffusion", "steps": network["timesteps"]}
    config = {
        "codec": codec, "context": context, "network": network,
        "process": {"classes": network["classes"], "schedule": schedule}, "loss": {"auxiliary_weight": LOSS_WEIGHT[network["condition"]]},
    }  # fmt: skip
    notes = [] if name else [f"the number of attention heads is not in the file: {HEADS}, as in every released one, unless --heads says"]
    if network["condition"] == "text" and not learned_null:
        notes.append('"no prompt" was not learned: guidance leads away from the empty prompt')
    if not found.ema:
        notes.append("no moving average in the file: its weights are the last ones")
    return Finding(
        family=FAMILY,
        kind=MODEL,
        preset=name,
        config=config,
        parameters=found.parameters,
        needs=tuple(_needs(codec, context, network)),
        cards=_cards(MODEL, name, learned_null),
        ema=found.ema,
        learned_null=learned_null,
        notes=tuple(notes),
        unexpected=found.unexpected,
    )


def _context(network: Mapping[str, Any], shapes: Shapes) -> tuple[dict[str, Any] | None, bool]:
    """The context encoder's configuration (None: the text tower is not there), and whether "no prompt" was learned."""
    if network["condition"] == "text":
        held = any(name.startswith(TOWER) for name in shapes)
        return (dict(text_config(shapes)) if held else None), NULL in shapes
    if network["condition"] == "class":
        learned = network["class_count"] == NULL_LABELS
        count = network["class_count"] - learned
        classes = imagenet_synsets() if preset_name(network) == "imagenet" else None
        return {"kind": "labels", "count": count, "null": "learned" if learned else "mean", "classes": classes}, learned
    return {"kind": "none"}, False


def _needs(codec: Mapping[str, Any] | None, context: Mapping[str, Any] | None, network: Mapping[str, Any]) -> list[str]:
    needs = []
    if codec is None:
        needs.append(f"the codec it was trained with, which gives {network['classes']} classes: --codec FILE")
    elif codec["classes"] is not None:
        needs.append(f"the code mapping of {codec['codebook']} codes to {codec['classes']} classes: --mapping FILE")
    if context is None:
        needs.append(f"CLIP's text tower of width {network['context_width']}: --clip FILE, folder or hub id")
    if network["condition"] == "text":
        needs.append("CLIP's merges, to read prompts: --merges FILE, or --clip with a folder or hub id")
    return needs


def _codec(found: Contents) -> Finding:
    config = codec_config(found.shapes)
    name = next((name for name, preset in CODEC_PRESETS.items() if all(config[key] == value for key, value in _full(preset).items())), None)
    subsets = [preset["classes"] for preset in CODEC_PRESETS.values() if preset.get("classes") and preset["codebook"] == config["codebook"]]
    notes = [f"a model may use a subset of its codes, such as {count}: then give --mapping FILE" for count in subsets if name]
    return Finding(
        family=FAMILY,
        kind=CODEC,
        preset=name,
        config=config,
        parameters=found.parameters,
        cards=_cards(CODEC, name),
        notes=tuple(notes),
        unexpected=found.unexpected,
    )


def _full(preset: Mapping[str, Any]) -> dict[str, Any]:
    """A preset with the defaults it leaves out that decide shapes."""
    return {"classes": None, "quantizer": "nearest", "width": 128, "dim": 256, "features": 256, "blocks": 2, **preset}


def _text_encoder(found: Contents) -> Finding:
    config: dict[str, Any] = dict(text_config(found.shapes, "", NULL))
    needs = ("CLIP's merges, to read prompts: --merges FILE",)
    return Finding(
        family=FAMILY,
        kind=TEXT_ENCODER,
        preset=None,
        config=config,
        parameters=found.parameters,
        needs=needs,
        cards=_cards(TEXT_ENCODER),
        unexpected=found.unexpected,
    )


def _cards(kind: str, preset: str | None = None, learned_null: bool | None = None) -> tuple[str, ...]:
    """Released files of this kind and configuration."""
    return tuple(
        name for name, card in cards().items()
        if card.family == FAMILY and card.kind == kind and card.file is not None and card.configuration == preset
        and card.learned_null == learned_null
    )  # fmt: skip
