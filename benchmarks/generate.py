"""Time to first picture: whole processes from start to exit, and their peak memory.

    python benchmarks/generate.py [--model NAME] [--runs N] [--json]

Targets (2 cores): 4 pictures at 25 steps in at most 8 s and 1.2 GB; `tessera --help` in at most 0.5 s.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Measured:
    """Wall-clock seconds of every run, the processor seconds of the quickest, and the largest peak of resident memory."""

    what: str
    seconds: list[float]
    cpu_seconds: float
    peak_mb: float
    target_seconds: float
    target_mb: float | None


def measure(what: str, arguments: list[str], runs: int, target_seconds: float, target_mb: float | None) -> Measured:
    """Runs `tessera` with `arguments` as a process of its own, `runs` times."""
    seconds, processor, peaks = [], [], []
    for _ in range(runs):
        started = time.perf_counter()
        child = os.posix_spawn(
            sys.executable, [sys.executable, "-m", "tessera.apps.cli", *arguments], os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )  # fmt: skip
        _, status, usage = os.wait4(child, 0)
        seconds.append(time.perf_counter() - started)
        if status != 0:
            raise SystemExit(f"tessera {' '.join(arguments)} failed with exit code {os.waitstatus_to_exitcode(status)}")
        processor.append(usage.ru_utime + usage.ru_stime)
        peaks.append(usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))  # bytes there, kilobytes elsewhere
    return Measured(what, seconds, min(processor), max(peaks), target_seconds, target_mb)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        prompt = "a red circle above a blue square"
        drawing = ["generate", prompt, "-n", "4", "--steps", "25", "--seed", "0", "--model", options.model, "-o", folder, "--json"]
        measured = [
            measure("tessera --help", ["--help"], options.runs, 0.5, None),
            measure("4 pictures, 25 steps, defaults", drawing, options.runs, 8.0, 1200.0),
            measure("4 pictures, 25 steps, guidance 3", [*drawing, "--guidance", "3"], options.runs, 8.0, 1200.0),
        ]
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "load": load, "runs": [asdict(m) for m in measured]}, indent=2))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, {options.runs} runs each")
    print(f"{'':34}{'median s':>9}{'best s':>8}{'cpu s':>7}{'target':>8}{'peak MB':>9}{'target':>8}")
    for m in measured:
        target_mb = "" if m.target_mb is None else f"{m.target_mb:.0f}"
        print(
            f"{m.what:34}{statistics.median(m.seconds):9.2f}{min(m.seconds):8.2f}{m.cpu_seconds:7.2f}{m.target_seconds:8.1f}"
            f"{m.peak_mb:9.0f}{target_mb:>8}"
        )


if __name__ == "__main__":
    main()
