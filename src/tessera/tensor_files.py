"""Tensors ⇄ safetensors files, one tensor in memory at a time.

The safetensors library writes without copying, but needs every tensor of a file at once: weights that are converted or joined on
their way to the disk would be in memory twice. So the file is written here (a header of names, types, shapes and offsets, then the
bytes) and read by the library.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tessera.errors import TesseraError
from tessera.finite import checked
from tessera.tensor_index import combined_sha256, index_name, locate, shard_names

__all__ = ["SHARD_BYTES", "StoredTensors", "TensorSource", "write_tensors"]

SHARD_BYTES = 5 * 10**9
"""Size above which weights are split over several files: the hub's."""

BUFFER_BYTES = 2**24
"""Through which tensors pass on their way to the disk. Converting each into a new tensor let the heap of glibc 2.36 grow by 16 MB per
tensor: a freed block has no room for the next aligned one."""

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class TensorSource:
    """A tensor to be written: its shape, the dtype to store it in, and how to get it (on any device, in any dtype)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor, floats: torch.dtype) -> "TensorSource":
        """A tensor that is there, to be stored in dtype `floats` if it is of floating point and as it is otherwise."""
        return cls(tuple(tensor.shape), floats if tensor.is_floating_point() else tensor.dtype, lambda: tensor)

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_tensors(folder: Path, file: str, tensors: Mapping[str, TensorSource], shard_bytes: int = SHARD_BYTES) -> str:
    """Writes `file` (such as "model.safetensors"), or shards of at most `shard_bytes` and their index; returns `combined_sha256`.

    A tensor larger than `shard_bytes` has a shard of its own. Raises OSError when it cannot be written, and TesseraError when a source
    gives a tensor of another shape than it said.
    """
    shards = _split(tensors, shard_bytes)
    names = shard_names(file, len(shards))
    digests = [(name, _write(folder / name, shard)) for name, shard in zip(names, shards, strict=True)]
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(source.nbytes for source in tensors.values())},
            "weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
        }
        (folder / index_name(file)).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return combined_sha256(digests)


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of `file` in a folder, sharded or not: each is read when it is asked for, and not kept.

    Raises TesseraError when the files are missing, damaged, or not what their index says, and for a tensor that holds NaN or infinity.
    """

    def __init__(self, folder: Path, file: str) -> None:
        self._located = locate(folder, file)
        self._opened: dict[Path, Any] = {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: located.shape for name, located in self._located.items()}

    def __getitem__(self, name: str) -> Tensor:
        return checked(self._located[name].path, name, self.read(name))

    def read(self, name: str) -> Tensor:
        """The tensor as it is, NaN and infinity included."""
        path = self._located[name].path
        try:
            if path not in self._opened:
                # Not memory-mapped: the pages of the file would count, and stay, beside the tensors made of them.
                self._opened[path] = safe_open(path, framework="pt", backend="pread")
            return self._opened[path].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise TesseraError(f"{path} cannot be read ({error}): the file changed or is damaged; copy it again") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._located)

    def __len__(self) -> int:
        return len(self._located)


def _split(tensors: Mapping[str, TensorSource], shard_bytes: int) -> list[dict[str, TensorSource]]:
    shards: list[dict[str, TensorSource]] = [{}]
    size = 0
    for name, source in tensors.items():
        if shards[-1] and size + source.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = source
        size += source.nbytes
    return shards


def _write(path: Path, tensors: Mapping[str, TensorSource]) -> str:
    """One file; returns its SHA-256."""
    # Wide types first, so that every tensor starts at a multiple of its item size.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers and diffusers ask for this
    offset = 0
    for name, source in ordered.items():
        end = offset + source.nbytes
        header[name] = {"dtype": NAMES[source.dtype], "shape": list(source.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    buffer = torch.empty(BUFFER_BYTES, dtype=torch.uint8)
    with path.open("wb") as file:
        for start in (len(text).to_bytes(8, "little"), text):
            file.write(start)
            digest.update(start)
        for name, source in ordered.items():
            for part in _content(name, source, buffer):
                file.write(part)
                digest.update(part)
    return digest.hexdigest()


def _content(name: str, source: TensorSource, buffer: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, a buffer full at a time. The tensor is let go at the end, before the next one is made."""
    value = source.read().detach()
    if tuple(value.shape) != source.shape:
        raise TesseraError(f"tensor {name!r} was to have shape {list(source.shape)} but has {list(value.shape)}")
    size, content = source.dtype.itemsize, buffer.numpy().data
    for values in value.reshape(-1).split(len(buffer) // size):
        used = values.numel() * size
        buffer[:used].view(source.dtype).copy_(values)
        yield content[:used]
