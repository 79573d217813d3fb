"""From the page's handlers to the service: who asks, views of a job until it ends, and what is said when something is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import wraps
from typing import Any

import gradio as gr

from tessera.errors import UsageError
from tessera.serve.components import Wrong
from tessera.serve.jobs import ENDED, Job, View
from tessera.serve.requests import Request
from tessera.serve.service import Service, sentence
from tessera.serve.showing import failure

__all__ = ["LOOK", "follow", "telling", "user_of"]

LOOK = 0.12
"""Seconds between looks at a job."""
TELL = 0.4
"""Seconds between two reports of progress, each of which costs the server as much as several steps of a small model."""

Handler = Callable[..., AsyncIterator[tuple[Any, ...]]]


def telling(outputs: int) -> Callable[[Handler], Handler]:
    """Decorates a handler of so many outputs, the first of which is the message: whatever fails becomes a sentence there."""

    def decorated(handler: Handler) -> Handler:
        @wraps(handler)
        async def answers(*given: Any) -> AsyncIterator[tuple[Any, ...]]:
            try:
                for value in given:
                    if isinstance(value, Wrong):
                        raise UsageError(value.sentence)
                async for shown in handler(*given):
                    yield shown
            except Exception as error:  # also what nobody expected: a page that says nothing helps nobody
                yield failure(sentence(error)), *[gr.skip()] * (outputs - 1)

        return answers

    return decorated


def user_of(request: gr.Request | None, tab: str) -> str:
    """Whose request it is: the address, then the page, which callers of the interface may name as they like."""
    client: Any = getattr(request, "client", None)
    return f"{getattr(client, 'host', 'somebody')}/{getattr(request, 'session_hash', None)}:{tab}"


async def follow(service: Service, request: Request, user: str) -> AsyncIterator[tuple[Job, View]]:
    """Submits a request and reports what happens until it ends. Whoever stops listening, by closing the page or so, has cancelled it.

    Raises UsageError as `Service.submit`.
    """
    job = service.submit(request, user)
    seen: tuple[Any, ...] | None = None
    version, told = -1, -TELL
    try:
        while True:
            view = service.view(job)
            now = view.state, view.position, view.finished
            if now != seen or (view.version != version and time.monotonic() - told >= TELL):
                seen, version, told = now, view.version, time.monotonic()
                yield job, view
            if view.state in ENDED:
                return
            await asyncio.sleep(LOOK)
    finally:
        if not job.ended.is_set():
            job.cancel()
