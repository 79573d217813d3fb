"""Five hundred pieces of nonsense, the same in every run: command lines, recipes and prompts here, bodies of requests below."""

import sys
from pathlib import Path

import pytest

from tests.hostile.cases import faults, make_outside, observed
from tests.hostile.fuzzing import fuzzed
from tests.hostile.requests import answers


@pytest.mark.skipif(sys.platform != "linux", reason="limits and watch of the processes are Linux's")
def test_command_lines_recipes_and_prompts(tmp_path: Path) -> None:
    make_outside(tmp_path)
    wrong = [
        f"{case.name}: {report['arguments']!r:.600}: {'; '.join(found)}\n{report['err'][-600:]}"
        for case, _, report in observed(fuzzed(tmp_path, 250, seed=1), tmp_path)
        if (found := faults(report, refused=False))
    ]
    assert not wrong, "\n".join(wrong)


def test_bodies_of_requests(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    wrong = [f"{body!r:.600}: {found}" for body, found in answers(tmp_path, 250, seed=1) if found]
    assert not wrong, "\n".join(wrong)
