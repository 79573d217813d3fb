"""A number with its recipe, so that two of them can be compared, or refuse to be.

A FID says nothing without the pictures it was measured against, their number, how they were resized and which network saw them. All of
that is in the report's `recipe`; numbers are comparable when their recipes are equal. What was measured (`samples`) may differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tessera.atomic import write_file
from tessera.errors import TesseraError, UsageError
from tessera.evaluation.measuring import Origin
from tessera.json_files import read_json

__all__ = ["Report", "difference", "read_report", "recipe_of"]


@dataclass(frozen=True)
class Report:
    """metric: its name. values: the numbers, by name. recipe: how they were measured. samples: what was. version: of Tessera."""

    metric: str
    values: Mapping[str, float | None]
    recipe: dict[str, Any]
    samples: dict[str, Any]
    version: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        """Writes it as JSON, whole or not at all."""
        with write_file(path) as part:
            part.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")


def recipe_of(reference: Origin, samples: Origin, **parameters: Any) -> dict[str, Any]:
    """The recipe of a number that compares `samples` with `reference`. parameters: of the metric.

    `resized` is the side that pictures were resized and cropped to before the extractor, None where they came as they are.
    """
    return {
        "extractor": reference.extractor,
        "reference": {
            "name": reference.pictures["name"], "resized": reference.pictures.get("resized"), "pictures": reference.count,
            "pixels_sha256": reference.pixels,
        },
        "pictures": samples.count,
        "resized": samples.pictures.get("resized"),
        "parameters": parameters,
    }  # fmt: skip


def read_report(path: Path) -> Report:
    """A report from its file. UsageError when there is none, TesseraError when it is not one."""
    if not path.is_file():
        raise UsageError(f"there is no report {path}: give files that `tessera evaluate … -o` wrote")
    try:
        report = Report(**read_json(path))
        assert isinstance(report.values, dict)
        assert isinstance(report.recipe, dict)
        return report
    except (OSError, ValueError, TypeError, AssertionError):
        raise TesseraError(f"{path} is not a report: expected a file that `tessera evaluate … -o` wrote") from None


def difference(first: Report, second: Report) -> str | None:
    """One sentence on why two numbers cannot be compared, naming everything that differs; None when they can."""
    if first.metric != second.metric:
        return f"one is {first.metric}, the other {second.metric}"
    found = [
        f"{what} is {_short(a)} in the first and {_short(b)} in the second"
        for what, a, b in _differences(first.recipe, second.recipe)
        if what not in ("reference.name",)  # the same pictures by another path are the same pictures
    ]
    return "; ".join(found) or None


def _differences(first: Any, second: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(first, dict) and isinstance(second, dict):
        names = [*first, *(name for name in second if name not in first)]
        return [d for name in names for d in _differences(first.get(name), second.get(name), f"{place}.{name}" if place else name)]
    return [] if first == second else [(place, first, second)]


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text
