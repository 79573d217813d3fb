"""A service with a small model that draws in milliseconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tessera.serve.service import Service
from tessera.serve.shelf import Shelf
from tests.serve.browser import served
from tests.tiny import tiny_model
from tests.tiny_floats import tiny_float_model
from tests.tiny_versatile import ending, tiny_versatile


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small models; not to be changed."""
    folder = tmp_path_factory.mktemp("shelf")
    tiny_model().save(folder / "tiny")
    tiny_float_model().save(folder / "tiny-v")
    ending(tiny_versatile(), by=-10).save(folder / "tiny-four")  # whatever the seed, its texts are not empty
    (folder / "notes.txt").write_text("no model")
    return folder


@pytest.fixture(scope="session")
def address(models: Path) -> Iterator[str]:
    """Of a server that offers them, "tiny" first."""
    with served("--models", str(models), "--model", str(models / "tiny")) as here:
        yield here


@pytest.fixture
def service(models: Path) -> Iterator[Service]:
    made = Service(Shelf(models))
    yield made
    made.close()
