"""Models and parts from what `released` found in a file. Every tensor is read when its place is ready, and not kept."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from tessera.checkpoints.recognise import TEXT_ENCODER, Extras, Finding
from tessera.checkpoints.safe_read import Archive, StoredTensor, Tensors, read_archive
from tessera.codecs.vqgan import VQGAN
from tessera.contexts.clip import CLIPText, pretrained_merges
from tessera.contexts.tokenizer import read_merges
from tessera.errors import UsageError
from tessera.families.vq_diffusion.checkpoint import load_network
from tessera.families.vq_diffusion.codec_checkpoint import codec_names, load_codec
from tessera.families.vq_diffusion.mapping import missing_mapping, read_mapping, use_mapping
from tessera.families.vq_diffusion.released import Contents, contents
from tessera.families.vq_diffusion.shapes import codec_config
from tessera.families.vq_diffusion.text_checkpoint import NULL, TOWER, load_text, text_config
from tessera.flow import SamplingSettings, TokenFlow
from tessera.methods import VQ_DIFFUSION
from tessera.model import Model
from tessera.model_weights import build_flow
from tessera.nn.initialisation import without_initialisation
from tessera.part_folder import load_part
from tessera.registry import CODECS

__all__ = ["build_codec", "build_model", "build_text_encoder"]

CLASS_GUIDANCE = SamplingSettings(guidance=1.5, truncation=0.94)
"""What the original draws ImageNet with, once it is tuned for guidance (inference_VQ_Diffusion.py)."""


def build_model(archive: Archive, found: Contents, finding: Finding, extras: Extras) -> Model:
    """The diffusion model of a checkpoint and of what is given beside it."""
    config = deepcopy(finding.config)
    network = config["network"]
    if extras.heads is not None:
        network["heads"] = extras.heads
    _check_extras(network["condition"], extras)
    given: Any = None if extras.codec is None else _given_codec(extras.codec, network["classes"], extras.mapping)
    if config["codec"] is None:
        if given is None:
            raise UsageError(f"{archive.path} has no codec inside: give the file of the one it was trained with (--codec FILE)")
        config["codec"] = given.config
    _check_mapping(config["codec"], given, extras.mapping)
    stored, pretrained = found.stored, None
    if config["context"] is None:
        stored, pretrained, config["context"] = _given_tower(found, extras.clip, network["context_width"])
    tensors = Tensors(stored)
    with without_initialisation():
        flow = build_flow(config)
    assert isinstance(flow, TokenFlow)
    load_network(flow.network, tensors)
    if finding.config["codec"] is None:
        flow.codec = given
    else:
        _fill_codec(flow, tensors, given, extras)
    if pretrained is not None:
        flow.context_encoder = pretrained
    if isinstance(flow.context_encoder, CLIPText):
        if pretrained is None:
            load_text(flow.context_encoder, tensors)
        _give_merges(flow.context_encoder, extras)
    height, width = network["grid"]
    card = {"file": archive.path.name, "configuration": finding.preset, "moving average": finding.ema and extras.ema}
    size = (height * flow.codec.factor, width * flow.codec.factor)
    return Model(archive.path.stem, finding.family, {"text_to_image": flow}, size, _defaults(finding), card)


def build_codec(found: Contents, finding: Finding, extras: Extras) -> VQGAN:
    """The codec of a file; with a mapping, for models that use a subset of its codes."""
    config = dict(finding.config)
    table = None if extras.mapping is None else read_mapping(extras.mapping)
    if table is not None and table.numel():
        config["classes"] = int(table.max()) + 1
    return _codec(config, found, extras.mapping)


def build_text_encoder(found: Contents, finding: Finding, extras: Extras) -> CLIPText:
    """The text tower of OpenAI's CLIP file."""
    with without_initialisation():
        encoder = CLIPText(**{key: value for key, value in finding.config.items() if key != "kind"})
    load_text(encoder, Tensors(found.stored), "")
    _give_merges(encoder, extras)
    return encoder.eval()


def _check_extras(condition: str, extras: Extras) -> None:
    for option, value in (("clip", extras.clip), ("merges", extras.merges)):
        if value is not None and condition != "text":
            what = "class labels" if condition == "class" else "no prompt"
            raise UsageError(f"{option} is given ({value}), but this model reads no words, it takes {what}: leave it out")


def _check_mapping(codec: Mapping[str, Any], given: VQGAN | None, mapping: Path | None) -> None:
    """Raises UsageError when the code mapping is missing, from headers alone: reading the tensors first takes minutes."""
    classes = codec.get("classes")
    if classes not in (None, codec["codebook"]) and mapping is None and (given is None or given.remap is None):
        raise missing_mapping(codec["codebook"], int(classes))


