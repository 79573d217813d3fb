"""Reference cases on disk: a folder of `case.json`, `manifest.json` and `io.safetensors`; see tests/reference/README.md.

A case says everything about itself; nothing is taken from its folder's name.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tests.conformance.settings import Settings
from tests.reference.seeded import seeded_state_dict

__all__ = ["Case", "NotInProject", "find_cases", "matches", "original_file"]

HERE = Path(__file__).resolve().parents[3] / "shared" / "reference"
ORIGINALS = Path(os.environ.get("TESSERA_ORIGINALS") or HERE)
"""Where files that ship with the originals lie: beside the project, which does not contain them. The tests look nowhere else for them, and
TESSERA_ORIGINALS=none shows what they do without."""


class NotInProject(FileNotFoundError):
    """A case needs a file of the originals that is not there."""


def original_file(*parts: str) -> Path:
    """A file of the originals, by its path in the reference folder."""
    file = ORIGINALS.joinpath(*parts)
    if not file.is_file():
        raise NotInProject(f"{'/'.join(parts)} ships with the original, not with the project: put it into ../shared/reference")
    return file


def matches(name: str, pattern: str) -> bool:
    """Whether `name` is `pattern`, in which `*` and `<word>` stand for any text."""
    parts = re.split(r"\*|<[^<>]*>", pattern)
    return re.fullmatch(".+".join(re.escape(part) for part in parts), name) is not None


def find_cases(folder: Path) -> list[Path]:
    """`folder` if it is a case, otherwise every case beneath it, sorted."""
    if (folder / "case.json").is_file():
        return [folder]
    return sorted(path.parent for path in folder.rglob("case.json"))


@dataclass(frozen=True)
class Case:
    """One recorded case.

    path: its folder. spec: the content of `case.json`.
    """

    path: Path
    spec: Settings

    @classmethod
    def read(cls, path: Path) -> Case:
        return cls(path, Settings(json.loads((path / "case.json").read_text())))

    @property
    def family(self) -> str:
        return self.spec["family"]

    @property
    def component(self) -> str:
        return self.spec["component"]

    @property
    def config(self) -> Settings:
        return self.spec["config"]

    @property
    def tolerance(self) -> dict[str, dict[str, Any]]:
        return self.spec["tolerance"]

    @cached_property
    def io(self) -> dict[str, Tensor]:
        """Every recorded input and output."""
        return load_file(self.path / "io.safetensors")

    @cached_property
    def manifest(self) -> dict[str, list[int]]:
        """Names and shapes of the released checkpoint's tensors; empty for a case without weights."""
        file = self.path / "manifest.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.manifest.values())

    @property
    def expected(self) -> dict[str, Tensor]:
        """The recorded outputs: whatever has a tolerance or is named as an output."""
        patterns = list(dict.fromkeys([*self.spec["outputs"], *self.tolerance]))
        return {name: self.io[name] for pattern in patterns for name in sorted(self.io) if matches(name, pattern)}

    def weights(self) -> Mapping[str, Tensor]:
        """The weights under their released names: float32, each made from its name when it is asked for and not kept.

        Names in `weights.skipped` are absent; `aliases` and `tied` take another name's values; `scale` multiplies matrices.
        """
        spec = self.spec.get("weights", {})
        skipped = set(spec.get("skipped", []))
        shapes = {name: shape for name, shape in self.manifest.items() if name not in skipped}
        return _Seeded(shapes, {**spec.get("aliases", {}), **spec.get("tied", {})}, spec.get("salt", ""), spec.get("scale"))

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """All of `weights` whose names start with `prefix`."""
        weights = self.weights()
        return {name: weights[name] for name in weights if name.startswith(prefix)}


@dataclass(frozen=True)
class _Seeded(Mapping[str, Tensor]):
    shapes: dict[str, list[int]]
    source: dict[str, str]
    salt: str
    scale: float | None

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        (value,) = seeded_state_dict({self.source.get(name, name): shape}, self.salt).values()
        return value * self.scale if self.scale is not None and value.ndim >= 2 else value

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
