"""`tessera models`: the bundled models, and every released file with what is known of it and whether it is here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.apps.catalogue import shown, summary
from tessera.apps.console import print_json, say, show
from tessera.apps.options import AsJSON, Debug

if TYPE_CHECKING:
    from tessera.checkpoints.registry import Status

__all__ = ["models"]


def models(
    check: Annotated[bool, typer.Option("--check", help="Hash the released files that are here, and compare.")] = False,
    as_json: AsJSON = False,
    debug: Debug = False,
) -> None:
    """Lists the bundled models, the released files, and the samplers."""
    from tessera.checkpoints.cards import cards, notes
    from tessera.checkpoints.registry import find_local, folders, status
    from tessera.model_folder import bundled
    from tessera.registry import SAMPLERS

    about = {name: {**summary(folder), "status": "bundled"} for name, folder in bundled().items()}
    found: list[Status] = []
    for card in cards().values():
        if check and (path := find_local(card)) is not None and path.is_file():
            say(f"hashing {path} ({size(path.stat().st_size)})")
        found.append(status(card, check))
    if as_json:
        released = {entry.card.name: described(entry) for entry in found}
        print_json({"models": about, "released": released, "folders": [str(folder) for folder in folders()], "samplers": sorted(SAMPLERS)})
        return
    show("bundled models")
    for name, values in about.items():
        weights = values["weights"]["all"] / 1e6
        show(f"  {name}: {values['family']}, {values['size']}, {weights:.1f} M weights; {shown(values['defaults'])}")
    if not about:
        show("  none in this installation")
    for family in dict.fromkeys(entry.card.family for entry in found):
        show(f"\nreleased files of {family}")
        for line in _table([entry for entry in found if entry.card.family == family]):
            show(f"  {line}")
    for note in notes():
        show(f"  {note}")
    show(f"  Files are found in {', '.join(map(str, folders()))} (or where TESSERA_MODELS says). All addresses: --json.")
    show(f"\nsamplers: {', '.join(sorted(SAMPLERS))}")


def described(entry: "Status") -> dict[str, Any]:
    """A card and its status, as JSON."""
    return {
        **entry.card.model_dump(),
        "status": "must be supplied" if entry.state == "absent" else entry.state,
        "path": None if entry.path is None else str(entry.path),
        "bytes": entry.bytes,
        "check": entry.check,
        "sha256 found": entry.sha256,
    }


def _table(entries: "list[Status]") -> Iterator[str]:
    """A line per file, and below it where it is or could be had; addresses stay whole, for copying. A note of several is said once."""
    width = max(len(entry.card.name) for entry in entries)
    state_width = max(len(_state(entry)) for entry in entries)
    said: set[str] = {""}
    for entry in entries:
        card = entry.card
        amount = entry.bytes if entry.state == "local" else card.size
        about = [f"{card.kind:12}", f"{_state(entry):{state_width}}", "" if amount is None else size(amount)]
        yield f"{card.name:{width}}  {'  '.join(about)}".rstrip()
        if entry.path is not None:
            yield f"    {entry.path}"
        elif card.file is not None and not card.file.startswith(f"{card.name}."):
            yield f"    file {card.file}"
        if card.needs:
            yield f"    needs {', '.join(card.needs)}"
        if card.note not in said:
            yield f"    {card.note}"
            said.add(card.note)
        if entry.check == "wrong":
            yield f"    SHA-256 expected {card.sha256}"
            yield f"               found {entry.sha256}"
        elif card.sha256 is not None:
            yield f"    SHA-256 {card.sha256}"
        if entry.state != "local":
            address = min(card.urls, key=lambda address: address.dead is not None)
            yield f"    {address.url}" + (f" (dead, see {address.dead})" if address.dead else "")


def _state(entry: "Status") -> str:
    if entry.state == "absent":
        return "must be supplied"
    if entry.state == "half downloaded":
        return f"half downloaded, {size(entry.bytes or 0)}"
    return f"local, {'WRONG HASH' if entry.check == 'wrong' else entry.check}"


def size(count: int) -> str:
    """Bytes in the unit that suits them: "354 MB"."""
    for unit, worth in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= worth:
            return f"{count / worth:.3g} {unit}"
    return f"{count} B"
