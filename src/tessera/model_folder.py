"""A model on disk: a folder with `model.json`, which says what it is made of, and `model.safetensors`, its weights.

    {"format": 1, "name": "scenes", "family": "vq-diffusion", "size": [64, 64], "dtype": "float32", "weights_sha256": "…",
     "flows": {"text_to_image": {"kind": "tokens" or "floats", "codec": {"kind": …}, "context": {"kind": …}, "network": {"kind": …},
                                 "process": {"schedule": {…}, …}, "loss": {…}}},
     "defaults": {"sampler": …, "steps": …, "guidance": …, "truncation": …, "temperature": …}, "card": {…}}

Tensors are named `<flow>.<part>.<name>`. What several flows share stands once, under "parts": {name: {"kind": …}}, its tensors are named
`parts.<part>.<name>`, and flows name it, {"part": name, …} (see `model_parts`). Weights of more than 5 GB are shards with an index (see
`tensor_index`). `weights_sha256` is the SHA-256 of the weights file, or what `sha256sum model-*.safetensors | sha256sum` prints of shards.
Everything here works without torch, so that models can be listed at once.
"""

from pathlib import Path
from typing import Any

from tessera.errors import TesseraError, UsageError, suggest
from tessera.json_files import read_json
from tessera.tensor_index import combined_sha256, locate, sha256, tensor_files

__all__ = ["ASSETS", "DESCRIPTION", "FORMAT", "WEIGHTS", "bundled", "find", "read_description", "shapes", "weights_sha256"]

FORMAT = 1
DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"
ASSETS = Path(__file__).parent / "assets"
# What an installation must have; a folder missing from it is a broken installation, not an unknown name.
SHIPPED = ("scenes", "scenes-v", "scenes-versatile")
KEYS = {"name": str, "family": str, "flows": dict, "size": list, "defaults": dict}
OPTIONAL = {"parts": dict, "card": dict, "weights_sha256": str, "dtype": str}
LARGEST_SIDE = 2**14  # pixels


def bundled() -> dict[str, Path]:
    """The models that come with Tessera: name → folder."""
    return {path.parent.name: path.parent for path in sorted(ASSETS.glob(f"*/{DESCRIPTION}"))}


def find(source: str | Path) -> Path:
    """The folder of a model, given a bundled name or a path.

    Raises:
        UsageError: neither a bundled name nor a model folder.
        TesseraError: a bundled model that this installation lacks.
    """
    path = Path(source)
    if (path / DESCRIPTION).is_file():
        return path
    known = bundled()
    if str(source) in known:
        return known[str(source)]
    if str(source) in SHIPPED:
        raise TesseraError(
            f"the bundled model {str(source)!r} is missing from this installation ({ASSETS / str(source)}): install Tessera again"
        )
    if path.is_dir():
        raise UsageError(f"{path} is not a model folder: it has no {DESCRIPTION}; give the folder that training or Model.save wrote")
    if path.is_file():
        raise UsageError(f"{path} is a file, but a model is a folder with {DESCRIPTION}: `tessera convert` makes one of a released file")
    unknown = suggest("model", str(source), {*known, *SHIPPED})
    raise UsageError(f"{unknown}; a model is one of these, a folder, a released file or the hub id of a repository")


def read_description(folder: Path, file: str = DESCRIPTION) -> dict[str, Any]:
    """`model.json`, checked for the keys every model has. Raises TesseraError when it is broken or of a later format."""
    path = folder / file
    try:
        description = read_json(path)
    except (OSError, ValueError) as error:
        raise TesseraError(f"{path} cannot be read ({error}): copy the model folder again") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else None
        raise TesseraError(
            f"{path} has model format {found!r}, but this version of Tessera reads format {FORMAT}: update Tessera or save it again"
        )
    for key, kind in KEYS.items():
        if not isinstance(description.get(key), kind):
            raise TesseraError(f"{path} lacks a valid {key!r}: copy the model folder again")
    for key, kind in OPTIONAL.items():
        if description.get(key) is not None and not isinstance(description[key], kind):
            raise TesseraError(f"{path} lacks a valid {key!r}: copy the model folder again")
    for key in ("flows", "parts"):
        for name, entry in description.get(key, {}).items():
            if not isinstance(entry, dict):
                raise TesseraError(f"{path} does not describe {key} {name!r} by keys and values: copy the model folder again")
    size = description["size"]
    if len(size) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in size):
        raise TesseraError(f"{path} has size {description['size']}, not [height, width] in pixels: copy the model folder again")
    return description


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of the weights, read from the headers. Raises TesseraError when a file is missing or damaged."""
    return {name: located.shape for name, located in locate(folder, WEIGHTS).items()}


def weights_sha256(folder: Path) -> str:
    """The hash of the weights as they are on the disk now. Raises TesseraError when a file is missing or damaged."""
    try:
        return combined_sha256([(path.name, sha256(path)) for path in tensor_files(folder, WEIGHTS)])
    except OSError as error:
        raise TesseraError(f"cannot read the weights of {folder} ({error}): copy the model folder again") from None
