"""COCO captions: `annotations/captions_train2014.json` and `captions_val2014.json`, pictures in `train2014/` and `val2014/`.

The pictures may lie one folder deeper, `train2014/train2014/`, as the archives unpack. A picture has about five captions.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tessera.data.collection import Collection, draw, one_of
from tessera.data.finding import existing_folder
from tessera.data.images import Crop
from tessera.errors import TesseraError, UsageError
from tessera.json_files import parse_json
from tessera.text_files import read_text

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
        skipped: dict[str, str] = {}
        self._captions = _read(annotations, skipped)
        self._digest = hashlib.sha256(annotations.read_bytes()).hexdigest()
        pictures = next((place for place in (folder / name / name, folder / name) if place.is_dir()), None)
        if pictures is None:
            raise UsageError(f"COCO's pictures are missing: expected the folder {folder / name}")
        files = [file for file, captions in self._captions.items() if captions]
        skipped |= {str(pictures / file): "it has no caption" for file, captions in self._captions.items() if not captions}
        super().__init__(pictures, files, Crop(size, crop or ("random" if split == "train" else "centre"), flip), skipped)

    def prompt(self, index: int, seed: int) -> str:
        return draw(self._captions[self.files[index]], index, seed)

    def _prompt_identity(self) -> Iterator[str]:
        yield self._digest


def _read(path: Path, skipped: dict[str, str]) -> dict[str, list[str]]:
    """Captions by file name, in the order of `images`. Entries of either list that say nothing usable go to `skipped`."""
    try:
        data = parse_json(read_text(path))
    except UsageError as error:
        raise UsageError(f"COCO's captions are missing: {error}") from None
    except ValueError as error:
        raise TesseraError(f"{path} is not JSON ({error}): unpack the annotations again") from error
    images, annotations = (data.get(name) if isinstance(data, dict) else None for name in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise TesseraError(
            f"{path} is no COCO caption file: expected `images` with `id`, `file_name`; `annotations` with `image_id`, `caption`"
        )
    names: dict[Any, str] = {}
    for number, image in enumerate(images):
        key, name = _two(image, "id", "file_name")
        if isinstance(key, int | str) and isinstance(name, str) and name:
            names[key] = name
        else:
            skipped[f"{path}, image {number}"] = "expected `id` and `file_name`"
    captions: dict[str, list[str]] = {name: [] for name in names.values()}
    for number, annotation in enumerate(annotations):
        key, caption = _two(annotation, "image_id", "caption")
        if not isinstance(key, int | str) or key not in names:
            skipped[f"{path}, annotation {number}"] = "it is of a picture that `images` does not list"
        elif not isinstance(caption, str) or not caption.strip():
            skipped[f"{path}, annotation {number}"] = "it has no caption"
        else:
            captions[names[key]].append(caption.strip())
    if not any(captions.values()):
        reason = f": {next(iter(skipped.values()))}" if skipped else ""
        raise UsageError(f"{path} holds no captions{reason}")
    return captions


def _two(entry: Any, first: str, second: str) -> tuple[Any, Any]:
    return (entry.get(first), entry.get(second)) if isinstance(entry, dict) else (None, None)
