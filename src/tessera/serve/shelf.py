"""The models that a server offers: the bundled ones, and with `--models DIR` what is found in that folder. No other path is ever opened.

A model is loaded when it is first asked for, and the one that was used longest ago makes room for it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.checkpoints.registry import card_of
from tessera.errors import TesseraError, UsageError, suggest
from tessera.model_folder import DESCRIPTION, bundled, read_description
from tessera.part_description import CONFIG
from tessera.sources import PIPELINE

if TYPE_CHECKING:
    from tessera.model import Model

__all__ = ["Offer", "Shelf"]

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".th", ".safetensors")
"""Endings of files of others."""


@dataclass(frozen=True)
class Offer:
    """A model that can be asked for.

    name: that it is asked for by. place: its folder or file. about: its description, or what of it is used here; empty of files of others
    until they are loaded.
    """

    name: str
    place: Path
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def flows(self) -> list[str]:
        """Names of its flows. A released file is taken to make pictures of words until it is loaded."""
        return sorted(self.about["flows"]) if self.about else ["text_to_image"]

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of its pictures."""
        return (self.about["size"][0], self.about["size"][1]) if self.about else None

    @property
    def defaults(self) -> dict[str, Any]:
        """Its own sampling settings."""
        return self.about.get("defaults", {})

    @property
    def kind(self) -> str | None:
        """Of its latents, "tokens" or "floats"."""
        flow = self.about.get("flows", {}).get("text_to_image")
        return None if flow is None else flow.get("kind", "tokens")


class Shelf:
    """Offers by name, and the models of those in use.

    Args:
        folder: of further models; None for the bundled ones alone.
        first: a name or path that the person who starts the server gave; it is offered first.
        device: as of `tessera.load`.
        room: models that are kept loaded.
    """

    def __init__(self, folder: Path | None = None, first: str | None = None, device: str = "auto", room: int = 2) -> None:
        self.device, self.room = device, room
        self.left_out: dict[str, str] = {}
        """What lies in the folder and is not offered, and why."""
        offers = [_offer(name, place) for name, place in bundled().items()]
        offers += [] if folder is None else _found(folder, self.left_out)
        self.offers: dict[str, Offer] = {}
        for offer in offers:
            self.offers.setdefault(offer.name, offer)
        if first is not None:
            chosen = self.offers.pop(first, None) or _given(first)
            self.offers = {chosen.name: chosen, **self.offers}
        if not self.offers:
            raise TesseraError("this installation has no bundled models: give one with --model")
        self._loaded: OrderedDict[str, Model] = OrderedDict()

    def offer(self, name: str) -> Offer:
        """Raises UsageError for a name that is not offered, whatever is there on the disk."""
        if name not in self.offers:
            raise UsageError(suggest("model", name[:100], self.offers))
        return self.offers[name]

    def model(self, name: str) -> Model:
        """The model, loaded. Only the service's worker may call this. Raises as `tessera.load`."""
        from tessera.loading import load

        offer = self.offer(name)
        if name not in self._loaded:
            while len(self._loaded) >= self.room:
                self._loaded.popitem(last=False)
            try:
                self._loaded[name] = load(offer.place, self.device)
            except TesseraError as error:  # where it lies is nobody's business
                raise type(error)(str(error).replace(str(offer.place), name)) from None
            if not offer.about:
                self.offers[name] = replace(offer, about=_about(self._loaded[name]))
        self._loaded.move_to_end(name)
        return self._loaded[name]


def _given(source: str) -> Offer:
    """What `--model` names."""
    from tessera.sources import locate

    place = locate(source)
    return _offer(place.name if Path(source).exists() else source, place)


def _offer(name: str, place: Path) -> Offer:
    return Offer(name, place, read_description(place) if (place / DESCRIPTION).is_file() else {})


def _about(model: Model) -> dict[str, Any]:
    """Of a description what `Offer` reads."""
    flows = {name: {"kind": flow.kind} for name, flow in model.flows.items()}
    return {"flows": flows, "size": list(model.size), "defaults": asdict(model.defaults)}


def _found(folder: Path, left_out: dict[str, str]) -> list[Offer]:
    """Model folders and checkpoints in `folder` and in folders of it that are none themselves. Symbolic links out of it are not followed.

    What a checkpoint is, and whether it can be drawn with, is said when it is asked for: to know that takes torch, and a page that waits.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: --models names a folder with models")
    root = folder.resolve()
    inside = []
    for path in [*sorted(folder.iterdir()), *sorted(folder.glob("*/*"))]:
        try:
            if path.resolve().is_relative_to(root):
                inside.append(path)
        except (OSError, RuntimeError) as error:  # a link in a circle
            left_out[path.relative_to(folder).as_posix()] = f"it cannot be followed ({error})"
    offers = []
    for path in inside:
        name = path.relative_to(folder).as_posix()
        if (path / DESCRIPTION).is_file():
            try:
                offers.append(_offer(name, path))
            except TesseraError as error:
                left_out[name] = str(error)
        elif (path / PIPELINE).is_file() or (path.is_file() and _is_checkpoint(path)):
            offers.append(Offer(name, path))
    return offers


def _is_checkpoint(path: Path) -> bool:
    """Whether a file may hold a model: by its ending, unless it is known for something else or belongs to the folder that it is in."""
    card = card_of(path)
    inside = any((path.parent / name).is_file() for name in (DESCRIPTION, PIPELINE, CONFIG))
    return path.suffix in CHECKPOINTS and (card is None or card.kind == "model") and not inside
