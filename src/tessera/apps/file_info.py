"""What `tessera info` says of a checkpoint file and of a folder."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tessera.json_files import read_json

__all__ = ["about_file", "about_model", "about_part", "about_pipeline"]

LOOKED_AT = 2**31


def about_file(path: Path) -> dict[str, Any]:
    """Family, configuration, parameters, needs and origin of a released file."""
    from tessera.checkpoints.cards import cards
    from tessera.checkpoints.recognise import recognise
    from tessera.checkpoints.registry import card_of
    from tessera.checkpoints.safe_read import read_archive

    archive = read_archive(path)

    def tensors() -> Iterator[tuple[str, Any]]:
        for place, state in archive.states().items():
            yield from ((f"{place}.{name}".strip("."), stored.read()) for name, stored in state.items())

    found = recognise(archive)
    known = cards()
    named = card_of(path)
    released = [named.name] if named is not None and named.name in found.cards else list(found.cards)
    return {
        "file": str(path),
        "bytes": archive.bytes,
        "format": archive.format,
        "family": found.family,
        "kind": found.kind,
        "configuration": found.preset,
        "released as": released,
        "licence": sorted({known[name].licence for name in released}),
        "parameters": {**found.parameters, "all": sum(found.parameters.values())},
        "moving average": found.ema,
        "learned null": found.learned_null,
        "needs": list(found.needs),
        "notes": [*found.notes, *dict.fromkeys(known[name].note for name in released if known[name].note)],
        "config": found.config,
        "not finite": damaged(archive.bytes, tensors),
        "skipped objects": list(archive.foreign),
        "unexpected tensors": list(found.unexpected),
    }


def about_model(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself, and whether its weights are whole."""
    from tessera.apps.catalogue import summary
    from tessera.model_folder import WEIGHTS
    from tessera.tensor_files import StoredTensors

    about = summary(folder)
    stored = StoredTensors(folder, WEIGHTS)
    return {**about, "not finite": damaged(size_of(folder), lambda: ((name, stored.read(name)) for name in stored))}


def damaged(count: int, tensors: Callable[[], Iterable[tuple[str, Any]]]) -> list[str] | str:
    """Names of tensors with NaN or infinity. Weights are read for this alone, where the file has at most `LOOKED_AT` bytes."""
    from tessera.finite import not_finite

    return not_finite(tensors()) if count <= LOOKED_AT else f"not looked at, as it has {count / 2**30:.1f} GiB; loading does"


def about_part(folder: Path) -> dict[str, Any]:
    """Kind, weights and configuration of a part, such as a converted codec."""
    from tessera.part_description import describe_part

    about = describe_part(folder)
    return {
        "kind": about["config"].get("kind"),
        "weights": sum(math.prod(shape) for shape in about["shapes"].values()),
        "bytes": size_of(folder),
        "config": about["config"],
        "card": about["card"],
        "folder": str(folder),
    }


def about_pipeline(folder: Path) -> dict[str, Any]:
    """Class and components of a diffusers folder."""

    from tessera.errors import TesseraError
    from tessera.sources import PIPELINE

    try:
        index = read_json(folder / PIPELINE)
        components = [name for name, value in index.items() if isinstance(value, list) and None not in value]
    except (OSError, ValueError, AttributeError) as error:
        raise TesseraError(f"{folder / PIPELINE} cannot be read ({error}): copy the folder again") from None
    return {
        "format": "diffusers",
        "pipeline": index.get("_class_name"),
        "components": components,
        "bytes": size_of(folder),
        "folder": str(folder),
    }


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
