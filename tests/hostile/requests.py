"""Bodies of requests, answered by the server's application in this process."""

from collections.abc import Iterator
from pathlib import Path

from tests.hostile.fuzzing import request_bodies
from tests.tiny import tiny_model

__all__ = ["answers"]

STATUSES = {200, 400, 413, 422, 429}
"""Drawn; asked wrongly; too large; no room. Not 500: that is a fault of the server's own."""


def answers(folder: Path, count: int, seed: int) -> Iterator[tuple[bytes, str]]:
    """Each body with what is wrong with its answer, "" where nothing is."""
    from starlette.testclient import TestClient

    from tessera.serve.kept import Kept
    from tessera.serve.limits import LIMITS
    from tessera.serve.server import application
    from tessera.serve.service import Service
    from tessera.serve.shelf import Shelf

    tiny_model().save(folder / "models" / "tiny")
    service = Service(Shelf(folder / "models", str(folder / "models" / "tiny"), "cpu"))
    app = application(service, Kept(LIMITS))
    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        for body in request_bodies(count, seed):
            answer = client.post("/v1/images/generations", content=body, headers={"Content-Type": "application/json"})
            yield body, _fault(answer.status_code, answer.text)


def _fault(status: int, text: str) -> str:
    if status not in STATUSES:
        return f"status {status}: {text[:300]}"
    return f"says {text[:300]}" if "Traceback" in text or "internal error" in text else ""
