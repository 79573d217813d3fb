"""From a name, a folder or a file to a `Model`, whatever wrote it.

model = load("scenes")
pictures = model.text_to_image("a red circle above a blue square", n=4, seed=0)
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tessera.checkpoints.recognise import Extras, build, recognise
from tessera.checkpoints.safe_read import read_archive
from tessera.contexts.clip_joint import load_clip
from tessera.errors import UsageError
from tessera.float_flow import FloatFlow
from tessera.heap import give_back
from tessera.model import Model, torch_device
from tessera.model_folder import DESCRIPTION
from tessera.model_weights import chosen, read_model
from tessera.part_description import CONFIG
from tessera.sources import PIPELINE, locate

__all__ = ["load", "read"]


def load(
    source: str | Path,
    device: torch.device | str = "auto",
    *,
    codec: str | Path | None = None,
    clip: str | Path | None = None,
    mapping: str | Path | None = None,
    merges: str | Path | None = None,
    ema: bool = True,
    heads: int | None = None,
    text_codec: str | Path | None = None,
    flows: Sequence[str] | None = None,
) -> Model:
    """The model that `source` names.

    Args:
        source: a bundled name ("scenes"); a folder that `Model.save`, training or `tessera convert` wrote; a diffusers folder; a released
            file, or its name where it is in the local store; a hub id ("owner/name").
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" is CUDA where there is some and the CPU otherwise.
        codec, clip, mapping, merges, ema, heads, text_codec: what a released file does not say itself, see
            `checkpoints.recognise.Extras`. `clip` also gives a model of floats that takes no prompt what CLIP guidance needs.
        flows: names of the flows that are wanted, such as "text_to_image"; what only others need is not read. None: all.

    Raises:
        UsageError: no such model, flow or device, or something beside a released file is missing or does not fit it.
        TesseraError: its files are missing, damaged, unknown, or do not fit each other.
    """
    target = torch_device(device)
    wanted = None if flows is None else tuple(flows)
    extras = Extras(_path(codec), None if clip is None else str(clip), _path(mapping), _path(merges), ema, heads, wanted, _path(text_codec))
    made: Any = read(locate(source), extras)
    if not isinstance(made, Model):
        raise UsageError(f"{source} holds a {made.config['kind']}, a part of models and no model: `tessera convert` makes a folder of it")
    made = made.to(target)
    give_back()
    return made


def read(place: Path, extras: Extras) -> Model | nn.Module:
    """The model, or the part of one, in a file or folder, on the CPU. Raises as `load` does."""
    if place.is_file():
        archive = read_archive(place)
        return _only(build(archive, recognise(archive), extras), extras)
    seen_with = ("flows", "clip", "merges") if extras.clip is not None and (place / DESCRIPTION).is_file() else ("flows",)
    for field in fields(Extras):
        if getattr(extras, field.name) != field.default and field.name not in seen_with:
            raise UsageError(f"{field.name} completes a released file, but {place} is a folder, whose model is whole: leave it out")
    if (place / PIPELINE).is_file():
        from tessera.checkpoints.diffusers import import_diffusers

        return _only(import_diffusers(place), extras)
    if (place / CONFIG).is_file():
        raise UsageError(f"{place} holds a part of models and no model: name it in a recipe, or give it as the codec of a released file")
    model = Model(*read_model(place, extras.flows))
    if extras.clip is not None:
        for flow in model.flows.values():
            if not isinstance(flow, FloatFlow):
                raise UsageError(
                    f"the model in {place} is whole: leave clip out, which completes a released file or leads a model of floats"
                )
            flow.use_clip(load_clip(extras.clip, extras.merges))
    return model


def _only(made: Model | nn.Module, extras: Extras) -> Model | nn.Module:
    """A model without flows that are not wanted. UsageError for one that it has not."""
    if isinstance(made, Model) and extras.flows is not None:
        made.flows = chosen(made.flows, extras.flows, made.name)
    return made


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
