"""Parts in recipes, as fields that are checked against the constructors that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from tessera import registry
from tessera.errors import UsageError, suggest
from tessera.schema import check_arguments

__all__ = ["CodecPart", "ContextPart", "DatasetPart", "NetworkPart", "Part", "SchedulePart", "checked_part"]

Part = dict[str, Any]
"""A registered part: its name under "kind", the other entries its constructor's arguments."""


def checked_part(kind: str, table: Mapping[str, str], whole: bool = True, empty: bool = False) -> AfterValidator:
    """Checks a part against its constructor's signature. whole: see `registry.check`. empty: whether {} stands for another's."""

    def checked(value: Any) -> Any:
        if isinstance(value, dict) and not (empty and not value):
            registry.check(kind, table, value, whole)
        return value

    return AfterValidator(checked)


def _schedule(value: Any) -> Any:
    """Checks a noise schedule that names its kind; of one that does not, the rest is checked when the kind is known."""
    from tessera.processes.gaussian_schedules import GAUSSIAN_SCHEDULES
    from tessera.processes.schedules import SCHEDULES

    schedules: dict[str, Any] = {**GAUSSIAN_SCHEDULES, **SCHEDULES}
    if isinstance(value, dict) and "kind" in value:
        kind, options = value["kind"], {key: option for key, option in value.items() if key not in ("kind", "shift")}
        if not isinstance(kind, str) or kind not in schedules:
            raise UsageError(suggest("schedule", str(kind), schedules))
        check_arguments("schedule", kind, schedules[kind], options, whole=False)
    return value


DatasetPart = Annotated[Part, checked_part("dataset", registry.DATASETS)]
CodecPart = Annotated[Part, checked_part("codec", registry.CODECS)]
ContextPart = Annotated[Part, checked_part("context encoder", registry.CONTEXTS)]
NetworkPart = Annotated[Part, checked_part("network", registry.NETWORKS, whole=False, empty=True)]
SchedulePart = Annotated[Part, AfterValidator(_schedule)]
