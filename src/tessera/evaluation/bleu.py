"""BLEU of a set of texts (Papineni et al. 2002): how many sequences of one to four words they share with given texts.

BLEU = 100 · min(1, exp(1 - r / c)) · (p_1 p_2 p_3 p_4)^(1/4)

p_n: share of the n-grams of all texts that one of their references has too, each counted at most as often as there; c: words of all texts,
r: of the references nearest in length. Words are parted as in NIST's mteval 13a and put in lower case; where no n-gram is shared, p_n is
1 / 2^k of one match, k counting such orders (Chen & Cherry 2014, smoothing 3). These are the conventions of the package sacrebleu.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import exp, log

from tessera.errors import UsageError

__all__ = ["bleu", "bleu_words"]

ORDERS = 4
ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}


def bleu_words(text: str) -> list[str]:
    """The words and marks of a text. A point or comma between digits belongs to the number, a hyphen after a digit is a mark."""
    line = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ").lower()
    for entity, mark in ENTITIES.items():
        line = line.replace(entity, mark)
    line = re.sub(r"([{-~\[-` -&(-+:-@/])", r" \1 ", f" {line} ")
    line = re.sub(r"([^0-9])([.,])", r"\1 \2 ", line)
    line = re.sub(r"([.,])([^0-9])", r" \1 \2", line)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", line).split()


def _grams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU of the whole set, 0..100; each text has one or more references. Raises UsageError of no texts, or without references."""
    if not texts or not all(references):
        raise UsageError("BLEU needs at least one text, and a reference for each")
    matches, totals = [0] * ORDERS, [0] * ORDERS
    length = nearest = 0
    for text, known in zip(texts, references, strict=True):
        words, others = bleu_words(text), [bleu_words(reference) for reference in known]
        length += len(words)
        nearest += min((abs(len(other) - len(words)), len(other)) for other in others)[1]
        for order in range(1, ORDERS + 1):
            there: Counter[tuple[str, ...]] = Counter()
            for other in others:
                there |= _grams(other, order)
            grams = _grams(words, order)
            matches[order - 1] += (grams & there).total()
            totals[order - 1] += grams.total()
    if not all(totals) or not matches[0]:
        return 0.0
    score, halves = 0.0, 0
    for shared, total in zip(matches, totals, strict=True):
        halves += shared == 0
        score += log((shared or 0.5**halves) / total) / ORDERS
    return 100 * min(1.0, exp(1 - nearest / length)) * exp(score)
