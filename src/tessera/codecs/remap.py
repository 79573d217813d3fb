"""A model that uses a subset of a codebook: codebook index ⇄ class.

Of the 8192 codes of a codebook trained on everything, pictures of one data set may use 2887; a diffusion model over those alone is
smaller and learns faster. Codes outside the subset are encoded as class 0.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tessera.errors import UsageError

__all__ = ["Remap"]


class Remap(nn.Module):
    """Codebook indices ⇄ classes, saved with the model. Starts with the first `classes` codes as the subset.

    Args:
        codebook: number of codes.
        classes: number of classes, at most `codebook`.
    """

    to_class: Tensor
    to_code: Tensor

    def __init__(self, codebook: int, classes: int) -> None:
        super().__init__()
        if not 1 <= classes <= codebook:
            raise UsageError(f"a codebook of {codebook} codes cannot give {classes} classes: expected 1 to {codebook}")
        self.codebook, self.classes = codebook, classes
        self.register_buffer("to_class", torch.where(torch.arange(codebook) < classes, torch.arange(codebook), 0))
        self.register_buffer("to_code", torch.arange(classes))

    def use(self, to_class: Int[Tensor, " codebook"] | Sequence[int]) -> None:
        """Take the class of every code; a class is decoded as the smallest code that has it.

        Raises UsageError when the table has another length, names a class that does not exist, or leaves a class without a code.
        """
        table = torch.as_tensor(to_class, dtype=torch.int64, device=self.to_class.device)
        if table.shape != (self.codebook,) or int(table.min()) < 0 or int(table.max()) >= self.classes:
            raise UsageError(
                f"this code mapping does not fit: expected a class in 0..{self.classes - 1} for each of {self.codebook} codes, "
                f"got {tuple(table.shape)} values up to {int(table.max()) if table.numel() else None}"
            )
        codes = torch.arange(self.codebook, device=table.device)
        first = torch.full_like(self.to_code, self.codebook).scatter_reduce_(0, table, codes, "amin")
        if bool((first == self.codebook).any()):
            raise UsageError(
                f"this code mapping gives no code to class {int((first == self.codebook).nonzero()[0])}: every class needs one"
            )
        self.to_class.copy_(table)
        self.to_code.copy_(first)

    def reduce(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Codebook indices → classes."""
        return self.to_class[codes]

    def restore(self, classes: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Classes → codebook indices."""
        return self.to_code[classes]
