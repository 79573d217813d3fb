"""Archives of pictures: the same example for the same (index, seed), and nothing that is wrong with an archive stops a run."""

import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import tessera.data.shard_index as shard_index
from tessera.data.shard_files import expand
from tessera.data.shard_index import read_index
from tessera.data.shards import Shards
from tessera.errors import UsageError
from tessera.registry import DATASETS, build
from tessera.training.loader import Batches, batches
from tests.data.laws import check_laws
from tests.data.making import truncate
from tests.data.shard_making import archive, captioned, jpeg


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tessera" / "shards"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two archives of three pictures with their tables' numbers."""
    for shard in range(2):
        pictures = [
            captioned(f"{shard:05}{i:04}", original_width=100 * (3 * shard + i + 1), original_height=90, similarity=0.1 * i)
            for i in range(3)
        ]
        archive(tmp_path / "data" / f"{shard:05}.tar", [member for picture in pictures for member in picture])
        (tmp_path / "data" / f"{shard:05}_stats.json").write_text("{}")
    return tmp_path / "data"


def prompts(data: Shards) -> list[str | None]:
    return [data.prompt(i, 0) for i in range(len(data))]


def skipped(data: Shards) -> dict[str, str]:
    return {Path(path).name: reason for path, reason in data.skipped.items()}


def test_archives_as_img2dataset_writes_them(shards: Path) -> None:
    data = build("dataset", DATASETS, {"kind": "shards", "root": str(shards), "size": 16})
    assert prompts(data) == [f"caption of {shard:05}{i:04}" for shard in range(2) for i in range(3)]
    assert data.path(4) == shards / "00001.tar" / "000010001.jpg"
    check_laws(data, 16)
    assert data.skipped == {}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_archive_of_webdataset(tmp_path: Path, format: int) -> None:
    """Members in any order, in folders, of other kinds, with long names, of several pictures for one key."""
    long = "folder/" * 20 + "käse"
    members = [
        ("set.1/b.txt", b"words\nof b "), ("set.1/a.PNG", jpeg()), ("set.1/a.txt", b"a"), ("set.1/b.webp", jpeg()), ("set.1/b.cls", b"3"),
        ("set.1/b.seg.png", jpeg()), ("__meta__.json", b"{}"), ("._a.jpg", b"left by another system"), ("README", b"none"),
        (f"{long}.jpg", jpeg()), (f"{long}.txt", b"cheese"), ("./c.jpg", jpeg()), ("./c.txt", b"c"),
    ]  # fmt: skip
    data = Shards(str(archive(tmp_path / "x.tar", members, format)), 16)
    assert prompts(data) == ["words of b", "a", "cheese", "c"]
    check_laws(data, 16)
    assert skipped(data) == {"b.seg.png": "'b' has a picture of its own"}


def test_captions_of_the_json_or_none(tmp_path: Path) -> None:
    members = [*captioned("a", recaption=["one", "two", " ", 3]), *captioned("b", recaption="three"), *captioned("c"), ("d.jpg", jpeg())]
    path = str(archive(tmp_path / "x.tar", members))
    data = Shards(path, 16, captions="recaption")
    assert {data.prompt(0, seed) for seed in range(40)} == {"one", "two"}
    assert [data.example(i, 0) is None for i in range(3)] == [False, False, True]
    assert "no text 'recaption'" in skipped(data)["c.jpg"]
    assert skipped(data)["d.jpg"] == "it has no .json with a caption"
    alone = Shards(path, 16, captions=None)
    assert prompts(alone) == [None] * 4
    check_laws(alone, 16)


def test_several_places_and_patterns(shards: Path, tmp_path: Path) -> None:
    other = archive(tmp_path / "more" / "deep" / "7.tar", captioned("x"))
    names = {
        str(shards / "{00000..00001}.tar"): 6, str(shards / "0000[1-9].tar"): 3, str(shards / "{00001,00000}.tar"): 6,
        str(tmp_path / "{more,data}/**/*.tar"): 7, str(other): 1, str(tmp_path / "more"): 1, str(shards / "{00001..00003}.tar"): 3,
    }  # fmt: skip
    for name, count in names.items():
        assert len(Shards(name, 16)) == count, name
    data = Shards([str(other), str(shards), str(shards / "00000.tar")], 16)
    assert prompts(data)[:2] == ["caption of x", "caption of 000000000"]
    assert len(data) == 7
    assert set(skipped(Shards(str(shards / "{00001..00003}.tar"), 16))) == {"00002.tar", "00003.tar"}


