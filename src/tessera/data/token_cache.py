"""The tokens of a dataset, computed once and kept on disk.

A cache's folder is named by a key: a hash of the codec's weights, the dataset's fingerprint (which knows the preprocessing) and the
number of views. A picture's random crop is drawn `views` times, once and for all; which view is read, and with which caption,
depends on the seed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tessera.codecs.codec import TokenCodec
from tessera.data.dataset import Dataset
from tessera.data.token_files import CHUNK, DIFFERENT_SIZES, Part, TokenFiles
from tessera.errors import TesseraError, UsageError
from tessera.randomness import derive_seed

__all__ = ["CachedTokens", "TokenExample", "codec_fingerprint", "token_cache"]

FORMAT = 1


class TokenExample(NamedTuple):
    """tokens: int64 [N], row-major. prompt: as in `Example`."""

    tokens: Int[Tensor, " n"]
    prompt: str | int | None


def codec_fingerprint(codec: nn.Module) -> str:
    """A hash of the codec's configuration and of every weight."""
    digest = hashlib.sha256(json.dumps(getattr(codec, "config", None), sort_keys=True).encode())
    for name, value in sorted(codec.state_dict().items()):
        digest.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class CachedTokens:
    """A dataset whose pictures are tokens already.

    `skipped` holds the pictures that could not be read when the cache was made.
    """

    def __init__(self, data: Dataset, files: Sequence[Path], views: int, missing: int) -> None:
        self.data, self.files, self.views, self._missing = data, list(files), views, missing
        self._chunks: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself: a pickled map would carry all tokens.
        return {**self.__dict__, "_chunks": None}

    @property
    def skipped(self) -> dict[str, str]:
        return self.data.skipped

    @property
    def fingerprint(self) -> str:
        return self.files[0].parent.name

    def example(self, index: int, seed: int) -> TokenExample | None:
        """Tokens of one view of the picture and its prompt, or None when picture or prompt cannot be read."""
        if self._chunks is None:
            self._chunks = [np.load(file, mmap_mode="r") for file in self.files]
        view = derive_seed("view", seed, index) % self.views
        tokens = self._chunks[index // CHUNK][index % CHUNK, view]
        if tokens[0] == self._missing:
            return None
        try:
            prompt = _prompt(self.data, index, seed)
        except TesseraError as error:
            self.data.skipped[f"prompt of picture {index}"] = str(error)
            return None
        return TokenExample(torch.from_numpy(tokens.astype(np.int64)), prompt)


def _prompt(data: Any, index: int, seed: int) -> str | int | None:
    """The prompt, without the picture where the dataset can give it alone."""
    if hasattr(data, "prompt"):
        return data.prompt(index, seed)
    example = data.example(index, seed)
    return None if example is None else example.prompt


def token_cache(
    folder: str | Path,
    data: Dataset,
    codec: TokenCodec,
    views: int = 1,
    batch_size: int = 32,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CachedTokens:
    """The tokens of `data`, from the cache in `folder` or computed now and put there. One process computes, others wait for it.

    Args:
        folder: where caches are kept; each has a folder of its own in it.
        data: the dataset; pictures that it cannot read have no tokens.
        codec: encodes on the device where its weights are.
        views: how many random crops of each picture are encoded.
        batch_size: pictures per call of the codec.
        workers: processes that read pictures.
        progress: called with (pictures done, pictures in all).

    Raises UsageError when the pictures differ in size or none can be read, TesseraError when the folder cannot be written.
    """
    if views < 1 or batch_size < 1 or len(data) == 0:
        raise UsageError(f"a token cache needs pictures, views and a batch size, not {len(data)}, {views} and {batch_size}")
    key = hashlib.sha256(f"{FORMAT} {CHUNK} {views} {codec_fingerprint(codec)} {data.fingerprint}".encode()).hexdigest()[:32]
    files = TokenFiles(Path(folder).expanduser() / key, len(data), views, missing=codec.classes)  # the mask token, which no picture has
    try:
        files.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(files.folder / "build.lock"):
            made = _complete(files, data, codec, batch_size, workers, progress or (lambda done, total: None))
    except OSError as error:
        raise TesseraError(f"cannot keep tokens in {files.folder}: {error.strerror or error}") from error
    lengths = files.lengths(made)
    if not lengths:
        raise UsageError(f"none of the dataset's {len(data)} pictures can be read: {next(iter(data.skipped.values()), 'no reason known')}")
    if len(lengths) > 1:
        raise UsageError(DIFFERENT_SIZES)
    return CachedTokens(data, made, views, files.missing)


def _complete(
    files: TokenFiles, data: Dataset, codec: TokenCodec, batch_size: int, workers: int, progress: Callable[[int, int], None]
) -> list[Path]:
    """All files in order, the missing ones made now."""
    made = files.whole()
    data.skipped.update(files.read_skipped())
    jobs: list[range] = []
    for number in range(files.chunks):
        if number not in made:
            places = files.places(number)
            jobs += [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
    done = len(data) * files.views - sum(map(len, jobs))
    parts: list[Part] = []
    for job, part in zip(jobs, _encoded(data, codec, jobs, files.views, workers), strict=True):
        parts.append(part)
        number = files.number(job.start)
        if job.stop == files.places(number).stop:
            files.write_skipped(data.skipped)
            made[number] = files.write(number, parts)
            parts = []
        done += len(job)
        progress(done // files.views, len(data))
    return [made[number] for number in range(files.chunks)]


class _Pictures(TorchDataset[tuple[list[int], UInt8[Tensor, "b 3 h w"] | None, dict[str, str]]]):
    """The readable pictures of each job with their places, and what has been skipped so far."""

    def __init__(self, data: Dataset, jobs: Sequence[range], views: int) -> None:
        self.data, self.jobs, self.views = data, jobs, views

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, number: int) -> tuple[list[int], Tensor | None, dict[str, str]]:
        examples = {p: self.data.example(p // self.views, derive_seed("cached view", p % self.views)) for p in self.jobs[number]}
        pictures = {p: example.image for p, example in examples.items() if example is not None}
        if len({picture.shape for picture in pictures.values()}) > 1:
            raise UsageError(DIFFERENT_SIZES)
        return list(pictures), torch.stack(list(pictures.values())) if pictures else None, dict(self.data.skipped)


def _encoded(data: Dataset, codec: TokenCodec, jobs: Sequence[range], views: int, workers: int) -> Iterator[Part]:
    """Tokens of the pictures of each job, in order."""
    device = next((value.device for value in codec.state_dict().values()), torch.device("cpu"))
    pictures = _Pictures(data, jobs, views)
    read = DataLoader(pictures, batch_size=None, num_workers=workers, multiprocessing_context="spawn" if workers else None)
    training = codec.training
    codec.eval()
    try:
        for places, image, skipped in read:
            data.skipped.update(skipped)
            if image is None:
                yield places, None
                continue
            with torch.inference_mode():
                tokens = codec.encode(image.to(device).float() / 127.5 - 1)
            yield places, tokens.cpu().numpy()
    finally:
        codec.train(training)
