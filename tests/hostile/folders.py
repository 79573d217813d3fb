"""Model folders whose description or weights lie: small models of ours, changed."""

import copy
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.tiny import tiny_model
from tests.tiny_floats import tiny_float_model
from tests.tiny_versatile import tiny_versatile

__all__ = ["HARMLESS", "SECRET", "UNUSED", "write_folders"]

SECRET = "the-secret-of-somebody-else"
FLOW = "flows.text_to_image"
Description = dict[str, Any]

VALUES: dict[str, tuple[str, Any]] = {
    "no flow": (FLOW, None),
    "flow is text": (FLOW, "vq-diffusion"),
    "flows is a list": ("flows", []),
    "no flows": ("flows", {}),
    "size of 10^9": ("size", [10**9, 10**9]),
    "size is negative": ("size", [-64, 64]),
    "size is true": ("size", [True, True]),
    "size of three": ("size", [32, 32, 32]),
    "size that no factor divides": ("size", [33, 31]),
    "name is a number": ("name", 5),
    "card is text": ("card", "card"),
    "unknown family of 10^5 letters": (f"{FLOW}.network.kind", "x" * 10**5),
    "format is text": ("format", "1"),
    "format is 2": ("format", 2),
    "codec without classes": (f"{FLOW}.codec.classes", 0),
    "codec of negative classes": (f"{FLOW}.codec.classes", -24),
    "codec of 10^12 classes": (f"{FLOW}.codec.classes", 10**12),
    "codec of half classes": (f"{FLOW}.codec.classes", 1.5),
    "codec of factor 0": (f"{FLOW}.codec.factor", 0),
    "codec of dim 10^9": (f"{FLOW}.codec.dim", 10**9),
    "codec with an unknown argument": (f"{FLOW}.codec.splitt", 1),
    "codec kind is a list": (f"{FLOW}.codec.kind", ["patch"]),
    "codec is null": (f"{FLOW}.codec", None),
    "codec names a part that is not there": (f"{FLOW}.codec", {"part": "x"}),
    "codec names a part by a list": (f"{FLOW}.codec", {"part": ["x"]}),
    "network width of 10^9": (f"{FLOW}.network.width", 10**9),
    "network width of 2^70": (f"{FLOW}.network.width", 2**70),
    "network depth of 10^8": (f"{FLOW}.network.depth", 10**8),
    "network heads of 0": (f"{FLOW}.network.heads", 0),
    "network heads are negative": (f"{FLOW}.network.heads", -2),
    "network grid of 10^6": (f"{FLOW}.network.grid", [10**6, 10**6]),
    "network grid of text": (f"{FLOW}.network.grid", ["4", "4"]),
    "network grid is nested": (f"{FLOW}.network.grid", [[4, 4], 4]),
    "network ratio of 10^9": (f"{FLOW}.network.mlp_ratio", 10**9),
    "network dropout of 7": (f"{FLOW}.network.dropout", 7.0),
    "network of 10^9 times": (f"{FLOW}.network.timesteps", 10**9),
    "network activation is unknown": (f"{FLOW}.network.activation", "relu6"),
    "network position table of 10^6": (f"{FLOW}.network.position_table", [10**6, 10**6]),
    "context depth of 2^70": (f"{FLOW}.context.depth", 2**70),
    "context depth of 10^7": (f"{FLOW}.context.depth", 10**7),
    "context length of 10^9": (f"{FLOW}.context.length", 10**9),
    "context words are numbers": (f"{FLOW}.context.vocabulary", [1, 2, 3]),
    "context words stand twice": (f"{FLOW}.context.vocabulary", ["a"] * 7),
    "process of 10^9 steps": (f"{FLOW}.process.schedule.steps", 10**9),
    "process of -1 steps": (f"{FLOW}.process.schedule.steps", -1),
    "process of 10^12 classes": (f"{FLOW}.process.classes", 10**12),
    "process of an unknown schedule": (f"{FLOW}.process.schedule.kind", "../../x"),
    "process keeps lists": (f"{FLOW}.process.schedule.keep", [[], []]),
    "process is a list": (f"{FLOW}.process", []),
    "loss with an unknown argument": (f"{FLOW}.loss.import", "os"),
    "loss weight is text": (f"{FLOW}.loss.vb_weight", "1"),
    "defaults of 10^12 steps": ("defaults.steps", 10**12),
    "defaults of a sampler by path": ("defaults.sampler", "../../x"),
    "defaults of text": ("defaults.guidance", "1.5"),
    "defaults with an unknown setting": ("defaults.__class__", "x"),
    "deep lists in a part": (f"{FLOW}.codec.decay", json.loads("[" * 400 + "]" * 400)),
}
OTHERS: dict[str, tuple[str, str, Any]] = {  # of the other two small models
    "pixel network of 10^9 blocks": ("tiny-v", f"{FLOW}.network.blocks", 10**9),
    "pixel network of 10^4 levels": ("tiny-v", f"{FLOW}.network.widths", [8] * 10**4),
    "pixel network of size 10^9": ("tiny-v", f"{FLOW}.network.size", 10**9),
    "pixel network of head width 0": ("tiny-v", f"{FLOW}.network.head_width", 0),
    "pixel network without widths": ("tiny-v", f"{FLOW}.network.widths", []),
    "towers of 10^8 layers": ("tiny-v", f"{FLOW}.context.image_depth", 10**8),
    "towers of size 10^6": ("tiny-v", f"{FLOW}.context.size", 10**6),
    "pixel schedule is unknown": ("tiny-v", f"{FLOW}.process.schedule.kind", "x"),
    "CLIP of 10^8 layers": ("tiny-versatile", "parts.clip-tokens.text.layers", 10**8),
    "CLIP with patches of 0": ("tiny-versatile", "parts.clip-tokens.image.patch", 0),
    "CLIP without a vocabulary": ("tiny-versatile", "parts.clip-tokens.text", {}),
    "CLIP with merges elsewhere": ("tiny-versatile", "parts.clip-tokens.merges", "/etc/passwd"),
    "four flows of 10^9 times": ("tiny-versatile", f"{FLOW}.process.schedule.steps", 10**9),
    "four flows of unknown data": ("tiny-versatile", f"{FLOW}.network.data", "sound"),
    "four flows with heads of 0": ("tiny-versatile", "parts.versatile.heads", 0),
    "four flows with data of 10^12": ("tiny-versatile", "parts.versatile.data.text.width", 10**12),
    "a view with an unknown argument": ("tiny-versatile", f"{FLOW}.network.import", "os"),
    "a view without arguments": ("tiny-versatile", f"{FLOW}.network", {"part": "versatile"}),
    "text codec of 10^12 pieces": ("tiny-versatile", "parts.text-vae.pieces", 10**12),
    "text codec with 10^6 memories": ("tiny-versatile", "parts.text-vae.memories", 10**6),
    "picture codec of 10^8 blocks": ("tiny-versatile", "parts.kl.blocks", 10**8),
    "picture codec of patch 10^6": ("tiny-versatile", "parts.kl.patch", 10**6),
}
CLIP = {"kind": "clip-text", "length": 8, "layers": 1, "width": 16, "heads": 2, "vocabulary": 515}
TEXT = {"kind": "text-vae", "encoder": {"length": 12, "layers": 1, "width": 16, "heads": 2}, "latent": 6, "pieces": 8}
TEXT |= {"decoder": TEXT["encoder"]}
PLACES: dict[str, tuple[str, Description]] = {  # {outside} is a folder that is nobody's business
    "CLIP's merges are the users": (f"{FLOW}.context", CLIP | {"merges": "/etc/passwd"}),
    "CLIP's merges are the environment": (f"{FLOW}.context", CLIP | {"merges": "/proc/self/environ"}),
    "CLIP's merges are a secret": (f"{FLOW}.context", CLIP | {"merges": "{outside}/secret.txt"}),
    "CLIP's merges are above": (f"{FLOW}.context", CLIP | {"merges": "../../outside/secret.txt"}),
    "CLIP's weights are at the hub": (f"{FLOW}.context", CLIP | {"pretrained": "evil/repository"}),
    "CLIP's weights are a folder": (f"{FLOW}.context", CLIP | {"pretrained": "{outside}"}),
    "CLIP's weights are an address": (f"{FLOW}.context", CLIP | {"pretrained": "https://attacker.example/x"}),
    "the word pieces are the users": (f"{FLOW}.codec", TEXT | {"wordpieces": "/etc/passwd"}),
    "the word pieces are a secret": (f"{FLOW}.codec", TEXT | {"wordpieces": "{outside}/secret.txt"}),
    "the codec's merges are a secret": (f"{FLOW}.codec", TEXT | {"merges": "{outside}/secret.txt"}),
    "the vocabulary is a path": (f"{FLOW}.context.vocabulary", "{outside}/secret.txt"),
    "the network is a path": (f"{FLOW}.network", {"kind": "{outside}/secret.txt"}),
}
TEXTS: dict[str, bytes] = {
    "description is empty": b"",
    "description is null": b"null",
    "description is a list": b"[1]",
    "description is cut": b'{"format": 1, "name": "x"',
    "description is deep": b"[" * 10**5,
    "description is deep and closed": b'{"format": 1, "card": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    "description is not UTF-8": b'{"format": 1, "name": "\xff\xfe"}',
    "description is UTF-16": '{"format": 1}'.encode("utf-16"),
    "description with a number of 10^5 digits": b'{"format": ' + b"1" * 10**5 + b"}",
    "description with NUL bytes": b"\0" * 1000,
}
HARMLESS = {
    "a name with escapes",
    "a card with escapes",
    "a flow with escapes",
    "size that no factor divides",
    "network grid of 10^6",
    "pixel network of size 10^9",
    "the merges are a pipe",
    "the merges are a link to a secret",
}
"""What may be used all the same: words that only must not reach a terminal as they are, numbers that nothing is made by."""
UNUSED = {"four flows with data of 10^12", "text codec of 10^12 pieces", "text codec with 10^6 memories"}
"""What is wrong with them belongs to flows that are not read for pictures of words."""
ESCAPES = "\x1b[31mred\x1b]0;title\x07\u202etxt\x9b2J\r"


