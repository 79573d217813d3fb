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
    assert prompts(data, 0) == {"one", "two"}
    assert prompts(data, 1) == {"x", "y"}
    check_laws(data, 16)


def test_csv_with_quotes_and_lines_in_a_caption(captioned):
    (captioned / "list.csv").write_text('caption,file\n"a, ""b""\nand c",a.jpg\n')
    assert prompts(Folder(str(captioned), 16, captions="list.csv")) == {'a, "b"\nand c'}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.jsonl", '{"file": "a.jpg", "caption": "one"}\n{"file": ', "line 2 is not JSON"),
        ("list.jsonl", '["a.jpg"]', "line 1: expected an object"),
        ("list.jsonl", '{"file": "a.jpg"}', "line 1: expected a file name"),
        ("list.jsonl", '{"file": 3, "caption": "one"}', "line 1: expected a file name"),
        ("list.jsonl", "", "names no picture"),
        ("list.csv", "a.jpg,one\nb.PNG,two\n", "line 2: expected a file name"),
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
    with pytest.raises(UsageError, match="cannot read the captions"):
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
