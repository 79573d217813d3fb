from pathlib import Path

import pytest

from tessera.atomic import new_file, write_file, write_folder


def test_file_appears_whole_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with write_file(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("writer", [write_file, new_file])
def test_nothing_is_left_after_an_error(writer, tmp_path: Path) -> None:
    def interrupted() -> None:
        with writer(tmp_path / "a.txt") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_new_file_keeps_what_exists(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileExistsError), new_file(target) as part:
        part.write_text("new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with new_file(tmp_path / "b.txt") as part:
        part.write_text("new")
    assert (tmp_path / "b.txt").read_text() == "new"


def test_folder_replaces_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "stale").write_text("x")
    with write_folder(folder) as part:
        (part / "fresh").write_text("y")
        assert (folder / "stale").exists()
    assert [p.name for p in folder.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [folder]


def test_folder_stays_after_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("x")

    def interrupted() -> None:
        with write_folder(folder) as part:
            (part / "fresh").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]
