"""Words of files on their way to a terminal: what they say is shown, what they do is not done."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tessera.visible import on_one_line, visible


@given(st.text(st.characters()))
def test_nothing_controls_the_terminal(text: str) -> None:
    shown = visible(text)
    left = {letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")}
    assert left <= {"\n", "\t"}
    assert not set("\u061c\u200e\u200f\u202a\u202e\u2066\u2069\ufeff") & set(shown)
    assert visible(shown) == shown
    shown.encode()
    assert "\n" not in on_one_line(text)
    assert "\t" not in on_one_line(text)


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"])))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == on_one_line(text) == text


def test_escapes_are_spelt() -> None:
    assert visible("\x1b[31mred\x07 \u202e\x9b\ud800\r\nnext\t.") == r"\x1b[31mred\x07 \u202e\x9b\ud800\r" + "\nnext\t."
    assert on_one_line("a\nb\tc") == r"a\nb\tc"
    assert visible("👩\u200d🚀 e\u0301 漢") == "👩\u200d🚀 e\u0301 漢"  # joiners belong to letters
