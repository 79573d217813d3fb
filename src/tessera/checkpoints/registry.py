"""The local store: which released files are on this machine, where, and whether they are what their cards say.

Files are looked for under their released names in the folders of the environment variable TESSERA_MODELS (separated as in PATH),
or else in `tessera/models` of the user's cache. A hub repository also counts where huggingface_hub keeps it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tessera.checkpoints.cards import Card, card, cards
from tessera.checkpoints.hashes import cache_folder, digest, remembered
from tessera.errors import TesseraError
from tessera.json_files import read_json

__all__ = ["Status", "card_of", "find_local", "folders", "part_of", "resolve", "status", "whole_pipeline", "wrong_hash"]

VARIABLE = "TESSERA_MODELS"
HUB_INDEX = "model_index.json"

Check = Literal["verified", "wrong", "unchecked", "no known hash"]


@dataclass(frozen=True)
class Status:
    """path: of the file or folder, or of the half-finished download. bytes: its size on disk.

    check: whether `sha256`, the one found if it was ever computed, is the card's; "no known hash" when nobody states one.
    """

    card: Card
    state: Literal["local", "half downloaded", "absent"]
    path: Path | None = None
    bytes: int | None = None
    check: Check | None = None
    sha256: str | None = None


def folders() -> list[Path]:
    """Where files are looked for, in this order; the first is where downloads go. They need not exist."""
    given = [Path(entry).expanduser() for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry.strip()]
    return given or [cache_folder() / "models"]


def find_local(wanted: Card) -> Path | None:
    """Its file, or its folder when it is a hub repository; None when there is none or it is incomplete."""
    for folder in folders():
        path = folder / wanted.on_disk
        if path.is_file() if wanted.hub is None else whole_pipeline(path):
            return path
    return None if wanted.hub is None else _in_hub_cache(wanted.hub)


def card_of(path: Path) -> Card | None:
    """The card of the released file that `path` is named after, with the folders that its card names."""
    return next((found for found in cards().values() if found.file and path.match(found.file)), None)


def status(wanted: Card, check: bool = False) -> Status:
    """What is known of a card's file. With `check` it is hashed anew; otherwise what was found earlier is used."""
    path = find_local(wanted)
    if path is None:
        half = next((part for folder in folders() if (part := part_of(folder, wanted)).is_file()), None)
        return Status(wanted, "absent") if half is None else Status(wanted, "half downloaded", half, half.stat().st_size)
    if path.is_dir():
        return Status(wanted, "local", path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), "no known hash")
    found = digest(path, again=True) if check else remembered(path)
    return Status(wanted, "local", path, path.stat().st_size, _verdict(wanted, found), found)


def resolve(name: str) -> Path:
    """The local file (of a hub repository: its folder) of a card, given its name or its released file's name.

    Where a hash is known, the file is checked against it the first time.

    Raises:
        UsageError: no card has that name.
        TesseraError: the file is not here, only half here, or not the released one; the sentence says what to do.
    """
    wanted = card(name)
    path = find_local(wanted)
    if path is None:
        raise TesseraError(_absent(status(wanted)))
    if wanted.sha256 is not None and digest(path) != wanted.sha256:
        raise TesseraError(wrong_hash(path, wanted))
    return path


def wrong_hash(path: Path, wanted: Card) -> str:
    """The sentence for a file that is not what its card says."""
    return (
        f"{path} is not the released {wanted.on_disk}: its SHA-256 is {digest(path)}, expected {wanted.sha256}; "
        "it is damaged or another file, so move it away and get it again"
    )


def part_of(folder: Path, wanted: Card) -> Path:
    """Where a half-finished download of it is kept."""
    return folder / f"{wanted.on_disk}.part"


def _absent(found: Status) -> str:
    wanted = found.card
    if found.path is not None:
        return f"{wanted.on_disk} is only half downloaded ({found.path}): `tessera download {wanted.name}` goes on where it stopped"
    return (
        f"{wanted.on_disk} is not on this machine: put it into {folders()[0]} (or into a folder named in {VARIABLE}), "
        f"or try `tessera download {wanted.name}`, from {wanted.urls[0].url}"
    )


def _verdict(wanted: Card, found: str | None) -> Check:
    if wanted.sha256 is None:
        return "no known hash"
    if found is None:
        return "unchecked"
    return "verified" if found == wanted.sha256 else "wrong"


def whole_pipeline(folder: Path) -> bool:
    """Whether a diffusers folder holds every component it lists, so was not left half downloaded."""
    try:
        index = read_json(folder / HUB_INDEX)
    except (OSError, ValueError):
        return False
    listed = index.items() if isinstance(index, dict) else ()
    components = [folder / name for name, value in listed if isinstance(value, list) and None not in value]
    return bool(components) and all(_whole_component(component) for component in components)


def _whole_component(folder: Path) -> bool:
    if not (folder / "config.json").exists():  # a scheduler or a tokenizer, which has no weights
        return folder.is_dir()
    return any(path.suffix in {".bin", ".safetensors"} for path in folder.iterdir())


def _in_hub_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(repository, HUB_INDEX)
    return Path(index).parent if isinstance(index, str) and whole_pipeline(Path(index).parent) else None
