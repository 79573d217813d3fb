"""Training data by number: what a run reads is a function of (seed, position), never of when or where it is read.

Position p = 0, 1, … counts the pictures of a run. Pass e = p // n of a dataset of n examples shows example π_e(p mod n), π_e a
permutation of 0..n-1. Optimiser step i reads positions [i G, (i + 1) G) for G pictures per step, and the processes and accumulated
parts of a step take equal slices of them, so that a run is the same however it is divided.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tessera.data.dataset import Dataset
from tessera.errors import TesseraError, UsageError
from tessera.randomness import derive_seed

__all__ = ["Batch", "Batches", "batches", "fixed_batches", "permute"]


class Batch(NamedTuple):
    """image: uint8 [B, 3, H, W], 0..255. tokens: int64 [B, N] where they are known already. positions: see the module.

    skipped: files that could not be read and were not named with an earlier batch: path → reason.
    rewordings: the prompts in other words, where they were asked for and the dataset has some.
    layouts: int64 [B, N], the class of what is in each cell of the latents' grid, where they were asked for.
    """

    image: UInt8[Tensor, "b 3 h w"] | None
    tokens: Int[Tensor, "b n"] | None
    prompts: list[Any]
    positions: list[int]
    skipped: dict[str, str]
    rewordings: list[Any] | None = None
    layouts: Int[Tensor, "b n"] | None = None

    def to(self, device: torch.device) -> Batch:
        tensors = {name: getattr(self, name) for name in ("image", "tokens", "layouts")}
        move = {name: value.to(device, non_blocking=True) for name, value in tensors.items() if value is not None}
        return self._replace(**move)


def permute(index: np.ndarray, n: int, seed: int) -> np.ndarray:
    """π(index) for a permutation π of 0..n-1 that depends on `seed`, in constant memory.

    A balanced Feistel network of four rounds over the next even power of two, walked until the result is below n
    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    keys = [np.uint64(derive_seed(seed, "round", i)) for i in range(4)]

    def shuffle(x: np.ndarray) -> np.ndarray:
        left, right = x >> shift, x & low
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & low)
        return (left << shift) | right

    result = shuffle(index.astype(np.uint64))
    while (outside := result >= np.uint64(n)).any():
        result[outside] = shuffle(result[outside])
    return result.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


