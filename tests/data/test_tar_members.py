"""Archives of strangers: whatever headers say, the walk ends, keeps little in memory, and loses nothing without a word."""

import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.data import shard_files
from tessera.data.shard_index import read_index
from tessera.data.shards import Shards
from tessera.data.tar_members import BLOCK, Damaged, members
from tests.data.shard_making import archive, captioned, jpeg


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % BLOCK)


def pax(**records: str) -> bytes:
    content = b""
    for key, value in records.items():
        body = f" {key.replace('__', '.')}={value}\n".encode()
        length = next(n for n in range(len(body), len(body) + 20) if len(str(n)) + len(body) == n)
        content += str(length).encode() + body
    return header("pax", len(content), tarfile.XHDTYPE) + padded(content)


def whole(path: Path, *parts: bytes, end: bool = True) -> Path:
    path.write_bytes(b"".join(parts) + b"\0" * (2 * BLOCK if end else 0))
    return path


def prompts(data: Shards) -> list[str | None]:
    return [data.prompt(index, 0) for index in range(len(data))]


def names(data: Shards) -> dict[str, str]:
    return {Path(path).name: reason for path, reason in data.skipped.items()}


def test_links_lead_to_what_they_name(tmp_path: Path) -> None:
    """Hard links as tar writes a file's second name, symbolic ones relative to their folder, links to links, and such as lead nowhere."""
    pool = tmp_path / "pool"
    (pool / "x").mkdir(parents=True)
    (pool / "x/a.jpg").write_bytes(jpeg())
    (pool / "x/a.txt").write_text("a")
    (pool / "x/b.jpg").hardlink_to(pool / "x/a.jpg")
    (pool / "x/b.txt").write_text("b")
    (pool / "c.jpg").symlink_to("x/a.jpg")
    (pool / "c.txt").symlink_to("x/b.txt")
    (pool / "x/d.jpg").symlink_to("../c.jpg")
    (pool / "x/d.txt").write_text("d")
    (pool / "e.jpg").symlink_to("/etc/passwd")
    (pool / "f.jpg").symlink_to("g.jpg")
    (pool / "g.jpg").symlink_to("f.jpg")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(pool, ".")
    data = Shards(str(tmp_path / "0.tar"), 8)
    assert sorted(prompts(data)) == ["a", "b", "b", "d"]
    assert all(data.example(index, 0) is not None for index in range(4))
    assert names(data) == dict.fromkeys(("e.jpg", "f.jpg", "g.jpg"), "it is a link to what is not in the archive")


@pytest.mark.parametrize("zeros", [2, 3, 20, 300])
def test_joined_archives_are_read_to_their_end(tmp_path: Path, zeros: int) -> None:
    parts = [archive(tmp_path / f"{name}.part", captioned(name)).read_bytes().rstrip(b"\0") for name in "abc"]
    path = tmp_path / "0.tar"
    path.write_bytes(b"".join(padded(part) + b"\0" * (zeros * BLOCK) for part in parts))
    data = Shards(str(path), 8)
    assert prompts(data) == [f"caption of {name}" for name in "abc"]
    assert data.skipped == {}
    path.write_bytes(path.read_bytes() + b"no header" * 100)
    data = Shards(str(path), 8)
    assert len(data) == 3
    assert "nothing is read after byte" in names(data)["0.tar"]


def test_names_with_dots(tmp_path: Path) -> None:
    members_ = [member for key in ("IMG_2021.03.04", "IMG_2021.03.05", "v1.0/x", "plain") for member in captioned(key)]
    data = Shards(str(archive(tmp_path / "0.tar", members_)), 8)
    assert prompts(data) == [f"caption of {key}" for key in ("IMG_2021.03.04", "IMG_2021.03.05", "v1.0/x", "plain")]
    assert data.skipped == {}


def test_every_picture_is_used_or_named(tmp_path: Path) -> None:
    good = jpeg()
    archived = [
        *captioned("a"),
        ("b.jpg", good),
        ("c.jxl", b"x"),
        ("d.avif", b"x"),
        ("d.txt", b"d"),
        ("a.png", good),
        ("e.jpg", b""),
        ("e.txt", b"e"),
    ]
    data = Shards(str(archive(tmp_path / "0.tar", archived)), 8)
    used = sum(data.example(index, 0) is not None for index in range(len(data)))
    assert used == 1
    assert set(names(data)) == {"b.jpg", "c.jxl", "d.avif", "a.png", "e.jpg"}


