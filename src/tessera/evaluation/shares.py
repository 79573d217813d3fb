"""Shares of what was judged, as all measures of the scenes world report them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isnan, nan, sqrt
from typing import Any

__all__ = ["Shares", "share", "standard_error"]


class Shares:
    """Base of dataclasses of shares in 0..1, NaN where there was nothing to judge."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values; a share of nothing is None."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return {name: None if isinstance(value, float) and isnan(value) else value for name, value in values.items()}


def share(values: Sequence[bool | float | None]) -> float:
    """The mean of those that are not None; NaN of none."""
    stated = [float(value) for value in values if value is not None]
    return sum(stated) / len(stated) if stated else nan


def standard_error(of: float, count: int) -> float:
    """Of a share among `count`."""
    return sqrt(of * (1 - of) / count)
