"""A sheet of any pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.apps.conftest import Run

COLOURS = ["red", "lime", "blue", "yellow", "black"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (64, 32 if i == 1 else 64), colour).save(folder / f"{i}.png")
    (folder / "5.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("words")
    return folder


def colours_of(sheet: Path) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(Image.open(sheet).convert("RGB")).reshape(-1, 3).tolist()}


def test_all_pictures_of_a_folder_and_what_cannot_be_read_is_named(run: Run, pictures: Path, tmp_path: Path) -> None:
    result = run("grid", pictures, "-o", tmp_path / "sheet.png", "--columns", 3)
    assert result.code == 0, result.err
    assert "5.png" in result.err
    assert "5 of 6 pictures in 2 rows of 3" in result.err
    named = {tuple(Image.new("RGB", (1, 1), colour).getpixel((0, 0))) for colour in COLOURS}
    assert named <= colours_of(tmp_path / "sheet.png")


def test_rows_and_columns_take_the_first(run: Run, pictures: Path, tmp_path: Path) -> None:
    assert run("grid", pictures, "-o", tmp_path / "sheet.png", "--rows", 1, "--columns", 2, "--names").code == 0
    found = colours_of(tmp_path / "sheet.png")
    assert (255, 0, 0) in found
    assert (0, 0, 255) not in found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "there is no picture or folder nowhere"),
        (["{pictures}/notes.txt"], "no picture was found"),
        (["{pictures}", "--columns", 0], "--columns must be 1 to"),
        (["{pictures}", "-o", "sheet.jpg"], "must end in .png"),
        (["{pictures}", "-o", "{pictures}/0.png"], "already exists"),
    ],
)
def test_what_cannot_be_is_one_sentence(run: Run, pictures: Path, arguments: list[object], sentence: str) -> None:
    result = run("grid", *(str(argument).format(pictures=pictures) for argument in arguments))
    assert result.code == 2
    assert sentence in result.err
