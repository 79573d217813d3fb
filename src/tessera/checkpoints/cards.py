"""Cards: what is known of every released file, without having it. Each family keeps its own in `families/<family>/cards.yaml`.

A card is data that people read too, so a wrong one is refused with the file, the card and the field. No torch here.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tessera.errors import TesseraError, UsageError, suggest

__all__ = ["Address", "Card", "Kind", "card", "cards", "check_together", "notes", "read_cards"]

FAMILIES = Path(__file__).parents[1] / "families"
PARTS = re.compile(r"\[([a-z])-([a-z])\]")

Kind = Literal["model", "codec", "text encoder", "mapping", "merges"]
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.+-]*$")]
FilePath = Annotated[str, StringConstraints(pattern=r"^(\w[\w.+-]*/)*\w[\w.+-]*$")]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Address(Entry):
    """Where a file is, or was, published."""

    url: str = Field(
        description="http or https; `[a-g]` in it stands for parts to be concatenated in this order", pattern=r"^https?://\S+$"
    )
    dead: str | None = Field(default=None, description="where it is reported that the link no longer works")

    @property
    def in_browser(self) -> bool:
        """Whether it is the page of a folder rather than a file: no program gets it."""
        return self.url.startswith("https://drive.google.com/drive/folders/")

    @property
    def parts(self) -> tuple[str, ...]:
        """The address of each part: one, unless the file is published in several."""
        found = PARTS.search(self.url)
        if found is None:
            return (self.url,)
        first, last = (ord(letter) for letter in found.groups())
        return tuple(self.url[: found.start()] + chr(letter) + self.url[found.end() :] for letter in range(first, last + 1))


class Card(Entry):
    """One released file, or one repository on the hub."""

    name: Name = Field(description="what `tessera.load` and `tessera download` call it")
    family: str = Field(description="the family whose folder the card is in")
    file: FilePath | None = Field(
        default=None,
        description="the released file's name, after the folders that tell it from others of that name; null: a hub repository, a folder",
    )
    hub: str | None = Field(default=None, description="repository on the Hugging Face hub", pattern=r"^[\w.-]+/[\w.-]+$")
    ignore: tuple[str, ...] = Field(default=(), description="hub: patterns of files that are not wanted")
    kind: Kind
    configuration: str | None = Field(default=None, description="name of its preset, of the network or the codec")
    data: str = Field(description="what it was trained on, or what it says")
    condition: Literal["text", "image", "class", "none"] | None = Field(default=None, description="models: what they are conditioned on")
    learned_null: bool | None = Field(default=None, description='models: whether "no prompt" was learned, for classifier-free guidance')
    needs: tuple[str, ...] = Field(default=(), description="cards of what it needs beside it")
    size: int | None = Field(default=None, description="bytes, where somebody states them", gt=0)
    sha256: str | None = Field(default=None, description="where somebody states it", pattern=r"^[0-9a-f]{64}$")
    hash_source: str | None = Field(default=None, description="who states it")
    urls: tuple[Address, ...] = Field(description="tried in this order", min_length=1)
    licence: str
    source: str = Field(description="the page of its authors")
    note: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Card":
        if (self.file is None) == (self.hub is None):
            raise ValueError("give either file or hub")
        if (self.sha256 is None) != (self.hash_source is None):
            raise ValueError("sha256 and hash_source go together: a hash needs somebody who states it")
        return self

    @property
    def on_disk(self) -> str:
        """Where its file, or its folder, is in a folder of the store."""
        return self.file or self.name


class CardFile(Entry):
    notes: tuple[str, ...] = ()
    cards: tuple[Card, ...]


def read_cards(path: Path) -> CardFile:
    """A `cards.yaml`; the family is named after its folder. Raises TesseraError naming the file, the card and the field."""
    family = path.parent.name.replace("_", "-")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = content["cards"]
        return CardFile.model_validate({**content, "cards": [{**entry, "family": family} for entry in entries]})
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(step) for step in first["loc"]]
        if len(where) > 1 and where[0] == "cards":
            where[:2] = [f"card {entries[int(where[1])].get('name', int(where[1]) + 1)!r}"]
        raise TesseraError(f"{path}: {', '.join(where)}: {first['msg']}") from None
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise TesseraError(f"{path} is not a list of cards ({type(error).__name__}: {error}): install Tessera again") from None


@cache
def _files(families: Path) -> tuple[CardFile, ...]:
    files = tuple(read_cards(path) for path in sorted(families.glob("*/cards.yaml")))
    check_together([card for file in files for card in file.cards])
    return files


def check_together(found: Sequence[Card]) -> None:
    """Names and files are nobody else's, and what a card needs has a card. Raises TesseraError."""
    names = {card.name for card in found}
    for what, values in {"name": [card.name for card in found], "file": [card.on_disk for card in found]}.items():
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise TesseraError(f"two cards have the {what} {twice[0]!r}")
    for card in found:
        for need in card.needs:
            if need not in names:
                raise TesseraError(f"card {card.name!r} needs {need!r}, which has no card")


def cards() -> dict[str, Card]:
    """Every card of every family: name → card, in the order of their files."""
    return {card.name: card for file in _files(FAMILIES) for card in file.cards}


def notes() -> tuple[str, ...]:
    """What is to be known about several cards at once."""
    return tuple(note for file in _files(FAMILIES) for note in file.notes)


def card(name: str) -> Card:
    """The card of that name, or of that released file ("coco_learnable.pth"). UsageError naming the nearest one otherwise."""
    known = cards()
    if name in known:
        return known[name]
    for found in known.values():
        if found.file == name:
            return found
    raise UsageError(suggest("released file", name, known))
