"""CUB-200 birds: `images/CLASS/*.jpg`, `text/text/CLASS/*.txt` (ten captions, one a line), `train|test/filenames.pickle`.

The lists of names are pickles, so a reader is used here that makes texts and lists, and refuses everything else.
"""

import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tessera.data.collection import Collection, draw, one_of, read_captions
from tessera.data.finding import existing_folder
from tessera.data.images import Crop
from tessera.errors import TesseraError, UsageError
from tessera.text_files import read_regular

__all__ = ["CUB", "read_names"]


class CUB(Collection):
    """Pictures of a split in the order of its list; of the captions `seed` draws one.

    Args:
        root: the folder that holds `images`, `text`, `train` and `test`.
        size: side of the pictures in pixels.
        split: "train" or "test".
        crop: "random" or "centre" (see `data.images`); by default random for "train".
        flip: mirror every second picture, by chance.
    """

    def __init__(self, root: str, size: int = 256, split: str = "train", crop: str | None = None, flip: bool = False) -> None:
        folder = existing_folder(root, "CUB-200 (with `images` and `text` in it)")
        names = read_names(folder / one_of("split", split, ("train", "test")) / "filenames.pickle")
        texts = next((place for place in (folder / "text" / "text", folder / "text") if place.is_dir()), None)
        if texts is None or not (folder / "images").is_dir():
            raise UsageError(f"{folder} is incomplete: expected the folders images and text/text")
        self._texts = texts
        super().__init__(
            folder / "images", [f"{name}.jpg" for name in names], Crop(size, crop or ("random" if split == "train" else "centre"), flip)
        )

    def _text(self, index: int) -> Path:
        return self._texts / f"{self.files[index].removesuffix('.jpg')}.txt"

    def prompt(self, index: int, seed: int) -> str:
        return draw(read_captions(self._text(index)), index, seed)

    def _prompt_identity(self) -> Iterator[str]:
        for index in range(len(self)):
            text = self._text(index)
            yield str(text.stat().st_size if text.exists() else -1)


class _Names(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[[str, str], bytes]:
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes Python 3's bytes
            return lambda text, _: text.encode("latin-1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_names(path: Path) -> list[str]:
    """A pickled list of names. Nothing but texts, bytes, numbers and plain containers is made from the file; nothing of it is run.

    Raises UsageError when there is no such file, TesseraError when it holds anything but a list of names.
    """
    try:
        names: Any = _Names(io.BytesIO(read_regular(path)), encoding="latin-1").load()  # Python 2 wrote byte strings
    except UsageError as error:
        raise UsageError(f"the list of pictures is missing: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise TesseraError(f"{path} is not a pickled list of names ({error}): fetch the file again") from error
    if not isinstance(names, list) or not names:
        raise TesseraError(f"{path} is not a pickled list of names: it holds {type(names).__name__}")
    names = [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]
    if not all(isinstance(name, str) for name in names):
        raise TesseraError(f"{path} is not a pickled list of names: it holds other things than texts")
    return names
