"""The server: the page and the HTTP interface on one port, with a password where one is given."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tessera.errors import TesseraError, UsageError
from tessera.serve.kept import Kept
from tessera.serve.limits import LIMITS
from tessera.serve.service import Service
from tessera.serve.shelf import Shelf

__all__ = ["application", "check_binding", "parse_auth", "serve"]

Auth = tuple[str, str]
OWN_NAMES = ("localhost", "127.0.0.1", "::1")
HEAD_START = 1.0
"""Seconds that the page has before the first model is loaded: torch's import would keep it waiting longer than it takes itself."""


def parse_auth(text: str | None) -> Auth | None:
    """ "user:password"; None of nothing."""
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise UsageError("--auth needs a user and a password with a colon between them: --auth ann:secret")
    return user, password


def check_binding(host: str, port: int, auth: Auth | None) -> None:
    """Raises UsageError for an address that others can reach when there is no password, or that cannot be used, and for a port in use."""
    if not 1 <= port <= 65535:
        raise UsageError(f"the port must be between 1 and 65535, not {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise UsageError(f"{host!r} is no address of this machine: give 127.0.0.1, or 0.0.0.0 for all") from None
    if auth is None and not all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found):
        raise UsageError(f"at {host} everybody who reaches this machine could use it: give --auth user:password as well")
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise UsageError(f"cannot listen at {host} port {port} ({error.strerror}): choose another with --port") from None


