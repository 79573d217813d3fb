"""COCO captions: `annotations/captions_train2014.json` and `captions_val2014.json`, pictures in `train2014/` and `val2014/`.

The pictures may lie one folder deeper, `train2014/train2014/`, as the archives unpack. A picture has about five captions.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tessera.data.collection import Collection, draw, existing_folder, one_of
from tessera.data.images import Crop
from tessera.errors import TesseraError, UsageError

__all__ = ["COCO"]


class COCO(Collection):
    """COCO pictures in the order of the annotation file; of several captions `seed` draws one.

    Args:
        root: the folder that holds `annotations`.
        size: side of the pictures in pixels.
        split: "train" or "val".
        year: the edition, as in the names of files and folders.
        crop: "random" or "centre" (see `data.images`); by default random for "train".
        flip: mirror every second picture, by chance.
    """

    def __init__(
        self, root: str, size: int = 256, split: str = "train", year: int = 2014, crop: str | None = None, flip: bool = False
    ) -> None:
        folder = existing_folder(root, "COCO (with `annotations` in it)")
        name = f"{one_of('split', split, ('train', 'val'))}{year}"
        annotations = folder / "annotations" / f"captions_{name}.json"
        self._captions = _read(annotations)
        self._digest = hashlib.sha256(annotations.read_bytes()).hexdigest()
        pictures = next((place for place in (folder / name / name, folder / name) if place.is_dir()), None)
        if pictures is None:
            raise UsageError(f"COCO's pictures are missing: expected the folder {folder / name}")
        files = [file for file, captions in self._captions.items() if captions]
        skipped = {str(pictures / file): "it has no caption" for file, captions in self._captions.items() if not captions}
        super().__init__(pictures, files, Crop(size, crop or ("random" if split == "train" else "centre"), flip), skipped)

    def prompt(self, index: int, seed: int) -> str:
        return draw(self._captions[self.files[index]], index, seed)

    def _prompt_identity(self) -> Iterator[str]:
        yield self._digest


def _read(path: Path) -> dict[str, list[str]]:
    """Captions by file name, in the order of `images`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"COCO's captions are missing: expected {path} ({error.strerror})") from error
    except ValueError as error:
        raise TesseraError(f"{path} is not JSON ({error}): unpack the annotations again") from error
    try:
        names = {image["id"]: str(image["file_name"]) for image in data["images"]}
        captions: dict[str, list[str]] = {name: [] for name in names.values()}
        for annotation in data["annotations"]:
            # The few captions of pictures that `images` does not list say nothing to train on.
            if annotation["image_id"] in names and (caption := annotation["caption"].strip()):
                captions[names[annotation["image_id"]]].append(caption)
    except (KeyError, TypeError, AttributeError) as error:
        raise TesseraError(
            f"{path} is no COCO caption file: expected `images` with `id`, `file_name`; `annotations` with `image_id`, `caption`"
        ) from error
    if not any(captions.values()):
        raise UsageError(f"{path} holds no captions")
    return captions
