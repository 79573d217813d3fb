"""All hostile inputs, and the commands that each of them is given to."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tests.hostile.folders import HARMLESS, SECRET, UNUSED, write_folders
from tests.hostile.pickles import write_checkpoints
from tests.hostile.pictures import write_pictures
from tests.hostile.recipes import write_datasets, write_recipes, write_runs

__all__ = ["Case", "make_outside", "written"]


class Case(NamedTuple):
    """A command line on a hostile input.

    refused: whether only a refusal is right, exit code 1 or 2 with one sentence. Otherwise the input may also be harmless to this command:
    what `info` does not look at, what a damaged run goes on without.
    """

    name: str
    arguments: list[str]
    room: Path
    refused: bool


def make_outside(folder: Path) -> Path:
    """A folder beside everything that holds what no command may read."""
    outside = folder / "outside"
    outside.mkdir(parents=True)
    (outside / "secret.txt").write_text(f"{SECRET}\n")
    Image.new("RGB", (64, 64), "red").save(outside / "secret.png")
    (outside / "secret.safetensors").write_bytes(SECRET.encode())
    return outside


def written(kind: str, folder: Path, whole: Path | None = None) -> list[Case]:
    """Writes the inputs of one kind into `folder`, and says what is to be done with them. whole: a run that ended well."""
    folder.mkdir(parents=True, exist_ok=True)
    outside = make_outside(folder)
    return [
        Case(f"{place.name}: {arguments[0]}", arguments, place.parent if kind == "runs" else folder / "rooms" / f"{number}-{count}", refused)
        for number, (place, commands) in enumerate(_commands(kind, folder, outside, whole))
        for count, (arguments, refused) in enumerate(commands)
    ]


def _commands(kind: str, folder: Path, outside: Path, whole: Path | None) -> Iterator[tuple[Path, list[tuple[list[str], bool]]]]:
    if kind == "folders":
        for place in write_folders(folder / "models", outside):
            bad = place.name not in HARMLESS
            yield place, _of_model(place, bad)
        yield folder / "models", [(["shelf", str(folder / "models")], False)]
    elif kind == "checkpoints":
        for place in write_checkpoints(folder / "files", outside):
            yield place, [(["info", str(place)], False), (["convert", str(place), "-o", "out"], True), (["load", str(place)], True)]
        yield folder / "files", [(["shelf", str(folder / "files")], False)]
    elif kind == "pictures":
        for place in write_pictures(folder / "pictures"):
            yield place, [(["info", str(place)], False), (["generate", "--from", str(place), "-o", "out", "--steps", "1"], False)]
    elif kind == "recipes":
        for place in [*write_recipes(folder / "recipes"), *write_datasets(folder / "datasets", outside)]:
            yield place, [(["train", str(place)], True)]
    else:
        assert whole is not None
        for recipe, _ in write_runs(folder / "runs", whole):
            yield recipe, [(["train", str(recipe)], False)]


def _of_model(place: Path, bad: bool) -> list[tuple[list[str], bool]]:
    path = str(place)
    return [
        (["info", path], False),
        (["convert", path, "-o", "out"], bad),
        (["load", path], bad),
        (["generate", "a red circle", "--model", path, "-o", "out", "--steps", "1"], bad and place.name not in UNUSED),
    ]
