"""The settings of a case, which remember what was read of them: one that nobody reads could mean anything, and is not passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["Settings", "UnknownSetting", "agree", "known"]

T = TypeVar("T")


class UnknownSetting(Exception):
    """A case asks for something that its adapter does not know."""


def known(place: str, value: Any, table: Mapping[Any, T]) -> T:
    """The entry of `table` for a setting's value; UnknownSetting, which names the setting, where it has none."""
    if value not in list(table):  # a list has no place in a table
        raise UnknownSetting(f"unknown {place} {value!r} (known: {', '.join(map(str, table))})")
    return table[value]


def agree(place: str, values: Sequence[Any]) -> Any:
    """What all of `values` are; UnknownSetting where they differ."""
    if any(value != values[0] for value in values):
        raise UnknownSetting(f"{place}: {values} differ, which no network of the project can have")
    return values[0]


class Settings(dict[str, Any]):
    """A dictionary from JSON, and those inside it. Iterating over names or asking for one with `in` reads no value."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({name: _wrapped(value) for name, value in values.items()})
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)

    def items(self) -> Any:
        self._read.update(self)
        return super().items()

    def values(self) -> Any:
        self._read.update(self)
        return super().values()

    def unread(self, place: str = "") -> Iterator[tuple[str, Any]]:
        """Names, with those of the dictionaries around them, and values of what was not read."""
        for name, value in super().items():
            path = f"{place}.{name}" if place else name
            if name not in self._read:
                yield path, value
            for inside in value if isinstance(value, list) else [value]:
                if name in self._read and isinstance(inside, Settings):
                    yield from inside.unread(path)


def _wrapped(value: Any) -> Any:
    if isinstance(value, dict):
        return Settings(value)
    return [_wrapped(each) for each in value] if isinstance(value, list) else value
