"""What the trainer reads: pictures with prompts, by number, reproducibly."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

__all__ = ["Dataset", "Example"]


class Example(NamedTuple):
    """image: uint8 [3, H, W], 0..255. prompt: a caption, a class label, or None for unconditional data."""

    image: UInt8[Tensor, "3 h w"]
    prompt: str | int | None


@runtime_checkable
class Dataset(Protocol):
    """Examples by index. `seed` decides everything random about an example (which caption, which crop), so that a run can
    be resumed exactly and reads the same in any process."""

    def __len__(self) -> int: ...

    def example(self, index: int, seed: int) -> Example | None:
        """The example, or None when its file cannot be read (the dataset has recorded it in `skipped`)."""
        ...

    @property
    def skipped(self) -> dict[str, str]:
        """What was found and cannot be used, as far as is known: its name (a path, a row of a list, …) → a one-sentence reason.

        Everything that a dataset finds is either one of its examples or stands here.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the data and its preprocessing; part of the key of cached tokens."""
        ...
