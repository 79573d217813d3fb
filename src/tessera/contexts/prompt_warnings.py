"""What a text encoder tells the user about a prompt that it could not take whole."""

import warnings

__all__ = ["PromptTruncated", "UnknownWords", "warn_truncated"]


class PromptTruncated(UserWarning):
    """A prompt was longer than the encoder's limit; the message shows what was cut."""


class UnknownWords(UserWarning):
    """A prompt has words outside the model's vocabulary, so the model cannot tell them apart; the message names them."""


def warn_truncated(prompt: str, cut: str, limit: int) -> None:
    """Warns that `cut`, the end of `prompt`, does not fit `limit` tokens."""
    shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
    warnings.warn(f"prompt {shown!r} is longer than the model's {limit} tokens; this end was cut: {cut!r}", PromptTruncated, stacklevel=3)
