"""A prompt of None means "no prompt": its row of the context is the unconditional one."""

from collections.abc import Sequence
from typing import Any

import torch

from tessera.contexts.context import Context

__all__ = ["fill_null"]


def fill_null(context: Context, null: Context, prompts: Sequence[Any]) -> Context:
    """`context` [B, L, D] with the rows whose prompt is None replaced by the one row of `null` [1, L, D]."""
    assert context.embeddings is not None
    assert null.embeddings is not None
    empty = torch.tensor([prompt is None for prompt in prompts], device=context.embeddings.device)
    embeddings = torch.where(empty[:, None, None], null.embeddings.to(context.embeddings.dtype), context.embeddings)
    if context.mask is None or null.mask is None:
        return Context(embeddings)
    return Context(embeddings, torch.where(empty[:, None], null.mask, context.mask))
