"""Which class has which number: the list of classes of data that lies in a folder for each class.

The list is that of the training split: the sorted names of its folders that hold pictures, for every other split too. Names of ImageNet's
1000 synsets have the numbers that released models know them by, also where only some of them are there.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tessera.data.finding import holds_pictures
from tessera.errors import UsageError
from tessera.text_files import lines_of, read_text

__all__ = ["class_list", "imagenet_synsets"]

SYNSET = re.compile(r"n\d{8}")


def imagenet_synsets() -> list[str]:
    """The WordNet numbers of ImageNet's 1000 classes (ILSVRC 2012) in their order, which is the sorted one."""
    return lines_of(read_text(Path(__file__).with_name("imagenet_synsets.txt")))


def class_list(training: Path, folder: Path, given: str | Sequence[str] | None) -> list[str]:
    """The classes in the order of their numbers.

    Args:
        training: the folder of the training split.
        folder: that of the split that is read.
        given: the classes' names, or a text file of them, one a line; None: they are those of the training split.

    UsageError for a list with a name twice or without any, for training folders of which only some are synsets of ImageNet, and where there
    is no training split to take the list from.
    """
    if given is not None:
        return _checked([line.strip() for line in lines_of(read_text(Path(given).expanduser()))] if isinstance(given, str) else given)
    source = training if training.is_dir() else folder
    names = sorted(place.name for place in source.iterdir() if not place.name.startswith(".") and holds_pictures(place))
    standard = imagenet_synsets()
    strangers = [name for name in names if name not in set(standard)]
    if names and not strangers:
        return standard
    if len(strangers) < len(names) and (odd := [name for name in strangers if not SYNSET.fullmatch(name)]):
        raise UsageError(f"{source} holds classes of ImageNet and {odd[0]!r}, which is none: remove it, or list all in order as `classes`")
    if source != training:
        raise UsageError(f"there is no folder {training} to take the list of classes from: give the list of the training data as `classes`")
    return names


def _checked(given: Sequence[str]) -> list[str]:
    names = [str(name) for name in given if str(name).strip()]
    if not names:
        raise UsageError("`classes` names no class: give the folders' names in order, or a text file of them, one a line")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"`classes` has {twice!r} twice: each class has one number")
    return names
