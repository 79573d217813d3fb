"""The command line. Nothing heavy is imported before a command needs it, so that help and errors of usage come at once."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import tessera
from tessera.apps.caption import caption, rewrite
from tessera.apps.catalogue import info
from tessera.apps.console import say, show
from tessera.apps.convert import convert
from tessera.apps.download import download
from tessera.apps.evaluate import evaluate
from tessera.apps.generate import generate
from tessera.apps.grid import grid
from tessera.apps.inpaint import extend, inpaint
from tessera.apps.models import models
from tessera.apps.serve import serve
from tessera.apps.train import train
from tessera.apps.vary import blend, edit, vary
from tessera.apps.verify import verify
from tessera.errors import TesseraError, shortened
from tessera.visible import on_one_line

__all__ = ["app", "main"]

INTERRUPTED = 130
LONGEST = 2000
"""Letters of a sentence: names and paths in it can be of any length."""
# Everything the parser can find wrong; typer gives no public name to the class above its own errors.
ParseError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Pictures from words.")
app.command()(generate)
app.command()(inpaint)
app.command()(extend)
app.command()(vary)
app.command()(blend)
app.command()(edit)
app.command()(caption)
app.command()(rewrite)
app.command()(serve)
app.command()(train)
app.add_typer(evaluate, name="evaluate")
app.command()(grid)
app.command()(info)
app.command()(convert)
app.command()(models)
app.command()(verify)
app.command()(download)


def _version(asked: bool) -> bool:
    if asked:
        show(tessera.__version__)
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    """Pictures from words, with discrete diffusion."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and leaves with its exit code: 0, 1 (failure), 2 (usage), 130 (Ctrl-C)."""
    # Before torch is imported. Threads that wait sleep: spinning, the default, multiplies the time on a machine with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(given, debug="--debug" in given))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        return app(arguments, prog_name="tessera", standalone_mode=False) or 0
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    except KeyboardInterrupt:
        say("stopped")
        return INTERRUPTED


def _explain(error: Exception) -> int:
    """One sentence for whatever went wrong, and the exit code."""
    sentence, code = _sentence(error)
    if sentence:
        say(f"tessera: {on_one_line(shortened(sentence, LONGEST))}")
    return code


def _sentence(error: Exception) -> tuple[str, int]:
    if isinstance(error, TesseraError):
        return str(error), error.exit_code
    if isinstance(error, ParseError):
        return error.format_message(), 2  # empty when no command was given: the help has been shown
    if isinstance(error, BrokenPipeError):  # the reader of our output has left
        sys.stdout = None
        return "", 1
    if _is_of_memory(error):
        return "out of memory: ask for less at once, such as a smaller batch size, size or number", 1
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"the system refuses ({error.strerror}){where}", 1
    return f"internal error ({type(error).__name__}: {error}); please report it with what --debug shows", 1


def _is_of_memory(error: Exception) -> bool:
    """Python's own, and what PyTorch raises on a GPU and, as a plain RuntimeError, on a CPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "alloc_cpu.cpp" in str(error)


if __name__ == "__main__":
    main()
