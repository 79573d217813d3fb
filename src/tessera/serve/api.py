"""`POST /v1/images/generations` and `GET /v1/models`, as clients of OpenAI's interface know them.

A request is cancelled when its client goes away. Errors have that interface's shape: {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tessera.errors import TesseraError, UsageError
from tessera.record import Record
from tessera.serve.controls import parse_size
from tessera.serve.following import LOOK
from tessera.serve.jobs import Job
from tessera.serve.kept import Kept
from tessera.serve.limits import Busy
from tessera.serve.requests import Draw
from tessera.serve.service import Service

__all__ = ["failed", "router", "unreadable"]


class Generation(BaseModel):
    """The body of a request. What OpenAI's clients also send (`user`, `quality`, `style`, …) is taken and means nothing here."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(description="What to draw.")
    model: str | None = Field(None, description="A name that /v1/models lists; the first of them unless given.")
    n: int = Field(1, description="Pictures.")
    size: str | None = Field(None, description="WIDTHxHEIGHT; the model's own unless given, or 'auto'.")
    response_format: Literal["b64_json", "url"] | None = Field(None, description="b64_json, or a data: address as url.")
    seed: int | None = Field(None, description="Fixes the result (not in OpenAI's interface).")
    steps: int | None = Field(None, description="Sampling steps (not in OpenAI's interface).")
    guidance: Annotated[float | None, Field(description="Classifier-free guidance scale (not in OpenAI's interface).")] = None
    sampler: str | None = Field(None, description="Sampler by name (not in OpenAI's interface).")
    truncation: float | int | None = Field(None, description="Share or number of tokens (not in OpenAI's interface).")
    temperature: float | None = Field(None, description="Of tokens (not in OpenAI's interface).")


def router(service: Service, kept: Kept) -> APIRouter:
    """The routes over a service."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models")
    def models() -> dict[str, Any]:
        """The models that can be asked for."""
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "tessera"} for name in service.shelf.offers],
        }

    @routes.post("/images/generations")
    async def generations(body: Generation, request: Request) -> Any:
        """Pictures of a prompt."""
        settings = {name: getattr(body, name) for name in ("steps", "guidance", "sampler", "truncation", "temperature")}
        size = None if body.size in (None, "auto") else body.size
        try:
            asked = Draw(
                body.model or next(iter(service.shelf.offers)), prompts=(body.prompt,), n=body.n, seed=body.seed, size=parse_size(size),
                settings={name: value for name, value in settings.items() if value is not None},
            )  # fmt: skip
            job = service.submit(asked, f"{request.client.host if request.client else 'somebody'}/api")
        except TesseraError as error:
            return failed(error)
        if not await waited(service, job, request):
            return JSONResponse({}, status_code=499)  # nobody reads it
        if job.state != "done":
            return failed((UsageError if job.own_fault else TesseraError)(job.error or "the request was stopped"))
        return {"created": int(time.time()), "data": [entry(picture, body.response_format, kept) for picture in job.results]}

    return routes


async def waited(service: Service, job: Job, request: Request) -> bool:
    """Whether the client was there until the job ended; without it the job is cancelled."""
    try:
        while not job.ended.is_set():
            service.view(job)
            if await request.is_disconnected():
                return False
            await asyncio.sleep(LOOK)
        return True
    finally:
        job.cancel()


def entry(picture: Any, form: str | None, kept: Kept) -> dict[str, Any]:
    """A picture as the interface gives it, with its seed and number."""
    path = Path(kept.png(picture, "picture"))
    encoded = base64.b64encode(path.read_bytes()).decode()
    path.unlink()
    record = Record.of(picture)
    about = {} if record is None else {"seed": record.seed, "index": record.index}
    return {"url": f"data:image/png;base64,{encoded}", **about} if form == "url" else {"b64_json": encoded, **about}


def failed(error: TesseraError, status: int | None = None) -> JSONResponse:
    """The error as the interface has it. status: unless given, 429 for want of room, 400 for what was asked wrongly, 500 otherwise."""
    usage = isinstance(error, UsageError)
    kind = "invalid_request_error" if usage else "server_error"
    body = {"error": {"message": str(error), "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status_code=status or (429 if isinstance(error, Busy) else 400 if usage else 500))


def unreadable(error: RequestValidationError) -> JSONResponse:
    """A body that is no JSON, or of other types, in the same shape: clients of OpenAI's interface read nothing else."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if part != "body")
    return failed(UsageError(f"{where or 'the body'}: {fault['msg'][0].lower()}{fault['msg'][1:]}"))
