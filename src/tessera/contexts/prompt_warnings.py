"""What a text encoder tells the user about a prompt that it could not take whole, or not at all."""

import warnings

from tessera.errors import UsageError

__all__ = ["PromptTruncated", "UnknownWords", "valid", "warn_truncated"]


class PromptTruncated(UserWarning):
    """A prompt was longer than the encoder's limit; the message shows what was cut."""


class UnknownWords(UserWarning):
    """A prompt has words outside the model's vocabulary, so the model cannot tell them apart; the message names them."""


def warn_truncated(prompt: str, cut: str, limit: int) -> None:
    """Warns that `cut`, the end of `prompt`, does not fit `limit` tokens."""
    shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
    warnings.warn(f"prompt {shown!r} is longer than the model's {limit} tokens; this end was cut: {cut!r}", PromptTruncated, stacklevel=3)


def valid(text: str) -> str:
    """The text itself. UsageError when it holds what no file or terminal can mean: half of a UTF-16 pair."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        shown = text.encode("ascii", "backslashreplace").decode()
        raise UsageError(f"the text '{shown}' is not valid Unicode: save or type it as UTF-8")
    return text