PICTURE = header("a.jpg", len(jpeg())) + padded(jpeg()) + header("a.txt", 1) + padded(b"a")
HOSTILE = {
    "a chain of long names": header("x", 2, tarfile.GNUTYPE_LONGNAME) + padded(b"y\0"),
    "a chain of pax headers": pax(path="y"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_chains_of_headers_end(tmp_path: Path, kind: str) -> None:
    data = Shards(str(whole(tmp_path / "0.tar", PICTURE, HOSTILE[kind] * 5000, header("z.jpg", 0))), 8)
    assert prompts(data) == ["a"]


SPARSE = {
    "pax 1.0 without a map": pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__name="s.jpg", GNU__sparse__realsize="99"),
    "pax 0.1": pax(GNU__sparse__map="0,1,99999999999,1", GNU__sparse__name="s.jpg", GNU__sparse__size="99999999999"),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_members_are_named(tmp_path: Path, kind: str) -> None:
    path = whole(tmp_path / "0.tar", PICTURE, SPARSE[kind], header("GNUSparseFile.0/s.jpg", 0), header("b.jpg", 3), padded(b"abc"))
    data = Shards(str(path), 8, captions=None)
    assert len(data) == 2
    assert names(data) == {"s.jpg": "it is a sparse file or no file at all"}


def test_devices_pipes_and_folders_named_like_pictures(tmp_path: Path) -> None:
    kinds = {"p.jpg": tarfile.FIFOTYPE, "c.jpg": tarfile.CHRTYPE, "d.jpg": tarfile.DIRTYPE}
    data = Shards(str(whole(tmp_path / "0.tar", PICTURE, *(header(name, 0, kind) for name, kind in kinds.items()))), 8)
    assert set(names(data)) == {"p.jpg", "c.jpg"}


DAMAGED = {
    "a name of 3 gigabytes": header("x", 3 << 30, tarfile.GNUTYPE_LONGNAME),
    "a pax header of 3 gigabytes": header("x", 3 << 30, tarfile.XHDTYPE),
    "a record of length 0": header("x", 9, tarfile.XHDTYPE) + padded(b"0 path=x\n"),
    "a record without end": header("x", 9, tarfile.XHDTYPE) + padded(b"99 path=x"),
    "a record of no number": header("x", 9, tarfile.XHDTYPE) + padded(b"x path=x\n"),
    "a size that is none": pax(size="-5") + header("b.jpg", 0),
    "a size of many digits": pax(size="9" * 5000) + header("b.jpg", 0),
    "a size beyond the end": pax(size="99999") + header("b.jpg", 0),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_headers_that_cannot_be_true_end_the_archive_with_a_reason(tmp_path: Path, kind: str) -> None:
    data = Shards(str(whole(tmp_path / "0.tar", PICTURE, DAMAGED[kind])), 8)
    assert prompts(data) == ["a"]
    assert names(data)["0.tar"].startswith("nothing is read after byte")


def test_long_names_are_not_multiplied(tmp_path: Path) -> None:
    """One name of a megabyte among a thousand pictures: a table of equal widths would be a gigabyte."""
    long = "x" * ((1 << 20) - 10) + ".jpg"
    parts = [header("L", len(long), tarfile.GNUTYPE_LONGNAME) + padded(long.encode()), header("x", 3), padded(b"abc")]
    path = whole(tmp_path / "0.tar", *parts, *(header(f"{number}.jpg", 3) + padded(b"abc") for number in range(1000)))
    script = f"""
        import resource
        from pathlib import Path
        from tessera.data.shard_index import read_index
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert len(read_index(Path({str(path)!r})).rows) == 1001
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damage_anywhere_ends_in_an_index(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(
        PICTURE + pax(path="b.jpg") + header("b", 3) + padded(b"abc") + HOSTILE["a chain of long names"] + PICTURE + b"\0" * 1024
    )
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    path = tmp_path_factory.mktemp("tar") / "0.tar"
    path.write_bytes(bytes(content))
    index = read_index(path)
    assert len(index.rows) == len(index.names) <= 3
    assert all(0 <= offset <= len(content) - size for offset, size in index.rows[:, :2].tolist())


def test_members_agree_with_the_library(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "0.tar", [member for key in ("a", "käse/" + "ä" * 150, "b" * 300) for member in captioned(key)], tarfile.PAX_FORMAT
    )
    with tarfile.open(path) as tar, path.open("rb") as file:
        expected = [(member.name, member.offset_data, member.size) for member in tar.getmembers()]
        assert [member[:3] for member in members(file, path.stat().st_size)] == expected
    with pytest.raises(Damaged, match="without the mark"):
        list(members(whole(path, PICTURE, end=False).open("rb"), len(PICTURE)))


def test_a_table_of_millions_of_rows_is_not_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = archive(tmp_path / "0.tar", captioned("a"))
    table = pyarrow.table({"key": pyarrow.array(["a"] * 3_000_000).dictionary_encode(), "score": pyarrow.array([1.0] * 3_000_000)})
    parquet.write_table(table, tmp_path / "0.parquet", compression="zstd")
    assert (tmp_path / "0.parquet").stat().st_size < 1 << 20
    with pytest.raises(Exception, match="none of the 1 pictures") as caught:
        Shards(str(path), 8, where={"score": [0, None]})
    assert "3000000 rows" in str(caught.value)


def test_a_table_with_a_text_of_gigabytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "LARGEST_TABLE", 1 << 20)
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = archive(tmp_path / "0.tar", captioned("a"))
    parquet.write_table(
        pyarrow.table({"key": ["a", "x" * (2 << 20)], "score": [1.0, 2.0]}),
        tmp_path / "0.parquet",
        compression="zstd",
        use_dictionary=False,
    )
    with pytest.raises(Exception, match="bytes of 'key' and 'score'"):
        Shards(str(path), 8, where={"score": [0, None]})


def test_what_is_no_tar_in_a_folder_is_named(tmp_path: Path) -> None:
    archive(tmp_path / "0.TAR", captioned("a"))
    with tarfile.open(tmp_path / "1.tar.gz", "w:gz"):
        pass
    os.mkfifo(tmp_path / "2.tar")
    data = Shards(str(tmp_path), 8)
    assert len(data) == 1
    assert names(data) == {"1.tar.gz": "it is packed: unpack it to a .tar", "2.tar": "it is no file but a pipe, a socket or a device"}
