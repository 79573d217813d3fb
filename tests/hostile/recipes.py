"""Recipes, datasets and run folders that want to harm who trains with them."""

import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from tessera.part_folder import save_part
from tessera.registry import CODECS, build
from tests.hostile.folders import ESCAPES
from tests.hostile.pickles import Runs
from tests.training.tiny import CODEC, FLOW

__all__ = ["write_datasets", "write_parts", "write_recipes", "write_runs"]

RECIPE: dict[str, Any] = CODEC | {"steps": 1, "batch_size": 2, "out": "run"}
BOMB = "&b0 [x,x,x,x,x,x,x,x,x]"
for level in range(1, 11):
    BOMB = f"&b{level} [{BOMB}{f',*b{level - 1}' * 8}]"

VALUES: dict[str, dict[str, Any]] = {
    "10^5 workers": {"workers": 10**5},
    "10^5 workers as a float": {"workers": 1e5},
    "batches of 10^12": {"batch_size": 10**12},
    "batches of 0": {"batch_size": 0},
    "steps of 10^30": {"steps": 10**30},
    "steps are text": {"steps": "one"},
    "steps are NaN": {"steps": float("nan")},
    "a task by path": {"task": "../../x"},
    "an unknown key": {"__class__": 1},
    "data of an unknown kind": {"data": {"kind": "os.system"}},
    "data with an unknown argument": {"data": {"kind": "scenes", "splitt": "train"}},
    "data without a kind": {"data": {"length": 24}},
    "data of negative length": {"data": {"kind": "scenes", "length": -1}},
    "data of size 10^9": {"data": {"kind": "folder", "root": "/etc", "size": 10**9}},
    "data is a list": {"data": [1]},
    "data with a root of NUL": {"data": {"kind": "folder", "root": "a\0b", "size": 64}},
    "data with a root of 5000 letters": {"data": {"kind": "folder", "root": "a" * 5000, "size": 64}},
    "data with a root that is not there": {"data": {"kind": "folder", "root": ESCAPES, "size": 64}},
    "codec of 10^12 classes": {"codec": {"kind": "patch", "classes": 10**12, "factor": 16, "dim": 24}},
    "codec of half a class": {"codec": {"kind": "patch", "classes": 1.5, "factor": 16, "dim": 24}},
    "codec of dim 10^10": {"codec": {"kind": "patch", "classes": 48, "factor": 16, "dim": 10**10}},
    "codec that is an address": {"codec": "https://attacker.example/codec"},
    "codec that is a device": {"codec": "/dev/zero"},
    "optimizer of another kind": {"optimizer": {"kind": "os.system", "rate": 1.0}},
    "optimizer of infinite rate": {"optimizer": {"rate": float("inf")}},
    "precision of another kind": {"precision": "int8"},
    "checkpoints every 0 steps": {"checkpoint": {"every": 0}},
    "tracker of another kind": {"tracker": "os.system"},
    "out is a device": {"out": "/dev/null"},
    "out is below a file": {"out": ".out/run"},
    "out is NUL": {"out": "a\0b"},
    "panel is a number": {"panel": 5},
    "network of depth 10^9": FLOW
    | {"steps": 1, "model": {**FLOW["model"], "network": {"kind": "vq-diffusion", "width": 24, "depth": 10**9, "heads": 2}}},
    "network of width 10^9": FLOW
    | {"steps": 1, "model": {**FLOW["model"], "network": {"kind": "vq-diffusion", "width": 10**9, "depth": 1, "heads": 1}}},
    "words of 10^9 length": FLOW | {"steps": 1, "model": {**FLOW["model"], "context": {**FLOW["model"]["context"], "length": 10**9}}},
    "process of 10^9 steps": FLOW | {"steps": 1, "model": {**FLOW["model"], "process": {"kind": "vq-diffusion", "steps": 10**9}}},
    "process of -1 steps": FLOW | {"steps": 1, "model": {**FLOW["model"], "process": {"kind": "vq-diffusion", "steps": -1}}},
}
TEXTS: dict[str, bytes] = {
    "aliases that multiply": f"steps: {BOMB}\n".encode(),
    "aliases that multiply in data": yaml.safe_dump(RECIPE | {"data": "HERE"})
    .replace("HERE", f"{{kind: shards, root: x, where: {{a: {BOMB}}}}}")
    .encode(),
    "merge keys that multiply": "".join(
        f"k{i}: &k{i} {{<<: [{','.join(f'*k{i - 1}' for _ in range(9 if i else 0))}], a{i}: 1}}\n" for i in range(12)
    ).encode(),
    "an alias of itself": b"data: &a [*a]\n",
    "a key of itself": b"&a ? *a\n",
    "tags that run": b"steps: !!python/object/apply:os.system ['touch ran']\n",
    "tags that name": b"steps: !!python/name:os.system\n",
    "a binary that is none": b"steps: !!binary '%%%'\n",
    "a time that is none": b"steps: 2001-99-99\n",
    "a set": b"steps: !!set {a, b}\n",
    "an integer of 10^5 digits": b"steps: " + b"9" * 10**5 + b"\n",
    "an integer of base 60": b"steps: " + b"1:" * 5000 + b"1\n",
    "deep lists": b"steps: " + b"[" * 50000 + b"\n",
    "deep maps": b"steps: " + b"{a: " * 5000 + b"1" + b"}" * 5000 + b"\n",
    "deep blocks": b"".join(b" " * i + b"- \n" for i in range(2000)),
    "a key twice": b"steps: 1\nsteps: 2\n",
    "a key that is a list": b"? [1, 2]\n: 3\n",
    "not UTF-8": b"steps: \xff\xfe\n",
    "UTF-16": "steps: 1\n".encode("utf-16"),
    "control characters": b"steps: \x1b[31m\x07\n",
    "empty": b"",
    "a number alone": b"5\n",
    "two documents": b"steps: 1\n---\nsteps: 2\n",
    "tabs": b"steps:\n\t- 1\n",
}


