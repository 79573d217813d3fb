"""`python -m tests.hostile`: all commands on all hostile files, then as many pieces of nonsense as asked for (`make fuzz`)."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.hostile.cases import damaged_runs, faults, make_outside, observed, written
from tests.hostile.fuzzing import fuzzed
from tests.hostile.requests import answers


def main() -> int:
    """The number of faults, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="pieces of nonsense: half of them are bodies of requests")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="decides them; another one in every run")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    count = wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [*written(folder / "files"), *damaged_runs(folder / "files" / "damaged")]
        make_outside(folder / "fuzz")
        for place, some in ((folder / "files", cases), (folder / "fuzz", fuzzed(folder / "fuzz", given.count // 2, given.seed))):
            for case, number, report in observed(some, place):
                count += 1
                if found := faults(report, case.refused[number]):
                    wrong += 1
                    print(f"{case.name}: {report['arguments']!r:.600}\n    {'; '.join(found)}\n    {report['err'][-600:]}", flush=True)
        for body, fault in answers(folder / "server", given.count - given.count // 2, given.seed):
            count += 1
            if fault:
                wrong += 1
                print(f"{body!r:.600}\n    {fault}", flush=True)
    print(f"{count} attempts, {wrong} faults")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
