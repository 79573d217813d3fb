"""The pickle format as data: a machine that builds containers and never imports, calls or changes anything outside itself.

A pickle is a program for a stack machine. `GLOBAL` names something importable, `REDUCE` calls it, `BUILD` hands an object its state; here
a name is looked up in a table of our own (`pickled_names`), and what is not in it becomes a `Foreign` leaf that swallows everything.
The standard library only splits the bytes into instructions (`pickletools.genops`).
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any, Protocol, cast, runtime_checkable

from tessera.checkpoints.budget import Budget

__all__ = ["Foreign", "Global", "MalformedPickle", "RunsCode", "Stream", "Unbuilt", "unpickle"]


@runtime_checkable
class Stream(Protocol):
    """What of a file is needed to read a pickle from it. `read` gives less than asked for only at the end."""

    def read(self, count: int, /) -> bytes: ...

    def readline(self) -> bytes: ...

    def tell(self) -> int: ...


class MalformedPickle(Exception):
    """The bytes are no pickle, or one that no program wrote."""


class RunsCode(Exception):
    """The pickle asks for something that would run. Its text is the name of that thing."""


class Foreign:
    """An object of a class that is not known here: inert, only its name is kept."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Foreign({self.name!r})"


class Global(Foreign):
    """A class or function that a pickle names. `function` is what stands for it here; without one it makes inert objects.

    Args:
        callable: whether REDUCE may ask for it: true of classes, not of functions.
    """

    __slots__ = ("callable", "function")

    def __init__(self, name: str, function: Callable[..., object] | None = None, callable: bool = True) -> None:
        super().__init__(name)
        self.function, self.callable = function, callable

    def make(self, arguments: Any) -> object:
        """What calling it gives. Raises RunsCode for a function that is not known."""
        if not isinstance(arguments, tuple):
            raise MalformedPickle(f"{self.name} is called with {type(arguments).__name__}, not a tuple")
        if not self.callable:
            raise RunsCode(self.name)
        return Foreign(self.name) if self.function is None else self.function(*arguments)


class Unbuilt(Foreign):
    """An object that its state, which comes later, turns into another value (`complete`)."""

    __slots__ = ("result",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.result: object = self

    def complete(self, state: Any) -> object:
        raise NotImplementedError


def unpickle(stream: Stream, find: Callable[[str, str], object], persistent: Callable[[Any], object], budget: Budget) -> Any:
    """The value of the pickle that starts at the stream's position; the stream is left right after it.

    Args:
        find: (module, name) → what stands for it: a `Global`, or a plain value.
        persistent: persistent id → its value (the storages of tensors).
        budget: what is left of what the file may cost.

    Sets become lists; keys that are no plain values become `Foreign`.

    Raises:
        MalformedPickle: cut short, or not a pickle.
        RunsCode: it asks for something that would run.
        TooCostly: it asks for more than the budget.
    """
    machine = _Machine(find, persistent, budget)
    try:
        for operation, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
            if operation.name == "STOP":
                return machine.stack.pop()
            budget.instruction(argument)
            OPERATIONS[operation.name](machine, argument)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise MalformedPickle(_sentence(error)) from error
    raise MalformedPickle("it has no end")


class _Machine:
    """The stack, the stacks below the open marks, and the memo."""

    def __init__(self, find: Callable[[str, str], object], persistent: Callable[[Any], object], budget: Budget) -> None:
        self.find, self.persistent, self.budget = find, persistent, budget
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def drop_mark(self, _: object) -> None:
        self.pop_mark()

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        value = self.memo[index]
        self.push(value.result if isinstance(value, Unbuilt) else value)

    def name(self, qualified: str) -> None:
        module, _, name = qualified.partition(" ")
        self.push(self.find(module, name))

    def stack_name(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedPickle("it names something by what is no text")
        self.push(self.find(module, name))

    def call(self, target: object, arguments: Any) -> None:
        if isinstance(target, Global):
            self.budget.copies(arguments)
            made = target.make(arguments)
            self.budget.copies(made)
            self.push(made)
        elif isinstance(target, Foreign):
            raise RunsCode(f"an object of {target.name}")
        else:
            raise MalformedPickle(f"it calls a {type(target).__name__}")

    def reduce(self, _: object) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        self.call(target, arguments)

    def instance(self, qualified: str) -> None:
        arguments = tuple(self.pop_mark())
        self.name(qualified)
        self.call(self.stack.pop(), arguments)

    def instance_on_stack(self, _: object) -> None:
        target, *arguments = self.pop_mark()
        self.call(target, tuple(arguments))

    def new(self, target: object, arguments: Any) -> None:
        """NEWOBJ makes an instance of a class without calling it, so that a lower-case name is no function here."""
        if isinstance(target, Global) and target.function is None:
            self.push(Foreign(target.name))
        else:
            self.call(target, arguments)

    def new_object(self, _: object) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        self.new(target, arguments)

    def new_object_with_keywords(self, _: object) -> None:
        _keywords, arguments, target = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.new(target, arguments)

    def build(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Unbuilt):
            self.budget.copies(state)
            target.result = self.stack[-1] = target.complete(state)

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Foreign):
            raise MalformedPickle(f"it appends to a {type(target).__name__}")

    def update(self, keys: list[Any], values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(map(self.key, keys), values, strict=True))
        elif not isinstance(target, Foreign):
            raise MalformedPickle(f"it sets items of a {type(target).__name__}")

    def append(self, _: object) -> None:
        self.extend([self.stack.pop()])

    def append_all(self, _: object) -> None:
        self.extend(self.pop_mark())

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key], [value])

    def set_items(self, _: object) -> None:
        items = self.pop_mark()
        self.update(items[::2], items[1::2])

    def dictionary(self, _: object) -> None:
        items = self.pop_mark()
        self.push(dict(zip(map(self.key, items[::2]), items[1::2], strict=True)))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise MalformedPickle("its stack is too short")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def extension(self, code: int) -> None:
        raise RunsCode(f"the pickle extension {code}")

    def key(self, key: object) -> object:
        """A key that can be hashed in bounded time (Python hashes nested tuples by recursion, and long ones anew each time)."""
        if isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**31):
            return key
        plain = str | bytes | int | float | None | Foreign
        if isinstance(key, plain) or (isinstance(key, tuple) and len(key) <= 16 and all(isinstance(part, plain) for part in key)):
            self.budget.odd_key()
            return key
        return Foreign(type(key).__name__)


def _sentence(error: Exception) -> str:
    """Of a ValueError, which `pickletools` and our tables raise with a reason, its text."""
    return str(error) if isinstance(error, ValueError) else "its instructions do not fit each other"


_Operation = Callable[[_Machine, Any], None]

OPERATIONS: dict[str, _Operation] = {
    **dict.fromkeys(["PROTO", "FRAME"], lambda machine, _: None),
    **dict.fromkeys(
        [
            *["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"],
            *["STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"],
            *["BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"],
        ],
        _Machine.push,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "FROZENSET": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "DICT": _Machine.dictionary,
    "APPEND": _Machine.append,
    **dict.fromkeys(["APPENDS", "ADDITEMS"], _Machine.append_all),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_mark,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], _Machine.get),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "INST": _Machine.instance,
    "OBJ": _Machine.instance_on_stack,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_with_keywords,
    "BUILD": _Machine.build,
    "PERSID": lambda machine, identity: machine.push(machine.persistent(identity)),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(machine.stack.pop())),
    **dict.fromkeys(["EXT1", "EXT2", "EXT4"], _Machine.extension),
}  # not NEXT_BUFFER and READONLY_BUFFER: data beside the pickle, which no file has
