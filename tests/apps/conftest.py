"""A model folder, and the command line called as a user calls it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tessera.apps.cli import main
from tests.tiny import tiny_model


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """Standard error, which must be one line and no traceback."""
        lines = self.err.strip().split("\n")
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model's folder; not to be changed."""
    return tiny_model().save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `tessera` with arguments and returns its exit code and what it wrote."""

    def run_(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return Result(int(left.value.code or 0), *capfd.readouterr())

    return run_


@pytest.fixture
def generate(run: Run, folder: Path, tmp_path: Path) -> Run:
    """`tessera generate` with the small model into tmp_path/out."""
    return lambda *arguments: run("generate", "--model", folder, "-o", tmp_path / "out", *arguments)
