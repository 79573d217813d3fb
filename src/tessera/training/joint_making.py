"""From a recipe to the task of training several flows of one network, which is new or started from a model of one flow or several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tessera.codecs.codec import FloatCodec
from tessera.codecs.text_vae import TextVAE
from tessera.contexts.clip_tokens import load_clip_tokens
from tessera.contexts.tower_tokens import TowerTokens
from tessera.contexts.two_towers import TwoTowers
from tessera.errors import UsageError, suggest
from tessera.families.versatile.network import FlowNetwork, MultiFlowUNet
from tessera.families.versatile.presets import FLOWS
from tessera.float_flow import FloatFlow
from tessera.loading import load
from tessera.model import Model
from tessera.part_description import CONFIG
from tessera.part_folder import load_part
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.processes.gaussian_schedules import LinearBeta, make_gaussian_schedule
from tessera.registry import CODECS, CONTEXTS, NETWORKS, build
from tessera.training.joint_task import JointTask
from tessera.training.recipe import DenoisingLoss, JointRecipe

__all__ = ["make"]

READINGS = {"text": "words", "image": "pictures"}
"""Context type → how the encoder of words and pictures is read for it."""


def make(recipe: JointRecipe, size: int) -> JointTask:
    """The task of a recipe for square pictures of `size` pixels.

    Raises UsageError for unknown flows, parts that are missing or do not fit, or a model without what is to be taken over.
    """
    readers = {name: _reader(name, config) for name, config in recipe.encoders.items()}
    known = FLOWS | {f"{name}_to_{data}": (data, name) for name in readers for data in ("image", "text")}
    for name in recipe.flows:
        if name not in known:
            raise UsageError(suggest("flow", name, known))
    started = None if recipe.init is None else _Started(load(recipe.init, device="cpu"))
    types = [known[name] for name in recipe.flows]
    codecs = {data: _codec(recipe, data, started) for data in dict.fromkeys(data for data, _ in types)}
    encoder = _encoder(recipe, started)
    views = {name: encoder.view(reading) for name, reading in READINGS.items()} | readers
    network = _network(recipe, codecs, {context: views[context] for _, context in types}, size, started)
    losses = {data: _loss(recipe, data, network.config["parametrisation"], started) for data in codecs}
    flows = {}
    for name, settings in recipe.flows.items():
        data, context = known[name]
        view = readers[context] if context in readers else encoder.view(READINGS[context], settings.blank)
        flows[name] = FloatFlow(codecs[data], view, network.view(data, context), losses[data])
        flows[name].grid((size, size))
    return JointTask(flows, network, codecs, encoder, recipe, size)


class _Started:
    """What a model gives that training starts from."""

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self.flows: dict[str, Any] = {
            name: flow for name, flow in model.flows.items() if isinstance(flow, FloatFlow) and isinstance(flow.network, FlowNetwork)
        }
        if not self.flows:
            raise UsageError(
                f"the model {model.name!r} is of the family {model.family}: training several flows starts from a versatile one"
            )

    def of(self, data: str) -> Any:
        """A flow to a data type; None where there is none."""
        return next((flow for flow in self.flows.values() if flow.network.config["data"] == data), None)

    @property
    def any(self) -> Any:
        return next(iter(self.flows.values()))

    @property
    def network(self) -> MultiFlowUNet:
        network: MultiFlowUNet = self.any.network.whole
        return network


def _codec(recipe: JointRecipe, data: str, started: _Started | None) -> Any:
    given, kind = recipe.codecs.get(data), TextVAE if data == "text" else FloatCodec
    if given is None:
        flow = None if started is None else started.of(data)
        if flow is None:
            raise UsageError(f"codecs.{data} is missing: the flows that make {data}s need one")
        return flow.codec
    codec: Any = load_part("codec", CODECS, given) if isinstance(given, str) else build("codec", CODECS, given)
    if not isinstance(codec, kind):
        wanted = "texts, such as text-vae" if data == "text" else "floats, such as kl"
        raise UsageError(f"codecs.{data} is {codec.config['kind']!r}: the flows need a codec of {wanted}")
    return codec


def _encoder(recipe: JointRecipe, started: _Started | None) -> Any:
    """The encoder of words and pictures. The small CLIP of `two_towers` is taken with all its tokens."""
    given = recipe.context
    if given is None:
        if started is None:
            raise UsageError("context is missing: give the folder of a trained encoder of words and pictures, or a CLIP")
        whole: Any = getattr(started.any.context_encoder, "whole", None)
    elif isinstance(given, str) and not (Path(given) / CONFIG).is_file():
        whole = load_clip_tokens(given)
    else:
        whole = load_part("context encoder", CONTEXTS, given) if isinstance(given, str) else build("context encoder", CONTEXTS, given)
    if isinstance(whole, TwoTowers) and not isinstance(whole, TowerTokens):
        tokens = TowerTokens(**{name: value for name, value in whole.config.items() if name != "kind"})
        tokens.load_state_dict(whole.state_dict())
        whole = tokens.eval()
    if not hasattr(whole, "view"):
        kind = "that of init" if whole is None else repr(whole.config["kind"])
        raise UsageError(f"the context encoder {kind} does not read both words and pictures token by token: give tower-tokens or a CLIP")
    return whole


def _reader(name: str, config: Mapping[str, Any]) -> Any:
    """The encoder of a further context type. UsageError for one that does not read pictures, from which training takes contexts."""
    if name in READINGS:
        raise UsageError(f"encoders.{name}: {READINGS[name]} are read by `context`")
    made = build("context encoder", CONTEXTS, config)
    if not hasattr(made, "see") or not hasattr(made, "of"):
        raise UsageError(f"encoders.{name}: {config['kind']!r} does not read pictures: use palette, or one of your own with `see`")
    return made


def _network(
    recipe: JointRecipe, codecs: Mapping[str, Any], views: Mapping[str, Any], size: int, started: _Started | None
) -> MultiFlowUNet:  # fmt: skip
    """The network; what codecs and encoder imply may be left out of its configuration. Layers of `init` are taken over by name."""
    config = {"kind": "versatile", **(recipe.network or ({} if started is None else started.network.config))}
    data = {
        name: {"kind": "vector", "width": codec.channels} if name == "text" else {"kind": "grid", "channels": codec.channels}
        for name, codec in codecs.items()
    }
    rows = {
        name: {"kind": "rows", "width": view.width} if name in READINGS else {"kind": view.config["kind"]} for name, view in views.items()
    }
    config["data"] = _completed(data, config.get("data", {}))
    config["contexts"] = _completed(rows, config.get("contexts", {}))
    network = build("network", NETWORKS, config)
    if not isinstance(network, MultiFlowUNet):
        raise UsageError(f"a network {config['kind']!r} has one flow: use versatile")
    for name, codec in codecs.items():
        channels = network.data[name].latent_shape(codec.grid((size, size)))[0]
        if channels != codec.channels:
            raise UsageError(f"the network makes {name}s of {channels} channels, but their codec has {codec.channels}: make them equal")
    for name, view in views.items():
        width = network.contexts[name].context_width
        if width is not None and width != view.width:
            raise UsageError(f"the network's context {name!r} has rows of {width}, but the encoder gives {view.width}: make them equal")
    if started is not None:
        _take_over(network, started, recipe.copies)
    elif recipe.copies:
        raise UsageError("copies are of layers of a model to start from, but there is no init: leave them out")
    return network


def _completed(implied: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What flows need of types of layers, and no more: as the parts imply it, unless the recipe says otherwise."""
    return {name: {**values, **(given.get(name) or {})} for name, values in implied.items()}