def test_braces() -> None:
    assert expand("a{08..11}b{x,y}") == [f"a{n}b{c}" for n in ("08", "09", "10", "11") for c in "xy"]
    assert expand("plain") == ["plain"]
    assert expand("{3..1}") == []
    for bomb in ("{0..99999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(UsageError, match="more than"):
            expand(bomb)


def test_selection_by_numbers(shards: Path) -> None:
    assert len(Shards(str(shards), 16, where={"original_width": [200, 500]})) == 4
    assert len(Shards(str(shards), 16, where={"original_width": [200, None], "similarity": [0.15, None]})) == 2
    assert prompts(Shards(str(shards), 16, where={"original_width": [None, 100]})) == ["caption of 000000000"]
    archive(shards / "00002.tar", [*captioned("x", original_width=300), *captioned("y", original_width="300"), *captioned("z")])
    (shards / "00003.tar").write_bytes(
        archive(shards / "tmp", [("v.jpg", jpeg()), ("v.txt", b"v"), ("v.json", b'{"original_width": ')]).read_bytes()
    )
    data = Shards(str(shards), 16, where={"original_width": [200, None]})
    assert len(data) == 6
    assert skipped(data) == {f"{name}.jpg": "it does not say 'original_width'" for name in "vyz"}
    check_laws(data, 16)


def test_numbers_of_the_table_where_the_json_lacks_them(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    members = [*captioned("a", score=1.0), *captioned("b"), *captioned("c"), *captioned("d")]
    path = archive(tmp_path / "0.tar", members)
    parquet.write_table(pyarrow.table({"key": ["b", "c", "a", "e"], "score": [3.0, None, 5.0, 4.0]}), tmp_path / "0.parquet")
    data = Shards(str(path), 16, where={"score": [0, 3]})
    assert prompts(data) == ["caption of a", "caption of b"]
    assert skipped(data) == {"c.jpg": "it does not say 'score'", "d.jpg": "it does not say 'score'"}
    for broken in (b"PAR1 but no table", b""):
        (tmp_path / "0.parquet").write_bytes(broken)
        data = Shards(str(path), 16, where={"score": [0, 3]})
        assert prompts(data) == ["caption of a"]
        assert "no table with 'key' and 'score'" in skipped(data)["0.parquet"]
    parquet.write_table(pyarrow.table({"id": ["b"], "score": [3.0]}), tmp_path / "0.parquet")
    assert "no table with" in skipped(Shards(str(path), 16, where={"score": [0, 3]}))["0.parquet"]
    assert "0.parquet" not in skipped(Shards(str(path), 16))


def test_broken_members_are_skipped_and_reported(tmp_path: Path) -> None:
    good = jpeg()
    members = [
        *captioned("good"), ("cut.jpg", good[: len(good) // 2]), ("cut.txt", b"cut"), ("page.jpg", b"<html>"), ("page.txt", b"page"),
        ("silent.jpg", good), ("empty.jpg", good), ("empty.txt", b""), ("blank.jpg", good), ("blank.txt", b" \n "), ("odd.jpg", good),
        ("odd.txt", b"caf\xe9"), ("void.jpg", b""), ("void.txt", b"void"), ("alone.txt", b"a text"), ("good.jpg", good),
    ]  # fmt: skip
    data = Shards(str(archive(tmp_path / "x.tar", members)), 16)
    assert len(data) == 5
    assert [i for i in range(5) if data.example(i, 0) is not None] == [0]
    reasons = skipped(data)
    assert "came before" in reasons.pop("good.jpg again")
    assert reasons.keys() == {"void.jpg", "silent.jpg", "empty.jpg", "cut.jpg", "page.jpg", "blank.jpg", "odd.jpg"}
    assert reasons["void.jpg"] == "it is empty"
    assert reasons["silent.jpg"] == reasons["empty.jpg"] == "it has no .txt with a caption"
    assert "truncated" in reasons["cut.jpg"]
    assert "page.jpg is not a readable picture" in reasons["page.jpg"]
    assert "empty" in reasons["blank.jpg"]
    assert "UTF-8" in reasons["odd.jpg"]
    check_laws(data, 16)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999, 1.0])
def test_a_cut_archive_gives_what_is_whole_in_it(shards: Path, share: float) -> None:
    whole = Shards(str(shards), 16)
    path = shards / "00001.tar"
    path.write_bytes(path.read_bytes().rstrip(b"\0"))  # without the mark of its end
    truncate(path, share)
    data = Shards(str(shards), 16)
    assert 3 <= len(data) <= 6
    assert "00001.tar" in skipped(data)
    assert len(data) + len(skipped(data)) - 1 <= 6
    for index in range(len(data)):
        assert torch.equal(data.example(index, 0).image, whole.example(index, 0).image)


def damaged_header(path: Path, field: slice, value: bytes, checksum: bool) -> None:
    """The header of the fifth member with other bytes in it."""
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        start = tar.getmembers()[4].offset
    content[start + field.start : start + field.stop] = value
    if checksum:
        content[start + 148 : start + 156] = b" " * 8
        content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("field", "value", "checksum"),
    [
        (slice(0, 4), b"????", False),
        (slice(124, 136), b"77777777777\0", True),
        (slice(124, 136), b"\xff" * 11 + b"\x00", True),
        (slice(156, 157), b"x", True),
        (slice(156, 157), b"S", True),
        (slice(0, 512), b"\0" * 512, False),
    ],
    ids=["checksum", "huge", "negative", "header of headers", "sparse", "end mark"],
)
def test_a_damaged_header_ends_an_archive_early(shards: Path, field: slice, value: bytes, checksum: bool) -> None:
    damaged_header(shards / "00000.tar", field, value, checksum)
    data = Shards(str(shards), 16)
    assert 4 <= len(data) <= 5
    assert skipped(data).keys() & {"00000.tar", "000000001.txt"}
    assert all(data.example(index, 0) is not None for index in range(len(data)))


def test_what_is_no_archive_is_reported(shards: Path) -> None:
    (shards / "2.tar").write_bytes(b"")
    (shards / "3.tar").write_bytes(b"<html>" * 1000)
    with tarfile.open(shards / "4.tar", "w:gz") as tar:
        tar.add(shards / "00000.tar", "a.jpg")
    (shards / "5.tar").symlink_to(shards / "absent")
    archive(shards / "6.tar", [])
    (shards / "7.tar").write_bytes(np.random.default_rng(0).bytes(20000))
    data = Shards(str(shards), 16)
    assert len(data) == 6
    reasons = skipped(data)
    assert reasons.keys() == {"2.tar", "3.tar", "4.tar", "5.tar", "7.tar"}
    assert all("no uncompressed tar archive" in reasons[f"{i}.tar"] for i in (3, 4, 7))
    assert "without the mark of its end" in reasons["2.tar"]
    assert reasons["5.tar"] == "the link leads nowhere"


def test_nothing_to_train_on_is_one_sentence(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "0.tar").write_bytes(b"no archive")
    said = {
        "there is no tar archive in": {"root": str(tmp_path / "absent")},
        "there is no tar archive": {"root": str(tmp_path / "empty")},
        "an empty list": {"root": []},
        "there is no tar archive in s3://": {"root": "s3://bucket/0.tar"},
        "no picture was found in the 1 tar archives.*no uncompressed": {"root": str(broken)},
        "none of the 6 pictures.*did you mean 'similarity'": {"root": str(shards), "where": {"similarty": [0, 1]}},
        "none of the 6 pictures": {"root": str(shards), "where": {"similarity": [5, None]}},
        r"where.similarity must be \[least, most\]": {"root": str(shards), "where": {"similarity": 0.3}},
        "where.similarity must be": {"root": str(shards), "where": {"similarity": [0.3]}},
        "where.similarity must": {"root": str(shards), "where": {"similarity": ["a", None]}},
        "exchange them": {"root": str(shards), "where": {"similarity": [1, 0]}},
        "did you mean 'train'": {"root": str(shards), "split": "trian"},
        "train_share": {"root": str(shards), "train_share": 0},
    }
    for message, arguments in said.items():
        with pytest.raises(UsageError, match=message) as caught:
            Shards(**arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"the split 'train' of .* is empty"):
        Shards(str(shards), where={"original_width": [None, 100]}, split="train")


def test_split(shards: Path) -> None:
    train, val = (Shards(str(shards), 16, split=split, train_share=0.7) for split in ("train", "val"))
    assert prompts(train) + prompts(val) == prompts(Shards(str(shards), 16))
    assert len(train) == 4
    assert (train.crop.mode, val.crop.mode) == ("random", "centre")
    assert train.fingerprint != val.fingerprint
    check_laws(val, 16)


def test_an_archive_is_read_once(shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Shards(str(shards), 16)
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("*.np?")}
    assert len(kept) == 4
    read: list[str] = []
    monkeypatch.setattr(shard_index, "read_index", lambda path: read.append(path.name) or read_index(path))
    again = Shards(str(shards), 16, where={"similarity": [0.05, None]})
    assert (read, len(again)) == ([], 4)
    archive(shards / "00001.tar", captioned("new"))
    changed = Shards(str(shards), 16)
    assert (read, len(changed)) == (["00001.tar"], 4)
    assert changed.fingerprint != first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    known = prompts(changed)
    victim = sorted(cache.glob("*.npy"))[0]
    victim.write_bytes(victim.read_bytes()[:70])
    assert prompts(Shards(str(shards), 16)) == known


def test_an_archive_that_changes_meanwhile_is_skipped_with_the_reason(shards: Path) -> None:
    data = Shards(str(shards), 16)
    archive(shards / "00001.tar", [("longer-name.txt", b"x" * 700), *captioned("new")])
    (shards / "00000.tar").unlink()
    for one in (data, pickle.loads(pickle.dumps(data))):
        assert [one.example(i, 0) for i in range(6)] == [None] * 6
        assert all("cannot be read" in reason or "has changed" in reason for reason in one.skipped.values())


def test_folders_and_a_cache_that_cannot_be_written(shards: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    for path in [*shards.iterdir(), shards]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        data = Shards(str(shards), 16)
        check_laws(data, 16)
        assert len(data) == 6
    finally:
        shards.chmod(0o755)
    assert cache.read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_archive_that_may_not_be_read_is_reported(shards: Path) -> None:
    (shards / "00000.tar").chmod(0)
    assert "cannot be read" in skipped(Shards(str(shards), 16))["00000.tar"]


def test_workers_read_what_one_process_reads_and_carry_no_tables(shards: Path) -> None:
    data = Shards(str(shards), 16, where={"original_width": [200, None]})
    assert len(pickle.dumps(data)) < 3000  # the tables are mapped
    alone, shared = (list(batches(Batches(data, 3, 4), 0, 5, workers)) for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.image, other.image)
        assert (one.prompts, one.positions) == (other.prompts, other.positions)


def test_fingerprint_knows_archives_selection_and_cropping(shards: Path) -> None:
    def fingerprint(**changes: object) -> str:
        return Shards(**{"root": str(shards), "size": 16, **changes}).fingerprint

    seen = {
        fingerprint(), fingerprint(size=8), fingerprint(crop="centre"), fingerprint(flip=True), fingerprint(captions=None),
        fingerprint(where={"similarity": [0.05, None]}), fingerprint(root=str(shards / "00000.tar")),
    }  # fmt: skip
    assert len(seen) == 7
    moved = shards.rename(shards.with_name("moved"))
    assert fingerprint(root=str(moved)) in seen


def test_hostile_numbers(tmp_path: Path) -> None:
    """Files that say too much, too deep, or no object at all."""
    jsons = [b"[" * 100000, b"[1]", b"3", b'{"n": 1e999, "m": NaN}', json.dumps({"n": 10**400}).encode(), b" " * (1 << 21), b"\xff",
             json.dumps({f"f{i}": i for i in range(1000)}).encode()]  # fmt: skip
    members = [
        (f"{i}.{kind}", content) for i, said in enumerate(jsons) for kind, content in (("jpg", jpeg()), ("txt", b"x"), ("json", said))
    ]
    index = read_index(archive(tmp_path / "x.tar", members))
    assert len(index.rows) == len(jsons)
    assert len(index.fields) <= shard_index.MOST_FIELDS
    assert len(Shards(str(tmp_path / "x.tar"), 16, where={"f3": [3, 3]})) == 1
