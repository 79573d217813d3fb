"""ImageNet's folders: `train/n01440764/*.JPEG`, `val/n01440764/*.JPEG`; a picture's label is the rank of its folder's name."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from tessera.data.collection import SUFFIXES, Collection, existing_folder, one_of, walk
from tessera.data.images import Crop
from tessera.errors import UsageError

__all__ = ["ImageNet"]


class ImageNet(Collection):
    """Pictures with class labels, in the order of their paths. Any data in such folders will do.

    Args:
        root: the folder that holds `train` and `val`.
        size: side of the pictures in pixels.
        split: "train" or "val".
        crop: "random" or "centre" (see `data.images`); by default random for "train".
        flip: mirror every second picture, by chance.

    classes: the folders' names; label i is classes[i].
    """

    def __init__(self, root: str, size: int = 256, split: str = "train", crop: str | None = None, flip: bool = False) -> None:
        folder = existing_folder(root, "ImageNet (with `train` and `val` in it)") / one_of("split", split, ("train", "val"))
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: expected a folder for each class in it")
        self.classes = sorted(place.name for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
        if not self.classes:
            raise UsageError(f"{folder} holds no folders: expected one for each class, as n01440764")
        self._label = {name: label for label, name in enumerate(self.classes)}
        skipped: dict[str, str] = {}
        files = [name for name in walk(folder, skipped) if "/" in name and PurePosixPath(name).suffix.lower() in SUFFIXES]
        super().__init__(folder, files, Crop(size, crop or ("random" if split == "train" else "centre"), flip), skipped)

    def prompt(self, index: int, seed: int) -> int:
        return self._label[self.files[index].partition("/")[0]]

    def _prompt_identity(self) -> Iterator[str]:
        return iter(self.classes)