def write_folders(folder: Path, outside: Path) -> list[Path]:
    """The folders; `outside` holds a secret that they try to read."""
    models = {}
    for model in (tiny_model(), tiny_float_model(), tiny_versatile()):
        place = folder.parent / "whole" / model.name
        model.save(place)
        models[model.name] = place
    made = []

    def new(name: str, of: str = "tiny") -> tuple[Path, Description]:
        place = folder / name
        place.mkdir(parents=True)
        for file in models[of].iterdir():
            if file.name != "model.json":
                os.link(file, place / file.name)
        made.append(place)
        return place, json.loads((models[of] / "model.json").read_text())

    def write(place: Path, description: Description) -> None:
        (place / "model.json").write_text(json.dumps(description))

    changed = {name: ("tiny", key, value) for name, (key, value) in VALUES.items()} | OTHERS
    for name, (of, key, value) in changed.items():
        place, description = new(name, of)
        write(place, with_value(description, key, value))
    for name, (key, value) in PLACES.items():
        place, description = new(name)
        write(place, with_value(description, key, json.loads(json.dumps(value).replace("{outside}", str(outside)))))
    for name, text in TEXTS.items():
        (new(name)[0] / "model.json").write_bytes(text)
    for name, key in {"a name with escapes": "name", "a card with escapes": "card.about"}.items():
        place, description = new(name)
        write(place, with_value(description, key, ESCAPES))
    place, description = new("parts that contain themselves")
    write(place, with_value({**description, "parts": {"a": {"part": "a"}}}, f"{FLOW}.codec", {"part": "a"}))
    place, description = new("a flow with escapes")
    description["flows"][ESCAPES] = description["flows"]["text_to_image"]
    write(place, description)
    place, description = new("a description of 40 MB")
    write(place, description)
    os.truncate(place / "model.json", 40 * 10**6)
    place, _ = new("the description is a pipe")
    os.mkfifo(place / "model.json")
    place, description = new("the merges are a link to a secret")
    write(place, with_value(description, f"{FLOW}.context", CLIP))
    (place / "merges.txt").symlink_to(outside / "secret.txt")
    place, description = new("the merges are a pipe", "tiny-versatile")
    write(place, description)
    (place / "merges.txt").unlink()
    os.mkfifo(place / "merges.txt")
    for name, change in WEIGHTS.items():
        place, description = new(name)
        write(place, description)
        path = place / "model.safetensors"
        content = path.read_bytes()
        path.unlink()  # the others link to it
        change(path, content, outside)
    return made


