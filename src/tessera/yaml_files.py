"""The one way in for YAML: every key stands once, and aliases do not multiply without end."""

import re
from pathlib import Path
from typing import Any

import yaml

__all__ = ["parse_yaml", "read_yaml"]

LARGEST = 2**20
"""Bytes of a file: a recipe has a few thousand."""
MOST_VALUES = 100_000
"""Values of a text, those behind aliases counted at every place where they are used."""
DEEPEST = 100


def read_yaml(path: Path) -> Any:
    """The value of a YAML file in UTF-8.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, not UTF-8, or see `parse_yaml`.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has {path.stat().st_size} bytes, and at most {LARGEST} are expected")
    return parse_yaml(path.read_text(encoding="utf-8-sig"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, with the rules of `_Loader`.

    Raises:
        ValueError: it is not YAML, names a key twice, is nested too deeply, its aliases stand for too many values, or a text
            holds NUL.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}, 0) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES} values")
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # a date that is none is a ValueError
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}" if isinstance(error, yaml.YAMLError) else str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


def _values(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values the node stands for."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply, or contains itself")
    if id(node) not in known:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
            raise ValueError("it holds the character NUL, which no text or path has")
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        known[id(node)] = 1 + sum(_values(child, known, depth + 1) for child in children)
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """YAML nearer to its version 1.2: 1e-4 is a number, only true and false are booleans, and keys (`null:`, `on:`) are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))

_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|^[-+]?(?:[0-9][0-9_]*)?\.[0-9_]+(?:[eE][-+]?[0-9]+)?$|^[-+]?[0-9][0-9_]*\.$"
    ),
    list("-+0123456789."),
)
