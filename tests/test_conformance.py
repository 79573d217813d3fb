"""Every recorded reference case, through the conformance runner: the copied ones, and all of the shared folder when it is there.

A case of more than 50 million parameters is full-size: opt-in by `pytest -m full`. Families that the runner does not serve yet
are not collected; a component that it does not know within a family it serves fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import FAMILIES, run_case
from tests.conformance.cases import ORIGINALS, Case, find_cases

ROOT = Path(__file__).resolve().parents[1]
COPIED = ROOT / "tests" / "reference"
FULL_SIZE = 50_000_000


def _same(case: Path, other: Path) -> bool:
    """Whether two folders hold the same case, so that it need not run twice."""
    return all((other / file.name).is_file() and (other / file.name).read_bytes() == file.read_bytes() for file in case.iterdir())


def collected() -> list[object]:
    parameters: list[object] = []
    for root in (COPIED, ORIGINALS):
        for path in find_cases(root) if root.is_dir() else []:
            name = path.relative_to(root)
            if name.parts[0] not in FAMILIES or (root == ORIGINALS and _same(path, COPIED / name)):
                continue
            case = Case.read(path)
            marks = [pytest.mark.full] if case.parameters > FULL_SIZE else []
            parameters.append(pytest.param(path, id=str(name) if root == COPIED else f"shared/{name}", marks=marks))
    return parameters


@pytest.mark.parametrize("path", collected())
def test_case_holds(path: Path, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("full") and "full" not in request.config.option.markexpr:
        pytest.skip("full-size: run with `pytest -m full`")
    report = run_case(path)
    if report.absent:
        pytest.skip(str(report.error))
    failed = [f"{check.output}: {check.difference:.3g}, {check.detail}" for check in report.checks if not check.holds]
    assert report.holds, "\n".join([report.error or "", *failed])
