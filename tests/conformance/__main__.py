"""Command line of the conformance runner. Exit status: 0 all hold, 1 one does not, 2 a component, setting or folder is unknown."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance import Report, UnknownComponent, UnknownSetting, run_case
from tests.conformance.cases import find_cases


def _print(report: Report) -> None:
    print(f"{'ok  ' if report.holds else 'FAIL'} {report.name} ({report.component})")
    if report.error:
        print(f"     {report.error}")
    width = max((len(check.output) for check in report.checks), default=0)
    for check in report.checks:
        print(f"     {'ok  ' if check.holds else 'FAIL'} {check.output:<{width}}  {check.difference:<9.3g} {check.detail}")


def main(folders: list[str]) -> int:
    status, failed, count = 0, 0, 0
    for folder in folders:
        cases = find_cases(Path(folder))
        if not cases:
            print(f"FAIL {folder}: no case.json in it or beneath it")
            status = 2
        for path in cases:
            count += 1
            try:
                report = run_case(path)
            except (UnknownComponent, UnknownSetting) as error:
                print(f"???? {path.name}: {error}")
                status = 2
            else:
                _print(report)
                failed += not report.holds
            sys.stdout.flush()
    print(f"{count} cases, {failed} failed")
    return status or (1 if failed else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Run recorded reference cases through the package.")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a case folder, or a folder of them")
    sys.exit(main(parser.parse_args().folders))
