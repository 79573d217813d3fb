"""The header of a safetensors file: uint64 n, n bytes of JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}}, then data.

The data have no holes and no overlaps: sorted by `begin`, each tensor starts where the one before it ends.
"""

import math
import struct
from pathlib import Path
from typing import Any

import torch

from tessera.checkpoints.stored import FilePart, StoredTensor, contiguous_strides, is_shape
from tessera.errors import TesseraError
from tessera.json_files import parse_json

__all__ = ["LARGEST_HEADER", "read_safetensors"]

LARGEST_HEADER = 100_000_000  # bytes, the format's own limit

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the file by name.

    Raises:
        TesseraError: the header is no header, or says of the data what is not so.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > LARGEST_HEADER:
            raise _lie(path, f"its header claims {length} bytes, more than the format allows ({LARGEST_HEADER})")
        if 8 + length > size:
            raise _lie(path, f"its header claims {length} bytes, but only {size - 8} follow")
        text = file.read(length)
    try:
        header = parse_json(text, _without_duplicates)
    except ValueError as error:
        raise _lie(path, f"its header is no valid JSON ({str(error)[:100]!a})") from None
    if not isinstance(header, dict):
        raise _lie(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    part = FilePart(path, 8 + length)
    spans, tensors = [], {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise _lie(path, f"tensor {_shown(name)} has shape {str(list(shape))[:80]} of {dtype}, but {end - begin} bytes")
        spans.append((begin, end, name))
        tensors[name] = StoredTensor(shape, contiguous_strides(shape), dtype, part, begin, math.prod(shape))
    _check_spans(path, sorted(spans), size - 8 - length)
    return tensors


def _entry(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _lie(path, f"tensor {_shown(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _lie(path, f"tensor {_shown(name)} has the unknown dtype {_shown(dtype)}")
    if (
        not (isinstance(shape, list) and is_shape(tuple(shape)))
        or not (isinstance(offsets, list) and is_shape(tuple(offsets)))
        or len(offsets) != 2
        or offsets[0] > offsets[1]
    ):
        raise _lie(path, f"tensor {_shown(name)} has shape {_shown(shape)} and data_offsets {_shown(offsets)}")
    return DTYPES[dtype], tuple(shape), offsets[0], offsets[1]


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    position = 0
    for begin, end, name in spans:
        if end > size:
            raise _lie(path, f"tensor {_shown(name)} ends at byte {end}, but there are only {size}")
        if begin != position:
            raise _lie(path, f"tensor {_shown(name)} starts at byte {begin}, but the one before it ends at {position}")
        position = end
    if position != size:
        raise _lie(path, f"{size - position} bytes at its end belong to no tensor")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _shown(value: object) -> str:
    return f"{value!a:.80}"


def _lie(path: Path, what: str) -> TesseraError:
    return TesseraError(f"{path} is a damaged safetensors file: {what}; download or copy it again")
