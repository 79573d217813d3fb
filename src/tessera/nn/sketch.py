"""Modules made on the meta device, to see what tensors a description asks for before any memory is given to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook

from tessera.errors import TesseraError

__all__ = ["TooLarge", "sketching"]

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
