"""Every part by name. A new codec, context encoder, network, sampler or dataset is one file and one line here.

Entries are "module:Class", imported when asked for, so that names can be listed without importing torch.
Model parts keep their constructor arguments in `part.config` (JSON values); `build` makes the same part from them again.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from tessera.errors import TesseraError, UsageError, suggest
from tessera.schema import check_arguments

__all__ = [
    "CODECS", "CONTEXTS", "DATASETS", "EXTRACTORS", "FAMILIES", "FLOAT_SAMPLERS", "LOSSES", "NETWORKS", "READERS",
    "SAMPLERS", "TOKEN_SAMPLERS", "build", "build_described", "check", "look_up",
]  # fmt: skip

CODECS = {
    "vqgan": "tessera.codecs.vqgan:VQGAN",
    "patch": "tessera.codecs.patch:PatchVQ",
    "kl": "tessera.codecs.kl:KLAutoencoder",
    "pixels": "tessera.codecs.pixels:Pixels",
    "text-vae": "tessera.codecs.text_vae:TextVAE",
}
CONTEXTS = {
    "none": "tessera.contexts.context:Unconditional",
    "labels": "tessera.contexts.labels:Labels",
    "clip-text": "tessera.contexts.clip:CLIPText",
    "words": "tessera.contexts.words:Words",
    "clip": "tessera.contexts.clip_joint:JointCLIP",
    "clip-tokens": "tessera.contexts.clip_tokens:CLIPTokens",
    "two-towers": "tessera.contexts.two_towers:TwoTowers",
    "palette": "tessera.contexts.palette:Palette",
    "tower-tokens": "tessera.contexts.tower_tokens:TowerTokens",
}
NETWORKS = {
    "vq-diffusion": "tessera.families.vq_diffusion.network:TokenTransformer",
    "v-diffusion": "tessera.families.v_diffusion.network:UNet",
    "v-transformer": "tessera.families.v_diffusion.transformer:PatchTransformer",
    "absorbing": "tessera.families.absorbing.network:Transformer",
    "versatile": "tessera.families.versatile.network:MultiFlowUNet",
}
LOSSES = {  # over tokens; their process is an argument beside the configuration
    "variational": "tessera.processes.discrete_loss:DiscreteLoss",
    "masked": "tessera.processes.masked_loss:MaskedLoss",
    "autoregressive": "tessera.processes.masked_loss:AutoregressiveLoss",
}
TOKEN_SAMPLERS = {
    "ancestral": "tessera.samplers.ancestral:Ancestral",
    "skipping": "tessera.samplers.skipping:Skipping",
    "high-quality": "tessera.samplers.purity:HighQuality",
    "purity": "tessera.samplers.purity:Purity",
    "first-hitting": "tessera.samplers.first_hitting:FirstHitting",
    "confidence": "tessera.samplers.confidence:Confidence",
    "halton": "tessera.samplers.halton:Halton",
    "remasking": "tessera.samplers.remasking:Remasking",
    "masked-language-model": "tessera.samplers.masked_language_model:MaskedLanguageModel",
    "autoregressive": "tessera.samplers.raster:Raster",
}
FLOAT_SAMPLERS = {
    "ddim": "tessera.samplers.ddim:DDIM",
    "ddpm": "tessera.samplers.ddim:DDPM",
    "prk": "tessera.samplers.pseudo_numerical:PRK",
    "pie": "tessera.samplers.pseudo_numerical:PIE",
    "plms": "tessera.samplers.pseudo_numerical:PLMS",
    "plms2": "tessera.samplers.pseudo_numerical:PLMS2",
    "iplms": "tessera.samplers.pseudo_numerical:IPLMS",
    "dpm-solver++": "tessera.samplers.dpm_solver:DPMSolver",
    "dpm-solver++-sde": "tessera.samplers.dpm_solver:DPMSolverSDE",
    "unipc": "tessera.samplers.unipc:UniPC",
    "heun": "tessera.samplers.heun:Heun",
}
SAMPLERS = TOKEN_SAMPLERS | FLOAT_SAMPLERS
DATASETS = {
    "scenes": "tessera.data.scenes:Scenes",
    "scene-labels": "tessera.data.scene_labels:SceneLabels",
    "folder": "tessera.data.folder:Folder",
    "coco": "tessera.data.coco:COCO",
    "cub": "tessera.data.cub:CUB",
    "imagenet": "tessera.data.imagenet:ImageNet",
    "lsun": "tessera.data.lsun:LSUN",
    "shards": "tessera.data.shards:Shards",
}
EXTRACTORS = {  # of features of pictures; see `evaluation.extractors`
    "scenes": "tessera.evaluation.scenes_features:ScenesFeatures",
    "inception": "tessera.evaluation.inception:Inception",
    "dinov2": "tessera.evaluation.dinov2:DINOv2",
    "clip": "tessera.evaluation.joint_features:JointFeatures",
}
READERS = {"scenes-reader": "tessera.evaluation.scenes_reader:ScenesReader"}  # networks that read pictures
FAMILIES = {  # modules that know a family's released files; see `checkpoints.recognise`
    "vq-diffusion": "tessera.families.vq_diffusion.released",
    "v-diffusion": "tessera.families.v_diffusion.released",
    "absorbing": "tessera.families.absorbing.released",
    "versatile": "tessera.families.versatile.released",
}

MISFITS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError)
"""What constructors raise of arguments that each are right, but not together. Anything else is a fault of ours."""


def look_up(kind: str, table: Mapping[str, str], name: str) -> Any:
    """The class registered under `name`; UsageError naming the nearest one otherwise."""
    if name not in table:
        raise UsageError(suggest(kind, name, table))
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def build(kind: str, table: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """The part described by `config`: its registered name under "kind", the other entries its constructor's arguments.

    Raises:
        UsageError: an unknown name, wrong arguments, or arguments that do not fit each other.
    """
    name, made, arguments = check(kind, table, config)
    try:
        return made(**arguments)
    except TesseraError:
        raise
    except MISFITS as error:
        raise UsageError(f"{kind} {name!r}: its arguments do not fit each other ({type(error).__name__}: {error})") from error


def build_described(kind: str, table: Mapping[str, str], config: Any) -> Any:
    """`build`, for a description that lies in a folder which anybody may have written: it names no file and no address.

    Classes name the arguments that would be read from elsewhere in `outside`; saved parts keep such files in their folder (`extra_files`).

    Raises:
        UsageError: as `build`, or an argument that names a place outside the folder.
    """
    _, made, arguments = check(kind, table, config)
    if named := [key for key in getattr(made, "outside", ()) if arguments.get(key) is not None]:
        raise UsageError(f"the {kind} would read its {named[0]} from outside the folder: put the file into the folder instead")
    return build(kind, table, config)


def check(kind: str, table: Mapping[str, str], config: Any, whole: bool = True) -> tuple[str, Any, dict[str, Any]]:
    """What `build` would make, and of what, without making it: (registered name, constructor, arguments).

    whole: see `check_arguments`.

    Raises:
        UsageError: an unknown name, or wrong arguments.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("kind"), str):
        raise UsageError(f"the {kind} is not described by its kind and arguments: {{kind: {next(iter(table))}, ...}}")
    arguments = {key: value for key, value in config.items() if key != "kind"}
    name = config["kind"]
    made = look_up(kind, table, name)
    check_arguments(kind, name, made, arguments, whole)
    return name, made, arguments
