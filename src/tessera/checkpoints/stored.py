"""Tensors that are still in a file: what they are is known, their numbers are read when asked for.

Element i of a view lies at byte  start + itemsize · Σ_d i_d · strides_d  of its bytes.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tessera.errors import TesseraError
from tessera.finite import checked

__all__ = ["ByteSource", "Deflated", "FilePart", "InMemory", "StoredTensor", "Tensors", "contiguous_strides", "is_shape"]

REPEATED = 2**28  # bytes: the largest tensor that may be made of fewer stored elements than it has


@runtime_checkable
class ByteSource(Protocol):
    """Where a tensor's bytes are."""

    def fill(self, buffer: memoryview, start: int) -> None:
        """Reads as many bytes as `buffer` has, from byte `start` on. Raises TesseraError when they are not there."""


@dataclass
class FilePart:
    """Bytes as they are in a file, from `offset` on (set later where a file says it later)."""

    path: Path
    offset: int = 0

    def fill(self, buffer: memoryview, start: int) -> None:
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + start)
                while len(buffer):
                    count = file.readinto(buffer)
                    if not count:
                        raise TesseraError(f"{self.path} became shorter while it was read: copy it again")
                    buffer = buffer[count:]
        except OSError as error:
            raise TesseraError(f"{self.path} cannot be read: {error.strerror or error}") from None


@dataclass
class Deflated:
    """Bytes that a zip file holds compressed: what comes before the wanted ones is decompressed and dropped."""

    path: Path
    member: str

    def fill(self, buffer: memoryview, start: int) -> None:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                file.seek(start)
                while len(buffer):
                    chunk = file.read(min(len(buffer), 1 << 20))
                    if not chunk:
                        raise TesseraError(f"{self.path} is damaged: its record {self.member!r} is shorter than it says; copy it again")
                    buffer[: len(chunk)] = chunk
                    buffer = buffer[len(chunk) :]
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
            raise TesseraError(f"{self.path} is damaged: its record {self.member!r} cannot be read ({error}); copy it again") from None


@dataclass
class InMemory:
    """Bytes that were part of the file's description rather than of its data (NumPy arrays in a pickle)."""

    content: bytes

    def fill(self, buffer: memoryview, start: int) -> None:
        buffer[:] = self.content[start : start + len(buffer)]


class StoredTensor:
    """A tensor in a file, not yet read.

    Args:
        shape: its sizes.
        strides: in elements, as many as sizes.
        dtype: of its elements, little-endian in the file.
        source: where its bytes are; start: byte of its first element; available: elements of that dtype from there on.

    Raises:
        ValueError: sizes that are no sizes, a view that reaches past `available` elements, or a small storage repeated without end.
    """

    __slots__ = ("_source", "_start", "_strides", "dtype", "nbytes", "shape")

    def __init__(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, source: ByteSource, start: int, available: int
    ) -> None:
        if not is_shape(shape) or not is_shape(strides) or len(shape) != len(strides):
            raise ValueError("a tensor has a shape or strides that are none")
        count = math.prod(shape)
        if count and 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) > available:
            raise ValueError(f"a tensor of shape {list(shape)} reaches past the end of the data stored for it")
        if count > available and count * dtype.itemsize > REPEATED:
            raise ValueError(f"a tensor of shape {list(shape)} repeats only {available} stored elements")
        self.shape, self.dtype, self.nbytes = shape, dtype, count * dtype.itemsize
        self._strides, self._source, self._start = strides, source, start

    def __repr__(self) -> str:
        return f"StoredTensor({list(self.shape)}, {self.dtype})"

    @property
    def path(self) -> Path | None:
        """The file that its bytes are in; None for those of a description."""
        return getattr(self._source, "path", None)

    def read(self) -> Tensor:
        """A fresh contiguous CPU tensor. Reads its own part of the file only and keeps nothing.

        Raises:
            TesseraError: the file has changed, or its compressed data are damaged.
        """
        if self.nbytes == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self._strides, strict=True))
        raw = torch.empty(span * self.dtype.itemsize, dtype=torch.uint8)
        self._source.fill(raw.numpy().data, self._start)
        elements = raw.view(self.dtype)
        view = elements.as_strided(self.shape, self._strides)
        return elements.view(self.shape) if view.is_contiguous() else view.contiguous()


class Tensors(Mapping[str, Tensor]):
    """Stored tensors as a state dict: each is read when asked for and not kept. TesseraError for one that holds NaN or infinity."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        return checked(stored.path, name, stored.read())

    def __contains__(self, name: object) -> bool:
        return name in self._stored  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self._stored.items()}

    def under(self, prefix: str) -> "Tensors":
        """Those whose names start with `prefix` (its dot included), without it."""
        return Tensors({name.removeprefix(prefix): tensor for name, tensor in self._stored.items() if name.startswith(prefix)})


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a tensor whose last dimension is adjacent."""
    return tuple(math.prod(shape[dimension + 1 :]) for dimension in range(len(shape)))


def is_shape(numbers: object) -> bool:
    """Whether a file's value is a tuple of as many and as large numbers as a shape, or strides, can be."""
    return isinstance(numbers, tuple) and len(numbers) <= 64 and all(type(number) is int and 0 <= number < 2**62 for number in numbers)
