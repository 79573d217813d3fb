import json
import os
from pathlib import Path

import pytest

from tessera.data.folder import Folder
from tessera.errors import UsageError
from tessera.registry import DATASETS, build
from tests.data.laws import check_laws
from tests.data.making import picture, truncate


def prompts(data: Folder, index: int = 0) -> set[str]:
    return {data.prompt(index, seed) for seed in range(40)}


@pytest.fixture
def captioned(tmp_path) -> Path:
    for name in ("a.jpg", "b.PNG", "deep/er/c.webp"):
        path = picture(tmp_path / name)
        path.with_suffix(".txt").write_text(f"caption of {path.stem}\n\n another of {path.stem} \n", encoding="utf-8")
    picture(tmp_path / ".hidden" / "d.png")
    (tmp_path / "._a.jpg").write_bytes(b"left by another system")
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def test_pictures_of_nested_folders_with_text_beside_them(captioned):
    data = build("dataset", DATASETS, {"kind": "folder", "root": str(captioned), "size": 16})
    assert data.files == ["a.jpg", "b.PNG", "deep/er/c.webp"]
    assert prompts(data, 2) == {"caption of c", "another of c"}
    assert data.skipped == {}
    check_laws(data, 16)


def test_pictures_alone(captioned):
    data = Folder(str(captioned), 16, captions=None)
    assert {data.prompt(i, 0) for i in range(3)} == {None}
    check_laws(data, 16)


def test_broken_pictures_and_captions_are_skipped_and_reported(captioned):
    truncate(captioned / "a.jpg")
    (captioned / "b.txt").write_text(" \n")
    picture(captioned / "alone.jpg")
    picture(captioned / "odd.jpg").with_suffix(".txt").write_bytes(b"\xff\xfe\x00caf\xe9")
    data = Folder(str(captioned), 16)
    assert set(data.skipped) == {str(captioned / "alone.jpg")}
    read = {data.files[i]: data.example(i, 0) for i in range(len(data))}
    assert [name for name, example in read.items() if example is not None] == ["deep/er/c.webp"]
    reasons = {Path(path).name: reason for path, reason in data.skipped.items()}
    assert reasons.keys() == {"alone.jpg", "a.jpg", "b.PNG", "odd.jpg"}
    assert "truncated" in reasons["a.jpg"]
    assert "alone.txt" in reasons["alone.jpg"]
    assert "b.txt is empty" in reasons["b.PNG"]
    assert "UTF-8" in reasons["odd.jpg"]
    check_laws(data, 16)


def test_a_picture_removed_meanwhile_is_skipped(captioned):
    data = Folder(str(captioned), 16)
    (captioned / "a.jpg").unlink()
    assert data.example(0, 0) is None
    assert "there is no picture" in data.skipped[str(captioned / "a.jpg")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "list.jsonl",
            '{"file": "a.jpg", "caption": "one"}\n\n{"file_name": "deep/er/c.webp", "text": ["x", "y", " "]}\n'
            '{"file": "a.jpg", "caption": "two"}\n',
        ),
        ("list.csv", "\ufefffile,caption,other\na.jpg,one,1\na.jpg,two,2\ndeep/er/c.webp,x,3\ndeep/er/c.webp,y,4\nb.PNG,,5\n"),
    ],
)
def test_lists(captioned, name, text):
    (captioned / name).write_text(text, encoding="utf-8")
    data = Folder(str(captioned), 16, captions=name)
    assert data.files == ["a.jpg", "deep/er/c.webp"]
    assert list(data.skipped.values()) == (["b.PNG has no caption"] if name == "list.csv" else [])
    assert prompts(data, 0) == {"one", "two"}
    assert prompts(data, 1) == {"x", "y"}
    check_laws(data, 16)


