"""From a recipe to the task of training a flow, its parts made or loaded and fitted to each other."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from tessera.codecs.codec import FloatCodec
from tessera.contexts.clip_joint import load_clip
from tessera.contexts.joint import JointEncoder
from tessera.contexts.labels import Labels
from tessera.errors import UsageError
from tessera.float_flow import FloatFlow
from tessera.flow import Flow, TokenFlow
from tessera.loading import load
from tessera.part_description import CONFIG
from tessera.part_folder import load_part
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.processes.gaussian_schedules import make_gaussian_schedule
from tessera.processes.schedules import make_schedule
from tessera.registry import CODECS, CONTEXTS, LOSSES, NETWORKS, build, look_up
from tessera.sources import HUB_ID
from tessera.training.float_task import FloatTask
from tessera.training.flow_task import FlowTask
from tessera.training.null_prompt import with_null
from tessera.training.recipe import FlowModel, FlowRecipe, NullPromptRecipe
from tessera.training.token_task import TokenTask

__all__ = ["make", "make_flow"]


def make(recipe: FlowRecipe | NullPromptRecipe, size: int) -> FlowTask:
    """The task of a recipe, its flow new or started from `init`."""
    if isinstance(recipe, NullPromptRecipe):
        flow = with_null(_flow_of(recipe.init))
        flow.grid((size, size))
    else:
        flow = make_flow(recipe, size)
        if recipe.init is not None:
            started = _flow_of(recipe.init)
            try:
                flow.load_state_dict(started.state_dict())
            except RuntimeError as error:
                raise UsageError(f"the model in {recipe.init} does not fit the recipe: {str(error).splitlines()[-1].strip()}") from error
            before, encoder = started.context_encoder, flow.context_encoder
            if isinstance(before, Labels) and isinstance(encoder, Labels) and before.classes is not None:
                encoder.learn_classes(before.classes)
    if isinstance(flow, TokenFlow):
        if recipe.picture_prompts > 0:
            raise UsageError("picture_prompts is for models whose prompts can be pictures: leave it out")
        return TokenTask(flow, recipe, size)
    if recipe.token_cache is not None:
        raise UsageError("token_cache is for models of tokens: leave it out")
    if recipe.picture_prompts > 0 and not isinstance(flow.context_encoder, JointEncoder):
        raise UsageError("picture_prompts needs a context encoder that sees pictures: give model.context")
    assert isinstance(flow, FloatFlow)
    return FloatTask(flow, recipe, size)


def _flow_of(source: str) -> Flow:
    flows = load(source, device="cpu").flows
    if "text_to_image" not in flows:
        raise UsageError(f"the model {source} has no text_to_image flow to start from; it has {', '.join(sorted(flows))}")
    return flows["text_to_image"]


def make_flow(recipe: FlowRecipe, size: int) -> Flow:
    """The untrained flow of a recipe for square pictures of `size` pixels; what follows from other parts is filled in."""
    codec: Any = _part("codec", CODECS, recipe.codec)
    encoder: Any = _encoder(recipe.model.context)
    made = _float_flow(recipe, codec, encoder, size) if isinstance(codec, FloatCodec) else _token_flow(recipe, codec, encoder, size)
    made.grid((size, size))
    return made


def _encoder(given: str | dict[str, Any]) -> Any:
    """The context encoder, of a folder that training wrote, of a description, or a CLIP from wherever `load_clip` reads one."""
    if not isinstance(given, str) or (Path(given) / CONFIG).is_file():
        return _part("context encoder", CONTEXTS, given)
    if Path(given).exists() or (HUB_ID.fullmatch(given) and not Path(given).parent.exists()):
        return load_clip(given)
    return _part("context encoder", CONTEXTS, given)


def _part(kind: str, table: dict[str, str], given: str | dict[str, Any]) -> Any:
    return load_part(kind, table, given) if isinstance(given, str) else build(kind, table, given)


def _float_flow(recipe: FlowRecipe, codec: Any, encoder: Any, size: int) -> FloatFlow:
    settings = recipe.model
    for name in ("loss", "codebook_start"):
        if getattr(settings, name) != FlowModel.model_fields[name].default:
            raise UsageError(f"model.{name} is for models of tokens, and codec {codec.config['kind']!r} gives floats: see model.denoising")
    process = GaussianProcess(make_gaussian_schedule(**{"kind": "cosine", **settings.process}))
    derived = {"size": size, "context_width": encoder.config.get("width"), "process": process.schedule.config}
    network = _network(settings.network, derived)
    return FloatFlow(codec, encoder, network, GaussianLoss(process, network.parametrisation, **settings.denoising.model_dump()))


def _network(config: dict[str, Any], derived: dict[str, Any]) -> Any:
    """The network, with those of its arguments that follow from other parts."""
    known = inspect.signature(look_up("network", NETWORKS, config.get("kind", ""))).parameters
    return build("network", NETWORKS, {**{name: value for name, value in derived.items() if name in known and value is not None}, **config})


def _token_flow(recipe: FlowRecipe, codec: Any, encoder: Any, size: int) -> TokenFlow:
    settings = recipe.model
    if settings.denoising != FlowModel.model_fields["denoising"].default:
        raise UsageError(f"model.denoising is for models of floats, and codec {codec.config['kind']!r} gives tokens: see model.loss")
    schedule = {"kind": "vq-diffusion", "steps": 100, **settings.process}
    with torch.device("cpu"):  # tables are computed even where a model is only sized up, on the meta device
        process = DiscreteProcess(make_schedule(**schedule), codec.classes)
    loss = build("loss", LOSSES, {**settings.loss.model_dump(), "process": process})
    derived = {
        "classes": codec.classes, "grid": list(codec.grid((size, size))), "timesteps": process.steps,
        "context_width": encoder.config.get("width"),
        "class_count": getattr(encoder, "rows", None),
        "condition": "class" if hasattr(encoder, "rows") else "text" if "width" in encoder.config else "none",
    }  # fmt: skip
    built = _network(settings.network, derived)
    if settings.codebook_start is not None:
        built.start_from_codebook(codec.codebook(), settings.codebook_start)
    return TokenFlow(codec, encoder, built, loss)
