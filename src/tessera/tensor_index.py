"""Where tensors lie on disk: one safetensors file, or shards of it with an index, named as on the hub. Works without torch.

    model.safetensors
    model-00001-of-00003.safetensors …   model.safetensors.index.json = {"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}

"total_size" is of the tensors alone, without the headers.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from tessera.errors import TesseraError
from tessera.json_files import read_json

__all__ = ["SUFFIX", "Located", "combined_sha256", "index_name", "locate", "sha256", "shard_names", "tensor_files"]

SUFFIX = ".safetensors"


class Located(NamedTuple):
    """The file that holds a tensor, and the tensor's shape."""

    path: Path
    shape: tuple[int, ...]


def index_name(file: str) -> str:
    """The name of the index of `file`'s shards."""
    return f"{file}.index.json"


def shard_names(file: str, count: int) -> list[str]:
    """`file` itself when it is one file, otherwise the names of its `count` shards."""
    if count == 1:
        return [file]
    return [f"{file.removesuffix(SUFFIX)}-{i:05d}-of-{count:05d}{SUFFIX}" for i in range(1, count + 1)]


def tensor_files(folder: Path, file: str) -> list[Path]:
    """The files of a folder that together are `file`, shards in order. Raises TesseraError when they are not those of their index."""
    weight_map = _weight_map(folder, file)
    return [folder / file] if weight_map is None else sorted(set(weight_map.values()))


def locate(folder: Path, file: str) -> dict[str, Located]:
    """Tensor name → where it is, read from the headers.

    Raises TesseraError when a file is missing or damaged, or when the index and the shards disagree about a tensor.
    """
    weight_map = _weight_map(folder, file)
    held = {path: _shapes(path) for path in ([folder / file] if weight_map is None else sorted(set(weight_map.values())))}
    found = {name: Located(path, shape) for path, shapes in held.items() for name, shape in shapes.items()}
    if weight_map is not None:
        for name in sorted(weight_map.keys() | found.keys()):
            expected = [weight_map[name].name] if name in weight_map else []
            owners = [path.name for path, shapes in held.items() if name in shapes]
            if owners != expected:
                raise TesseraError(
                    f"{folder / index_name(file)} says that tensor {name!r} is in {_listed(expected)}, but it is in {_listed(owners)}: "
                    "the files are not of one model; copy all of them again"
                )
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combined_sha256(digests: Sequence[tuple[str, str]]) -> str:
    """The one number that names some weights: of one file its SHA-256, of several what `sha256sum SHARDS | sha256sum` prints.

    digests: (file name, SHA-256 in hexadecimal) of every shard, in order.
    """
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests).encode()).hexdigest()


def _weight_map(folder: Path, file: str) -> dict[str, Path] | None:
    """The index, tensor name → file; None when there is none. Checks that the files it names, and no others, are there."""
    index = folder / index_name(file)
    if not index.is_file():
        return None
    try:
        weight_map = read_json(index)["weight_map"]
        if not weight_map or not all(isinstance(value, str) for value in weight_map.values()):
            raise ValueError("its weight_map does not name a file for every tensor")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise TesseraError(f"{index} cannot be read ({reason}): copy it again") from None
    named = set(weight_map.values())
    if strange := sorted(name for name in named if Path(name).name != name or not name.endswith(SUFFIX)):
        raise TesseraError(f"{index} names {strange[0]!r}, which is no {SUFFIX} file beside it: copy the folder again")
    if missing := sorted(name for name in named if not (folder / name).is_file()):
        raise TesseraError(f"{folder / missing[0]} is missing, though {index.name} names it: copy the whole folder again")
    there = {path.name for path in folder.glob(f"{file.removesuffix(SUFFIX)}-*-of-*{SUFFIX}")} | {path.name for path in folder.glob(file)}
    if extra := sorted(there - named):
        raise TesseraError(f"{folder / extra[0]} is not named by {index.name}: it belongs to other weights; remove it")
    return {tensor: folder / name for tensor, name in weight_map.items()}


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.exists() and not path.is_file():  # opening a pipe may never end
        raise TesseraError(f"{path} is no regular file: copy the folder again")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise TesseraError(f"{path} cannot be read ({error}): the file is missing, cut short or damaged; copy it again") from None


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) or "no file"
