"""Modules made on the meta device, to see what tensors a description asks for before any memory is given to it."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook

from tessera.errors import TesseraError

__all__ = ["TooLarge", "check_shapes", "sketch", "sketching"]

Made = TypeVar("Made")
Shapes = Mapping[str, tuple[int, ...]]
FREE = 4096  # modules and tensors that any description may make: containers, activations
MODULES_A_TENSOR = 16


class TooLarge(TesseraError):
    """A description asks for more than there are weights for."""


@contextmanager
def sketching(tensors: int, elements: int) -> Iterator[None]:
    """What is made here has shapes and no memory.

    Args:
        tensors, elements: of the weights that are there. A description that goes far beyond stops at once with TooLarge, however deep or
            wide it is; whether it fits exactly is for the caller to compare.
    """
    left = {"modules": FREE + MODULES_A_TENSOR * tensors, "tensors": FREE + 2 * tensors, "elements": FREE + 4 * elements}

    def spend(what: str, count: int) -> None:
        left[what] -= count
        if left[what] < 0:
            raise TooLarge(f"it describes more {what} than the {tensors} tensors of its weights ({elements} elements) can fill")

    def module(_of: Any, _name: str, _made: Any) -> None:
        spend("modules", 1)

    def parameter(_of: Any, _name: str, made: Any) -> None:
        if made is not None:
            spend("tensors", 1)
            spend("elements", made.numel())

    hooks = [register_module_module_registration_hook(module), register_module_parameter_registration_hook(parameter)]
    try:
        with torch.device("meta"):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def sketch(make: Callable[[], Made], shapes: Shapes, path: Path, description: str) -> Made:
    """What `make` makes, without memory, to be compared with the weights in `path`, whose tensors have these shapes.

    Raises TesseraError when it goes far beyond them. `description`: the file that asks for it.
    """
    try:
        with sketching(len(shapes), sum(map(math.prod, shapes.values()))):
            return make()
    except TooLarge as error:
        raise TesseraError(f"{path} does not fit its {description}: {error}") from None


def check_shapes(path: Path, found: Shapes, expected: Shapes, description: str) -> None:
    """Raises TesseraError naming the first tensor that is missing, of another shape, or unknown. `description`: the file that expects."""
    wrong = [f"tensor {name!r} is missing" for name in sorted(expected.keys() - found.keys())]
    wrong += [
        f"tensor {name!r} has shape {list(found[name])}, not {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    wrong += [f"tensor {name!r} is not part of the model" for name in sorted(found.keys() - expected.keys())]
    if wrong:
        more = f" (and {len(wrong) - 1} more such)" if len(wrong) > 1 else ""
        raise TesseraError(f"{path} does not fit its {description}: {wrong[0]}{more}; both must come from the same model")
