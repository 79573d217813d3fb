"""A folder of pictures with captions beside them, or without any.

captions="txt"          picture.jpg and picture.txt, one caption a line
captions="list.jsonl"   lines {"file": "sub/picture.jpg", "caption": "…"} (or a list of captions)
captions="list.csv"     a header with `file` and `caption`, then a row for each caption
captions=None           pictures alone, for unconditional models
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tessera.data.caption_lists import read_list
from tessera.data.collection import Collection, draw, one_of, read_captions
from tessera.data.finding import existing_folder, pictures_of, walk
from tessera.data.images import Crop
from tessera.errors import UsageError

__all__ = ["Folder"]


class Folder(Collection):
    """Pictures of a folder and its subfolders, in the order of their paths; of several captions `seed` draws one.

    Args:
        root: the folder.
        size: side of the pictures in pixels.
        captions: see the module; a list's name and the files in it are relative to `root`.
        split: "all", "train" (the first `train_share` of the pictures) or "val" (the rest).
        crop: "random" or "centre" (see `data.images`); by default random unless the split is "val".
        flip: mirror every second picture, by chance.

    A picture without a caption, a row of the list that says nothing usable, a link that leads nowhere: whatever is left out stands in
    `skipped`. UsageError when nothing is left, when the list lacks a column, or when there is no such folder.
    """

    def __init__(
        self,
        root: str,
        size: int = 256,
        captions: str | None = "txt",
        split: str = "all",
        train_share: float = 0.95,
        crop: str | None = None,
        flip: bool = False,
    ) -> None:
        folder = existing_folder(root, "pictures")
        one_of("split", split, ("all", "train", "val"))
        if not 0 < train_share < 1:
            raise UsageError(f"train_share must lie between 0 and 1, not be {train_share}")
        skipped: dict[str, str] = {}
        self._captions: dict[str, list[str]] | None = None
        self._list: Path | None = None
        if captions is None:
            files = pictures_of(folder, walk(folder, skipped), skipped)
        elif captions == "txt":
            files = _with_text(folder, skipped)
        else:
            self._list = folder / captions
            self._captions = read_list(self._list, skipped)
            files = sorted(self._captions)
        self._texts = captions == "txt"
        if split != "all":
            first = train_count(len(files), train_share)
            files = files[:first] if split == "train" else files[first:]
        super().__init__(folder, files, Crop(size, crop or ("centre" if split == "val" else "random"), flip), skipped)

    def prompt(self, index: int, seed: int) -> str | None:
        name = self.files[index]
        if self._texts:
            return draw(read_captions(self.root / _text_of(name)), index, seed)
        return None if self._captions is None else draw(self._captions[name], index, seed)

    def _prompt_identity(self) -> Iterator[str]:
        if self._texts:
            for name in self.files:
                text = self.root / _text_of(name)
                yield f"{text.stat().st_size if text.exists() else -1}"
        if self._list is not None:
            yield hashlib.sha256(self._list.read_bytes()).hexdigest()


def train_count(pictures: int, share: float) -> int:
    """How many of the pictures train, the first of them."""
    return int(pictures * share)


def _with_text(folder: Path, skipped: dict[str, str]) -> list[str]:
    """The pictures that have a caption file; the others go to `skipped`. UsageError when there are others only."""
    found = walk(folder, skipped)
    pictures = pictures_of(folder, found, skipped)
    texts = {name for name in found if name.endswith(".txt")}
    files = [name for name in pictures if _text_of(name) in texts]
    if pictures and not files:
        raise UsageError(
            f"none of the {len(pictures)} pictures in {folder} has a caption: put picture.txt beside picture.jpg, "
            "name a .jsonl or .csv list as `captions`, or set `captions` to null for an unconditional model"
        )
    for name in pictures:
        if _text_of(name) not in texts:
            skipped[str(folder / name)] = f"it has no caption file {PurePosixPath(_text_of(name)).name!r} beside it"
    return files


def _text_of(name: str) -> str:
    return PurePosixPath(name).with_suffix(".txt").as_posix()
