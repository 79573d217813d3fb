"""Recorded reference cases run through the package's public parts: one file per family, dispatch on the case's component.

`python -m tests.conformance DIR [DIR …]` prints every output's largest difference against its tolerance.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.conformance.cases import Case, NotInProject
from tests.conformance.comparison import Check, compare
from tests.conformance.descriptions import unknown
from tests.conformance.settings import UnknownSetting

__all__ = ["FAMILIES", "Component", "Report", "UnknownComponent", "UnknownSetting", "component_of", "run_case"]

Component = Callable[[Case], Mapping[str, Any]]
"""Recomputes every output of a case, in the recorded layout: tensors, and JSON values where the case records such."""

FAMILIES = {
    "vq_diffusion": "tests.conformance.vq_diffusion",
    "v_diffusion": "tests.conformance.v_diffusion",
    "absorbing": "tests.conformance.absorbing",
    "versatile": "tests.conformance.versatile",
}
"""Modules with a table `COMPONENTS` of component name → function."""


class UnknownComponent(Exception):
    """No function is registered for a case's family and component."""


@dataclass(frozen=True)
class Report:
    """What became of a case; `error` is the sentence of an exception that ended it, `absent` says that only a file was missing."""

    name: str
    component: str
    checks: list[Check] = field(default_factory=list)
    error: str | None = None
    absent: bool = False

    @property
    def holds(self) -> bool:
        return self.error is None and bool(self.checks) and all(check.holds for check in self.checks)


def component_of(case: Case) -> Component:
    """The function that recomputes `case`; UnknownComponent if there is none."""
    if case.family not in FAMILIES:
        raise UnknownComponent(f"unknown family {case.family!r} (known: {', '.join(sorted(FAMILIES))})")
    components: Mapping[str, Component] = import_module(FAMILIES[case.family]).COMPONENTS
    if case.component not in components:
        raise UnknownComponent(f"unknown component {case.component!r} of family {case.family!r} (known: {', '.join(sorted(components))})")
    return components[case.component]


def run_case(path: Path) -> Report:
    """Recompute one case. Every failure but an unknown component or setting becomes part of the report, so that other cases still run."""
    name, component = path.name, "?"
    try:
        case = Case.read(path)
        component = f"{case.family}: {case.component}"
        function = component_of(case)
        report = Report(name, component, compare(case, function(case)))
        if strange := unknown(case):
            raise UnknownSetting(f"the adapter does not know {', '.join(strange)}")
        return report if report.checks else Report(name, component, error="the case records no output")
    except (UnknownComponent, UnknownSetting):
        raise
    except NotInProject as error:
        return Report(name, component, error=str(error), absent=True)
    except Exception as error:
        return Report(name, component, error=f"{type(error).__name__}: {error}")
    finally:
        gc.collect()  # full-size models hold cycles, and the next one needs the memory