def with_value(description: Description, key: str, value: Any) -> Description:
    """The description with another value at a dotted key."""
    changed = copy.deepcopy(description)
    *parents, last = key.split(".")
    at = changed
    for parent in parents:
        at = at[parent]
    at[last] = value
    return changed


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, bytes, Path], None]:
    """Weights whose header `change` has changed."""

    def write(path: Path, content: bytes, _: Path) -> None:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(change(header) or header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return write


def _first(header: Mapping[str, Any], **changes: Any) -> None:
    next(entry for name, entry in header.items() if name != "__metadata__").update(changes)


def _with(value: float) -> Callable[[Path, bytes, Path], None]:
    def write(path: Path, content: bytes, _: Path) -> None:
        path.write_bytes(content)
        tensors = load_file(path)
        last = [name for name, tensor in tensors.items() if tensor.is_floating_point()][-1]
        tensors[last].reshape(-1)[-1] = value
        path.unlink()
        save_file(tensors, path)

    return write


def _index(weight_map: Any) -> Callable[[Path, bytes, Path], None]:
    def write(path: Path, content: bytes, outside: Path) -> None:
        path.write_bytes(content)
        text = json.dumps({"weight_map": weight_map}).replace("{outside}", str(outside))
        path.with_name(f"{path.name}.index.json").write_text(text)

    return write


WEIGHTS: dict[str, Callable[[Path, bytes, Path], None]] = {
    "weights with a NaN": _with(float("nan")),
    "weights with infinity": _with(-float("inf")),
    "weights are cut": lambda path, content, _: path.write_bytes(content[: len(content) // 2]) and None,
    "weights are empty": lambda path, content, _: path.write_bytes(b"") and None,
    "weights are zeros": lambda path, content, _: path.write_bytes(bytes(1000)) and None,
    "weights with a header of 2^63 bytes": lambda path, content, _: path.write_bytes(struct.pack("<Q", 2**63) + content[8:]) and None,
    "weights with a deep header": lambda path, content, _: path.write_bytes(struct.pack("<Q", 10**5) + b"[" * 10**5) and None,
    "weights are a pipe": lambda path, content, _: os.mkfifo(path),
    "weights are a device": lambda path, content, _: path.symlink_to("/dev/zero"),
    "weights are a folder": lambda path, content, _: path.mkdir(),
    "weights are a link to a secret": lambda path, content, outside: path.symlink_to(outside / "secret.txt"),
    "weights of 2^62 elements": _header(lambda header: _first(header, shape=[2**31, 2**31])),
    "weights of 0 times 2^62 elements": _header(lambda header: _first(header, shape=[0, 2**62], data_offsets=[0, 0])),
    "weights of a negative shape": _header(lambda header: _first(header, shape=[-1, -4])),
    "weights of an unknown dtype": _header(lambda header: _first(header, dtype="F1024")),
    "weights that lie in each other": _header(
        lambda header: [entry.update(data_offsets=[0, 64]) for entry in header.values() if "shape" in entry] and None
    ),
    "weights with a tensor named by escapes": _header(lambda header: {ESCAPES: header.popitem()[1], **header}),
    "weights with another tensor's name": _header(lambda header: {"x": header.popitem()[1], **header}),
    "an index that points outside": _index({"a": "../../outside/secret.safetensors"}),
    "an index that points anywhere": _index({"a": "{outside}/secret.safetensors"}),
    "an index that is a list": _index([1, 2]),
    "an index of numbers": _index({"a": 5}),
}
