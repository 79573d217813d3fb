"""Prompts from arguments, files and standard input."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tessera.apps.console import say
from tessera.contexts.prompt_warnings import valid
from tessera.errors import TesseraError, UsageError
from tessera.text_files import lines_of, read_text

__all__ = ["gather_prompts", "with_pictures"]


def gather_prompts(arguments: Sequence[str], file: Path | None, together: bool = False) -> list[str]:
    """The prompts in order: arguments, where `-` stands for the lines of standard input, then the lines of `file` (`-` too).

    together: whether the arguments are the parts of one prompt.

    Empty lines are skipped. Raises UsageError for an unreadable file, sources without any prompt, or text that is not UTF-8.
    """
    prompts = [prompt for argument in arguments for prompt in (_standard_input() if argument == "-" else [argument])]
    if together and prompts:
        from tessera.contexts.weighted_prompts import SEPARATOR

        prompts = [SEPARATOR.join(prompts)]
    if len(arguments) > 1 and arguments[-1].isdecimal() and not arguments[0].isdecimal():
        say(f"warning: {arguments[-1]!r} is a prompt of its own here: -n {arguments[-1]} says how many pictures there are of each")
    if file is not None:
        prompts += _standard_input() if str(file) == "-" else _lines_of(file)
    return [valid(prompt) for prompt in prompts]


def with_pictures(prompts: Sequence[str], pictures: Sequence[str]) -> list[str]:
    """Every prompt with all pictures (`picture.png:0.3`) beside it, or the pictures alone. UsageError for what names no picture."""
    from tessera.contexts.weighted_prompts import SEPARATOR, parse_prompts
    from tessera.pictures import SUFFIXES, is_address

    for typed, picture in zip(pictures, parse_prompts(pictures, 1.0), strict=True):
        if not picture.is_picture:
            raise UsageError(f"--images {typed!r} names no picture: give an address, or a file that ends in {', '.join(sorted(SUFFIXES))}")
        if not is_address(picture.text) and not Path(picture.text).is_file():
            raise UsageError(f"there is no picture {picture.text}: check the path")
    return [SEPARATOR.join([*([prompt] if prompt else []), *pictures]) for prompt in (prompts or [""])] if pictures else list(prompts)


def _standard_input() -> list[str]:
    return _prompts("standard input", sys.stdin.read())


def _lines_of(file: Path) -> list[str]:
    try:
        return _prompts(str(file), read_text(file))
    except TesseraError as error:
        raise UsageError(f"cannot read the prompts: {error}") from None


def _prompts(source: str, text: str) -> list[str]:
    lines = [line.strip() for line in lines_of(text) if line.strip()]
    if not lines:
        raise UsageError(f"{source} has no prompts: write one per line")
    return lines