@torch.no_grad()
def _take_over(network: MultiFlowUNet, started: _Started, copies: Mapping[str, str]) -> None:
    theirs, taken = started.network.state_dict(), 0
    for lacking, source in copies.items():
        if not any(name.startswith(f"{source}.") for name in theirs):
            raise UsageError(f"copies: the model {started.name!r} has no layers {source!r} for {lacking!r} to start as")
    for name, value in network.state_dict().items():
        sources = [name] + [source + name[len(lacking) :] for lacking, source in copies.items() if name.startswith(f"{lacking}.")]
        found = next((source for source in sources if source in theirs), None)
        if found is None:
            continue
        if theirs[found].shape != value.shape:
            raise UsageError(
                f"the model {started.name!r} does not fit the recipe: {found} is {list(theirs[found].shape)} there, "
                f"and {list(value.shape)} here"
            )
        value.copy_(theirs[found])
        taken += 1
    if not taken:
        raise UsageError(f"the model {started.name!r} has no layer of the recipe's network: leave init out")


def _loss(recipe: JointRecipe, data: str, parametrisation: str, started: _Started | None) -> GaussianLoss:
    flow = None if started is None else started.of(data) or started.any
    given = recipe.processes.get(data) or ({} if flow is None else flow.process.schedule.config)
    process = GaussianProcess(make_gaussian_schedule(**{"kind": LinearBeta.KIND, **given}))
    return GaussianLoss(process, parametrisation, **recipe.denoising.get(data, DenoisingLoss()).model_dump())
