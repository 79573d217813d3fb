"""Models ⇄ folders of diffusers' VQDiffusionPipeline.

    model_index.json  transformer/  vqvae/  text_encoder/  tokenizer/  scheduler/  learned_classifier_free_sampling_embeddings/
    tessera.json  tessera.safetensors       what the pipeline has no place for; diffusers does not look at them

With the two files of ours the model comes back bit for bit. Without them (folders that others wrote) it is what the pipeline holds.

A codebook of which a subset is used is written as the codes in use, so the pipeline decodes exactly what Tessera decodes. Its VQModel
encodes by the nearest of them, though, where a mapped codec searches the whole codebook first and a Gumbel codec asks its own
classifier: pictures that diffusers *encodes* with such a model have other tokens. The pipeline itself encodes none.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.atomic import write_folder
from tessera.checkpoints.diffusers_configs import PIPELINE, SCHEDULER, VERSION, configs_of, flow_config, why_not
from tessera.checkpoints.diffusers_names import CODEC, NETWORK, NULL, TEXT, current_name, places
from tessera.checkpoints.safe_read import Tensors, read_archive
from tessera.codecs.remap import Remap
from tessera.codecs.vqgan import VQGAN
from tessera.contexts.clip import CLIPText
from tessera.contexts.tokenizer import END, START, read_merges
from tessera.errors import TesseraError, UsageError
from tessera.flow import TokenFlow
from tessera.json_files import read_json
from tessera.model import Model
from tessera.model_folder import FORMAT, read_description
from tessera.model_weights import build_model, describe_flow, floats_of, refuse_existing
from tessera.nn.initialisation import without_initialisation
from tessera.nn.sketch import check_shapes, sketch
from tessera.tensor_files import StoredTensors, TensorSource, write_tensors
from tessera.tensor_index import index_name

__all__ = ["INDEX", "export_diffusers", "import_diffusers"]

INDEX = "model_index.json"
TOKENIZER = "tokenizer"
OURS, OUR_WEIGHTS = "tessera.json", "tessera.safetensors"
CLASSES = {
    NETWORK: ("diffusers", "Transformer2DModel"),
    CODEC: ("diffusers", "VQModel"),
    TEXT: ("transformers", "CLIPTextModel"),
    TOKENIZER: ("transformers", "CLIPTokenizer"),
    SCHEDULER: ("diffusers", "VQDiffusionScheduler"),
    # In this module only: with the library that diffusers 0.42 itself saves here, "diffusers", it does not find the class again.
    NULL: ("diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion", "LearnedClassifierFreeSamplingEmbeddings"),
}
NOTHING_LEARNED: dict[str, Any] = {"learnable": False}
HINT = f"export it again, or delete {OURS} and {OUR_WEIGHTS} to read what the pipeline itself holds"
WEIGHTS = dict.fromkeys((NETWORK, CODEC, NULL), ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"))
WEIGHTS[TEXT] = ("model.safetensors", "pytorch_model.bin")
"""Of each component, as written today and by older versions."""

CODEBOOK = "quantize.embedding.weight"
MERGES = ("merges.txt", "tokenizer.json")
PIPELINE_DEFAULTS = {"guidance": 5.0}
RECORDS = ("codec.quantizer.histogram", "codec.quantizer.idle", "codec.quantizer.updates")
"""Of our training alone: all zero for a codec from elsewhere, so that training on does not start its codebook anew."""

Files = Mapping[str, tuple[Path, StoredTensors | Tensors]]
"""Component → its weights file and the tensors in it."""


def export_diffusers(model: Model, folder: Path, dtype: str = "float32", overwrite: bool = False) -> Path:
    """Writes a folder that `diffusers.VQDiffusionPipeline.from_pretrained` loads, whole or not at all.

    Args:
        dtype: of the stored weights: "float32", "float16" or "bfloat16".
        overwrite: replace a folder that exists.

    Raises:
        UsageError: the pipeline cannot hold the model (the sentence says why), or the folder exists.
        TesseraError: it cannot be written.
    """
    if (reason := why_not(model)) is not None:
        raise UsageError(f"diffusers' {PIPELINE} cannot hold model {model.name!r}: {reason}; save it as a model folder instead")
    flow: Any = model.flows["text_to_image"]
    assert isinstance(flow.context_encoder, CLIPText)
    refuse_existing(folder, overwrite)
    floats = floats_of(dtype)
    weights, ours = _views(flow)
    configs = configs_of(flow)
    try:
        with write_folder(folder) as part:
            for component, tensors in weights.items():
                (part / component).mkdir()
                write_tensors(part / component, WEIGHTS[component][0], _sources(tensors, floats))
                library = {} if component == TEXT else {"_diffusers_version": VERSION}
                _write_json(part / component / "config.json", {**library, **configs[component]})
            (part / SCHEDULER).mkdir()
            _write_json(part / SCHEDULER / "scheduler_config.json", {"_diffusers_version": VERSION, **configs[SCHEDULER]})
            _write_tokenizer(part / TOKENIZER, flow.context_encoder)
            _write_json(part / INDEX, {"_class_name": PIPELINE, "_diffusers_version": VERSION, **CLASSES})
            described = {"format": FORMAT, **model.about(), "dtype": dtype, "flows": {"text_to_image": describe_flow(flow)}}
            _write_json(part / OURS, described)
            write_tensors(part, OUR_WEIGHTS, _sources(ours, floats))
    except OSError as error:
        raise TesseraError(f"cannot write the diffusers folder {folder}: {error.strerror or error}") from None
    return folder


def import_diffusers(folder: Path) -> Model:
    """The model in a folder of VQDiffusionPipeline, on the CPU in float32: what Tessera exported, or what diffusers saved.

    Weights are read from safetensors files or, without running anything from them, from the .bin files of older versions.

    Raises:
        UsageError: it is not a folder of diffusers.
        TesseraError: it is of another pipeline, or a component is missing, damaged or does not fit the others.
    """
    configs = _read_configs(folder)
    described = (folder / OURS).is_file()
    about = read_description(folder, OURS) if described else _describe(folder, configs)
    weights = {component: _weights(folder, component) for component in WEIGHTS if component != NULL or configs[NULL].get("learnable")}
    ours = StoredTensors(folder, OUR_WEIGHTS) if described else None

    def made() -> Model:
        return Model(*build_model(about, folder / (OURS if described else INDEX)))

    files = {**{component: stored.shapes for component, (_, stored) in weights.items()}, OURS: ours.shapes if ours is not None else {}}
    shapes = {f"{file}.{name}": shape for file, tensors in files.items() for name, shape in tensors.items()}
    _compare(sketch(made, shapes, folder, OURS if described else INDEX), folder, weights, ours)
    with without_initialisation():  # every tensor that is used comes from the files
        model = made()
    for each in model.flows.values():
        if isinstance(each.context_encoder, CLIPText):
            _read_tokenizer(folder / TOKENIZER, each.context_encoder)
    if described:
        _check_described(folder, model, configs)
    _fill(model, folder, weights, ours)
    return model


def _tensors(flow: TokenFlow) -> dict[str, Tensor]:
    parts = {"codec": flow.codec, "context": flow.context_encoder, "network": flow.network}
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def _views(flow: TokenFlow) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of each component under the pipeline's names, and those that it has no place for under ours: views of the model's.

    Only the codes in use of a mapped codebook are a copy.
    """
    where = places(flow)
    weights: dict[str, dict[str, Tensor]] = {component: {} for component in WEIGHTS}
    ours = {}
    for name, tensor in _tensors(flow).items():
        if name not in where:
            ours[name] = tensor
            continue
        place = where[name]
        for theirs, part in zip(place.names, tensor.chunk(len(place.names)), strict=True):
            weights[place.component][theirs] = part.view(place.shape)
    if (remap := _remap(flow)) is not None:
        weights[CODEC][CODEBOOK] = ours["codec.quantizer.codebook"][remap.to_code]
    if not weights[NULL]:  # what the pipeline's class has when nothing was learned
        weights[NULL]["embeddings"] = torch.empty(0)
    return weights, ours


