"""`tessera info`: what a file or folder is, without loading it."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.apps.console import print_json, show
from tessera.apps.options import AsJSON, Debug

__all__ = ["about", "info", "shown", "summary"]

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MERGES = "merges.txt"


def info(
    path: Annotated[
        Path,
        typer.Argument(help="A model folder, a bundled model, a released file or its name, a codec folder, or a PNG that Tessera made."),
    ],
    as_json: AsJSON = False,
    debug: Debug = False,
) -> None:
    """Says what a model or checkpoint is made of and what it needs, or how a picture was made."""
    values = about(path)
    if as_json:
        print_json(values)
        return
    for key, value in values.items():
        if isinstance(value, dict) and any(isinstance(entry, dict) for entry in value.values()):
            show("\n".join([f"{key}:", *(f"  {part}: {shown(entry)}" for part, entry in value.items())]))
        else:
            show(f"{key}: {shown(value)}")


def about(path: Path) -> dict[str, Any]:
    """What is at `path`, or has that name. Raises UsageError when there is nothing."""
    from tessera.apps.file_info import about_file, about_model, about_part, about_pipeline
    from tessera.checkpoints.cards import card, cards
    from tessera.checkpoints.registry import resolve
    from tessera.model_folder import DESCRIPTION, find
    from tessera.part_description import CONFIG
    from tessera.sources import PIPELINE

    if not path.exists() and str(path) in cards():
        path = resolve(card(str(path)).name)
    if path.suffix.lower() in PICTURES and path.is_file():
        return about_picture(path)
    if path.is_file():
        return about_file(path)
    if (path / DESCRIPTION).is_file():
        return about_model(path)
    if (path / CONFIG).is_file():
        return about_part(path)
    if (path / PIPELINE).is_file():
        return about_pipeline(path)
    return about_model(find(path))


def about_picture(path: Path) -> dict[str, Any]:
    from tessera.record import Record

    record = Record.read(path)
    height, width = record.size
    return {**asdict(record), "size": f"{width}x{height}"}


def summary(folder: Path) -> dict[str, Any]:
    """What a model folder says about itself; numbers of weights by part come from the weights file's header."""
    from tessera.model_folder import read_description, shapes

    about = read_description(folder)
    weights: dict[str, int] = {}
    for name, shape in shapes(folder).items():
        part = ".".join(name.split(".")[:2])
        weights[part] = weights.get(part, 0) + math.prod(shape)
    height, width = about["size"]
    return {
        "name": about["name"],
        "family": about["family"],
        "flows": sorted(about["flows"]),
        "size": f"{width}x{height}",
        "weights": {**weights, "all": sum(weights.values())},
        "stored as": about.get("dtype"),
        "defaults": about["defaults"],
        "card": about.get("card", {}),
        "needs": missing(folder, about),
        "folder": str(folder),
    }


def missing(folder: Path, about: dict[str, Any]) -> list[str]:
    """What must still be put into a model folder before it can be used wholly."""
    reads_words = any(flow.get("context", {}).get("kind") in ("clip-text", "clip") for flow in about["flows"].values())
    return ["CLIP's merges, to read prompts: put merges.txt into the folder"] if reads_words and not (folder / MERGES).is_file() else []


def shown(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
