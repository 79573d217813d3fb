"""Sets of pictures to be measured: a folder, a dataset, what a model draws. All stream: a batch is in memory at a time.

out/                                       a folder of pictures
data:scenes,split=held-out                 a registered dataset with its arguments
model:scenes,steps=32,guidance=1.5,seed=1  a model with its sampling settings
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tessera.data.dataset import Dataset
from tessera.data.finding import pictures_of, walk
from tessera.data.images import Crop
from tessera.errors import TesseraError, UsageError
from tessera.pictures import SUFFIXES, open_picture, upright_rgb
from tessera.record import Record

__all__ = ["DatasetPictures", "FolderPictures", "PictureBatch", "PictureSet", "as_levels", "in_batches"]


class PictureBatch(NamedTuple):
    """image: of one size, 0..255. prompts: what each is said to show, None where nothing is said."""

    image: UInt8[Tensor, "b 3 h w"]
    prompts: list[Any]


Shown = tuple[UInt8[Tensor, "3 h w"], Any]
"""A picture and its prompt."""


class PictureSet:
    """Pictures in an order.

    about: what a report says of the set, JSON values. count: how many there are; None: as many as are asked for. identity: equal for
    sets that give the same pictures, for caches; None where that cannot be known. skipped: what was found and could not be used so far, by
    its path: every file found is shown or stands here.
    """

    about: dict[str, Any]
    count: int | None
    identity: str | None
    skipped: dict[str, str]

    def shown(self, limit: int | None) -> Iterator[Shown]:
        """Every readable picture in order; without end where `count` is None. `limit`: more than so many will not be taken."""
        raise NotImplementedError

    def batches(self, count: int | None, size: int) -> Iterator[PictureBatch]:
        """The first `count` pictures (all of them: None) in batches of at most `size`. Raises UsageError when there are fewer."""
        return in_batches(self._first(count), size)

    def pictures_at(self, indices: Collection[int]) -> dict[int, UInt8[Tensor, "3 h w"]]:
        """The pictures that come as these numbers."""
        last = max(indices) + 1
        return {index: image for index, (image, _) in enumerate(islice(self.shown(last), last)) if index in indices}

    def _first(self, count: int | None) -> Iterator[Shown]:
        if count is None and self.count is None:
            raise UsageError(f"{self.name} has no end: say how many pictures to take with -n")
        if count is not None and self.count is not None and self.count < count:
            raise self._too_few(self.count, count)
        given = 0
        for shown in islice(self.shown(count), count):
            given += 1
            yield shown
        if given < (1 if count is None else count):
            raise self._too_few(given, 1 if count is None else count)

    def _too_few(self, there: int, wanted: int) -> UsageError:
        unread = f" ({len(self.skipped)} cannot be read, the first because {next(iter(self.skipped.values()))})" if self.skipped else ""
        return UsageError(f"{self.name} has {there} pictures{unread}, but {wanted} are needed: add some or lower -n")

    @property
    def name(self) -> str:
        return str(self.about["name"])

    @property
    def account(self) -> dict[str, Any]:
        """What the set is, and which of its files were skipped so far: path → reason."""
        return {**self.about, "skipped": dict(self.skipped)}


def in_batches(shown: Iterator[Shown], size: int) -> Iterator[PictureBatch]:
    """Batches of at most `size`; a picture of another size than the last one begins a new batch."""
    images: list[Tensor] = []
    prompts: list[Any] = []
    for image, prompt in shown:
        if images and (len(images) == size or images[0].shape != image.shape):
            yield PictureBatch(torch.stack(images), prompts)
            images, prompts = [], []
        images.append(image)
        prompts.append(prompt)
    if images:
        yield PictureBatch(torch.stack(images), prompts)


def as_levels(picture: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """A picture's RGB values."""
    return torch.from_numpy(np.array(upright_rgb(picture))).permute(2, 0, 1).contiguous()


class FolderPictures(PictureSet):
    """The picture files below a folder, in the order of their paths.

    Args:
        root: the folder.
        size: pictures are resized and cropped to squares of this side; None: as they are.

    A PNG that Tessera wrote says its prompt itself. Raises UsageError when there is no folder, or no picture in it.
    """

    def __init__(self, root: Path, size: int | None = None) -> None:
        if not root.is_dir():
            raise UsageError(f"there is no folder {root}: give a folder of pictures, data:KIND,… or model:NAME,…")
        self.root, self.skipped = root, {}
        self.files = pictures_of(root, walk(root, self.skipped), self.skipped)
        if not self.files:
            raise UsageError(f"no picture was found in {root}: expected files that end in {', '.join(sorted(SUFFIXES))}")
        self.crop = None if size is None else Crop(size, "centre")
        self.count = len(self.files)
        self.about = {"name": str(root), "kind": "folder", "files": self.count, "resized": size}
        digest = hashlib.sha256(f"{root.resolve()} {size}".encode())
        for name in self.files:
            status = (root / name).stat()
            digest.update(b"\n" + os.fsencode(name) + f" {status.st_size} {status.st_mtime_ns}".encode())
        self.identity = digest.hexdigest()

    def shown(self, limit: int | None) -> Iterator[Shown]:
        for name in self.files:
            try:
                shown = self._read(name)
            except TesseraError as error:
                self.skipped[str(self.root / name)] = str(error)
            else:
                yield shown

    def pictures_at(self, indices: Collection[int]) -> dict[int, UInt8[Tensor, "3 h w"]]:
        return super().pictures_at(indices) if self.skipped else {index: self._read(self.files[index])[0] for index in indices}

    def _read(self, name: str) -> Shown:
        picture = open_picture(self.root / name)
        upright = upright_rgb(picture)
        return as_levels(upright) if self.crop is None else self.crop(upright, 0), _prompt_of(picture)


def _prompt_of(picture: Image.Image) -> Any:
    try:
        record = Record.of(picture)
    except TesseraError:
        return None  # a broken record says nothing of the pixels
    return None if record is None else record.prompt


class DatasetPictures(PictureSet):
    """The pictures of a registered dataset, in its order.

    Args:
        dataset: the dataset.
        description: its kind and arguments.
    """

    def __init__(self, dataset: Dataset, description: dict[str, Any]) -> None:
        self.dataset = dataset
        self.count = None if description["kind"] in ENDLESS else len(dataset)
        arguments = {name: value for name, value in description.items() if name != "kind"}
        written = ",".join([description["kind"], *(f"{name}={value}" for name, value in arguments.items())])
        self.about = {"name": f"data:{written}", "kind": "dataset", "dataset": description}
        self.identity = hashlib.sha256(json.dumps([description["kind"], dataset.fingerprint]).encode()).hexdigest()

    @property
    def skipped(self) -> dict[str, str]:  # type: ignore[override]  # the dataset's own
        return self.dataset.skipped

    def shown(self, limit: int | None) -> Iterator[Shown]:
        for index in range(len(self.dataset)):
            example = self.dataset.example(index, 0)
            if example is not None:
                yield example.image, example.prompt

    def pictures_at(self, indices: Collection[int]) -> dict[int, UInt8[Tensor, "3 h w"]]:
        if self.skipped:
            return super().pictures_at(indices)
        examples = {index: self.dataset.example(index, 0) for index in indices}
        return {index: example.image for index, example in examples.items() if example is not None}


ENDLESS = ("scenes", "scene-labels")
"""Datasets whose length is a matter of taste."""
