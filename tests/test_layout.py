"""What holds for all files of the project."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_files_of_the_originals_are_looked_for_in_one_place() -> None:
    """So that `TESSERA_ORIGINALS=none` hides them from every test."""
    naming = re.compile(r"""["']shared["']|\.\./shared""")
    found = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py") if naming.search(path.read_text(encoding="utf-8"))}
    assert found == {"conformance/cases.py"}
