"""One HTTP request at a time, with everything that a server can do wrong told apart.

A link is *dead* when asking again cannot help: the server refuses (403, 404, 410, …), or a web page comes in place of the file. It is
*unreachable* when asking again may help: time-outs, broken connections, 429, 5xx, names that cannot be looked up. Only http and https, also
after redirects, and never from https back to http.
"""

import http.client
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import tessera
from tessera.errors import TesseraError

__all__ = ["DeadLink", "Offline", "Patience", "Redirects", "Remote", "Unreachable", "ask", "open_url", "persist"]

Result = TypeVar("Result")
SNIFFED = 512  # bytes of a file that are looked at to tell a web page from it
GAIN = 1 << 20  # bytes that make a broken connection worth another full set of tries
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
PAGE_TYPES = {"text/html", "application/xhtml+xml", "application/xml", "text/xml"}


class DeadLink(TesseraError):
    """Nothing is to be had from this address, now or later."""


class Unreachable(TesseraError):
    """The server does not answer, or stops in the middle: another try may succeed."""


class Offline(Unreachable):
    """A host's name cannot be looked up: this machine is offline, or the host is gone. Asking again at once does not help."""


@dataclass(frozen=True)
class Patience:
    """timeout: seconds without any byte. slowest: bytes per second, on average over `window` seconds, below which a
    connection counts as broken. tries: failures in a row that are borne, with a pause that doubles from `pause` seconds.
    """

    timeout: float = 30.0
    slowest: float = 1024.0
    window: float = 60.0
    tries: int = 5
    pause: float = 1.0


@dataclass(frozen=True)
class Remote:
    """What a server says of a file. validator: its strong ETag or date, by which a changed file is noticed; None if it gives none."""

    url: str
    length: int
    validator: str | None


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects: never out of http and https, never from https back to http."""

    max_redirections = 8

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in {"http", "https"} or (req.type == "https" and scheme == "http"):
            raise DeadLink(f"{req.full_url} redirects to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers of file: and ftp: that urllib adds on its own."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(), Redirects(), urllib.request.HTTPErrorProcessor(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


@contextmanager
def open_url(url: str, headers: dict[str, str], patience: Patience) -> Iterator[Any]:
    """The response to a GET, an `http.client.HTTPResponse`. Raises DeadLink or Unreachable, also while it is being read."""
    ours = {"User-Agent": f"tessera/{tessera.__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers={**ours, **headers})
    with _told_apart(url), _opener().open(request, timeout=patience.timeout) as response:
        yield response


@contextmanager
def _told_apart(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            raise DeadLink(f"{url} redirects in a circle, or to where nobody should follow") from None
        answer = f"{url} answers {error.code} {http.client.responses.get(error.code, '')}".rstrip()
        raise (Unreachable if error.code in TRANSIENT else DeadLink)(answer) from None
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, socket.gaierror):
            raise Offline(
                f"{url} cannot be reached: the name {urlsplit(url).hostname} cannot be looked up; is this machine online?"
            ) from None
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DeadLink(f"{url}: its certificate is not valid ({reason.verify_message})") from None
        if isinstance(reason, OSError):
            raise Unreachable(f"{url} cannot be reached ({reason.strerror or reason})") from None
        raise DeadLink(f"{url}: {reason}") from None
    except (http.client.InvalidURL, ValueError) as error:  # of a redirect, mostly
        raise DeadLink(f"{url} is not an address: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{url} stopped answering ({str(error) or type(error).__name__})") from None


def ask(url: str, patience: Patience) -> Remote:
    """Length and validator of a file, from its first bytes. Raises DeadLink (also for a web page, or no length) or Unreachable."""
    with open_url(url, {"Range": f"bytes=0-{SNIFFED - 1}"}, patience) as response:
        start = response.read(SNIFFED)
        remote = described(url, response)
        kind = response.headers.get_content_type() if "Content-Type" in response.headers else ""
        if kind in PAGE_TYPES or start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
            raise DeadLink(f"{url} gives a web page in place of the file")
        return remote


def described(url: str, response: Any) -> Remote:
    """What the headers of a response say of the whole file. Raises DeadLink when they do not say how long it is."""
    headers = response.headers
    length = headers.get("Content-Length", "")
    if response.status == 206:
        found = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", "").strip())
        length = found[1] if found else ""
    if not length.isdecimal() or int(length) == 0 or headers.get("Content-Encoding", "identity") != "identity":
        raise DeadLink(f"{url} does not say how long the file is")
    tag = headers.get("ETag", "")
    return Remote(url, int(length), tag if tag.startswith('"') else headers.get("Last-Modified"))


def persist(attempt: Callable[[], Result], patience: Patience, done: Callable[[], int] = lambda: 0) -> Result:
    """Tries until it succeeds, or has been Unreachable `tries` times in a row without `done`, in bytes, having grown by much."""
    failures, before = 0, done()
    while True:
        try:
            return attempt()
        except Offline:
            raise
        except Unreachable:
            failures = 1 if done() - before >= GAIN else failures + 1
            before = done()
            if failures >= patience.tries:
                raise
            time.sleep(patience.pause * 2 ** (failures - 1))
