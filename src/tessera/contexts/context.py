"""What a prompt becomes: a `Context` of embeddings or labels, made by a `ContextEncoder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

__all__ = ["Context", "ContextEncoder", "Unconditional"]


@dataclass(frozen=True)
class Context:
    """The condition of a batch of B images. All fields None: unconditional.

    embeddings: [B, L, D], one row per text token (or other unit).
    mask: [B, L], True at real tokens; None when every position counts.
    labels: [B], class labels.
    """

    embeddings: Float[Tensor, "b l d"] | None = None
    mask: Bool[Tensor, "b l"] | None = None
    labels: Int[Tensor, " b"] | None = None

    def _map(self, function: Any) -> Context:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Context(**{name: None if value is None else function(value) for name, value in values.items()})

    def __getitem__(self, rows: Any) -> Context:
        return self._map(lambda value: value[rows])

    @property
    def rows(self) -> int | None:
        """B; None when nothing says."""
        return next((len(value) for field in fields(self) if (value := getattr(self, field.name)) is not None), None)

    def to(self, device: torch.device | str) -> Context:
        return self._map(lambda value: value.to(device))

    def repeat(self, n: int) -> Context:
        """Every row n times in a row: a, a, b, b."""
        return self._map(lambda value: value.repeat_interleave(n, dim=0))

    @staticmethod
    def cat(contexts: Sequence[Context]) -> Context:
        """Rows of all contexts, one after the other; they must have the same fields and lengths."""
        columns = {f.name: [getattr(context, f.name) for context in contexts] for f in fields(Context)}
        return Context(**{name: None if values[0] is None else torch.cat(values) for name, values in columns.items()})


class ContextEncoder(nn.Module):
    """Prompts → `Context`, and the context of "no prompt" for classifier-free guidance."""

    takes_masks = False
    """Whether a prompt can be a picture of which parts are hidden (`MaskedPicture`)."""

    def forward(self, prompts: Sequence[Any]) -> Context:
        raise NotImplementedError

    def unconditional(self, batch: int) -> Context:
        """The learned null embedding if there is one, otherwise the encoding of the empty prompt (zero-shot)."""
        raise NotImplementedError

    def extra_files(self) -> dict[str, bytes]:
        """Files that a saved model needs beside its weights: name → content."""
        return {}

    def load_extra_files(self, folder: str | Path) -> None:
        """Takes back what `extra_files` gave, from the folder of a saved model."""


class Unconditional(ContextEncoder):
    """The context of models that take no prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"kind": "none"}

    def forward(self, prompts: Sequence[Any]) -> Context:
        return Context()

    def unconditional(self, batch: int) -> Context:
        return Context()