def _given_codec(path: Path, classes: int, mapping: Path | None) -> VQGAN:
    """The codec given beside a network of `classes` classes: a released file, or a folder that `convert` or training wrote."""
    if path.is_dir():
        part: Any = load_part("codec", CODECS, path)
        if part.classes != classes:
            raise UsageError(_misfit(path, part.classes, classes))
        if mapping is not None:
            use_mapping(part, mapping, held=True)
        return part
    found = contents(read_archive(path))
    if found is None or not found.has_codec:
        raise UsageError(f"{path} holds no codec of VQ-Diffusion: give the file of the one the model was trained with")
    config = codec_config(found.shapes)
    if config["codebook"] < classes:
        raise UsageError(_misfit(path, config["codebook"], classes))
    return _codec(config | {"classes": None if config["codebook"] == classes else classes}, found, mapping)


def _misfit(path: Path, codes: int, classes: int) -> str:
    return f"the codec in {path} has {codes} classes but the network was made for {classes}: give the codec it was trained with"


def _codec(config: Mapping[str, Any], found: Contents, mapping: Path | None) -> VQGAN:
    with without_initialisation():
        codec = VQGAN(**{key: value for key, value in config.items() if key != "kind"})
    load_codec(codec, Tensors(found.stored))
    use_mapping(codec, mapping)
    return codec.eval()


def _fill_codec(flow: TokenFlow, tensors: Tensors, given: VQGAN | None, extras: Extras) -> None:
    """The codec inside a checkpoint. One given beside it must be the same; its mapping is used where no other is given."""
    codec: Any = flow.codec
    load_codec(codec, tensors)
    mapped = None if given is None or codec.remap is None else given.remap
    if mapped is not None:
        codec.remap.load_state_dict(mapped.state_dict())
    use_mapping(codec, extras.mapping, held=mapped is not None)
    if given is not None:
        other = given.state_dict()
        for name in codec_names(codec):
            if name not in other or not torch.equal(codec.state_dict()[name], other[name]):
                raise UsageError(
                    f"the codec in {extras.codec} is not the one inside the checkpoint ({name} differs): "
                    "the checkpoint needs no other, leave it out"
                )


def _given_tower(found: Contents, clip: str | None, width: int) -> tuple[Mapping[str, StoredTensor], CLIPText | None, dict[str, Any]]:
    """For a checkpoint without a text tower: its tensors with those of CLIP's file among them, or else CLIP from a folder or the hub."""
    if clip is None:
        raise UsageError(f"the checkpoint has no text tower inside: give CLIP's of width {width} (--clip FILE, a folder or a hub id)")
    if Path(clip).is_file():
        stored = {**found.stored, **{TOWER + name: tensor for name, tensor in _tower_file(Path(clip)).stored.items()}}
        return stored, None, dict(text_config({name: tensor.shape for name, tensor in stored.items()}))
    encoder = CLIPText(pretrained=clip, null=NULL in found.stored)
    if encoder.null_embedding is not None:
        encoder.null_embedding.data.copy_(found.stored[NULL].read())
    return found.stored, encoder, encoder.config


def _tower_file(path: Path) -> Contents:
    found = contents(read_archive(path))
    if found is None or found.kind != TEXT_ENCODER:
        raise UsageError(
            f"{path} holds no CLIP text tower: give OpenAI's file such as ViT-B-32.pt, a folder in transformers' layout, or a hub id"
        )
    return found


def _give_merges(encoder: CLIPText, extras: Extras) -> None:
    """The tokenizer, from whatever is given. Without any the model is whole but for reading words."""
    if extras.clip is not None and Path(extras.clip).is_file():
        other = text_config(_tower_file(Path(extras.clip)).shapes, "")
        for what in ("length", "layers", "width", "vocabulary"):
            if other[what] != (ours := encoder.config[what]):
                raise UsageError(
                    f"CLIP in {extras.clip} has {what} {other[what]} where the checkpoint's text tower has {ours}: "
                    "give the CLIP it was trained with"
                )
    if extras.merges is not None:
        encoder.use_merges(read_merges(extras.merges))
    elif extras.clip is not None and not Path(extras.clip).is_file() and encoder.tokenizer is None:
        encoder.use_merges(pretrained_merges(extras.clip))


def _defaults(finding: Finding) -> SamplingSettings:
    """As the original's own script draws."""
    if not finding.learned_null:
        return VQ_DIFFUSION["base"]
    return VQ_DIFFUSION["guidance"] if finding.config["network"]["condition"] == "text" else CLASS_GUIDANCE
