"""Gets a released file: what was interrupted goes on, and nothing stands under the final name before it is whole and verified.

The bytes of all parts are appended to `<file>.part`; `<file>.part.json` says which files on the server they belong to, so that they
are used again only while those are the same (RFC 9110, sections 13.1.5 and 14).
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from tessera.atomic import write_file
from tessera.checkpoints.cards import Address, Card
from tessera.checkpoints.hashes import digest, remember
from tessera.checkpoints.registry import part_of, wrong_hash
from tessera.checkpoints.transfer import DeadLink, Patience, Remote, Unreachable, ask, described, open_url, persist
from tessera.errors import TesseraError
from tessera.json_files import read_json

__all__ = ["Progress", "download"]

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and those of the whole file."""

PATIENCE = Patience()
CHUNK = 1 << 20
RESERVE = 64 << 20  # bytes of the disk that are left free
RESTARTS = 3  # of a file that changes on the server while it is read


class _Changed(Exception):
    """The file on the server is no longer the one that was asked about."""


def download(wanted: Card, folder: Path, progress: Progress | None = None, patience: Patience = PATIENCE) -> Path:
    """Puts a card's file into `folder`, from the first of its addresses that gives it, and returns its path.

    Raises:
        TesseraError: no address gives the file, the connection broke too often, or the disk is too full. Then nothing stands under
            the file's name; after a broken connection the next call goes on where this one stopped.
    """
    path = folder / wanted.on_disk
    if path.exists():
        if wanted.sha256 is not None and digest(path) != wanted.sha256:
            raise TesseraError(wrong_hash(path, wanted))
        return path
    part = part_of(folder, wanted)
    with _alone(folder, wanted):
        reasons: list[str] = []
        hope = browser = False
        for address in sorted(wanted.urls, key=lambda address: not _belongs(part, address)):
            if address.dead is not None:
                reasons.append(f"{address.url} is dead, see {address.dead}")
                continue
            if address.in_browser:
                reasons.append(f"open {address.url} in a browser")
                browser = True
                continue
            try:
                _fetch(address, part, wanted, progress or (lambda done, total: None), patience)
                _publish(part, path, wanted)
            except (DeadLink, Unreachable) as error:
                hope = hope or isinstance(error, Unreachable)
                reasons.append(str(error))
            else:
                return path
    what = f"the link to {wanted.on_disk} is dead" if len(reasons) == 1 else f"no link to {wanted.on_disk} works"
    if hope:
        raise TesseraError(
            f"{wanted.on_disk} cannot be downloaded now ({'; '.join(reasons)}): try again later, "
            f"or get the file elsewhere and put it into {folder} as {wanted.on_disk}"
        )
    if browser:
        raise TesseraError(
            f"{wanted.on_disk} is in a folder that only a browser opens ({'; '.join(reasons)}): download it there and put it into {folder} "
            f"as {wanted.on_disk}"
        )
    raise TesseraError(f"{what} ({'; '.join(reasons)}): get the file elsewhere and put it into {folder} as {wanted.on_disk}")


