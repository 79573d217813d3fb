import shutil
from pathlib import Path

import pytest
from PIL import Image

from tessera.apps.output import OutputFolder, contact_sheet, slug
from tessera.errors import TesseraError


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    (tmp_path / "a-cat-007.png").write_text("mine")
    folder = OutputFolder(tmp_path)
    assert [folder.save(Image.new("RGB", (4, 4)), "A cat!").name for _ in range(2)] == ["a-cat-008.png", "a-cat-009.png"]
    assert (tmp_path / "a-cat-007.png").read_text() == "mine"


def test_names_of_two_writers_never_meet(tmp_path: Path) -> None:
    first, second = OutputFolder(tmp_path), OutputFolder(tmp_path)
    paths = [folder.save(Image.new("RGB", (4, 4)), "x") for _ in range(3) for folder in (first, second)]
    assert len(set(paths)) == 6


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A red circle, above", "a-red-circle-above"), ("../../etc", "etc"), ("?!", "picture"), ("Ein blaues Büro", "ein-blaues-büro")],
)
def test_slug(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_long_prompts_make_short_names() -> None:
    assert len(slug("word " * 100)) <= 48


@pytest.mark.parametrize(("count", "columns", "side"), [(2, 2, 8), (5, 3, 64), (1, 1, 600), (40, 7, 300)])
def test_contact_sheet_shows_every_picture(tmp_path: Path, count: int, columns: int, side: int) -> None:
    paths = []
    for i in range(count):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (side, side), (255, i, 0)).save(paths[-1])
    sheet = contact_sheet(paths, ["a rather long label that must be cut"] * count, columns)
    assert {(255, i, 0) for i in range(count)} <= {colour for _, colour in sheet.getcolors(1 << 24)}
    assert max(sheet.size) <= 4096 + 64


def test_a_folder_that_is_removed_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    folder.check(100, 2)
    folder.save(Image.new("RGB", (4, 4)), "a")
    shutil.rmtree(tmp_path / "out")
    for name in ("a", "b"):
        with pytest.raises(TesseraError, match="cannot write to the output folder"):
            folder.save(Image.new("RGB", (4, 4)), name)
