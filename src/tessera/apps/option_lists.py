"""Lists of options that several commands have in common, each written once.

A list is a dataclass whose fields are annotated as typer's options. A command is a function with options of its own and a parameter
`options` of that class; `takes` gives it the fields of the class as options too, and the function gets what was typed as one object.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

__all__ = ["takes"]


def takes(kind: type, **defaults: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The command with all options of the list `kind` after its own. defaults: of fields whose default is another for this command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name != "options"]
        shared = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(field.name, field.default), annotation=field.type
            )
            for field in fields(kind)
        ]

        def run(**given: Any) -> Any:
            options = kind(**{parameter.name: given.pop(parameter.name) for parameter in shared})
            return command(**given, options=options)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        parameters = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *shared]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