def write_recipes(folder: Path) -> list[Path]:
    """Recipes, each of which is wrong by itself."""
    folder.mkdir(parents=True)
    texts = {name: yaml.safe_dump(RECIPE | changes).encode() for name, changes in VALUES.items()} | TEXTS
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_bytes(text)
    os.mkfifo(folder / "a pipe.yaml")
    (folder / "a device.yaml").symlink_to("/dev/zero")
    (folder / "large.yaml").write_bytes(b"#")
    os.truncate(folder / "large.yaml", 10**9)
    return [folder / f"{name}.yaml" for name in [*texts, "a pipe", "a device", "large"]]


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "png")
    return content.getvalue()


def archive(*members: tuple[str, bytes, dict[str, Any]]) -> bytes:
    """A tar of members, each with further fields of its header."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, data, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in fields.items():
                setattr(member, key, value)
            file.addfile(member, io.BytesIO(data))
    return content.getvalue()


def header(name: bytes, size: bytes, kind: bytes) -> bytes:
    """One block of a tar, as it may not be."""
    block = bytearray(512)
    block[: len(name)], block[124:136], block[156:157], block[257:265] = name, size.ljust(12, b"\0"), kind, b"ustar\00000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def write_table(path: Path, rows: int, number: float | None) -> None:
    """A table of few bytes: a column of one number again and again, or one text of 400 MB of one letter."""
    import pyarrow
    from pyarrow import parquet

    keys = pyarrow.repeat("a", rows) if number is not None else pyarrow.array(["a" * 400 * 10**6])
    parquet.write_table(pyarrow.table({"key": keys, "similarity": pyarrow.repeat(number or 0.0, rows)}), path, compression="zstd")


LINK = {"type": tarfile.SYMTYPE}
ARCHIVES: dict[str, Callable[[Path], bytes]] = {
    "a tar of links to a secret": lambda outside: archive(("a.png", b"", LINK | {"linkname": str(outside / "secret.png")})),
    "a tar of hard links above": lambda outside: archive(("a.png", b"", {"type": tarfile.LNKTYPE, "linkname": "../../outside/secret.png"})),
    "a tar of devices": lambda _: archive(("a.png", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})),
    "a tar of pipes": lambda _: archive(("a.png", b"", {"type": tarfile.FIFOTYPE})),
    "a tar with a name of 2 GB": lambda _: header(b"././@LongLink", b"%o" % 2**31, b"L") + bytes(1024),
    "a tar with a header of 2 GB": lambda _: header(b"x", b"%o" % 2**31, b"x") + bytes(1024),
    "a tar of headers without end": lambda _: (header(b"x", b"14", b"x") + b"12 path=a.b\n".ljust(512, b"\0")) * 2000,
    "a tar of global headers": lambda _: (header(b"g", b"14", b"g") + b"12 path=a.b\n".ljust(512, b"\0")) * 2000,
    "a tar with a size of base 256": lambda _: header(b"a.png", b"\x80" + b"\xff" * 11, b"0") + bytes(1024),
    "a tar with a negative size": lambda _: header(b"a.png", b"\xff" * 12, b"0") + bytes(1024),
    "a tar with sparse members": lambda _: archive(
        (
            "a.png",
            b"1\n0\n512\n".ljust(512, b"\0"),
            {
                "pax_headers": {
                    "GNU.sparse.major": "1",
                    "GNU.sparse.minor": "0",
                    "GNU.sparse.name": "b.png",
                    "GNU.sparse.realsize": str(10**12),
                }
            },
        )
    ),
    "a tar with a pax size that lies": lambda _: archive(("a.png", b"x", {"pax_headers": {"size": "9" * 30}})),
    "a tar with a pax record in a loop": lambda _: (
        header(b"x", b"2", b"x") + b"0 ".ljust(512, b"\0") + header(b"a.png", b"0", b"0") + bytes(1024)
    ),
    "a tar of a caption of 40 MB": lambda _: archive(("a.png", picture(), {}), ("a.txt", b"a " * 20 * 10**6, {})),
    "a tar of deep JSON": lambda _: archive(("a.png", picture(), {}), ("a.json", b"[" * 10**6, {})),
    "a tar of nothing": lambda _: b"",
    "a tar of zeros": lambda _: bytes(10240),
    "a tar of noise": lambda _: bytes(range(256)) * 40,
}


PARTS: dict[str, Any] = {
    "a codec of 10^12 classes": {"classes": 10**12},
    "a codec of dim 10^9": {"dim": 10**9},
    "a codec of factor 0": {"factor": 0},
    "a codec of another kind": {"kind": "../../x"},
    "a codec whose kind is a list": {"kind": ["patch"]},
    "a codec with an unknown argument": {"__class__": "x"},
    "a codec of more classes than weights": {"classes": 49},
    "a codec that is deep": {"decay": json.loads("[" * 400 + "]" * 400)},
    "a text codec for pictures": {"kind": "text-vae"},
}


def write_parts(folder: Path) -> list[Path]:
    """Folders of codecs that lie."""
    whole = folder.parent / "whole-codec"
    save_part(build("codec", CODECS, CODEC["codec"]), whole)
    made = []

    def new(name: str) -> Path:
        made.append(folder / name)
        shutil.copytree(whole, made[-1])
        return made[-1]

    for name, changes in PARTS.items():
        path = new(name) / "part.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    for name, content in {"is deep": b"[" * 10**5, "is a list": b"[1]", "is cut": b'{"kind": "pa', "is empty": b""}.items():
        (new(f"a codec whose description {name}") / "part.json").write_bytes(content)
    for name, content in {"zeros": bytes(1000), "empty": b"", "a header of 2^63 bytes": b"\xff" * 7 + b"\x7f" + bytes(100)}.items():
        (new(f"a codec whose weights are {name}") / "part.safetensors").write_bytes(content)
    place = new("a codec whose weights are a pipe")
    (place / "part.safetensors").unlink()
    os.mkfifo(place / "part.safetensors")
    return made


def write_datasets(folder: Path, outside: Path) -> list[Path]:
    """Recipes whose data are the danger."""
    (folder / "data").mkdir(parents=True)
    made = []

    def new(name: str, data: dict[str, Any]) -> None:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(RECIPE | {"data": data}))
        made.append(path)

    def place(name: str) -> Path:
        (folder / "data" / name).mkdir()
        return folder / "data" / name

    for name, content in ARCHIVES.items():
        here = place(name)
        (here / "0.tar").write_bytes(content(outside))
        captions = {"captions": "caption"} if "JSON" in name else {}
        new(name, {"kind": "shards", "root": str(here), "size": 64, **captions})
    here = place("a folder of pipes and devices")
    os.mkfifo(here / "a.png")
    (here / "b.png").symlink_to("/dev/zero")
    (here / "c.png").symlink_to("c.png")
    os.mkfifo(here / "captions.jsonl")
    new(here.name, {"kind": "folder", "root": str(here), "size": 64})
    here = place("a folder that is a circle")
    (here / "again").symlink_to(here)
    new(here.name, {"kind": "folder", "root": str(here), "size": 64})
    new("a device for data", {"kind": "folder", "root": "/dev/zero", "size": 64})
    new("a device for an archive", {"kind": "shards", "root": "/dev/zero", "size": 64})
    lists = {
        "a list that is deep": ("list.jsonl", b"[" * 10**5 + b"\n"),
        "a list that names a secret": ("list.jsonl", json.dumps({"file": str(outside / "secret.txt"), "caption": "a"}).encode() + b"\n"),
        "a list of numbers of 10^5 digits": ("list.jsonl", b'{"file": "a.png", "caption": ' + b"1" * 10**5 + b"}\n"),
        "a list with a cell of 10^6 letters": ("list.csv", b"file,caption\na.png," + b"x" * 10**6 + b"\n"),
        "a list with an open quote": ("list.csv", b'file,caption\na.png,"' + b"x,\n" * 10**5),
        "a list of NUL bytes": ("list.csv", bytes(10**5)),
    }
    for name, (file, content) in lists.items():
        here = place(name)
        (here / file).write_bytes(content)
        new(name, {"kind": "folder", "root": str(here), "list": file, "size": 64})
    here = place("COCO that is deep")
    (here / "annotations").mkdir()
    (here / "annotations" / "captions_train2014.json").write_bytes(b"[" * 10**5)
    new(here.name, {"kind": "coco", "root": str(here), "size": 64})
    for name, (rows, ratio) in {"a table of 3 million rows": (3 * 10**6, 0.5), "a table of a text of 400 MB": (1, None)}.items():
        here = place(name)
        (here / "0.tar").write_bytes(archive(("a.png", picture(), {}), ("a.txt", b"a circle", {}), ("a.json", b"{}", {})))
        write_table(here / "0.parquet", rows, ratio)
        new(name, {"kind": "shards", "root": str(here), "size": 64, "where": {"similarity": [0.1, None]}})
    here = place("a damaged database")
    (here / "data.mdb").write_bytes(bytes(4096) + b"\xff" * 4096)
    new(here.name, {"kind": "lsun", "root": str(here), "size": 64})
    here = place("a database that is a pipe")
    os.mkfifo(here / "data.mdb")
    new(here.name, {"kind": "lsun", "root": str(here), "size": 64})
    return made


POINTERS = [
    "[]",
    "{}",
    '{"file": 5}',
    '{"file": "../../../../../etc/passwd"}',
    "",
    "nul\0",
    "[" * 10**5,
    '{"file": "a\\u0000b"}',
    '{"file": "."}',
]
STATES: dict[str, Any] = {
    "runs code": lambda state: {"step": 1, "model": Runs(os.system, "touch ran")},
    "is a list": lambda state: [1],
    "holds nothing": lambda state: {},
    "of a negative step": lambda state: state | {"step": -5},
    "of a step of text": lambda state: state | {"step": "x"},
    "of step 10^12": lambda state: state | {"step": 10**12},
    "without a recipe": lambda state: state | {"recipe": {}},
    "with a recipe of numbers": lambda state: state | {"recipe": {"task": 5}},
    "without weights": lambda state: state | {"model": {}},
    "with weights of another shape": lambda state: state | {"model": {name: torch.zeros(3, 3) for name in state["model"]}},
    "with weights of text": lambda state: state | {"model": dict.fromkeys(state["model"], "x")},
    "without optimizers": lambda state: state | {"optimizers": []},
    "with empty optimizers": lambda state: state | {"optimizers": [{}]},
    "with an empty schedule": lambda state: state | {"schedule": {}},
    "with pending numbers": lambda state: state | {"pending": [5]},
    "with seconds of text": lambda state: state | {"seconds": "x"},
}


def write_runs(folder: Path, whole: Path) -> list[tuple[Path, Path]]:
    """Copies of a run (`whole`, a run folder of `RECIPE`), damaged, each with the recipe that goes on with it."""
    folder.mkdir(parents=True)
    made = []

    def new(name: str) -> Path:
        run = folder / name
        shutil.copytree(whole, run)
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(RECIPE | {"out": str(run), "steps": 3}))
        made.append((recipe, run))
        return run

    for number, text in enumerate(POINTERS):
        (new(f"pointer {number}") / "checkpoints" / "latest.json").write_text(text)
    for name, change in STATES.items():
        for path in (new(f"a checkpoint {name}") / "checkpoints").glob("*.pt"):
            torch.save(change(torch.load(path, weights_only=True)), path, pickle_module=pickle)
    for name, content in {"cut": b"PK", "empty": b"", "deep": b"\x80\x02" + b"]" * 10**6}.items():
        for path in (new(f"checkpoints that are {name}") / "checkpoints").glob("*.pt"):
            path.write_bytes(content)
    for name, content in {
        "empty": b"", "open": b"{", "a list": b"[]\n", "no UTF-8": b"\xff\xfe\n", "deep": b"[" * 10**5 + b"\n", "a number": b"5\n",
        "without steps": b'{"kind":"train"}\n', "with a step of text": b'{"kind":"train","step":"x"}\n',
    }.items():  # fmt: skip
        (new(f"metrics that are {name}") / "metrics.jsonl").write_bytes(content)
    for name in ("metrics.jsonl", "recipe.yaml", "run.lock"):
        path = new(f"{name} that is a folder") / name
        path.unlink(missing_ok=True)
        path.mkdir()
    for name in ("model", "checkpoints"):
        run = new(f"{name} that is a file")
        shutil.rmtree(run / name)
        (run / name).write_text("x")
    for name in ("metrics.jsonl", "skipped-0.txt", "checkpoints/latest.json", "checkpoints/step-00000002.pt"):
        path = new(f"{Path(name).name} that is a pipe") / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    return made
