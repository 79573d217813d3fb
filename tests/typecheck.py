"""The checker of signatures: beartype under PEP 484, where an int is a fine float; in a function's first calls of each test.

A check costs more than many of the functions themselves: of all calls, tests/samplers took 127 s in place of 76.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

__all__ = ["begin_test", "checked", "install"]

CALLS = 16
"""Calls of a function that are checked in each test."""

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_every_call = jaxtyping.jaxtyped
_seen: dict[int, int] = {}


def begin_test() -> None:
    """Every function is checked again."""
    _seen.clear()


def _first_calls(*, typechecker: Any) -> Callable[[Any], Any]:
    """`jaxtyping.jaxtyped` for the first calls of a test; afterwards the bare function."""
    decorate = _every_call(typechecker=typechecker)

    def decorated(function: Any) -> Any:
        checking = decorate(function)
        if inspect.isclass(function):
            return checking
        number = id(checking)

        @functools.wraps(checking)
        def called(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            calls = _seen.get(number, 0)
            if calls == CALLS:
                return function(*args, **kwargs)
            _seen[number] = calls + 1
            return checking(*args, **kwargs)

        return called

    return decorated


def install() -> None:
    """Decorates what is imported of tessera from now on. The import hook writes `@jaxtyping.jaxtyped(...)`, which is looked up here."""
    jaxtyping.jaxtyped = _first_calls  # type: ignore[assignment]  # another decorator of the same use
    jaxtyping.install_import_hook("tessera", "tests.typecheck.checked")
