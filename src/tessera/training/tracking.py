"""Where a run's numbers go: `metrics.jsonl` in the run folder, the tracker, and the progress bar."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tessera.atomic import write_file
from tessera.errors import TesseraError
from tessera.json_files import parse_json
from tessera.text_files import lines_of, read_regular, read_text
from tessera.visible import on_one_line, visible

__all__ = ["MetricsFile", "SkippedFile", "TrainingProgress", "read_metrics"]


class MetricsFile:
    """One JSON object per line and step; lines of steps after `step`, left by a run that went further than its checkpoint, are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.kept = kept = [line for line in read_metrics(path) if line["step"] <= step] if path.exists() else []
        try:
            with write_file(path) as part:
                part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise TesseraError(f"cannot write {path}: {error.strerror or error}") from None

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """`kind`: "train", "validation", "panel" or "warning". Values that are not finite are written as null."""
        clean = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **clean}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a line cut short by a kill, or damaged, ends it."""
    lines: list[dict[str, Any]] = []
    for text in read_regular(path).split(b"\n"):
        try:
            line = parse_json(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int) or not isinstance(line.get("kind"), str):
            break
        lines.append(line)
    return lines


class SkippedFile:
    """What of the data could not be used: a line "STEP<tab>NAME<tab>REASON" for each, STEP being the first that met it.

    Lines of steps after `step` are dropped, as in `MetricsFile`. `len` counts the lines.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._lines: dict[str, str] = {}
        for line in lines_of(read_text(path)) if path.exists() else []:
            met, _, named = line.partition("\t")
            if met.isdecimal() and int(met) <= step:
                self._lines[named.partition("\t")[0]] = line
        if path.exists():  # without the lines of steps after the checkpoint
            with write_file(path) as part:
                part.write_text("".join(f"{line}\n" for line in self._lines.values()), encoding="utf-8")

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, step: int, skipped: Mapping[str, str]) -> None:
        """Writes those that have no line yet. skipped: name → reason."""
        written = {on_one_line(name): f"{step}\t{on_one_line(name)}\t{on_one_line(reason)}" for name, reason in skipped.items()}
        fresh = {name: line for name, line in written.items() if name not in self._lines}
        if fresh:
            self._lines.update(fresh)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in fresh.values())


class TrainingProgress:
    """A progress bar on standard error with the time left, pictures per second and the loss."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True), console=Console(stderr=True), disable=not shown,
            refresh_per_second=2,
        )  # fmt: skip
        self.task = self.bar.add_task("training", total=total, completed=done, note="")
        self.bar.start()

    def advance(self) -> None:
        self.bar.advance(self.task)

    def note(self, text: str) -> None:
        self.bar.update(self.task, note=text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.bar.console.print(visible(text), highlight=False, markup=False)

    def close(self) -> None:
        self.bar.stop()
