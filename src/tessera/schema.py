"""Descriptions of parts, checked against the signatures of their constructors before anything is made.

A description comes from a recipe or from a model folder that anybody may have written: names, types and ranges are looked at first, so that
a wrong one is a sentence and not whatever happens later. The schema of a part is its constructor: the types that it names, `Positive`
and `Depth` among them.
"""

import inspect
import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

from annotated_types import Ge, Gt, Le

from tessera.errors import UsageError, shortened, suggest

__all__ = ["Depth", "NotNegative", "Positive", "check_arguments", "check_numbers", "shown"]

Positive = Annotated[int, Gt(0)]
"""Sizes and counts that are at least 1."""
NotNegative = Annotated[int, Ge(0)]
Depth = Annotated[int, Ge(0), Le(1000)]
"""How many layers or blocks follow each other. Bounded, because plans of a network list them before anything of it is made."""
LARGEST = 2**63 - 1
JSON = (str, int, float, bool, list, tuple, dict, type(None))


def check_arguments(kind: str, name: str, made: Any, arguments: Mapping[str, Any], whole: bool = True) -> None:
    """Compares what a description gives with what the constructor `made` takes.

    Args:
        kind, name: what is made, for the sentence ("network", "vq-diffusion").
        whole: whether what is required must be there; not of a part whose other arguments follow from other parts.

    Raises:
        UsageError: an argument that it does not take (naming the nearest), lacks, or one of another type or out of range.
    """
    known, required, others = _parameters(made)
    for key in arguments:
        if key not in known and not others:
            unknown = suggest("argument", str(key), known) if known else f"unknown argument {str(key)!r}: it takes none"
            raise UsageError(f"{kind} {name!r}: {unknown}")
    if whole and (missing := [key for key in required if key not in arguments]):
        raise UsageError(f"{kind} {name!r} needs the argument {missing[0]!r}")
    for key, value in arguments.items():
        check_numbers(f"{kind} {name!r}: {key}", value)
        if key in known and isinstance(value, JSON):
            _check_type(f"{kind} {name!r}: {key}", _adapter(made, key), value)


@cache
def _parameters(made: Any) -> tuple[dict[str, Any], list[str], bool]:
    """Name → type of every parameter, the required ones, and whether it takes any others."""
    known: dict[str, Any] = {}
    required: list[str] = []
    others = False
    for constructor in _constructors(made):
        parameters = inspect.signature(constructor).parameters.values()
        hints = get_type_hints(constructor, include_extras=True)
        for parameter in parameters:
            if parameter.name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            known.setdefault(parameter.name, hints.get(parameter.name, Any))
            if parameter.default is parameter.empty:
                required.append(parameter.name)
        others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return known, required, others


def _constructors(made: Any) -> list[Any]:
    """The constructor, and those that it passes its arguments on to."""
    if not inspect.isclass(made):
        return [made]
    found = []
    for of in made.__mro__:
        constructor = vars(of).get("__init__")
        if constructor is not None:
            found.append(constructor)
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(constructor).parameters.values()):
                break
    return found


@cache
def _adapter(made: Any, key: str) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(_parameters(made)[0][key], config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def _check_type(where: str, adapter: Any, value: Any) -> None:
    from pydantic import ValidationError

    try:
        adapter.validate_python(value)
    except ValidationError as error:
        faults = error.errors()
        said = " or ".join(dict.fromkeys(fault["msg"][0].lower() + fault["msg"][1:] for fault in faults))
        raise UsageError(f"{where} is {shown(value)}: {said}") from None


def check_numbers(where: str, value: Any, depth: int = 0) -> None:
    """Refuses numbers that are not finite or larger than any size, whatever the type, and what is nested too deeply, by a UsageError."""
    if depth > 16:
        raise UsageError(f"{where} is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where} is {value}: give a finite number")
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise UsageError(f"{where} is {shown(value)}: give a number of at most {LARGEST}")
    if isinstance(value, dict):
        for key, child in value.items():
            check_numbers(f"{where}.{shortened(str(key))}", child, depth + 1)
    elif isinstance(value, list | tuple):
        for child in value:
            check_numbers(where, child, depth + 1)


def shown(value: Any) -> str:
    """A value of a description in a sentence, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number of thousands of digits"
    return shortened(text)
