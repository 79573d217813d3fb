"""What a text encoder tells the user about a prompt that it could not take whole, or not at all."""

import warnings
from collections.abc import Sequence

from tessera.errors import UsageError, shortened

__all__ = ["NotAsTyped", "PromptTruncated", "PromptWarning", "UnknownWords", "listed", "valid", "warn_truncated"]

LISTED = 10  # words in one


class PromptWarning(UserWarning):
    """What the user should know of a prompt."""


class NotAsTyped(PromptWarning):
    """A part of the prompt is read as something else than words, or the other way round; the message says how to write what was meant."""


class PromptTruncated(PromptWarning):
    """A prompt was longer than the encoder's limit; the message shows what was cut."""


class UnknownWords(PromptWarning):
    """A prompt has words outside the model's vocabulary, so the model cannot tell them apart; the message names them."""


def warn_truncated(prompt: str, cut: str, limit: int) -> None:
    """Warns that `cut`, the end of `prompt`, does not fit `limit` tokens."""
    message = f"prompt {shortened(prompt)!r} is longer than the model's {limit} tokens; this end was cut: {shortened(cut)!r}"
    warnings.warn(message, PromptTruncated, stacklevel=3)


def listed(words: Sequence[str]) -> str:
    """Some words in a sentence, and how many more there are."""
    more = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return ", ".join(map(shortened, words[:LISTED])) + more


def valid(text: str) -> str:
    """The text itself. UsageError when it holds what no file or terminal can mean: half of a UTF-16 pair."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        shown = shortened(text.encode("ascii", "backslashreplace").decode())
        raise UsageError(f"the text '{shown}' is not valid Unicode: save or type it as UTF-8")
    return text
