"""Recipes read from YAML files with overrides, checked, and compared with that of a run which goes on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from tessera.errors import UsageError, suggest
from tessera.schema import check_numbers, shown
from tessera.training.recipe import RECIPES, Recipe, Section
from tessera.yaml_files import parse_yaml, read_yaml

__all__ = ["as_read_now", "compare_recipes", "load_recipe", "parse_recipe"]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The recipe in the YAML file `path`, with `key.sub=value` overrides, as the class of its task.

    Raises UsageError for a missing or unreadable file, an unknown key (naming the nearest), or a value out of range.
    """
    try:
        values = read_yaml(Path(path))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"cannot use {path} as a recipe: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"the recipe {path} must be a list of `key: value` lines, not {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    return parse_recipe(values, str(path))


def as_read_now(recipe: type[Recipe], stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a recipe that an earlier version may have stored, with the defaults of keys that it did not know."""
    try:
        return recipe.model_validate(dict(stored)).model_dump(mode="json")
    except ValidationError:
        return stored


def compare_recipes(recipe: Recipe, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """What differs between the recipe of a run and the one that it is to go on with: what may (key → old and new), and what may not."""
    adjusted: dict[str, tuple[Any, Any]] = {}
    old, new = dict(stored), dict(wanted)
    for key in sorted(recipe.adjustable):
        *parents, last = key.split(".")
        places = [old, new]
        for parent in parents:
            for place in places:
                place[parent] = dict(place.get(parent) or {})
            places = [place[parent] for place in places]
        before, after = (place.pop(last, None) for place in places)
        if before != after:
            adjusted[key] = (before, after)
    return adjusted, [key for key in new if key not in recipe.resumable and old.get(key) != new[key]]


def parse_recipe(values: Mapping[str, Any], where: str) -> Any:
    """A recipe from plain values; `where` names their source in errors."""
    task = values.get("task")
    if not isinstance(task, str) or task not in RECIPES:
        raise UsageError(f"{where}: {suggest('task', str(task), RECIPES)}")
    recipe = RECIPES[task]
    for key, value in values.items():
        check_numbers(f"{where}: {key}", value)
    try:
        return recipe.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(f"{where}: {_sentence(error, recipe)}") from error


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"override {override!r} must read key=value, for example optimizer.rate=1e-4")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"override {override!r}: {text!r} is not a YAML value: {error}") from error
    *parents, last = key.split(".")
    place: Any = values
    for parent in parents:
        if not parent.isidentifier():
            raise UsageError(f"override {override!r} must read key=value, for example optimizer.rate=1e-4")
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise UsageError(f"override {override!r}: {parent!r} holds a value, not further keys")
    place[last] = value


def _sentence(error: ValidationError, recipe: type[Section]) -> str:
    """The first fault of a recipe, in one sentence."""
    faults = error.errors()
    ours = [said for fault in faults if isinstance(said := fault.get("ctx", {}).get("error"), ValueError)]
    if ours:  # of a part, which may stand in the place of a folder's name: what is wrong with it says more
        return str(ours[0])
    fault = faults[0]
    location, section = _place(recipe, [str(part) for part in fault["loc"]])
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        known = sorted(section.model_fields)
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {'.'.join([*location[:-1], near[0]])!r}?" if near else f"known: {', '.join(known)}"
        return f"unknown key {key!r}: {hint}"
    if fault["type"] == "missing":
        return f"the key {key!r} is missing"
    if fault["type"] == "union_tag_invalid":
        return suggest(f"{key}.kind", fault["ctx"]["tag"], [tag.strip(" '") for tag in fault["ctx"]["expected_tags"].split(",")])
    return f"{key!r} is {shown(fault['input'])}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _place(section: type[Section], location: Sequence[str]) -> tuple[list[str], type[Section]]:
    """The keys of a fault's place, without the kinds that pydantic names among them, and the section that its last key is in."""
    keys: list[str] = []
    choice: list[type[Section]] = []
    for part in location:
        chosen = [option for option in choice if "kind" in option.model_fields and part in get_args(option.model_fields["kind"].annotation)]
        if chosen:
            section, choice = chosen[0], []
            continue
        if choice:
            section = choice[0]
        keys.append(part)
        field = section.model_fields.get(part)
        options = () if field is None else (field.annotation, *get_args(field.annotation))
        choice = [option for option in options if isinstance(option, type) and issubclass(option, Section)]
    return keys, section
