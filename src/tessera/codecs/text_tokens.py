"""Texts ⇄ token ids for a text autoencoder: word pieces where it reads (BERT's), byte pairs or whole words where it writes (GPT-2's).

BERT: lower case with accents kept, split at spaces and punctuation marks, then the longest known piece from the left, again and again; a
word that cannot be split so is `[UNK]` (Wu et al. 2016, arXiv 1609.08144).
GPT-2: a space in front, UTF-8 bytes as symbols, joined by a list of merges (Sennrich et al. 2016, arXiv 1508.07909); ids number the 256
byte symbols, the merges in order, `<|endoftext|>`, `<PAD>`, `<BOS>` and `<EOS>`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from tessera.contexts.prompt_warnings import UnknownWords, listed, valid, warn_truncated
from tessera.contexts.tokenizer import byte_symbols
from tessera.contexts.words import split_words
from tessera.errors import TesseraError, UsageError
from tessera.json_files import parse_json
from tessera.text_files import lines_of, read_text

__all__ = ["MARKERS", "BytePairs", "WholeWords", "WordPieces", "Writer", "read_wordpieces"]

MARKERS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""What every vocabulary of word pieces has; `[PAD]` is its first."""
WRITTEN = ("<PAD>", "<BOS>", "<EOS>")
LONGEST_WORD = 100

# In this order, as the tokenizers of 2019 undo the spaces that splitting put in.
JOINED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class WordPieces:
    """Texts → ids [B, L]: `[CLS]`, the pieces, `[SEP]`, filled up with `[PAD]`, which is 0.

    Args:
        vocabulary: the pieces in the order of their ids; those that go on a word begin with "##".
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        self.vocabulary = list(vocabulary)
        index = {piece: i for i, piece in enumerate(self.vocabulary)}
        if missing := [marker for marker in MARKERS if marker not in index]:
            raise UsageError(f"the vocabulary of word pieces lacks {missing[0]}: give BERT's (vocab.txt)")
        if index["[PAD]"] != 0 or len(index) != len(self.vocabulary):
            raise UsageError("the vocabulary of word pieces must begin with [PAD] and name no piece twice: give BERT's (vocab.txt)")
        self.unknown, self.first, self.last = (index[marker] for marker in MARKERS[1:])
        self._tokenizer = Tokenizer(models.WordPiece(index, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def __call__(self, texts: Sequence[str], limit: int) -> Int[Tensor, "b l"]:
        """Ids of the first `limit` pieces of each text, on the CPU.

        Warns of what was cut (`PromptTruncated`) and of words that are `[UNK]` (`UnknownWords`). UsageError for what is not Unicode.
        """
        rows: list[list[int]] = []
        unknown: dict[str, None] = {}
        for text in texts:
            text = valid(text).lower()
            found = self._tokenizer.encode(text)
            ids = found.ids
            if len(ids) > limit:
                warn_truncated(text, text[found.offsets[limit][0] :], limit)
            unknown.update({text[slice(*found.offsets[i])]: None for i, piece in enumerate(ids[:limit]) if piece == self.unknown})
            rows.append([self.first, *ids[:limit], self.last])
        if unknown:
            warnings.warn(f"the text encoder cannot read these words: {listed(list(unknown))}", UnknownWords, stacklevel=2)
        return filled(rows, 0)


@runtime_checkable
class Writer(Protocol):
    """What turns ids into text, and text into the ids that a decoder learns to write."""

    pad: int
    begin: int
    end: int
    size: int

    def encode(self, text: str) -> list[int]:
        """Ids of the text between the begin and the end marker."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of what was written from the begin to the end marker; "" when nothing stands between them."""
        ...


