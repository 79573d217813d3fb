"""Gradio without its type stubs.

Whenever gradio is imported it renders a stub file for each of its components and compares or writes it in its own folder: half of the
processor time of its import (3.2 s of which 1.5 s remain without), and a change to an installation that may not be the user's.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

__all__ = ["Stubless"]

MODULE, WRITER = "gradio.component_meta", "create_or_modify_pyi"


class Stubless:
    """A finder of the one module that writes them, which it finds as usual and loads without the function that writes."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == MODULE else None
        if spec is not None and spec.origin is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(name, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        setattr(module, WRITER, _nothing)


def _nothing(*arguments: Any) -> None:
    """In place of writing a stub."""
