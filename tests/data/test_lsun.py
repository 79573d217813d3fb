import io
import os
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.data.lmdb_file import entries
from tessera.data.lsun import LSUN
from tessera.errors import TesseraError, UsageError
from tessera.registry import DATASETS, build
from tests.data.laws import check_laws
from tests.data.making import stripes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four pictures in no order, one of them cut short."""
    folder = tmp_path / "church_outdoor_train_lmdb"
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for number, key in enumerate(["c3", "a1", "d4", "b2"]):
            file = io.BytesIO()
            stripes(40 + number, 30, seed=number).save(file, format="WEBP")
            content = file.getvalue()
            transaction.put(key.encode(), content[: len(content) // 2] if key == "d4" else content)
    return folder


def test_pictures_in_the_order_of_their_keys(root: Path) -> None:
    data = build("dataset", DATASETS, {"kind": "lsun", "root": str(root), "size": 16, "flip": True})
    assert [key.decode() for key in data.keys] == ["a1", "b2", "c3", "d4"]
    assert [data.example(i, 0) is None for i in range(4)] == [False, False, False, True]
    assert list(data.skipped) == [str(root / "data.mdb" / "d4")]
    check_laws(data, 16)


def test_the_fingerprint_knows_the_crop(root: Path) -> None:
    assert len({LSUN(str(root), 16).fingerprint, LSUN(str(root), 16, flip=True).fingerprint, LSUN(str(root), 8).fingerprint}) == 3


def test_what_is_no_lsun(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        LSUN(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"there is no data\.mdb"):
        LSUN(str(tmp_path))
    (tmp_path / "data.mdb").write_bytes(b"nothing of the kind" * 500)
    with pytest.raises(TesseraError, match=r"no LMDB file .* unpack its archive again"):
        LSUN(str(tmp_path))
    empty = tmp_path / "empty"
    lmdb.open(str(empty), map_size=1 << 20).close()
    with pytest.raises(UsageError, match="no picture was found"):
        LSUN(str(empty))


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8, 0.95, 0.999])
def test_a_file_that_was_cut_is_a_sentence(root: Path, tmp_path: Path, share: float) -> None:
    """Its pages are read as memory: those that are not there would kill the process (SIGBUS)."""
    content = (root / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TesseraError, match=rf"data\.mdb (is cut: {int(len(content) * share)} of [0-9]+ bytes|is no LMDB file)"):
        LSUN(str(tmp_path))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of several levels, with small values in leaves and large ones in overflow pages."""
    folder = tmp_path_factory.mktemp("many")
    with lmdb.open(str(folder), map_size=1 << 23) as environment:
        for part in range(3):
            with environment.begin(write=True) as transaction:
                for number in range(part, 900, 3):
                    transaction.put(b"%04d" % number, bytes([number % 251]) * (6000 if number % 10 == 0 else 60))
        with environment.begin(write=True) as transaction:
            transaction.delete(b"0500")
    return (folder / "data.mdb").read_bytes()


def found(content: bytes, folder: Path) -> tuple[dict[bytes, bytes], dict[str, str]]:
    skipped: dict[str, str] = {}
    path = folder / "data.mdb"
    path.write_bytes(content)
    read = {entry.key: content[entry.offset : entry.offset + entry.size] for entry in entries(path, skipped)}
    return read, skipped


def test_entries_are_those_of_the_library(many: bytes, tmp_path: Path) -> None:
    read, skipped = found(many, tmp_path)
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert list(read.items()) == list(transaction.cursor())
    assert len(read) == 899
    assert skipped == {}


def test_a_page_of_zeros_costs_what_is_in_it_and_is_named(many: bytes, tmp_path: Path) -> None:
    """As a download with a hole in it has them; the library ends the process at one."""
    whole, _ = found(many, tmp_path)
    lost = 0
    for page in range(2, len(many) // 4096, 31):
        read, skipped = found(many[: 4096 * page] + b"\0" * 4096 + many[4096 * (page + 1) :], tmp_path)
        assert read.keys() <= whole.keys()
        assert len(read) == len(whole) or skipped
        lost += len(read) < len(whole)
    assert lost


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_damage_anywhere_is_a_sentence_or_is_named(many: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(many)
    for _ in range(data.draw(st.integers(1, 8))):
        page = data.draw(st.integers(0, len(many) // 4096 - 1))
        content[4096 * page + data.draw(st.one_of(st.integers(0, 40), st.integers(0, 4095)))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    with suppress(TesseraError):
        read, _ = found(bytes(content), folder)
        assert len(read) <= 2000


def test_a_pipe_is_no_lsun(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.mdb")
    with pytest.raises(UsageError, match=r"there is no data\.mdb"):
        LSUN(str(tmp_path))
