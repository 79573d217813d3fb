"""Every limit of the server, in one place. A request beyond one of them gets a sentence that names it; nothing is cut silently."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.errors import UsageError
from tessera.schema import shown

__all__ = ["LIMITS", "Busy", "Limits"]


class Busy(UsageError):
    """There is no room for a request now; later there may be."""


@dataclass(frozen=True)
class Limits:
    """What the server takes, and what it keeps.

    A request:
        prompt_characters: of all its prompts together. prompts: how many of them. pictures: that it asks for.
        steps: of sampling. pixels: of one picture that is drawn. scale_pixels: of one that is enlarged.
    An upload:
        upload_bytes: of a file, or of the body of any request. upload_pixels: width times height, known before it is decoded.
        shrunk_pixels: what a larger picture is shrunk to.
        uploaded_bytes: of all files that one address uploads within `kept_seconds`.
    The queue:
        waiting: requests of everybody. waiting_of_user: of one user. waiting_of_address: of all users at one address.
        compared: pictures of one comparison.
        abandoned_seconds: a request that nobody has asked about for so long is cancelled.
    Memory:
        batch: pictures that are computed together. batch_pixels: all pixels of these, so that large pictures come in smaller batches.
        models: that are kept loaded. frames: of an animation. preview_side: pixels, the longer side of a preview.
        sessions: pages whose state is kept. kept_seconds: how long files of pictures stay on the disk.
        kept_bytes: of all of these files; the oldest make room.
    """

    prompt_characters: int = 2000
    prompts: int = 8
    pictures: int = 16
    steps: int = 1000
    pixels: int = 1024 * 1024
    scale_pixels: int = 4096 * 4096
    upload_bytes: int = 20 << 20
    upload_pixels: int = 80_000_000
    shrunk_pixels: int = 4096 * 4096
    uploaded_bytes: int = 500 << 20
    waiting: int = 100
    waiting_of_user: int = 12
    waiting_of_address: int = 36
    compared: int = 48
    abandoned_seconds: float = 20.0
    batch: int = 8
    batch_pixels: int = 4 * 512 * 512
    models: int = 2
    frames: int = 60
    preview_side: int = 256
    sessions: int = 200
    kept_seconds: int = 3600
    kept_bytes: int = 2 << 30

    def at_most(self, what: str, value: float, most: float) -> None:
        """Raises UsageError for more than `most` of `what`."""
        if value > most:
            raise UsageError(f"{shown(value)} {what} are more than this server takes: at most {most:,.0f}")


LIMITS = Limits()