class BytePairs:
    """GPT-2's tokens. It can write and read any text.

    Args:
        merges: "left right" pairs in order of priority, as `read_merges` returns them.
    """

    def __init__(self, merges: Sequence[str]) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        if wrong := [merge for merge in merges if len(merge.split(" ")) != 2 or not all(merge.split(" "))]:
            raise UsageError(f"{wrong[0]!r} is no merge: expected two symbols with a space between them")
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
        self.merges = list(merges)
        symbols = [*byte_symbols(), *(left + right for left, right in pairs), "<|endoftext|>"]
        self.pad, self.begin, self.end = (len(symbols) + i for i in range(3))
        self.symbols = [*symbols, *WRITTEN]
        self.size = len(self.symbols)
        self._marker = {symbol: i for i, symbol in enumerate(self.symbols) if i >= len(symbols) - 1}
        try:
            self._tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, pairs))
        except Exception as error:  # the library raises nothing narrower
            raise UsageError(f"these are not merges of GPT-2 ({error}): give its merges.txt") from None
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in re.split("(" + "|".join(map(re.escape, self._marker)) + ")", valid(text)):
            if piece in self._marker:
                ids.append(self._marker[piece])
            elif piece.strip():
                ids += self._tokenizer.encode(f" {piece.strip()}").ids
        return [self.begin, *ids, self.end]

    def spelt(self, ids: Sequence[int]) -> str:
        """All of it, markers as ` <BOS>`, with the spaces before punctuation marks taken out."""
        pieces: list[str] = []
        waiting: list[int] = []
        for i in [*ids, None]:
            if i is not None and i < self.pad:
                waiting.append(i)
                continue
            pieces.append(self._tokenizer.decode(waiting, skip_special_tokens=False) if waiting else "")
            waiting = []
            if i is not None:
                pieces.append(f" {self.symbols[i]}")
        return joined("".join(pieces))

    def decode(self, ids: Sequence[int]) -> str:
        """As the original: without the first and the last word, which are the markers unless a mark of punctuation got hold of one."""
        return " ".join(self.spelt(ids).split()[1:-1])


class WholeWords:
    """A small fixed vocabulary: ids number the words, then `<PAD>`, `<BOS>` and `<EOS>`.

    Args:
        words: as `split_words` gives them: lower case, punctuation marks are words.
    """

    def __init__(self, words: Sequence[str]) -> None:
        for word in words:
            if split_words(word) != [word] or not (word.isalnum() or len(word) == 1):  # BERT's splitting parts words at apostrophes
                raise UsageError(f"text autoencoder: {word!r} of its words is not one lower-case word or punctuation mark")
        if len(set(words)) != len(words):
            raise UsageError("text autoencoder: its words name one twice")
        self.words = list(words)
        self._index = {word: i for i, word in enumerate(self.words)}
        self.pad, self.begin, self.end = (len(self.words) + i for i in range(3))
        self.size = len(self.words) + len(WRITTEN)

    def encode(self, text: str) -> list[int]:
        words = split_words(text)
        if unknown := [word for word in words if word not in self._index]:
            raise UsageError(f"the text {text!r} has a word that the decoder cannot write: {unknown[0]!r}; add it to `words`")
        return [self.begin, *(self._index[word] for word in words), self.end]

    def decode(self, ids: Sequence[int]) -> str:
        return joined(" ".join(self.words[i] for i in ids if i < len(self.words)))


def joined(text: str) -> str:
    """Without the spaces that stand before punctuation marks and contractions."""
    for apart, together in JOINED:
        text = text.replace(apart, together)
    return text


def filled(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "b l"]:
    """Rows of different lengths as one tensor, filled up with `value`."""
    length = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long).reshape(len(rows), length)


def read_wordpieces(path: str | Path) -> list[str]:
    """A vocabulary of word pieces: BERT's `vocab.txt` (one a line), a JSON list of them, or a `tokenizer.json`.

    Raises:
        UsageError: the file cannot be read.
        TesseraError: it holds no such list.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except TesseraError as error:
        raise UsageError(f"cannot read the word pieces: {error}") from None
    if path.suffix != ".json":
        return lines_of(text)
    try:
        data = parse_json(text)
        pieces = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get) if isinstance(data, dict) else data
    except (ValueError, KeyError, TypeError) as error:
        raise TesseraError(f"{str(path)!r} holds no vocabulary of word pieces: expected a JSON list, or a tokenizer.json") from error
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise TesseraError(f"{str(path)!r} holds no vocabulary of word pieces: expected a JSON list, or a tokenizer.json")
    return pieces