def _remap(flow: TokenFlow) -> Remap | None:
    assert isinstance(flow.codec, VQGAN)
    return flow.codec.remap


def _sources(tensors: Mapping[str, Tensor], floats: torch.dtype) -> dict[str, TensorSource]:
    return {name: TensorSource.of(tensor, floats) for name, tensor in tensors.items()}


def _write_tokenizer(folder: Path, encoder: CLIPText) -> None:
    tokenizer = encoder.tokenizer
    assert tokenizer is not None
    folder.mkdir()
    for name, content in encoder.extra_files().items():
        (folder / name).write_bytes(content)
    _write_json(folder / "vocab.json", tokenizer.vocabulary)
    markers = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}
    _write_json(folder / "special_tokens_map.json", markers)
    settings = {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": tokenizer.length}
    _write_json(folder / "tokenizer_config.json", {**settings, **markers})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Component → its configuration. Checks that the folder is of our pipeline and names every component."""
    if not (folder / INDEX).is_file():
        raise UsageError(f"{folder} is not a folder of diffusers: it has no {INDEX}; give the folder that a pipeline was saved to")
    index = _read_json(folder / INDEX)
    if index.get("_class_name") != PIPELINE:
        raise TesseraError(f"{folder} holds a {index.get('_class_name')}, but only folders of diffusers' {PIPELINE} can be read")
    here = [component for component in CLASSES if component != NULL or index.get(component) not in (None, [None, None])]
    for component in here:
        entry, class_name = index.get(component), CLASSES[component][1]
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] != class_name:
            raise TesseraError(f"{folder / INDEX} has {entry} as {component}, but {PIPELINE} needs a {class_name}: save the pipeline again")
        if not (folder / component).is_dir():
            raise TesseraError(f"{folder / component} is missing, though {INDEX} names it: copy the whole folder again")
    files = dict.fromkeys(WEIGHTS, "config.json") | {SCHEDULER: "scheduler_config.json"}
    configs = {component: _read_json(folder / component / file) for component, file in files.items() if component in here}
    return {NULL: NOTHING_LEARNED, **configs}  # the component came later than the pipeline


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise TesseraError(f"{path} cannot be read ({error}): copy the folder again") from None
    return value


def _describe(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `tessera.json` would say. Raises TesseraError for settings that our parts do not have."""
    try:
        flow = flow_config(configs)
        side = configs[NETWORK]["sample_size"] * 2 ** (len(flow["codec"]["multipliers"]) - 1)
    except KeyError as error:
        raise TesseraError(f"{folder} does not describe a model: the setting {error} is missing; copy the folder again") from None
    except (ValueError, TypeError, ArithmeticError, IndexError, AttributeError) as error:
        raise TesseraError(f"{folder} does not describe a model that can be read: {error}") from None
    return {
        "name": folder.resolve().name, "family": "vq-diffusion", "size": [side, side], "flows": {"text_to_image": flow},
        "defaults": PIPELINE_DEFAULTS, "card": {},
    }  # fmt: skip


def _check_described(folder: Path, model: Model, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises TesseraError when `tessera.json` and the components' configurations are not of one model."""
    if (reason := why_not(model)) is not None:
        raise TesseraError(f"{folder / OURS} describes no model of {PIPELINE} ({reason}): {HINT}")
    flow: Any = model.flows["text_to_image"]
    for component, settings in configs_of(flow).items():
        for name, value in settings.items():
            if (found := configs[component].get(name, value)) != value:
                raise TesseraError(f"{component} of {folder} has {name} {found!r}, but {OURS} describes {value!r}: {HINT}")


def _compare(model: Model, folder: Path, weights: Files, ours: StoredTensors | None) -> None:
    """Raises TesseraError where the files do not hold what the model needs."""
    flow: Any = model.flows.get("text_to_image")
    if not (isinstance(flow, TokenFlow) and isinstance(flow.codec, VQGAN) and isinstance(flow.context_encoder, CLIPText)):
        raise TesseraError(f"{folder / OURS} describes no model of {PIPELINE} ({why_not(model)}): {HINT}")
    wanted, homeless = _views(flow)
    if ours is not None:
        check_shapes(folder / OUR_WEIGHTS, ours.shapes, _shapes(homeless), OURS)
    for component, tensors in _learned(flow, wanted):
        if component not in weights:
            raise TesseraError(f"{folder / component} is missing: copy the whole folder again")
        path, stored = weights[component]
        found = {name: stored.shapes[theirs] for name, theirs in _names(component, stored).items()}
        check_shapes(path, found, _shapes(tensors), "config.json")


def _fill(model: Model, folder: Path, weights: Files, ours: StoredTensors | None) -> None:
    """Every tensor of the model from the component that has it, or from `ours`."""
    flow: Any = model.flows["text_to_image"]
    wanted, homeless = _views(flow)
    with torch.no_grad():
        for name, tensor in homeless.items():
            if ours is None:
                assert name in RECORDS, name
                tensor.zero_()
            else:
                tensor.copy_(ours[name])
        for component, tensors in _learned(flow, wanted):
            _, stored = weights[component]
            names = _names(component, stored)
            for name, tensor in tensors.items():
                tensor.copy_(stored[names[name]])
        if (remap := _remap(flow)) is not None:
            if not 0 <= int(remap.to_code.min()) <= int(remap.to_code.max()) < remap.codebook:
                raise TesseraError(f"{folder / OUR_WEIGHTS} maps classes to codes that do not exist: export the model again")
            homeless["codec.quantizer.codebook"][remap.to_code] = wanted[CODEC][CODEBOOK]


def _learned(flow: TokenFlow, wanted: Mapping[str, dict[str, Tensor]]) -> list[tuple[str, dict[str, Tensor]]]:
    """The components with tensors of the flow: the null embedding is not one where nothing was learned."""
    learned = "context.null_embedding" in _tensors(flow)
    return [(component, tensors) for component, tensors in wanted.items() if component != NULL or learned]


def _names(component: str, stored: Mapping[str, Tensor]) -> dict[str, str]:
    """Our name of each tensor in a component's file → the name there."""
    return {now: theirs for theirs in stored if (now := current_name(component, theirs)) is not None}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _weights(folder: Path, component: str) -> tuple[Path, StoredTensors | Tensors]:
    """The weights file of a component, and its tensors."""
    place = folder / component
    safe, pickled = WEIGHTS[component]
    if (place / safe).is_file() or (place / index_name(safe)).is_file():
        return place / safe, StoredTensors(place, safe)
    if (variant := _variant(place, safe)) is not None:
        return variant, StoredTensors(place, variant.name)
    file = place / pickled if (place / pickled).is_file() else _variant(place, pickled)
    if file is None:
        raise TesseraError(f"{place} has no weights: expected {safe} or {pickled}, or a variant of them; copy the whole folder again")
    states = read_archive(file).states()
    if "" not in states:
        raise TesseraError(f"{file} is no state dict, which the weights of diffusers are: copy the file again")
    return file, Tensors(states[""])


def _variant(place: Path, name: str) -> Path | None:
    """The file of a variant, `diffusion_pytorch_model.fp16.safetensors`, where the folder holds no other."""
    stem, suffix = Path(name).stem, Path(name).suffix
    return next(iter(sorted(path for path in place.glob(f"{stem}.*{suffix}") if "." not in path.name[len(stem) + 1 : -len(suffix)])), None)


def _read_tokenizer(folder: Path, encoder: CLIPText) -> None:
    path = next((folder / name for name in MERGES if (folder / name).is_file()), None)
    if path is None:
        raise TesseraError(f"{folder} has no tokenizer: expected {' or '.join(MERGES)}; copy the whole folder again")
    try:
        encoder.use_merges(read_merges(path))
    except UsageError as error:  # what a file says is not the user's argument
        raise TesseraError(f"{path} does not fit the text encoder: {error}") from None