def application(service: Service, kept: Kept, auth: Auth | None = None, upscaler: Path | None = None, host: str = "127.0.0.1") -> Any:
    """The ASGI application for a server at `host`; it loads the first model when it has begun, and closes the service when it ends."""
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from PIL import Image
    from starlette.exceptions import HTTPException

    from tessera.serve.api import failed, router, unreadable
    from tessera.serve.enlarge import Upscaler
    from tessera.serve.page import build, theme
    from tessera.serve.showing import CSS

    # Pillow refuses pictures of twice this many pixels before it decodes anything, also where gradio opens them.
    Image.MAX_IMAGE_PIXELS = service.limits.upload_pixels // 2 + 1

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        asyncio.get_running_loop().call_later(HEAD_START, service.warm, next(iter(service.shelf.offers)))
        yield
        service.close()
        kept.close()

    app = FastAPI(title="Tessera", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json", lifespan=lifespan)
    app.include_router(router(service, kept))

    @app.exception_handler(RequestValidationError)
    async def _(_: Any, error: RequestValidationError) -> Any:
        return unreadable(error)

    @app.exception_handler(HTTPException)
    async def _(_: Any, error: HTTPException) -> Any:  # such as a body that is nested too deeply
        return failed(UsageError(str(error.detail)), error.status_code)

    page = build(service, kept, None if upscaler is None else Upscaler(upscaler))
    gr.mount_gradio_app(
        app, page, "/", footer_links=["api"], run_history=False, ssr_mode=False, mcp_server=False, enable_monitoring=False,
        show_error=False, max_file_size=service.limits.upload_bytes, theme=theme(), css=CSS, blocked_paths=[],
    )  # fmt: skip
    # Browsers keep six connections to a server; with one for its heartbeat, which nothing here needs, the seventh tab would never open.
    page.config["connect_heartbeat"] = False
    page.has_launched = True  # else gradio copies any file of the machine that a caller names into its own folder, and takes it as uploaded
    return Guard(app, kept, auth, host)


class Guard:
    """Around the application: who may ask, from where, and how much.

    The password, as Basic (which browsers ask for) or Bearer. Without one the server is this machine's alone, so requests must name it as
    their host: a page elsewhere, whose name was made to stand for 127.0.0.1, names itself. What a page of another site makes a visitor's
    browser ask is refused. Bodies have at most the limit, and the uploads of an address a quota.
    """

    def __init__(self, app: Callable[..., Any], kept: Kept, auth: Auth | None, host: str) -> None:
        self.app, self.kept, self.limits, self.auth = app, kept, kept.limits, auth
        self.hosts = {*OWN_NAMES, host.lower()}

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.requests import ClientDisconnect

        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._admitted(headers.get(b"authorization", b"").decode("latin-1")):
            await _answer(send, 401, "the password is missing or wrong", b'Basic realm="Tessera", charset="UTF-8"')
            return
        if self.auth is None and _name(headers.get(b"host", b"")) not in self.hosts:
            await _answer(send, 421, "this server answers to its own address alone: open it as http://127.0.0.1 and its port")
            return
        if _is_foreign(headers):
            await _answer(send, 403, "requests from pages of other sites are refused")
            return
        length = headers.get(b"content-length", b"0")
        most = self.limits.upload_bytes + (1 << 16)
        if not length.isdigit() or int(length) > most:
            await _answer(send, 413, f"a request may have at most {self.limits.upload_bytes >> 20} MB")
            return
        uploads = scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")
        address = (scope.get("client") or ("somebody",))[0]
        if uploads:
            self.kept.sweep()
            if not self.kept.uploads(address, int(length)):
                await _answer(send, 429, f"one address may upload {self.limits.uploaded_bytes >> 20} MB an hour: wait a while")
                return
        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                return {"type": "http.disconnect"}
            if uploads and taken > int(length) and not self.kept.uploads(address, len(message.get("body", b""))):
                return {"type": "http.disconnect"}
            return message

        with suppress(ClientDisconnect):  # somebody who leaves in the middle of an upload is nobody's error
            await self.app(scope, counted, send)

    def _admitted(self, given: str) -> bool:
        if self.auth is None:
            return True
        kind, _, secret = given.partition(" ")
        user, password = self.auth
        if kind.lower() == "bearer":  # what clients call a key
            return any(secrets.compare_digest(secret.encode(), right.encode()) for right in (password, f"{user}:{password}"))
        try:
            told = base64.b64decode(secret, validate=True)
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == "basic" and secrets.compare_digest(told, f"{user}:{password}".encode())


def _name(host: bytes) -> str:
    """The name in a Host header, without its port."""
    text = host.decode("latin-1").strip().lower()
    return text.rpartition("]")[0].lstrip("[") if text.startswith("[") else text.partition(":")[0]


def _is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of another site made the browser ask."""
    origin = headers.get(b"origin")
    if origin is not None:
        return origin.decode("latin-1").partition("//")[2].lower() != headers.get(b"host", b"").decode("latin-1").lower()
    return headers.get(b"sec-fetch-site") == b"cross-site" and headers.get(b"sec-fetch-mode") != b"navigate"


async def _answer(send: Callable[..., Any], status: int, sentence: str, challenge: bytes | None = None) -> None:
    import json

    headers = [(b"content-type", b"application/json")] + ([(b"www-authenticate", challenge)] if challenge else [])
    body = json.dumps({"error": {"message": sentence, "type": "invalid_request_error", "param": None, "code": None}}).encode()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(
    model: str | None = None,
    models: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: Auth | None = None,
    upscaler: Path | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> None:
    """Serves until it is stopped. The first model is loaded once the page can be opened.

    Raises:
        UsageError: an address or model that cannot be used, or a public address without a password.
    """
    import logging

    check_binding(host, port, auth)
    kept = Kept(LIMITS)
    shelf = Shelf(models, model, device, LIMITS.models)
    for name, reason in shelf.left_out.items():
        say(f"warning: {name} is not offered: {reason}")
    service = Service(shelf)
    try:
        import uvicorn

        app = application(service, kept, auth, upscaler, host)
    except ModuleNotFoundError as error:
        service.close()
        if error.name not in ("gradio", "uvicorn", "fastapi"):
            raise
        raise TesseraError("the page needs gradio, which is not installed: pip install 'tessera[serve]'") from None
    logging.getLogger("httpx").setLevel(logging.WARNING)
    shown = f"[{host}]" if ":" in host else host
    say(f"Tessera is at http://{shown}:{port}/ (Ctrl-C stops it)")
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2, h11_max_incomplete_event_size=1 << 16)
