"""What a part folder says of itself, read without torch (see `part_folder` for the format)."""

from pathlib import Path
from typing import Any

from tessera.errors import TesseraError
from tessera.json_files import read_json
from tessera.tensor_index import locate

__all__ = ["CARD", "CONFIG", "WEIGHTS", "describe_part"]

CONFIG = "part.json"
WEIGHTS = "part.safetensors"
CARD = "card.json"


def describe_part(folder: Path) -> dict[str, Any]:
    """config: the constructor's arguments; card: what is known about it; shapes: of its tensors, from the header of its weights.

    Raises TesseraError when a file is missing or damaged.
    """
    try:
        config = read_json(folder / CONFIG)
        card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    except (OSError, ValueError) as error:
        raise TesseraError(f"the part in {folder} cannot be read ({error}): copy the folder again") from None
    if not isinstance(config, dict) or not isinstance(card, dict):
        raise TesseraError(f"the part in {folder} is not described by keys and values: copy the folder again")
    return {"config": config, "card": card, "shapes": {name: located.shape for name, located in locate(folder, WEIGHTS).items()}}
