"""Texts that a decoder wrote, with what it said twice said once."""

import re

__all__ = ["without_doubled_words", "without_repetition"]

WORD = re.compile(r"([(\[{]*)(.*?)([?!.,:;)\]}]*)", re.DOTALL)
"""Opening brackets, what they enclose, and the punctuation marks that end it."""


def without_repetition(text: str) -> str:
    """Every sequence of words that follows itself, once: first single words, then sequences of two, of three, …

    A punctuation mark at the edge of a word counts as one ("wait..." → "wait."), so what it ends can be repeated too. Case counts.
    """
    words = [part for word in text.split() for part in _parted(word)]
    length = 1
    while 2 * length <= len(words):
        start = 0
        while start + 2 * length <= len(words):
            if words[start : start + length] == words[start + length : start + 2 * length]:
                del words[start + length : start + 2 * length]
            else:
                start += 1
        length += 1
    text, glued = "", True
    for word, sort in words:
        text += word if glued or sort == "ending" else f" {word}"
        glued = sort == "opening"
    return text


def _parted(word: str) -> list[tuple[str, str]]:
    """A word and the marks at its edges: which of them belong together without a space."""
    found = WORD.fullmatch(word)
    assert found is not None  # it takes anything
    opening, middle, ending = found.groups()
    return [*((mark, "opening") for mark in opening), *([(middle, "word")] if middle else []), *((mark, "ending") for mark in ending)]


def without_doubled_words(text: str) -> str:
    """Without each word that equals the one before it; Versatile Diffusion's first release tidies so."""
    words = text.split()
    return " ".join(word for before, word in zip(["", *words], words, strict=False) if word != before)
