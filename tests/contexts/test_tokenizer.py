import gzip
import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.contexts.prompt_warnings import PromptTruncated
from tessera.contexts.tokenizer import ClipTokenizer, clean, read_merges
from tessera.errors import TesseraError, UsageError
from tests.conformance.cases import ORIGINALS

MERGES = ["a b</w>", "a a", "aa aa", "c a", "ca t</w>"]
RELEASED = ORIGINALS / "vq_diffusion" / "clip_bpe" / "merges.json"


def tokenizer(**changes) -> ClipTokenizer:
    return ClipTokenizer(MERGES, **{"length": 8, **changes})


def byte(character: str, last: bool = False) -> int:
    """The id of a printable ASCII character's symbol."""
    return ord(character) - ord("!") + 256 * last


def merged(index: int) -> int:
    return 512 + index


def test_vocabulary_is_bytes_then_merges_then_markers():
    assert tokenizer().vocabulary_size == 512 + len(MERGES) + 2
    assert (tokenizer().start, tokenizer().end) == (merged(5), merged(6))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("!", [byte("!", last=True)]),
        ("ab", [merged(0)]),
        ("cat", [merged(4)]),
        ("cab", [byte("c"), merged(0)]),  # "a b</w>" stands before "c a"
        ("CAT  cat", [merged(4), merged(4)]),
        ("aaaaaaaa", [merged(2), merged(1), byte("a"), byte("a", last=True)]),  # the last letter is another symbol
        ("cat's", [merged(4), byte("'"), byte("s", last=True)]),
        ("1b2", [byte("1", last=True), byte("b", last=True), byte("2", last=True)]),
        ("b&amp;amp;b", [byte("b", last=True), byte("&", last=True), byte("b", last=True)]),
    ],
)
def test_encodes(text, ids):
    assert tokenizer().encode(text) == ids


def test_marker_strings_become_markers():
    start, end = tokenizer().start, tokenizer().end
    assert tokenizer().encode("<|startoftext|>cat<|EndOfText|>") == [start, merged(4), end]


def test_pads_masks_and_marks():
    ids, mask = tokenizer()(["cat", ""])
    start, end = tokenizer().start, tokenizer().end
    assert ids.tolist() == [[start, merged(4), end] + [0] * 5, [start, end] + [0] * 6]
    assert mask.sum(1).tolist() == [3, 2]
    ids, mask = tokenizer(markers=False, pad=7)(["cat"])
    assert ids.tolist() == [[merged(4)] + [7] * 7]
    assert mask.sum() == 1


def test_too_long_text_ends_with_the_marker_and_shows_what_was_cut():
    with pytest.warns(PromptTruncated, match="'ab cat ab'"):
        ids, mask = tokenizer()(["cat cat ab, cat cat ab cat ab"])
    assert ids[0, -1] == tokenizer().end
    assert mask.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer()(["cat cat ab cat cat ab"])


@given(st.text(max_size=40))
def test_any_text_becomes_tokens_of_the_vocabulary(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncated)
        ids, mask = tokenizer()([text])
    assert 0 <= ids.min() <= ids.max() < tokenizer().vocabulary_size
    assert (ids[~mask] == 0).all()


def test_cleans():
    assert clean(" A&amp;lt;B\n\tschÃ¶n ") == "a<b schã¶n"
    assert clean("\u201c&EACUTE;\u201d it\u2019s") == '"é" it\'s'


@pytest.mark.parametrize("wrong", [["ab"], ["a b c"], ["a "]])
def test_refuses_merges_that_are_no_pairs(wrong):
    with pytest.raises(UsageError, match="no merge"):
        ClipTokenizer(wrong)


def test_reads_merges_in_every_published_form(tmp_path):
    text = "\n".join(["#version: 0.2", *MERGES, ""])
    (tmp_path / "merges.txt").write_text(text)
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "list.json").write_text(json.dumps(MERGES))
    (tmp_path / "named.json").write_text(json.dumps({"merges": MERGES}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"merges": [merge.split() for merge in MERGES]}}))
    for path in tmp_path.iterdir():
        assert read_merges(path) == MERGES


def test_bad_merges_files(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_merges(tmp_path / "absent.txt")
    (tmp_path / "broken.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="cannot read"):
        read_merges(tmp_path / "broken.txt.gz")
    for content in ("{", "{}", "3"):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(TesseraError, match="no list of merges"):
            read_merges(tmp_path / "broken.json")


@pytest.mark.skipif(not RELEASED.exists(), reason="CLIP's merges are not part of the project, and are not beside it")
def test_clip_merges():
    clip = ClipTokenizer(read_merges(RELEASED))
    assert (clip.vocabulary_size, clip.start, clip.end) == (49408, 49406, 49407)
    assert clip.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
