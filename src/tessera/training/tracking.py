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
from tessera.visible import visible

__all__ = ["MetricsFile", "TrainingProgress", "read_metrics"]


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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TesseraError(f"cannot read {path}: {error.strerror or error}") from None
    for text in content.split(b"\n"):
        try:
            line = parse_json(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int) or not isinstance(line.get("kind"), str):
            break
        lines.append(line)
    return lines


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
