"""What reading a pickle may cost, counted in what it builds: a few kilobytes can ask for gigabytes, or for hours.

Every instruction counts, and every byte of what is pushed, copied or converted. The description of a checkpoint needs few: about
thirty instructions and a kilobyte for each tensor.
"""

import os

from tessera.errors import TesseraError, UsageError

__all__ = ["MOST", "Budget", "TooCostly"]

VARIABLE = "TESSERA_PICKLE_MB"
LEAST = 2**26  # bytes that any file may cost
FACTOR = 4  # times the file's size
MOST = 2**29
BYTES_AN_INSTRUCTION = 200  # of bookkeeping: an empty dict, a slot of a list and an entry of the memo
ODD_KEYS = 4096  # keys of a dict that are neither text nor a small number: the hashes of others can be made equal


class TooCostly(TesseraError):
    """A file asks for more than reading it may cost."""


class Budget:
    """What is left for one file.

    Args:
        file_bytes: its size.
    """

    def __init__(self, file_bytes: int) -> None:
        asked = os.environ.get(VARIABLE)
        if asked is not None and not (asked.isascii() and asked.isdigit()):
            raise UsageError(f"{VARIABLE} is {asked!r}: give a whole number of megabytes")
        self.bytes = min(max(LEAST, FACTOR * file_bytes), MOST) if asked is None else int(asked) * 2**20
        self.odd_keys = ODD_KEYS

    def largest_description(self, file_bytes: int) -> int:
        """Bytes of a description that lies compressed in a file."""
        return min(self.bytes, max(2**22, FACTOR * file_bytes))

    def spend(self, count: int) -> None:
        """Takes `count` bytes. Raises TooCostly when they are not there."""
        self.bytes -= count
        if self.bytes < 0:
            raise TooCostly(f"it describes more objects than a checkpoint has; if you trust it, set {VARIABLE} to more megabytes")

    def instruction(self, argument: object) -> None:
        self.spend(BYTES_AN_INSTRUCTION + _size(argument))

    def copies(self, *values: object) -> None:
        """Values that were made, or may have been copied: their own size, and that of what a short tuple holds."""
        for value in values:
            self.spend(_size(value))
            if isinstance(value, tuple) and len(value) <= 16:
                self.spend(sum(map(_size, value)))

    def odd_key(self) -> None:
        self.odd_keys -= 1
        if self.odd_keys < 0:
            raise TooCostly(f"its dictionaries have more than {ODD_KEYS} keys that are neither text nor small numbers")


def _size(value: object) -> int:
    if isinstance(value, str):
        return 4 * len(value)
    if isinstance(value, bytes | bytearray):
        return len(value)
    if isinstance(value, list | tuple):
        return 8 * len(value)
    if isinstance(value, dict):
        return 100 * len(value)
    return value.bit_length() // 8 if isinstance(value, int) else 0
