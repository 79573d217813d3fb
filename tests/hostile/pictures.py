"""Pictures whose records lie, and files that are hardly pictures."""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from tessera.record import Record
from tests.hostile.folders import ESCAPES

__all__ = ["write_pictures"]

RECORD = Record(
    "0.1.0", "scenes", None, "a red circle", 0, 0, "ancestral", 2, 1.0, None, 1.0, 1.0, (64, 64), "float32", None,
)  # fmt: skip
SEEN = {"sha256": "0" * 64, "hidden": None, "focus": 0.0, "weight": 1.0, "directions": None, "class_token": True}
BLEND = {"pictures": [SEEN], "texts": ["a"], "mix": [1.0], "by": "layer", "colour": "off", "remove": None, "add": None}

CHANGES: dict[str, dict[str, Any]] = {
    "model is a path": {"model": "/etc"},
    "model is a path above": {"model": "../../outside"},
    "model is an address": {"model": "https://attacker.example/model"},
    "model is at the hub": {"model": "evil/repository"},
    "model is a list": {"model": ["scenes"]},
    "model is null": {"model": None},
    "model has escapes": {"model": ESCAPES},
    "prompt is an address": {"model": "scenes-v", "prompt": "https://attacker.example/x.png"},
    "prompt is a file": {"model": "scenes-v", "prompt": "/etc/passwd"},
    "prompt is an address in a part": {"model": "scenes-v", "prompt": "a fox:2 | HTTP://attacker.example/x.png:0.5"},
    "prompt is a list": {"prompt": ["a"]},
    "prompt is a truth": {"prompt": True},
    "prompt is half of a pair": {"prompt": "\ud800"},
    "seed is text": {"seed": "0"},
    "seed is 10^30": {"seed": 10**30},
    "seed is negative": {"seed": -1},
    "index is 2^63": {"index": 2**63},
    "index is negative": {"index": -5},
    "sampler is a path": {"sampler": "../../x"},
    "sampler is a number": {"sampler": 5},
    "sampler has an unknown option": {"sampler": "ancestral:import=os"},
    "steps are a list": {"steps": [2]},
    "steps are none": {"steps": 0},
    "steps are 10^12": {"steps": 10**12},
    "steps are negative": {"steps": -1},
    "guidance is text": {"guidance": "1"},
    "guidance is not finite": {"guidance": float("inf")},
    "truncation is 10^400": {"truncation": 10**400},
    "temperature is 0": {"temperature": 0.0},
    "temperature is NaN": {"temperature": float("nan")},
    "start is 5": {"start": 5.0},
    "size is 10^9": {"size": [10**9, 10**9]},
    "size is of one": {"size": [64]},
    "size is text": {"size": "64x64"},
    "size is negative": {"size": [-64, 64]},
    "precision is null": {"precision": None},
    "precision is unknown": {"precision": "float128"},
    "init is a number": {"init": 5},
    "place is 1": {"place": 1},
    "place is far away": {"picture": "0" * 64, "place": [10**9, 10**9]},
    "cutouts are 10^9": {"model": "scenes-v", "cutouts": 10**9, "clip_guidance": 1.0},
    "beams are 10^9": {"beams": 10**9},
    "stride is 0": {"stride": 0, "size": [128, 128]},
    "resample is 10^9": {"resample": 10**9},
    "blend is empty": {"blend": {}},
    "blend lacks its pictures": {"blend": {**BLEND, "pictures": []}},
    "blend is of numbers": {"blend": {**BLEND, "pictures": [5]}},
    "blend mixes text": {"blend": {**BLEND, "mix": ["1"]}},
    "blend of 10^4 pictures": {"blend": {**BLEND, "pictures": [SEEN] * 10**4, "mix": [1.0] * 10**4}},
}
TEXTS: dict[str, str] = {
    "record is deep": "[" * 10**5,
    "record is null": "null",
    "record is a list": "[]",
    "record is empty": "{}",
    "record has a number of 10^5 digits": '{"size": [' + "1" * 10**5 + ", 1]}",
    "record is no JSON": "{'size': (1, 1)}",
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def image(text: bytes, side: int = 8) -> bytes:
    """A grey PNG with a chunk of text."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(9 * 8)))
    return b"\x89PNG\r\n\x1a\n" + head + text + pixels + chunk(b"IEND", b"")


def record(content: bytes, compressed: bool = False) -> bytes:
    """The chunk that a record stands in."""
    return chunk(b"iTXt", b"tessera\0" + bytes([compressed, 0]) + b"\0\0" + (zlib.compress(content) if compressed else content))


FILES: dict[str, Callable[[], bytes]] = {
    "record is not UTF-8": lambda: image(record(b"\xff\xfe{}")),
    "record of 100 MB": lambda: image(record(b" " * 10**8, compressed=True)),
    "record with a damaged end": lambda: image(record(b"{}"))[:60],
    "compressed record that is none": lambda: image(chunk(b"iTXt", b"tessera\0\1\0\0\0xxxx")),
    "text chunk of 10^6 pieces": lambda: image(b"".join(chunk(b"tEXt", b"a\0b") for _ in range(20000)) + record(b"{}")),
    "sides of 10^9": lambda: image(record(b"{}"), 10**9),
    "sides of 0": lambda: image(record(b"{}"), 0),
    "no picture at all": lambda: b"\x89PNG\r\n\x1a\n",
    "empty": lambda: b"",
    "a chunk of 2^31 bytes": lambda: b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR",
    "text for a picture": lambda: b"GIF89a" + bytes(10),
}


def write_pictures(folder: Path) -> list[Path]:
    """The pictures, each a PNG of 8×8 pixels at most."""
    folder.mkdir(parents=True)
    contents = {
        name: image(record(json.dumps(asdict(RECORD) | changes).encode("utf-8", "surrogatepass"))) for name, changes in CHANGES.items()
    }
    contents |= {name: image(record(text.encode())) for name, text in TEXTS.items()}
    contents |= {name: make() for name, make in FILES.items()}
    for name, content in contents.items():
        (folder / f"{name}.png").write_bytes(content)
    (folder / "a circle.png").symlink_to("a circle.png")
    Image.new("RGB", (8, 8)).save(folder / "no record.png")
    return [*(folder / f"{name}.png" for name in [*contents, "a circle", "no record"])]
