"""Checkpoint files that want to run something, or eat memory or time: pickles by hand, most of them a few kilobytes once deflated."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.checkpoints.archives import legacy_file, script_file, storage_pickle, zip_file

__all__ = ["write_checkpoints"]

START, END = b"\x80\x04", b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def copies(module: str, name: str, large: bytes, times: int = 2000, more: bytes = b"") -> bytes:
    """A known function called again and again with one large value, every result kept."""
    function = f"c{module}\n{name}\n".encode() + put(0)
    return START + function + large + put(1) + b"](" + (get(0) + get(1) + more + (b"\x86R" if more else b"\x85R")) * times + b"e" + END


def copied_array() -> bytes:
    """One array of NumPy after another from the same bytes."""
    dtype = b"cnumpy\ndtype\n" + text("f4") + b"\x85R(K\3" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    content = b"B" + struct.pack("<I", BIG) + bytes(BIG)
    function, shape = b"cnumpy.core.numeric\n_frombuffer\n", b"J" + struct.pack("<i", BIG // 4) + b"\x85"
    made = b"".join(b"".join([get(2), b"(", get(0), get(1), get(3), text("C"), b"tR"]) for _ in range(2000))
    return START + content + put(0) + dtype + put(1) + function + put(2) + shape + put(3) + b"](" + made + b"e" + END


class Runs:
    """What Python's own reader would run: it makes a file in the working folder."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def doubled(pair: bytes, times: int) -> bytes:
    """A value that holds itself twice, `times` levels deep."""
    return START + b"]" + pair * times + END


