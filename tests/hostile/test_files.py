"""Nothing that strangers give runs code, reads or writes elsewhere, or ends without a sentence.

What is made here is the same in every run. `make fuzz` gives every input to every command, and more nonsense, another in each run.
"""

import sys
from pathlib import Path

import pytest

from tests.hostile.cases import Case, damaged_runs, faults, observed, written
from tests.hostile.fuzzing import fuzzed
from tests.hostile.requests import answers


@pytest.mark.skipif(sys.platform != "linux", reason="limits and watch of the processes are Linux's")
def test_files_and_command_lines(tmp_path: Path) -> None:
    """Each of the hostile files meets one of its commands, in turn; then 150 command lines, recipes and prompts of nonsense."""
    cases = written(tmp_path)
    assert len(cases) > 300
    chosen = [Case(c.name, [c.commands[i % len(c.commands)]], c.room, [c.refused[i % len(c.commands)]]) for i, c in enumerate(cases)]
    chosen += [*damaged_runs(tmp_path / "damaged")[::3], *fuzzed(tmp_path / "nonsense", 150, seed=1)]
    wrong = [
        f"{case.name}: {report['arguments']!r:.600}: {'; '.join(found)}\n{report['err'][-600:]}"
        for case, number, report in observed(chosen, tmp_path)
        if (found := faults(report, case.refused[number]))
    ]
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.rglob("ran"))


def test_bodies_of_requests(tmp_path: Path) -> None:
    """350 of nonsense, and some that are right."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    wrong = [f"{body!r:.600}: {found}" for body, found in answers(tmp_path, 350, seed=1) if found]
    assert not wrong, "\n".join(wrong)
