"""Errors a user can cause, each one sentence: what is wrong, what was expected, what to do."""

import difflib
from collections.abc import Iterable

__all__ = ["TesseraError", "UsageError", "nearest_sizes", "shortened", "suggest"]


class TesseraError(Exception):
    """A failure with a sentence for the user (a broken file, a full disk). The command line exits with 1."""

    exit_code = 1


class UsageError(TesseraError, ValueError):
    """A wrong argument, name, recipe key or setting. The command line exits with 2."""

    exit_code = 2


LONGEST = 160  # characters of a name in a sentence


def shortened(text: str, most: int = 60) -> str:
    """The text as a sentence can hold it, however long it is."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def suggest(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for an unknown name: `unknown sampler 'purty': did you mean 'purity'? Known: …`."""
    known = sorted(known)
    name = name if len(name) <= LONGEST else f"{name[:20]}...{name[20 - LONGEST :]}"  # the end of a path tells it from others
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}:{hint} known: {', '.join(known)}"


def nearest_sizes(height: int, width: int, factor: int) -> str:
    """The sizes below and above whose sides are multiples of `factor`, as WIDTHxHEIGHT: `24x32 or 32x40`."""
    rows, columns = ((side // factor * factor, -(-side // factor) * factor) for side in (height, width))
    sizes = [f"{columns[i]}x{rows[i]}" for i in (0, 1) if rows[i] > 0 and columns[i] > 0]
    return " or ".join(dict.fromkeys(sizes)) or f"{factor}x{factor}"
