import os
import pickle
from pathlib import Path

import pytest

from tessera.data.cub import CUB, read_names
from tessera.errors import TesseraError, UsageError
from tessera.registry import DATASETS, build
from tests.data.laws import check_laws
from tests.data.making import picture, truncate

NAMES = ["001.Black_footed_Albatross/Black_Footed_Albatross_0046_18", "002.Laysan_Albatross/Laysan_Albatross_0001_545"]


def make(root: Path, text: str = "text/text", split: str = "train") -> Path:
    for name in NAMES:
        picture(root / "images" / f"{name}.jpg")
        captions = root / text / f"{name}.txt"
        captions.parent.mkdir(parents=True, exist_ok=True)
        captions.write_text("".join(f"this bird {i}\n" for i in range(10)))
    (root / split).mkdir()
    (root / split / "filenames.pickle").write_bytes(pickle.dumps(NAMES, protocol=2))
    return root


@pytest.mark.parametrize("text", ["text/text", "text"])
@pytest.mark.parametrize(("split", "mode"), [("train", "random"), ("test", "centre")])
def test_layout(tmp_path, text, split, mode):
    data = build("dataset", DATASETS, {"kind": "cub", "root": str(make(tmp_path, text, split)), "size": 16, "split": split})
    assert data.files == [f"{name}.jpg" for name in NAMES]
    assert {data.prompt(1, seed) for seed in range(200)} == {f"this bird {i}" for i in range(10)}
    assert data.crop.mode == mode
    check_laws(data, 16)


def test_damage_is_skipped_and_reported(tmp_path):
    root = make(tmp_path)
    truncate(root / "images" / f"{NAMES[0]}.jpg")
    (root / "text/text" / f"{NAMES[1]}.txt").unlink()
    data = CUB(str(root), 16)
    assert [data.example(i, 0) for i in range(2)] == [None, None]
    assert len(data.skipped) == 2
    assert len(data.fingerprint) == 64


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        CUB(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"list of pictures is missing: .*filenames\.pickle"):
        CUB(str(tmp_path))
    root = make(tmp_path)
    with pytest.raises(UsageError, match="unknown split 'val'"):
        CUB(str(root), split="val")
    (root / "images").rename(root / "pictures")
    with pytest.raises(UsageError, match="incomplete"):
        CUB(str(root))


def names_in(tmp_path: Path, data: bytes) -> list[str]:
    (tmp_path / "filenames.pickle").write_bytes(data)
    return read_names(tmp_path / "filenames.pickle")


PYTHON_2 = b"(lp0\nS'001.a/b'\np1\naVcaf\\u00e9\np2\na."  # protocol 0: a byte string and a unicode one
PYTHON_2_BINARY = b"\x80\x02]q\x00(U\x07001.a/bq\x01X\x03\x00\x00\x00c/dq\x02e."


def test_names_of_every_protocol(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert names_in(tmp_path, pickle.dumps(NAMES, protocol)) == NAMES
        assert names_in(tmp_path, pickle.dumps([name.encode() for name in NAMES], protocol)) == NAMES
    assert names_in(tmp_path, PYTHON_2) == ["001.a/b", "café"]
    assert names_in(tmp_path, PYTHON_2_BINARY) == ["001.a/b", "c/d"]


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_in_a_pickle_is_run(tmp_path, protocol):
    for content in ([Attack(tmp_path / "made")], [NAMES, Attack(tmp_path / "made")]):
        with pytest.raises(TesseraError, match=r"it asks for .*mkdir"):
            names_in(tmp_path, pickle.dumps(content, protocol))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data", [b"", b"no pickle", pickle.dumps(NAMES)[:-5], pickle.dumps({}), pickle.dumps([]), pickle.dumps([1]), pickle.dumps(["a", None])]
)
def test_other_pickles_are_refused(tmp_path, data):
    with pytest.raises(TesseraError, match="not a pickled list of names"):
        names_in(tmp_path, data)
