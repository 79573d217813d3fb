"""Flows ⇄ the files of a model folder (see `model_folder` for the format)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tessera.atomic import write_folder
from tessera.codecs.codec import TokenCodec
from tessera.errors import TesseraError, UsageError, suggest
from tessera.float_flow import FloatFlow
from tessera.flow import Flow, SamplingSettings, TokenFlow
from tessera.model_folder import DESCRIPTION, FORMAT, WEIGHTS, read_description
from tessera.model_parts import ROLES, Maker, all_parts, describe_part, parts_of, shared_parts, tensors_of
from tessera.nn.initialisation import without_initialisation
from tessera.nn.sketch import check_shapes, sketch
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.registry import LOSSES, build
from tessera.schema import check_arguments
from tessera.tensor_files import SHARD_BYTES, StoredTensors, TensorSource, write_tensors

__all__ = [
    "Stored",
    "build_flow",
    "build_model",
    "chosen",
    "describe_flow",
    "floats_of",
    "read_model",
    "refuse_existing",
    "write_model",
]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write_model(
    folder: Path, about: Mapping[str, Any], flows: Mapping[str, Flow], dtype: str, overwrite: bool, shard_bytes: int = SHARD_BYTES
) -> str:
    """Writes a model folder, whole or not at all; returns its `weights_sha256`. `about`: the other keys of model.json.

    Above `shard_bytes` the weights are split over several files. The memory needed beside the model is one converted tensor.
    """
    refuse_existing(folder, overwrite)
    floats = floats_of(dtype)
    shared = shared_parts(flows)
    tensors = {name: TensorSource.of(tensor, floats) for name, tensor in tensors_of(flows, shared).items()}
    extra = {name: content for part in all_parts(flows) if hasattr(part, "extra_files") for name, content in part.extra_files().items()}
    parts = {"parts": {name: part.config for name, part in shared.items()}} if shared else {}
    try:
        with write_folder(folder) as part:
            weights = write_tensors(part, WEIGHTS, tensors, shard_bytes)
            for name, content in extra.items():
                (part / name).write_bytes(content)
            parts["flows"] = {name: describe_flow(flow, shared) for name, flow in flows.items()}
            whole = {"format": FORMAT, **about, "dtype": dtype, "weights_sha256": weights, **parts}
            text = json.dumps(whole, indent=2, ensure_ascii=False)
            (part / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise TesseraError(f"cannot write the model folder {folder}: {error.strerror or error}") from None
    return weights


class Stored(NamedTuple):
    """What a model folder holds: the arguments of `Model`."""

    name: str
    family: str
    flows: dict[str, Flow]
    size: tuple[int, int]
    defaults: SamplingSettings
    card: dict[str, Any]
    weights: str | None
    partial: bool = False


def read_model(folder: Path, flows: Sequence[str] | None = None) -> Stored:
    """The model in a folder, on the CPU in float32; of `flows`, no more than these need.

    Raises:
        UsageError: it has no such flow.
        TesseraError: its files are not whole or do not fit each other.
    """
    about = read_description(folder)
    wanted = about["flows"] if flows is None else chosen(about["flows"], flows, folder)
    partial = len(wanted) < len(about["flows"])
    stored = StoredTensors(folder, WEIGHTS)

    def made() -> tuple[Stored, dict[str, Tensor]]:
        maker = Maker(about.get("parts", {}), wanted.values())
        model = build_model({**about, "flows": wanted}, folder / DESCRIPTION, maker)._replace(partial=partial)
        return model, tensors_of(model.flows, maker.made, used=partial)

    _, sketched = sketch(made, stored.shapes, folder / WEIGHTS, DESCRIPTION)
    found = {name: shape for name, shape in stored.shapes.items() if name in sketched} if partial else stored.shapes
    check_shapes(folder / WEIGHTS, found, {name: tuple(tensor.shape) for name, tensor in sketched.items()}, DESCRIPTION)
    with without_initialisation():  # every tensor that is used comes from the file
        model, expected = made()
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(stored[name])
    for part in all_parts(model.flows):
        if hasattr(part, "load_extra_files"):
            part.load_extra_files(folder)
    return model


def chosen(known: Mapping[str, Any], flows: Sequence[str], source: Path | str) -> dict[str, Any]:
    """Those of the flows of `source` that are asked for. UsageError for one that it has not, or none."""
    for name in flows:
        if name not in known:
            raise UsageError(f"{source}: {suggest('flow', name, known)}")
    if not flows:
        raise UsageError(f"{source}: no flow is asked for: name one or more of {', '.join(known)}, or leave flows out for all")
    return {name: known[name] for name in known if name in flows}


def build_model(about: Mapping[str, Any], source: Path, maker: Maker | None = None) -> Stored:
    """The model that a description describes, its weights not read yet. TesseraError names `source` when it describes none.

    maker: makes the parts; without one, nothing is shared.
    """
    try:
        height, width = about["size"]
        check_arguments("model", "defaults", SamplingSettings, about["defaults"])
        flows = {name: build_flow(config, maker) for name, config in about["flows"].items()}
        defaults = SamplingSettings(**about["defaults"])
    except (
        UsageError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:  # the file's fault
        sentence = f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise TesseraError(f"{source} does not describe a model: {sentence}") from error
    return Stored(about["name"], about["family"], flows, (height, width), defaults, about.get("card", {}), about.get("weights_sha256"))


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Raises UsageError for a folder that exists, unless it may be overwritten."""
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} already exists: choose another folder, or allow overwriting it")