def test_csv_with_quotes_and_lines_in_a_caption(captioned):
    (captioned / "list.csv").write_text('caption,file\n"a, ""b""\nand c",a.jpg\n')
    assert prompts(Folder(str(captioned), 16, captions="list.csv")) == {'a, "b"\nand c'}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.jsonl", '{"file": ', "line 1: it is not JSON"),
        ("list.jsonl", '["a.jpg"]', "line 1: expected an object"),
        ("list.jsonl", '{"file": "a.jpg"}', "line 1: expected a file name"),
        ("list.jsonl", '{"file": 3, "caption": "one"}', "line 1: expected a file name"),
        ("list.jsonl", "", "names no picture"),
        ("list.csv", "a.jpg,one\nb.PNG,two\n", "has the columns 'a.jpg', 'one', .*file_name.*caption"),
        ("list.csv", "file;caption\na.jpg;one\n", "has the columns 'file;caption', separated by commas.*file_name.*caption"),
        ("list.jsonl", '{"Name": "a.jpg", "Title": "one"}', "found 'Name', 'Title'.*file_name.*caption"),
        ("list.csv", "file,caption\na.jpg\n", "line 2: expected a file name"),
        ("list.csv", "file,caption\n", "names no picture"),
        ("list.xml", "", "a .jsonl or .csv list"),
    ],
)
def test_broken_lists(captioned, name, text, message):
    (captioned / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        Folder(str(captioned), 16, captions=name)


def test_list_that_names_an_absent_picture(captioned):
    (captioned / "list.jsonl").write_text("\n".join(json.dumps({"file": name, "caption": name}) for name in ("a.jpg", "absent.jpg")))
    data = Folder(str(captioned), 16, captions="list.jsonl")
    assert [data.example(i, 0) is None for i in range(2)] == [False, True]
    assert set(data.skipped) == {str(captioned / "absent.jpg")}


def test_split(tmp_path):
    for i in range(20):
        picture(tmp_path / f"{i:02}.png", 4, 4)
    parts = {split: Folder(str(tmp_path), 4, captions=None, split=split) for split in ("all", "train", "val")}
    assert parts["train"].files == [f"{i:02}.png" for i in range(19)]
    assert parts["val"].files == ["19.png"]
    assert parts["all"].files == parts["train"].files + parts["val"].files
    assert [data.crop.mode for data in parts.values()] == ["random", "random", "centre"]
    assert len(Folder(str(tmp_path), 4, captions=None, split="train", train_share=0.5)) == 10


def test_wrong_arguments(tmp_path, captioned):
    with pytest.raises(UsageError, match="there is no folder"):
        Folder(str(tmp_path / "absent"), 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no usable picture"):
        Folder(str(tmp_path / "empty"), 16)
    with pytest.raises(UsageError, match="did you mean 'train'"):
        Folder(str(captioned), 16, split="trian")
    with pytest.raises(UsageError, match="train_share"):
        Folder(str(captioned), 16, train_share=1.5)
    with pytest.raises(UsageError, match="there is no file"):
        Folder(str(captioned), 16, captions="absent.csv")
    for text in captioned.rglob("*.txt"):
        text.unlink()
    with pytest.raises(UsageError, match="none of the 3 pictures"):
        Folder(str(captioned), 16)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_listed_is_reported(captioned):
    (captioned / "deep").chmod(0)
    data = Folder(str(captioned), 16)
    (captioned / "deep").chmod(0o755)
    assert len(data) == 2
    assert "cannot be read" in data.skipped[str(captioned / "deep")]


def test_fingerprint_knows_pictures_captions_and_cropping(captioned):
    def fingerprint(**changes) -> str:
        return Folder(**{"root": str(captioned), "size": 16, **changes}).fingerprint

    seen = {fingerprint(), fingerprint(size=8), fingerprint(crop="centre"), fingerprint(flip=True), fingerprint(captions=None)}
    assert fingerprint() in seen
    (captioned / "a.txt").write_text("a new caption")
    seen.add(fingerprint())
    picture(captioned / "a.jpg", 50, 50)
    seen.add(fingerprint())
    picture(captioned / "z.jpg").with_suffix(".txt").write_text("z")
    seen.add(fingerprint())
    assert len(seen) == 8
    moved = captioned.rename(captioned.with_name("moved"))
    assert Folder(str(moved), 16).fingerprint in seen


ODD = ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e"]
"""Where str.splitlines ends lines, and no program that writes lists does."""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_ends_of_lines_only(tmp_path, end):
    texts = [f"a red{letter}circle" for letter in ODD]
    for index, text in enumerate(texts):
        path = picture(tmp_path / f"{index}.png", 4, 4)
        path.with_suffix(".txt").write_bytes(f"\ufeff{text}{end}{end}b{end}".encode())
    rows = [{"file": f"{index}.png", "caption": text} for index, text in enumerate(texts)]
    (tmp_path / "list.jsonl").write_bytes(("\ufeff" + end.join(json.dumps(row, ensure_ascii=False) for row in rows)).encode())
    lines = ["file,caption", *(f"{row['file']},{row['caption']}" for row in rows)]
    (tmp_path / "list.csv").write_bytes(("\ufeff" + end.join(lines)).encode())
    beside = Folder(str(tmp_path), 4)
    assert [prompts(beside, index) for index in range(len(texts))] == [{text, "b"} for text in texts]
    for name in ("list.jsonl", "list.csv"):
        data = Folder(str(tmp_path), 4, captions=name)
        assert [data.prompt(index, 0) for index in range(len(texts))] == texts
        assert data.skipped == {}


BAD_ROWS = {
    "list.jsonl": {
        '{"file": "a.jpg", "caption": null}': "no caption", '{"file": "a.jpg", "caption": " "}': "no caption",
        '{"file": "a.jpg"}': "found 'file'",
        '{"caption": "x"}': "found 'caption'", '{"file": null, "caption": "x"}': "expected a file name",
        "[1]": "expected an object", '{"file": ': "not JSON", "[" * 100_000: "not JSON",
        '{"file": "a.jpg", "caption": [null, 3]}': "no caption",
    },
    "list.csv": {
        "a.jpg,": "no caption", "a.jpg": "found 'File_Name'", ",x": "expected a file name",
        "a.jpg,a red, round thing": "3 fields where the header has 2",
        'a.jpg,"a"b': "not CSV", "a.jpg,x\0y,": "3 fields", "a.jpg," + "x" * 200_000: "not CSV",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_costs_that_row_and_is_named(captioned, name):
    good = {
        "list.jsonl": ['{"File": "deep/er/c.webp", "TEXT": "c"}', '{"file": "b.PNG", "caption": ["b", null]}'],
        "list.csv": ["deep/er/c.webp,c", "b.PNG,b"],
    }[name]
    head = ["File_Name, CAPTION"] if name == "list.csv" else []
    lines = [*head, good[0], *BAD_ROWS[name], good[1]]
    (captioned / name).write_text("\n".join(lines), encoding="utf-8")
    data = Folder(str(captioned), 16, captions=name)
    assert {file: data.prompt(index, 0) for index, file in enumerate(data.files)} == {"b.PNG": "b", "deep/er/c.webp": "c"}
    assert len(data) + len(data.skipped) == len(lines) - len(head)
    for number, reason in enumerate(BAD_ROWS[name].values(), start=len(head) + 2):
        assert reason in data.skipped[f"{captioned / name}, line {number}"], number


def test_a_quote_that_is_never_closed_hides_no_row_silently(captioned):
    (captioned / "list.csv").write_text('file,caption\nb.PNG,b\na.jpg,"a red\ndeep/er/c.webp,c\n')
    data = Folder(str(captioned), 16, captions="list.csv")
    assert data.files == ["b.PNG"]
    assert "not CSV" in data.skipped[f"{captioned / 'list.csv'}, lines 3 to 4"]


def test_links_are_followed_and_circles_named(captioned, tmp_path_factory):
    pool = tmp_path_factory.mktemp("pool")
    picture(pool / "x" / "1.png", 4, 4)
    (captioned / "linked").symlink_to(pool)
    (captioned / "file.png").symlink_to(pool / "x" / "1.png")
    (captioned / "deep" / "up").symlink_to(captioned)
    (pool / "x" / "self").symlink_to(pool / "x")
    (captioned / "gone.png").symlink_to(captioned / "absent.png")
    data = Folder(str(captioned), 4, captions=None)
    assert data.files == ["a.jpg", "b.PNG", "deep/er/c.webp", "file.png", "linked/x/1.png"]
    assert {Path(path).name: reason for path, reason in data.skipped.items()} == {
        "up": "the link leads back to a folder that it lies in, so it was not followed",
        "self": "the link leads back to a folder that it lies in, so it was not followed", "gone.png": "the link leads nowhere",
    }  # fmt: skip


def test_links_between_folders_end(tmp_path):
    """Twelve folders with links to all the others have more ways through them than can be walked."""
    for number in range(12):
        picture(tmp_path / str(number) / "a.png", 4, 4)
        for other in range(12):
            if other != number:
                (tmp_path / str(number) / f"to-{other}").symlink_to(tmp_path / str(other))
    data = Folder(str(tmp_path), 4, captions=None)
    assert {f"{number}/a.png" for number in range(12)} <= set(data.files)
    assert len(data) < 2000
    assert any("more than 100 links" in reason for reason in data.skipped.values())


def test_what_is_no_file_is_not_waited_for(captioned):
    os.mkfifo(captioned / "pipe.jpg")
    os.mkfifo(captioned / "a pipe.txt")
    data = Folder(str(captioned), 4)
    assert [Path(path).name for path, reason in data.skipped.items() if "pipe, a socket" in reason] == ["a pipe.txt", "pipe.jpg"]
    for name in ("pipe.jsonl", "pipe.csv"):
        os.mkfifo(captioned / name)
        with pytest.raises(UsageError, match="is a pipe or a device"):
            Folder(str(captioned), 4, captions=name)
    (captioned / "zero.csv").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="is a pipe or a device"):
        Folder(str(captioned), 4, captions="zero.csv")


def test_every_picture_found_is_used_or_named(captioned):
    """Names of every kind that a picture may have."""
    picture(captioned / "IMG_2021.03.04.jpg").with_name("IMG_2021.03.04.txt").write_text("dots")
    (captioned / "a.avif").write_bytes(b"no picture")
    picture(captioned / "j.jpe").with_suffix(".txt").write_text("j")
    (captioned / "x.jxl").write_bytes(b"")
    data = Folder(str(captioned), 4)
    assert "IMG_2021.03.04.jpg" in data.files
    assert "j.jpe" in data.files
    read = [data.files[index] for index in range(len(data)) if data.example(index, 0) is not None]
    found = [
        path
        for path in captioned.rglob("*.*")
        if path.suffix not in (".txt", ".md") and not any(part[0] == "." for part in path.parts[-2:])
    ]
    assert len(read) + len(data.skipped) == len(found) == 7
    assert "JPEG" in data.skipped[str(captioned / "x.jxl")]


def test_names_that_are_no_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    picture(tmp_path / "a.png", 4, 4).rename(os.fsdecode(path))
    data = Folder(str(tmp_path), 4, captions=None)
    assert data.example(0, 0) is not None
    assert len(data.fingerprint) == 64
