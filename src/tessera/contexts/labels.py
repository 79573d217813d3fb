"""Class labels as the condition: the network embeds them, this part only reads and checks them."""

import difflib
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import torch

from tessera.contexts.context import Context, ContextEncoder
from tessera.errors import UsageError
from tessera.schema import Positive

__all__ = ["Labels", "check_classes"]


class Labels(ContextEncoder):
    """Class numbers 0 … count - 1, or class names.

    Args:
        count: number of classes.
        null: "learned": the network has a row more, number `count`, for "no label"; "mean": it has none, and takes the mean of all
            classes for number `count`; None: the model was not made for guidance.
        names: the classes' names in order, so that a prompt may name its class (in any case; a part between commas suffices
            where only one class has it).
        classes: the classes of the training data in order, as its folders are called, which prompts may name too; None: not known.

    A prompt of None is "no label".
    """

    def __init__(
        self, count: Positive, null: Literal["learned", "mean"] | None = None, names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if count < 1:
            raise UsageError(f"labels: the number of classes must be at least 1, not {count}")
        if null not in ("learned", "mean", None):
            raise UsageError(f"labels: null must be 'learned', 'mean' or none, not {null!r}")
        if names is not None and len(names) != count:
            raise UsageError(f"labels: {len(names)} names for {count} classes")
        self.config = {"kind": "labels", "count": count, "null": null, "names": None if names is None else list(names), "classes": None}
        self.count, self.null = count, null
        self._numbers = _numbers_of(names or [])
        if classes is not None:
            self.learn_classes(classes)

    @property
    def classes(self) -> list[str] | None:
        """The list of the training data, None where it is not known."""
        known: Any = self.config["classes"]
        return known

    @property
    def rows(self) -> int:
        """Class embeddings that the network must hold."""
        return self.count + (self.null == "learned")

    def learn_classes(self, classes: Sequence[str]) -> None:
        """Keeps the list of the training data. Raises as `check_classes` does, which will hold other data to this list."""
        self.check_classes(classes, "the training data")
        self.config = {**self.config, "classes": list(classes)}
        self._numbers = {name.strip().casefold(): number for number, name in enumerate(classes)} | self._numbers

    def check_classes(self, classes: Sequence[str], what: str) -> None:
        """Raises UsageError unless the labels of `what`, whose list this is, mean what this model has learnt."""
        known = self.classes
        if len(classes) != self.count:
            raise UsageError(
                f"{what} has a list of {len(classes)} classes, but the model has {self.count}: set `count` of the labels to that, or give "
                "the model's list as `classes` of the data"
            )
        if known is not None and list(classes) != known:
            number = next(number for number, pair in enumerate(zip(classes, known, strict=True)) if pair[0] != pair[1])
            raise UsageError(
                f"{what} has other classes than the model was trained with: number {number} is {classes[number]!r}, of the model "
                f"{known[number]!r}; give the model's list as `classes` of the data"
            )

    def forward(self, prompts: Sequence[int | str | None]) -> Context:
        """Context of labels [B]."""
        return Context(labels=torch.tensor([self._number(prompt) for prompt in prompts], dtype=torch.long))

    def unconditional(self, batch: int) -> Context:
        return Context(labels=torch.full((batch,), self._null_number()))

    def _null_number(self) -> int:
        if self.null is None:
            raise UsageError("this model knows no 'no label', so it has nothing to guide with: leave guidance at 1")
        return self.count

    def _number(self, prompt: int | str | None) -> int:
        if prompt is None:
            return self._null_number()
        if isinstance(prompt, Integral):
            number = int(prompt)
        else:
            text = str(prompt).strip()
            if (named := self._numbers.get(text.casefold())) is not None:
                return named
            if not text.removeprefix("-").isdecimal():
                raise UsageError(self._unknown(text))
            number = int(text)
        if not 0 <= number < self.count:
            raise UsageError(f"class {number} does not exist: this model has classes 0 to {self.count - 1}")
        return number

    def _unknown(self, text: str) -> str:
        near = difflib.get_close_matches(text.casefold(), self._numbers, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        names = " or a class name" if self._numbers else ""
        return f"unknown class {text!r}: {hint}give a number from 0 to {self.count - 1}{names}"


def _numbers_of(names: Sequence[str]) -> dict[str, int]:
    parts: dict[str, set[int]] = {}
    for number, name in enumerate(names):
        for part in name.split(","):
            parts.setdefault(part.strip().casefold(), set()).add(number)
    numbers = {part: found.pop() for part, found in parts.items() if len(found) == 1}
    return numbers | {name.strip().casefold(): number for number, name in reversed(list(enumerate(names)))}


def check_classes(encoder: ContextEncoder, data: Any, what: str) -> None:
    """`Labels.check_classes`, where the encoder reads labels and the dataset has a list of classes."""
    classes = getattr(data, "classes", None)
    if isinstance(encoder, Labels) and classes is not None:
        encoder.check_classes(classes, what)
