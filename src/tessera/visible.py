"""The one way out for text: what files, prompts and names say, made safe for a terminal or a log."""

import re

__all__ = ["on_one_line", "visible"]

# Control characters but for line ends and tabs, halves of UTF-16 pairs, and the marks that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def visible(text: str) -> str:
    r"""The text with every control character as an escape: a terminal shows `\x1b[31m` instead of turning red."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def on_one_line(text: str) -> str:
    """The same, line ends and tabs too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")
