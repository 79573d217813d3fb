"""Samplers by name, with their options in the name so that a picture's metadata can hold them: `purity:weight=2,per_pass=16`."""

from dataclasses import fields
from typing import Any

from tessera.errors import UsageError, suggest
from tessera.registry import SAMPLERS, look_up
from tessera.samplers.sampler import TokenSampler

__all__ = ["sampler_name", "token_sampler"]


def token_sampler(name: str, **options: float) -> TokenSampler:
    """The sampler registered under `name`, with its options given after a colon, as arguments, or both."""
    name, _, written = name.partition(":")
    made = look_up("sampler", SAMPLERS, name)
    given: dict[str, Any] = dict(_option(name, word) for word in written.split(",") if word.strip()) | options
    known = {field.name: field for field in fields(made)}
    for option in given:
        if option not in known:
            raise UsageError(
                suggest(f"option of sampler {name!r}", option, known) if known else f"sampler {name!r} has no option {option!r}"
            )
    return made(**given)


def sampler_name(sampler: TokenSampler) -> str:
    """The name that `token_sampler` makes the same sampler from."""
    made: Any = type(sampler)
    name = next((known for known, entry in SAMPLERS.items() if entry == f"{made.__module__}:{made.__name__}"), None)
    if name is None:
        raise UsageError(f"sampler {made.__name__} is not registered: add it to the table SAMPLERS")
    values = {field.name: getattr(sampler, field.name) for field in fields(made) if getattr(sampler, field.name) != field.default}
    return name + (":" if values else "") + ",".join(f"{option}={value!r}" for option, value in values.items())


def _option(sampler: str, word: str) -> tuple[str, float]:
    option, _, value = (part.strip() for part in word.partition("="))
    try:
        number = float(value)
    except ValueError:
        raise UsageError(
            f"option {word.strip()!r} of sampler {sampler!r} is not name=number, such as {sampler}:{option or 'name'}=2"
        ) from None
    return option, int(number) if number.is_integer() else number
