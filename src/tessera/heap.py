"""The heap of the C library, which keeps the memory of freed tensors in the gaps between others."""

import ctypes
from functools import cache
from typing import Any

__all__ = ["give_back"]

LITTLE = 2**24
"""Bytes of gaps that are not worth the time."""


class _Info(ctypes.Structure):
    """What glibc's `mallinfo2` tells, of which `fordblks` are the bytes of the gaps."""

    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in names]


@cache
def _library() -> Any:
    """glibc, or None where the C library is another one or too old to tell."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _Info
        return library if hasattr(library, "malloc_trim") else None
    except (OSError, TypeError, AttributeError):  # TypeError: Windows
        return None


def give_back() -> None:
    """Gives the system back what the heap holds in gaps, where that is more than a little.

    glibc gives back the end of its heap at most. Between the layers of a large network, whose tensors are of very different sizes, gaps
    grow to hundreds of megabytes that nothing fits in.
    """
    library = _library()
    if library is not None and library.mallinfo2().fordblks > LITTLE:
        library.malloc_trim(0)
