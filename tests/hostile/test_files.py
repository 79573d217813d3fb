"""Hostile files, folders, pictures, recipes, data and runs: none runs code, reads or writes elsewhere, or ends without a sentence."""

import sys
from pathlib import Path

import pytest

from tests.hostile.cases import Case, damaged_runs, faults, observed, written

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and watch of the processes are Linux's")


def test_whatever_a_file_holds_it_is_one_sentence(tmp_path: Path) -> None:
    """Each input meets one of its commands here, in turn; `make fuzz` gives it to all of them."""
    cases = written(tmp_path)
    assert len(cases) > 300
    chosen = [Case(c.name, [c.commands[i % len(c.commands)]], c.room, [c.refused[i % len(c.commands)]]) for i, c in enumerate(cases)]
    chosen += damaged_runs(tmp_path / "damaged")[::3]
    wrong = [
        f"{report['arguments'][0]} on {case.name!r}: {'; '.join(found)}\n{report['err'][-600:]}"
        for case, number, report in observed(chosen, tmp_path)
        if (found := faults(report, case.refused[number]))
    ]
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.rglob("ran"))