def floats_of(dtype: str) -> torch.dtype:
    """The dtype that floating-point weights are stored in. Raises UsageError for an unknown name."""
    if dtype not in DTYPES:
        raise UsageError(suggest("dtype", dtype, DTYPES))
    return DTYPES[dtype]


def describe_flow(flow: Flow, shared: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON values from which `build_flow` makes the same flow, but for its weights. `shared`: its parts that stand elsewhere."""
    parts = {role: describe_part(part, shared or {}) for role, part in parts_of(flow).items()}
    return {"kind": flow.kind, **parts, "process": flow.loss.process.config, "loss": flow.loss.config}


def build_flow(config: Mapping[str, Any], maker: Maker | None = None) -> Flow:
    """The flow that `describe_flow` described; one of no kind is over tokens. Raises UsageError when its parts do not fit each other."""
    maker = maker or Maker({}, [config])
    kind = config.get("kind", TokenFlow.kind)
    if kind not in (TokenFlow.kind, FloatFlow.kind):
        raise UsageError(suggest("kind of flow", str(kind), [TokenFlow.kind, FloatFlow.kind]))
    codec, context_encoder, network = (maker.make(role, config[role]) for role in ROLES)
    if isinstance(codec, TokenCodec) != (kind == TokenFlow.kind):
        raise UsageError(f"the codec {codec.config['kind']!r} does not make the {kind} that the flow is over")
    width = getattr(context_encoder, "width", context_encoder.config.get("width"))
    needed = getattr(network, "context_width", network.config.get("context_width"))
    if needed is not None and width != needed:
        raise UsageError(f"the network needs a context of width {needed} but the context encoder gives {width or 'none'}")
    if kind == FloatFlow.kind:
        loss = {"parametrisation": network.parametrisation, **config.get("loss", {})}
        with torch.device("cpu"):  # tables are computed even where a model is only sketched
            gaussian = GaussianProcess.from_config(config["process"])
        return FloatFlow(codec, context_encoder, network, GaussianLoss(gaussian, **loss))
    with torch.device("cpu"):
        process = DiscreteProcess.from_config(config["process"])
    for what, of_network, of_process in [
        ("classes", network.classes, process.classes),
        ("time steps", network.config.get("timesteps"), process.steps),  # None: the network is not told the time
    ]:
        if of_network is not None and of_network != of_process:
            raise UsageError(f"the network has {of_network} {what} but the process {of_process}")
    loss = build("loss", LOSSES, {"kind": "variational", **config["loss"], "process": process})
    return TokenFlow(codec, context_encoder, network, loss)
