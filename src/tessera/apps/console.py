"""What the command line says, and where: results on standard output, everything else on standard error."""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tessera.visible import visible

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["print_json", "progress_bar", "say", "show", "shown_warnings"]


def say(text: str) -> None:
    """Writes a sentence for the user to standard error."""
    print(visible(text), file=sys.stderr, flush=True)  # noqa: T201 one of the two places that print


def show(text: str = "") -> None:
    """Writes a result to standard output."""
    print(visible(text))  # noqa: T201 the other


def print_json(value: Any) -> None:
    """Writes the one result of a command with --json to standard output."""
    show(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def shown_warnings() -> Iterator[None]:
    """What the model says about a prompt is shown, each sentence once; warnings of libraries are not the user's business."""
    from tessera.contexts.prompt_warnings import PromptWarning

    said: set[str] = set()

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, PromptWarning) and str(message) not in said:
            said.add(str(message))
            say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", PromptWarning)
        warnings.showwarning = show
        yield


@contextmanager
def progress_bar(what: str, total: int, unit: str) -> Iterator["ProgressBar"]:
    """A bar on standard error with the time left; nothing where standard error is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}/{task.fields[count]} " + unit),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield ProgressBar(progress, what, total)


class ProgressBar:
    """Advances by parts of a unit."""

    def __init__(self, progress: "Progress", what: str, total: int) -> None:
        self.progress = progress
        self.task = progress.add_task(what, total=total, done=0, count=total)

    def set(self, done: float) -> None:
        """`done` of the total; the whole part of it is shown as a number."""
        self.progress.update(self.task, completed=done, done=int(done))
