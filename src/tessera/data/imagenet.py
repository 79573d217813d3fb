"""ImageNet's folders: `train/n01440764/*.JPEG`, `val/n01440764/*.JPEG`; a picture's label is its folder's place in the list of classes."""

from collections.abc import Iterator, Sequence

from tessera.data.class_folders import class_list
from tessera.data.collection import Collection, one_of
from tessera.data.finding import existing_folder, pictures_of, walk
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
        classes: the folders' names in the order of their labels, or a text file of them, one a line; by default those of `train`, whichever
            split is read (see `data.class_folders`).

    classes: label i is classes[i]. Pictures of other folders, or of none, stand in `skipped`, and so do folders without any picture.
    """

    def __init__(
        self, root: str, size: int = 256, split: str = "train", crop: str | None = None, flip: bool = False,
        classes: str | Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        whole = existing_folder(root, "ImageNet (with `train` and `val` in it)")
        folder = whole / one_of("split", split, ("train", "val"))
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: expected a folder for each class in it")
        if not any(place.is_dir() for place in folder.iterdir()):
            raise UsageError(f"{folder} holds no folders: expected one for each class, as n01440764")
        skipped: dict[str, str] = {}
        there = walk(folder, skipped)
        found = pictures_of(folder, there, skipped)
        self.classes = class_list(whole / "train", folder, classes)
        self._label = {name: label for label, name in enumerate(self.classes)}
        files = [name for name in found if _class_of(name) in self._label]
        for name in there:
            if "/" not in name:
                skipped.setdefault(str(folder / name), "it lies in no class's folder")
        for name in found:
            if "/" in name and _class_of(name) not in self._label:
                skipped[str(folder / name)] = f"its folder {_class_of(name)!r} is no class of the training data"
        full = {_class_of(name) for name in found}
        for place in sorted(folder.iterdir()):
            if place.is_dir() and not place.name.startswith(".") and place.name not in full and str(place) not in skipped:
                skipped[str(place)] = "the folder holds no picture" + ("" if place.name in self._label else ", so it is no class")
        super().__init__(folder, files, Crop(size, crop or ("random" if split == "train" else "centre"), flip), skipped)

    def prompt(self, index: int, seed: int) -> int:
        return self._label[_class_of(self.files[index])]

    def _prompt_identity(self) -> Iterator[str]:
        return iter(self.classes)


def _class_of(name: str) -> str:
    """The folder right below the split's, "" where there is none."""
    folder, slash, _ = name.partition("/")
    return folder if slash else ""
