"""`tessera serve`: the web page and its HTTP interface."""

from pathlib import Path
from typing import Annotated

import typer

from tessera.apps.console import say
from tessera.apps.options import Debug, Device, ModelName

__all__ = ["serve"]


def serve(
    model: ModelName = None,
    models: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of model folders and released files that the page offers as well.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. Others than this machine's own need --auth.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 7860,
    auth: Annotated[str | None, typer.Option(metavar="USER:PASSWORD", help="Asked of everybody who opens the page.")] = None,
    upscaler: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A learned upscaler for the tab Enlarge, of a kind that spandrel reads.")
    ] = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Opens a web page to make, edit and compare pictures, and an HTTP interface beside it."""
    from tessera.serve.server import parse_auth
    from tessera.serve.server import serve as run

    run(model, models, host, port, parse_auth(auth), upscaler, device, say)
