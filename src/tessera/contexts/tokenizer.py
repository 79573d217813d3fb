"""CLIP's byte-pair tokenizer, with the text cleaning that VQ-Diffusion puts before it.

A word's UTF-8 bytes become symbols, one per byte and the last one marked `</w>`; then the adjacent pair that stands first in
the list of merges is joined, again and again (Sennrich et al. 2016, arXiv 1508.07909). Token ids number the 256 byte symbols,
the same 256 with `</w>`, the joined merges in order, and the two markers. The library `tokenizers` does the joining.
"""

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ftfy
import regex
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tessera.contexts.prompt_warnings import warn_truncated
from tessera.errors import TesseraError, UsageError
from tessera.json_files import parse_json
from tessera.text_files import decode_text, gunzip, lines_of, read_regular

__all__ = ["ClipTokenizer", "clean", "fix", "read_merges"]

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_MERGES = 48894
PIECES = regex.compile(
    rf"{regex.escape(START)}|{regex.escape(END)}|'(?:s|t|re|ve|m|ll|d)|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+",
    regex.IGNORECASE,
)


def clean(text: str) -> str:
    """The text that is split: lower case, encoding accidents and HTML entities repaired, single spaces.

    Lower-casing comes first, as in the original, so accidents with capital letters ("SchÃ¶n") stay unrepaired.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text.lower())))
    return re.sub(r"\s+", " ", text.strip()).strip().lower()


def fix(text: str) -> str:
    """The same as transformers does it: repaired before it is lower-cased, HTML entities only as far as ftfy does."""
    return re.sub(r"\s+", " ", ftfy.fix_text(text)).strip().lower()


def byte_symbols() -> list[str]:
    """One character per byte in CLIP's order: bytes that print as themselves in Latin-1, then the others as U+0100, U+0101, …"""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(len(hidden))]


def symbol_of_byte() -> dict[int, str]:
    symbols = byte_symbols()
    shown = [ord(symbol) for symbol in symbols if ord(symbol) < 256]
    return dict(zip(shown + [byte for byte in range(256) if byte not in shown], symbols, strict=True))


class ClipTokenizer:
    """Texts → token ids [B, length].

    Args:
        merges: "left right" pairs in order of priority, as `read_merges` returns them.
        length: tokens per text, markers included; longer texts keep their first tokens and end with the end marker.
        pad: the id that fills up short texts (0 in VQ-Diffusion, which is also the token of "!").
        markers: whether a text stands between the start and the end marker.
        cleaned: what is done to a text before it is split.
    """

    def __init__(
        self, merges: Sequence[str], length: int = 77, pad: int = 0, markers: bool = True, cleaned: Callable[[str], str] = clean
    ) -> None:
        from tokenizers import Tokenizer, models

        if length < 2:
            raise UsageError(f"the tokenizer's length must be at least 2 for its markers, not {length}")
        self.merges, self.length, self.pad, self.markers, self.cleaned = list(merges), length, pad, markers, cleaned
        pairs: list[Any] = [tuple(merge.split(" ")) for merge in self.merges]
        if wrong := [merge for merge, pair in zip(self.merges, pairs, strict=True) if len(pair) != 2 or not all(pair)]:
            raise UsageError(f"{wrong[0]!r} is no merge: expected two symbols with a space between them")
        bytes_ = byte_symbols()
        symbols = [*bytes_, *(symbol + "</w>" for symbol in bytes_), *(left + right for left, right in pairs), START, END]
        self._id = {symbol: i for i, symbol in enumerate(symbols)}
        self._symbols = symbols
        self.start, self.end = len(symbols) - 2, len(symbols) - 1
        self._symbol_of_byte = symbol_of_byte()
        try:
            self._pairs = Tokenizer(models.BPE(self._id, pairs, end_of_word_suffix="</w>"))
        except Exception as error:  # the library raises nothing narrower
            raise UsageError(f"these are not merges of CLIP's tokenizer ({error})") from None
        self._ids_of_word: dict[str, list[int]] = {START: [self.start], END: [self.end]}

    @property
    def vocabulary_size(self) -> int:
        return len(self._symbols)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Symbol → token id."""
        return dict(self._id)

    def encode(self, text: str) -> list[int]:
        """All token ids of the cleaned text, without markers or padding."""
        return [token for word in PIECES.findall(self.cleaned(text)) for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if word not in self._ids_of_word:
            symbols = "".join(self._symbol_of_byte[byte] for byte in word.encode())
            self._ids_of_word[word] = self._pairs.encode(symbols).ids
        return self._ids_of_word[word]

    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Token ids and a mask that is True at real tokens, markers included. Warns (`PromptTruncated`) of what was cut."""
        rows = torch.full((len(texts), self.length), self.pad)
        mask = torch.zeros(len(texts), self.length, dtype=torch.bool)
        for i, text in enumerate(texts):
            tokens = self._fitting(text)
            rows[i, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[i, : len(tokens)] = True
        return rows, mask

    def _fitting(self, text: str) -> list[int]:
        limit = self.length - 2 if self.markers else self.length
        text = self.cleaned(text)
        tokens: list[int] = []
        for piece in PIECES.finditer(text):
            tokens += self._word(piece.group())
            if len(tokens) > limit:
                warn_truncated(text, text[piece.start() :], self.length)
                break
        tokens = tokens[:limit]
        return [self.start, *tokens, self.end] if self.markers else tokens


def read_merges(path: str | Path, most: int | None = CLIP_MERGES) -> list[str]:
    """The merges in a file: `merges.txt`, `bpe_simple_vocab_16e6.txt.gz` of CLIP's repository, or JSON holding a list of them.

    most: how many of a text file's lines count. CLIP's own file lists more merges than the model knows.
    """
    path = Path(path)
    try:
        content = read_regular(path)
        text = decode_text(gunzip(content, str(path)) if path.suffix == ".gz" else content, str(path))
    except TesseraError as error:
        raise UsageError(f"cannot read the tokenizer's merges: {error}") from None
    if path.suffix == ".json":
        return _merges_of_json(path, text)
    lines = lines_of(text)
    if lines and "#version" in lines[0]:
        del lines[0]
    return [line for line in lines if line][:most]


def _merges_of_json(path: Path, text: str) -> list[str]:
    try:
        data = parse_json(text)
        if isinstance(data, dict):
            data = data["model"]["merges"] if "model" in data else data["merges"]
        return [merge if isinstance(merge, str) else " ".join(merge) for merge in data]
    except (ValueError, KeyError, TypeError) as error:
        raise TesseraError(f"{str(path)!r} holds no list of merges: expected a JSON list, or an object with one under 'merges'") from error