@contextmanager
def _alone(folder: Path, wanted: Card) -> Iterator[None]:
    """No other process downloads the same file meanwhile. Raises TesseraError when one does, or nothing can be written there."""
    path = folder / wanted.on_disk
    name = path.with_name(f".{path.name}.lock")
    lock = FileLock(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise TesseraError(f"{wanted.on_disk} is being downloaded into {folder} by another process: wait for it, or stop it") from None
    except OSError as error:
        raise TesseraError(f"{folder} cannot be written to ({error.strerror}): give another folder with -o") from None
    try:
        yield
    finally:
        with suppress(OSError):  # some systems cannot remove an open file
            name.unlink()
        lock.release()


def _fetch(address: Address, part: Path, wanted: Card, progress: Progress, patience: Patience) -> None:
    """The whole file into `part`.

    Raises:
        DeadLink, Unreachable: it is not to be had there, and nothing was changed.
        TesseraError: it broke off, or there is no room.
    """
    for _ in range(RESTARTS):
        remotes = [persist(partial(ask, url, patience), patience) for url in address.parts]
        total = sum(remote.length for remote in remotes)
        if wanted.size not in (None, total):
            raise DeadLink(f"{address.url} has {total} bytes, where the released file has {wanted.size}")
        try:
            _append(remotes, part, progress, patience)
        except _Changed:
            continue
        except Unreachable as error:
            raise TesseraError(f"{error}: what is there is kept, so `tessera download {wanted.name}` goes on from there") from None
        return
    raise DeadLink(f"{address.url} changes while it is read")


def _append(remotes: Sequence[Remote], part: Path, progress: Progress, patience: Patience) -> None:
    """Whatever `part` lacks of the files, one after the other."""
    ends = list(accumulate(remote.length for remote in remotes))
    kept = _kept(part, remotes)
    missing = ends[-1] - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if missing + RESERVE > free:
        raise TesseraError(
            f"{part.parent} has {free / 1e9:.1f} GB free, but {missing / 1e9:.1f} GB are still to be downloaded: "
            "make room, or give another folder with -o"
        )
    with _disk(part), part.open("r+b" if part.exists() else "w+b") as file:
        file.truncate(kept)
        _plan(part).write_text(json.dumps([asdict(remote) for remote in remotes]), encoding="utf-8")
        for remote, end in zip(remotes, ends, strict=True):
            start = end - remote.length
            if _size(file) < end:
                report = partial(_report, progress, start, ends[-1])
                persist(partial(_receive, remote, file, start, report, patience), patience, partial(_size, file))
        os.fsync(file.fileno())


def _report(progress: Progress, start: int, total: int, have: int) -> None:
    progress(start + have, total)


def _receive(remote: Remote, file: BinaryIO, start: int, report: Callable[[int], None], patience: Patience) -> None:
    """The rest of one file, which begins at `start`."""
    have = _size(file) - start if remote.validator is not None else 0
    headers = {"Range": f"bytes={have}-", "If-Range": str(remote.validator)} if have else {}
    with open_url(remote.url, headers, patience) as response:
        now = described(remote.url, response)
        if now.length != remote.length or now.validator not in (None, remote.validator):
            raise _Changed
        if response.status != 206:  # a server that only gives whole files
            have = 0
        elif not re.match(rf"bytes {have}-", response.headers["Content-Range"]):
            raise _Changed
        with _disk(Path(file.name)):
            file.truncate(start + have)
            file.seek(start + have)
        since, slow = time.monotonic(), 0
        while have < remote.length:
            data = response.read1(min(CHUNK, remote.length - have))
            if not data:
                raise Unreachable(f"{remote.url} broke off after {have} of {remote.length} bytes")
            with _disk(Path(file.name)):
                file.write(data)
                file.flush()
            have, slow = have + len(data), slow + len(data)
            report(have)
            passed = time.monotonic() - since
            if passed >= patience.window:
                if slow < patience.slowest * passed:
                    raise Unreachable(f"{remote.url} is too slow, {slow / passed:.0f} bytes per second")
                since, slow = time.monotonic(), 0


def _publish(part: Path, path: Path, wanted: Card) -> None:
    """The finished file under its name. Raises DeadLink when it is not the released one; then it is thrown away."""
    found = digest(part) if wanted.sha256 is not None else None
    if found != wanted.sha256:
        part.unlink()
        _plan(part).unlink()
        raise DeadLink(f"what came has SHA-256 {found}, expected {wanted.sha256}, and was thrown away")
    with _disk(path), write_file(path) as temporary:
        part.replace(temporary)
        _plan(part).unlink()
    if found is not None:
        remember(path, found)


def _kept(part: Path, remotes: Sequence[Remote]) -> int:
    """How many bytes of `part` belong to the files as they are on the server now."""
    same = 0
    for before, now in zip(_planned(part), remotes, strict=False):
        if before != now or now.validator is None:
            break
        same += now.length
    return min(same, part.stat().st_size) if part.exists() else 0


def _belongs(part: Path, address: Address) -> bool:
    """Whether `part` was begun from this address."""
    return tuple(remote.url for remote in _planned(part)) == address.parts


def _planned(part: Path) -> list[Remote]:
    """The files that `part` was begun from; none when that is not known."""
    try:
        return [Remote(**remote) for remote in read_json(_plan(part))]
    except (OSError, ValueError, TypeError):
        return []


def _plan(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Errors of the disk as one sentence."""
    try:
        yield
    except OSError as error:
        raise TesseraError(f"{path} cannot be written ({error.strerror or error}); what is there is kept") from None
