"""Numbers that are none: weights and results with NaN or infinity are named, not drawn."""

from collections.abc import Iterable

import torch
from torch import Tensor

from tessera.errors import TesseraError

__all__ = ["checked", "is_finite", "not_finite", "require_finite"]


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. Integers always are finite."""
    if not (values.is_floating_point() or values.is_complex()) or values.numel() == 0 or values.is_meta:
        return True
    if values.element_size() == 1 or values.is_complex():  # types of eight bits have no minimum
        return bool(torch.isfinite(values.to(torch.complex64 if values.is_complex() else torch.float32)).all())
    return bool(torch.stack(torch.aminmax(values)).isfinite().all())


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of those that hold NaN or infinity."""
    return [name for name, tensor in tensors if not is_finite(tensor)]


def checked(source: object, name: str, tensor: Tensor) -> Tensor:
    """The tensor of weights itself. TesseraError when it holds NaN or infinity. `source`: the file that it comes from."""
    if not is_finite(tensor):
        raise TesseraError(f"the weights in {source} hold NaN or infinity, in {name}: get them again, or from an earlier checkpoint")
    return tensor


def require_finite(values: Tensor, stage: str, advice: str) -> None:
    """Raises TesseraError when a result holds NaN or infinity. `stage`: what gave it ("sampling")."""
    if not is_finite(values):
        raise TesseraError(f"{stage} gave numbers that are not finite: {advice}")
