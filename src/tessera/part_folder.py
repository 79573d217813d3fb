"""One model part on disk, such as a trained codec: a folder of `part.json`, its constructor's arguments, `part.safetensors`, its weights,
`card.json`, what is known about its training, and what further files the part keeps (`extra_files`: a tokenizer's merges)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tessera.atomic import write_folder
from tessera.errors import TesseraError, UsageError
from tessera.json_files import read_json
from tessera.nn.initialisation import without_initialisation
from tessera.nn.sketch import check_shapes, sketch
from tessera.part_description import CARD, CONFIG, WEIGHTS
from tessera.registry import build_described
from tessera.tensor_files import StoredTensors, TensorSource, write_tensors

__all__ = ["load_part", "save_part"]


def save_part(part: Any, folder: Path, card: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32) -> None:
    """Write `part` (a registered module with a `config`), its weights in `dtype`; an earlier folder of that name is replaced."""
    with write_folder(folder) as fresh:
        (fresh / CONFIG).write_text(json.dumps(part.config, indent=1) + "\n", encoding="utf-8")
        (fresh / CARD).write_text(json.dumps(dict(card or {}), indent=1) + "\n", encoding="utf-8")
        for name, content in part.extra_files().items() if hasattr(part, "extra_files") else ():
            (fresh / name).write_bytes(content)
        write_tensors(fresh, WEIGHTS, {name: TensorSource.of(value, dtype) for name, value in part.state_dict().items()})


def load_part(kind: str, table: Mapping[str, str], folder: str | Path) -> nn.Module:
    """The part in `folder`. `kind` names it in errors ("codec"); `table` is its registry.

    Raises UsageError when there is no such folder, TesseraError when its files are damaged or do not fit each other.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} is not a trained {kind}: expected a folder with {CONFIG}, as training and `tessera convert` write it")
    try:
        config = read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise TesseraError(f"the {kind} in {folder} cannot be read: {error}") from error
    stored = StoredTensors(folder, WEIGHTS)

    def make() -> Any:
        return build_described(kind, table, config)

    try:
        sketched = sketch(make, stored.shapes, folder / WEIGHTS, CONFIG)
    except UsageError as error:  # what a file says is not the user's argument
        raise TesseraError(f"{folder / CONFIG} describes no {kind}: {error}") from None
    check_shapes(folder / WEIGHTS, stored.shapes, {name: tuple(tensor.shape) for name, tensor in sketched.state_dict().items()}, CONFIG)
    with without_initialisation():  # every tensor comes from the file
        part = make()
    part.load_state_dict(dict(stored))
    if hasattr(part, "load_extra_files"):
        part.load_extra_files(folder)
    made: nn.Module = part.eval()
    return made
