"""BLEU, against numbers of the package sacrebleu 2.6 (`BLEU(lowercase=True).corpus_score`)."""

import pytest

from tessera.errors import UsageError
from tessera.evaluation.bleu import bleu, bleu_words

TEXTS = [
    "A red circle above a blue square.",
    "two big stars on a white background",
    "there is a green ring, in the 3-d middle of 1,000.5 things",
    "the cat sat on the mat",
]
REFERENCES = [
    ["a red circle over a blue square .", "a red circle above the square"],
    ["two large stars on white"],
    ["there is a green ring in the middle (of 1,000.5 3-d things)"],
    ["a cat was sitting on the mat", "the cat is on the mat today &amp; always"],
]


@pytest.mark.parametrize(
    ("texts", "references", "expected"),
    [
        (TEXTS, REFERENCES, 40.13550547016222),
        (TEXTS[:2], [known[:1] for known in REFERENCES[:2]], 31.823566221963034),
        (["a b c d e"], [["a b x d e"]], 30.213753973567677),
        (["a x b y c z"], [["a q b r c s"]], 10.682175159905853),
        (["q r s t"], [["a b c d"]], 0.0),
        (["a b"], [["a b"]], 0.0),  # no sequences of four words
        ([""], [["a b c d"]], 0.0),
    ],
)
def test_numbers_are_those_of_the_package(texts: list[str], references: list[list[str]], expected: float) -> None:
    assert bleu(texts, references) == pytest.approx(expected, rel=1e-12)


def test_words_are_parted_as_in_mteval() -> None:
    assert " ".join(bleu_words("X-ray, (two) don't &lt;b&gt; $5 50% a/b a,b 3.5. 3-d é…ü")) == (
        "x-ray , ( two ) don't < b > $ 5 50 % a / b a , b 3.5 . 3 - d é…ü"
    )


def test_the_same_texts_have_100_in_whatever_case() -> None:
    assert bleu(TEXTS, [[text.upper()] for text in TEXTS]) == pytest.approx(100)
    assert bleu(TEXTS, [[text, "something else"] for text in TEXTS]) == pytest.approx(100)


def test_a_repeated_word_counts_no_oftener_than_in_the_reference() -> None:
    assert bleu(["the the the the the the the"], [["the cat is on the mat today"]]) < bleu(
        ["the cat the mat the on is"], [["the cat is on the mat today"]]
    )


@pytest.mark.parametrize(("texts", "references"), [([], []), (["a"], [[]])])
def test_nothing_has_no_bleu(texts: list[str], references: list[list[str]]) -> None:
    with pytest.raises(UsageError, match="at least one text"):
        bleu(texts, references)