def numbers(values: Iterator[int]) -> bytes:
    return b"".join(
        b"\x8a" + bytes([(value.bit_length() + 8) // 8]) + value.to_bytes((value.bit_length() + 8) // 8, "little") for value in values
    )


COLLIDING = 2**61 - 1  # a multiple of it has the hash 0
BIG = 5 * 10**6
PICKLES: dict[str, Callable[[], bytes]] = {
    "runs a command": lambda: pickle.dumps(Runs(os.system, "touch ran")),
    "runs eval": lambda: pickle.dumps({"a": Runs(eval, "open('ran', 'w')")}, 2),
    "runs by protocol 0": lambda: b"cos\nsystem\n(S'touch ran'\ntR.",
    "runs by INST": lambda: b"(S'touch ran'\nios\nsystem\n.",
    "runs by OBJ": lambda: START + b"(cos\nsystem\n" + text("touch ran") + b"o.",
    "runs by NEWOBJ": lambda: START + b"cposix\nsystem\n" + text("touch ran") + b"\x85\x81.",
    "runs by a name on the stack": lambda: START + text("posix") + text("system") + b"\x93" + text("touch ran") + b"\x85R.",
    "runs by an extension": lambda: START + b"\x82\x01.",
    "runs by the name of a class": lambda: START + b"csubprocess\nPopen\n" + text("touch ran") + b"\x85R.",
    "runs a function of another package": lambda: START + b"cnumpy.testing\nrundocs\n" + text("ran") + b"\x85R.",
    "runs a loader": lambda: START + b"ctorch\nload\n" + text("/etc/passwd") + b"\x85R.",
    "runs through a rebuilder": lambda: START + b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN" + text("touch ran") + b"\x85NtR.",
    "copies a bytearray": lambda: copies("builtins", "bytearray", b"\x96" + struct.pack("<Q", BIG) + bytes(BIG)),
    "copies bytes": lambda: copies("builtins", "bytes", b"\x96" + struct.pack("<Q", BIG) + bytes(BIG)),
    "copies a text as bytes": lambda: copies("_codecs", "encode", text("a" * BIG), more=text("latin1")),
    "copies a list as a tuple": lambda: copies("builtins", "tuple", b"(" + b"N" * 10**6 + b"l"),
    "copies a tuple as a list": lambda: copies("builtins", "list", b"(" + b"N" * 10**6 + b"t"),
    "copies a dict": lambda: copies(
        "collections", "OrderedDict", b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(60000)) + b"u"
    ),
    "copies sizes": lambda: copies("torch", "Size", b"(" + b"K\0" * 10**6 + b"t"),
    "copies an array": lambda: copied_array(),
    "many empty lists": lambda: START + b"]" * (6 * 10**7) + END,
    "many empty dicts": lambda: START + b"}" * 10**6 + END,
    "many marks": lambda: START + b"(" * 10**6 + END,
    "many integers": lambda: START + b"](" + b"K\1" * 10**6 + b"e" + END,
    "many entries of the memo": lambda: START + b"]" + b"\x94" * 10**6 + END,
    "many memo entries of large numbers": lambda: START + b"]" + b"".join(put(i * 10001) for i in range(4 * 10**5)) + END,
    "many names": lambda: START + b"".join(f"cx\nX{i}\n0".encode() for i in range(2 * 10**5)) + b"N" + END,
    "a number of 10^7 digits": lambda: START + b"I" + b"7" * 10**7 + b"\n" + END,
    "a long of 10^8 bytes": lambda: START + b"\x8b" + struct.pack("<i", 10**8) + b"\x7f" * 10**6 + END,
    "a text of 10^7 escapes": lambda: START + b"S'" + b"\\x41" * 10**6 * 4 + b"'\n" + END,
    "texts that quote themselves": lambda: START + b"".join(b"S" + repr("\\" * 2**k).encode() + b"\n" for k in range(22)) + END,
    "a text longer than the file": lambda: START + b"X" + struct.pack("<I", 2**32 - 1) + b"a" + END,
    "bytes longer than any file": lambda: START + b"\x8e" + struct.pack("<Q", 2**63) + END,
    "keys whose hashes collide": lambda: (
        START + b"}(" + b"".join(numbers(iter([COLLIDING * i])) + b"N" for i in range(1, 50_000)) + b"u" + END
    ),
    "tuples whose hashes collide": lambda: (
        START + b"}(" + b"".join(numbers(iter([COLLIDING * i])) + b"\x85N" for i in range(1, 50_000)) + b"u" + END
    ),
    "a key that is a tree of tuples": lambda: START + b"}N" + b"2\x86" * 60 + b"Ns" + END,
    "a tree of tuples": lambda: doubled(b"2\x86", 10**5),
    "a tree of dicts": lambda: (
        START
        + b"}"
        + b"q\0"
        + b"".join(b"}(X\1\0\0\0ah" + bytes([k]) + b"X\1\0\0\0bh" + bytes([k]) + b"uq" + bytes([k + 1]) for k in range(250))
        + END
    ),
    "a chain of 10^6 lists": lambda: START + b"]" + b"]" * 10**5 + b"a" * 10**5 + END,
    "a dict in itself": lambda: START + b"}q\0X\1\0\0\0ah\0s" + END,
    "a path of a million letters": lambda: (
        START + b"}q\1" + text("a" * 10**6) + put(2) + b"0" + b"".join(b"}q\1" + get(2) + b"h\1s" for _ in range(100)) + END
    ),
    "no end": lambda: START + b"}",
    "only an end": lambda: START + END,
    "an unknown instruction": lambda: START + b"\xff" + END,
    "a name with escapes": lambda: START + b"}" + text("\x1b[31m\x9b2J\u202e") + b"c\x1b[31mx\nFoo\n)Rs" + END,
    "tensors named by paths": lambda: storage_pickle(key="../../../../outside/secret"),
    "a tensor of 2^60 elements": lambda: storage_pickle(size="(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", stride="(K\0K\0t"),
    "a tensor before its data": lambda: storage_pickle(offset="J\xff\xff\xff\xff"),
    "a tensor of negative strides": lambda: storage_pickle(stride="(J\xff\xff\xff\xffK\1t"),
    "a storage of 2^59 elements": lambda: storage_pickle(count="\x8a\x08\0\0\0\0\0\0\0\x08"),
    "a storage of an unknown type": lambda: storage_pickle().replace(b"FloatStorage", b"QUInt4Storage"),
}


def write_checkpoints(folder: Path) -> list[Path]:
    """The files, each of them as a zip file; some also in the format of before torch 1.6 and as TorchScript."""
    folder.mkdir(parents=True)
    floats = {"data/0": bytes(24)}
    made = [zip_file(folder / f"{name}.pth", pickled(), floats, zipfile.ZIP_DEFLATED) for name, pickled in PICKLES.items()]
    for name in ("runs a command", "copies bytes", "keys whose hashes collide", "a dict in itself", "a storage of 2^59 elements"):
        pickled = PICKLES[name]()
        if len(pickled) < 10**7:
            made.append(legacy_file(folder / f"{name}, legacy.pth", pickled))
        made.append(script_file(folder / f"{name}, script.pt", pickled))
    whole = zip_file(folder / "base.zip", storage_pickle(), floats).read_bytes()
    (folder / "base.zip").unlink()
    for name, content in {
        "a zip file cut in half.pth": whole[: len(whole) // 2],
        "a zip file without its directory.pth": whole[:-60],
        "a zip file of another.pth": b"PK\3\4" + bytes(100),
        "a record of 2^32 bytes.pth": whole.replace(struct.pack("<II", 24, 24), struct.pack("<II", 24, 2**32 - 2)),
        "a web page.pth": b"<!DOCTYPE html><html>404</html>",
        "a pointer of git-lfs.safetensors": b"version https://git-lfs.github.com/spec/v1\n",
        "nothing.ckpt": b"",
        "noise.pt": bytes(range(256)) * 40,
        "gzip.pth": b"\x1f\x8b" + bytes(100),
        "a part_ab": b"\x82\x11" + bytes(1000),
        "a header of lists.safetensors": struct.pack("<Q", 10**6) + (b'{"a":[' + b"[]," * 333_330)[: 10**6],
        "a header of 10^18 bytes.safetensors": struct.pack("<Q", 10**18) + b"{}",
    }.items():
        (folder / name).write_bytes(content)
        made.append(folder / name)
    os.mkfifo(folder / "a pipe.pth")
    (folder / "a device.pth").symlink_to("/dev/zero")
    (folder / "a link in a circle.pth").symlink_to("a link in a circle.pth")
    return [*made, *(folder / f"{name}.pth" for name in ("a pipe", "a device", "a link in a circle"))]
