"""Where a checkpoint's state dicts are, in whatever nesting its program chose."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tessera.checkpoints.stored import StoredTensor
from tessera.errors import TesseraError

__all__ = ["find_states"]

WRAPPERS = ("module.", "_orig_mod.", "model.")
NO_WRAPPER = "model.diffusion_model."
DEEPEST = 100  # levels; no program nests its state dicts as deep
MOST = 10**6  # places that are looked at
NAMES = 2**26  # characters of their names in all


def find_states(tree: Any, path: Path, flatten: bool) -> dict[str, Mapping[str, StoredTensor]]:
    """Dotted path → name → tensor (see `Archive.states`).

    Args:
        flatten: whether the tree is one module, whose submodules' tensors belong to one state dict.
    """
    if flatten:
        tensors = dict(_named_tensors(tree, path))
        return {"": tensors} if tensors else {}
    found: dict[str, Mapping[str, StoredTensor]] = {}
    known: dict[int, Mapping[str, StoredTensor]] = {}
    searched: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", tree, 0)]
    letters = 0
    for _ in range(MOST):
        if not waiting:
            break
        place, value, depth = waiting.pop()
        if id(value) not in known:
            known[id(value)] = _state(value)
        if known[id(value)]:
            while place in found:
                place += "'"  # a key with a dot in it can look like a path
            found[place] = known[id(value)]
        if id(value) not in searched and depth < DEEPEST:
            searched.add(id(value))
            for key, child in reversed(list(_children(value))):
                letters += len(place) + len(key) + 1
                if letters > NAMES:
                    raise TesseraError(f"{path} has dictionaries nested in each other without end: save it again")
                waiting.append((f"{place}.{key}" if place else key, child, depth + 1))
    return found


def _state(value: Any) -> Mapping[str, StoredTensor]:
    if not isinstance(value, dict):
        return {}
    tensors = {name: tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, StoredTensor)}
    return unwrapped(tensors) if 2 * len(tensors) >= len(value) else {}


def unwrapped(state: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """The state dict without what wrappers put before its names, in any order: data parallelism, compilation, a trainer's `model`.

    A prefix goes where all names have it. Latent diffusion's `model.diffusion_model.` is a name of its own.
    """
    while True:
        prefix = next((prefix for prefix in WRAPPERS if state and all(name.startswith(prefix) for name in state)), None)
        if prefix is None or any(name.startswith(NO_WRAPPER) for name in state):
            return state
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """The containers in it, but for optimizers' states."""
    if isinstance(value, dict):
        if not value.keys() >= {"state", "param_groups"}:
            yield from (
                (key, child)
                for key, child in value.items()
                if isinstance(key, str) and "optim" not in key.lower() and isinstance(child, dict | list | tuple)
            )
    elif isinstance(value, list | tuple):
        yield from ((str(index), child) for index, child in enumerate(value) if isinstance(child, dict | list | tuple))


def _named_tensors(tree: Any, path: Path) -> Iterator[tuple[str, StoredTensor]]:
    waiting: list[tuple[str, Any, int]] = [("", tree, 0)]
    letters = 0
    for _ in range(MOST):
        if not waiting:
            return
        prefix, module, depth = waiting.pop()
        if depth > DEEPEST or letters > NAMES:
            break
        if isinstance(module, dict):
            for name, value in module.items():
                letters += len(prefix) + len(str(name)) + 1
                if letters > NAMES:
                    break
                if isinstance(value, StoredTensor):
                    yield f"{prefix}{name}", value
                elif isinstance(value, dict):
                    waiting.append((f"{prefix}{name}.", value, depth + 1))
    raise TesseraError(f"{path} has modules that contain themselves or are nested without end: save it again")
