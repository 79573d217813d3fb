"""Checkpoint files of strangers, read without running anything from them.

archive = read_archive(Path("coco_learnable.pth"))
weights = Tensors(archive.states()["ema"])       # name → tensor, each read from the file when asked for

What a file is, its bytes say and not its name: a zip file or a legacy file of torch (.pth, .ckpt, .pt, .th), a TorchScript archive,
safetensors. Reading an archive reads its description only; a training checkpoint's optimizer state costs nothing.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.checkpoints.budget import Budget
from tessera.checkpoints.pickled_names import Names
from tessera.checkpoints.safetensors_files import read_safetensors
from tessera.checkpoints.states import find_states
from tessera.checkpoints.stored import StoredTensor, Tensors
from tessera.checkpoints.torch_files import Contents, join_hint, read_legacy, read_zip, refuse_code
from tessera.checkpoints.unpickling import Foreign, MalformedPickle, unpickle
from tessera.errors import TesseraError, UsageError

__all__ = ["Archive", "Foreign", "StoredTensor", "Tensors", "read_archive"]

HEAD = 1 << 16  # bytes that tell what a file is


@dataclass(frozen=True)
class Archive:
    """What is in a checkpoint file.

    Args:
        format: "zip", "legacy", "torchscript" or "safetensors".
        tree: dicts, lists, tuples, texts, bytes, numbers, None and torch dtypes, with `StoredTensor` and `Foreign` leaves.
            Sets are lists; a TorchScript module is a dict of its attributes; devices are texts. It can contain itself.
        foreign: sorted qualified names of classes and functions that were skipped.
        bytes: size of the file.
    """

    path: Path
    format: str
    tree: Any
    foreign: tuple[str, ...]
    bytes: int

    def states(self) -> dict[str, Mapping[str, StoredTensor]]:
        """Every flat state dict: dotted path in the tree ("" is the top level) → name → tensor.

        A mapping is one when at least half of what it holds under texts are tensors; the rest is left out. Optimizer states are not
        searched. A TorchScript archive has one, "", whose names are its modules' attributes joined by dots.

        Raises:
            TesseraError: TorchScript modules that contain themselves or are nested without end.
        """
        return find_states(self.tree, self.path, flatten=self.format == "torchscript")


def read_archive(path: Path) -> Archive:
    """Reads what a checkpoint file describes. Nothing in it is run, and no tensor is read yet.

    Raises:
        UsageError: no such file.
        TesseraError: it is no checkpoint, is cut short, lies about sizes, or tries to run code (the sentence says which and what).
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file: expected a checkpoint file (.pth, .ckpt, .pt, .th or .safetensors)")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        size = path.stat().st_size
        contents = _contents(path, head)
    except OSError as error:
        raise TesseraError(f"{path} cannot be read: {error.strerror or error}") from None
    return Archive(path, contents.format, contents.tree, tuple(sorted(contents.foreign)), size)


def _contents(path: Path, head: bytes) -> Contents:
    if head[:2] == b"PK":
        return read_zip(path)
    if head[:1] == b"\x80" and head[4:9] != b"\0\0\0\0{":  # the length of a header of safetensors can begin so too
        return read_legacy(path)
    if head[8:9] == b"{" and not _is_text(head[:8]):
        return Contents("safetensors", read_safetensors(path), frozenset())
    if hint := join_hint(path):
        raise TesseraError(f"{path} is a part of a split file{hint}")
    _refuse_old_pickle(path, head)
    raise TesseraError(f"{path} is no checkpoint: {_description(head)}")


def _refuse_old_pickle(path: Path, head: bytes) -> None:
    """A pickle of the protocols 0 and 1 has no mark at its start; torch never wrote them, but one that runs code is named as such.

    Its first instruction is a letter or a bracket. Other bytes happen to be instructions of later protocols.
    """
    if not b" " <= head[:1] <= b"~":
        return
    with refuse_code(path):
        try:
            unpickle(io.BytesIO(head), Names().find, lambda identity: None, Budget(len(head)))
        except MalformedPickle:
            return


def _is_text(start: bytes) -> bool:
    return not any(byte < 32 and byte not in b"\t\n\r" for byte in start) and "\ufffd" not in start.decode("utf-8", "replace")[:-1]


def _description(head: bytes) -> str:
    """What a file is that is no checkpoint, and what to do."""
    start = head.lstrip().lower()
    if not start:
        return "it is empty, so the download failed; download it again"
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start[:1024]:
        return "it is a web page, which a server sends in the place of a file it no longer has; get the file from another source"
    if start.startswith(b"<?xml"):
        return "it is an XML message, which a server sends in the place of a file it no longer has; get the file from another source"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, which stands for the file; run `git lfs pull` in its repository, or download the file itself"
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        return "it is a packed archive (tar or gzip); unpack it and give the file inside"
    if _is_text(head[:512]):
        return "it is a text file; expected a file of torch.save, a TorchScript archive or safetensors"
    return "it is neither a file of torch.save, nor a TorchScript archive, nor safetensors; download it again"