class Batches(TorchDataset[Batch]):
    """Batch number k of one process: `size` pictures from position k · stride + offset.

    Args:
        data: the dataset.
        seed: the run's seed; with `shuffle` it decides the order, in any case the examples' own randomness.
        size: pictures per batch.
        stride, offset: positions from one batch to the next, and of the first.
        shuffle: False reads the dataset in its own order (validation).
        reworded: ask for the prompts in other words too.
        layouts: ask for layouts too, which the dataset must have.
    """

    def __init__(
        self,
        data: Dataset,
        seed: int,
        size: int,
        stride: int | None = None,
        offset: int = 0,
        shuffle: bool = True,
        reworded: bool = False,
        layouts: bool = False,
    ) -> None:
        if len(data) == 0:
            raise UsageError("the dataset is empty: no picture was found in it")
        self.data, self.seed, self.size, self.shuffle = data, seed, size, shuffle
        self.reword = getattr(data, "reworded", None) if reworded else None
        self.layouts: Any = getattr(data, "layouts", None) if layouts else None
        if layouts and self.layouts is None:
            raise UsageError("the recipe's `layout` needs data that say what is in each cell of a picture: only scenes do")
        self._reported: set[str] = set()
        self.stride, self.offset = size if stride is None else stride, offset

    def __getitem__(self, number: int) -> Batch:
        positions = list(range(number * self.stride + self.offset, number * self.stride + self.offset + self.size))
        indices = self._indices(np.array(positions))
        many = getattr(self.data, "batch", None)
        if many is None:
            image, tokens, prompts = self._collate([self._readable(p, int(i)) for p, i in zip(positions, indices, strict=True)])
        else:
            (image, prompts), tokens = self._passes(many, positions, indices), None
        rewordings = None
        if self.reword is not None:
            rewordings = [text for part, seed in self._by_pass(positions, indices) for text in self.reword(part, seed)]
        skipped = {path: reason for path, reason in self.data.skipped.items() if path not in self._reported}
        self._reported.update(skipped)
        layouts = None if self.layouts is None else self.layouts(indices.tolist())
        return Batch(image, tokens, prompts, positions, skipped, rewordings, layouts)

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        passes, within = np.divmod(positions, len(self.data))
        if not self.shuffle:
            return within
        result = np.empty_like(within)
        for number in np.unique(passes):
            chosen = passes == number
            result[chosen] = permute(within[chosen], len(self.data), derive_seed(self.seed, "order", int(number)))
        return result

    def _passes(self, many: Any, positions: Sequence[int], indices: np.ndarray) -> tuple[Tensor, list[Any]]:
        """Whole batches from a dataset that makes them, one call per pass over the data (a pass has one seed)."""
        parts = [many(part, seed) for part, seed in self._by_pass(positions, indices)]
        return torch.cat([image for image, _ in parts]), [prompt for _, prompts in parts for prompt in prompts]

    def _by_pass(self, positions: Sequence[int], indices: np.ndarray) -> list[tuple[list[int], int]]:
        """The examples of each pass, and its seed."""
        passes = np.array(positions) // len(self.data)
        return [(indices[passes == e].tolist(), derive_seed(self.seed, "pass", int(e))) for e in np.unique(passes)]

    def _readable(self, position: int, index: int) -> Any:
        """The example, or the next one that can be read."""
        for step in range(len(self.data)):
            example = self.data.example((index + step) % len(self.data), derive_seed(self.seed, "example", position))
            if example is not None:
                return example
        raise TesseraError(
            f"none of the dataset's {len(self.data)} pictures can be read: {next(iter(self.data.skipped.values()), 'no reason known')}"
        )

    @staticmethod
    def _collate(examples: Sequence[Any]) -> tuple[Tensor | None, Tensor | None, list[Any]]:
        """Pictures, or the tokens that a token cache gives in their place, and prompts."""
        prompts = [example.prompt for example in examples]
        if hasattr(examples[0], "tokens"):
            return None, torch.stack([example.tokens for example in examples]), prompts
        shapes = {tuple(example.image.shape) for example in examples}
        if len(shapes) > 1:
            raise UsageError(f"the dataset gives pictures of different sizes ({sorted(shapes)}): give it a size to crop to")
        return torch.stack([example.image for example in examples]), None, prompts


def batches(source: Batches, first: int, last: int, workers: int = 0, pin: bool = False) -> Iterator[Batch]:
    """Batches number first, …, last - 1 in order, read ahead by `workers` processes."""
    loader = DataLoader(
        source, batch_size=None, sampler=range(first, last), num_workers=workers, pin_memory=pin, persistent_workers=False,
        prefetch_factor=4 if workers else None, multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_EndWith(os.getpid()) if workers else None,
    )  # fmt: skip
    return iter(loader)


@dataclass(frozen=True)
class _EndWith:
    """Ends a worker when its parent has ended, however: one that was killed tells nobody, and a worker that waits for a place never asks.

    parent: its process id.
    """

    parent: int

    def __call__(self, _worker: int) -> None:
        def watch() -> None:
            while os.getppid() == self.parent:
                time.sleep(1)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def fixed_batches(data: Dataset, examples: int, size: int, seed: int = 0, **asked: bool) -> list[Batch]:
    """The first `examples` examples in order, at most `size` in a batch: the same every time. asked: see `Batches`."""
    examples = min(examples, len(data))
    made = []
    for first in range(0, examples, size):
        made.append(Batches(data, seed, min(size, examples - first), stride=1, offset=0, shuffle=False, **asked)[first])
    return made
