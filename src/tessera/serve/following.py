"""From the page's handlers to the service: who asks, and views of a job until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from tessera.serve.jobs import ENDED, Job, View
from tessera.serve.requests import Request
from tessera.serve.service import Service

__all__ = ["follow", "user_of"]

LOOK = 0.12
"""Seconds between looks at a job."""


def user_of(request: gr.Request | None, tab: str) -> str:
    """Whose request it is: a page's, or for callers of the interface who name none an address's."""
    session = getattr(request, "session_hash", None)
    if session is None:
        client: Any = getattr(request, "client", None)
        session = getattr(client, "host", "somebody")
    return f"{session}:{tab}"


async def follow(service: Service, request: Request, user: str) -> AsyncIterator[tuple[Job, View]]:
    """Submits a request and looks at it until it ends. Whoever stops listening, by closing the page or otherwise, has cancelled it.

    Raises UsageError as `Service.submit`.
    """
    job = service.submit(request, user)
    seen: tuple[Any, ...] | None = None
    try:
        while True:
            view = service.view(job)
            now = (view.version, view.state, view.position)
            if now != seen:
                seen = now
                yield job, view
            if view.state in ENDED:
                return
            await asyncio.sleep(LOOK)
    finally:
        if not job.ended.is_set():
            job.cancel()
