"""Seeded nonsense: command lines, recipes, prompts and HTTP bodies, made of what the doors are known to look at."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.hostile.cases import TOGETHER, Case
from tests.hostile.folders import ESCAPES
from tests.hostile.pictures import RECORD
from tests.hostile.recipes import RECIPE
from tests.tiny import tiny_model
from tests.tiny_floats import tiny_float_model
from tests.training.tiny import FLOW

__all__ = ["fuzzed", "request_bodies"]

WORDS = [
    "a",
    "red",
    "circle",
    "above",
    "blue",
    "|",
    ":",
    ":2",
    ":nan",
    ":1e400",
    "10:30",
    "p.png",
    "p.png:0.5",
    "",
    " ",
    "\n",
    "-1",
    "'",
    '"',
    "{}",
    "%s%n",
]
LETTERS = [
    "é",
    "漢",
    "🦊",
    "\u200b",
    "\u202e",
    "\u2028",
    "\x07",
    "\x1b[31m",
    "a" * 3000,
    "\ufeff",
    "İ",
    "ß",
    "\x85",
    "e\u0301" * 200,
    "\udce9",
]
NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "1.5",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "1_0",
    "0x10",
    "9" * 20,
    "-" + "9" * 20,
    str(2**63 - 1),
    "1" * 5000,
    "",
    "one",
]
OPTIONS: dict[str, list[str]] = {
    "--steps": ["0", "1", "2", "-1", "1.5", "nan", "9" * 20, "one", ""],
    "--seed": NUMBERS,
    "--guidance": NUMBERS,
    "--temperature": NUMBERS,
    "--truncation": NUMBERS,
    "--strength": NUMBERS,
    "-n": ["0", "1", "2", "-1", "1.5", "", "9" * 20, "one"],
    "--batch-size": ["0", "1", "-1", "9" * 20, "x"],
    "--size": ["32x32", "0x0", "-8x8", "8", "x", "8x8x8", "99999999999999999999x8", "1_6x16", "nanxnan", "", "16X16"],
    "--sampler": ["ancestral", "plms", "plms:eta=nan", "purity:weight=x", "x", "", "../x", "ancestral:", "confidence:=", ESCAPES],
    "--precision": ["float32", "x", ""],
    "--device": ["cpu", "meta", "", "cuda:99", ESCAPES],
    "--spacing": ["cosine", "x", ""],
    "--init": ["p.png", "none.png", "rec.png", "a" * 300, ".", "/dev/zero", "odd.png"],
    "--from": ["rec.png", "p.png", "none", ".", "odd.png"],
    "--prompts": ["text.txt", "none", "odd.png", ".", "/dev/zero"],
    "--sheet": [],
    "--json": [],
    "--overwrite": [],
    "--x": [],
    "--": [],
    "--model": ["tiny", "tiny-v", "none", ".", "a/b/c", "odd.png", "a" * 300, "", ESCAPES],
}
COMMANDS: dict[str, list[str]] = {
    "generate": ["--model", "tiny", "--steps", "1", "-o", "out"],
    "inpaint": ["p.png", "--mask", "p.png", "--model", "tiny", "--steps", "1", "-o", "out"],
    "extend": ["p.png", "--model", "tiny", "--steps", "1", "--size", "64x32", "-o", "out"],
    "info": [],
    "convert": ["-o", "out"],
    "models": [],
    "train": [],
    "": [],
    "x": [],
    "--version": [],
    "vary": ["p.png", "--steps", "1", "--model", "tiny", "-o", "out"],
    "blend": ["p.png", "--model", "tiny", "--steps", "1", "-o", "out"],
    "caption": ["p.png", "--model", "tiny", "--steps", "1"],
    "rewrite": ["--model", "tiny", "--steps", "1"],
    "verify": ["tiny", "--steps", "1"],
}
"""Each with what keeps it quick: small models and one step, unless an option that follows says otherwise."""
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, 1.5, -2.5, 10**12, -(10**12), 2**64, 1e308, float("nan"), float("inf"), "", "x", "1", "null",
    "a\0b", "../../x", "/dev/zero", "https://attacker.example/x",
    ESCAPES, "a" * 300, [], {}, [1], [[[]]], {"kind": "x"}, {"a": None}, ["x"] * 3,
]  # fmt: skip
FIXED = {"steps", "epochs", "out", "workers", "batch_size", "compile", "tracker", "visdom_server", "length"}
"""Keys that are left alone: whatever is right for them only takes longer."""


def prompt(rng: random.Random) -> str:
    return rng.choice(["", " ", "|"]).join(rng.choice(WORDS if rng.random() < 0.7 else LETTERS) for _ in range(rng.randint(0, 5)))


def command_line(rng: random.Random) -> list[str]:
    name = rng.choice(list(COMMANDS))
    line = [name, *COMMANDS[name]] if rng.random() < 0.9 else [name]
    for _ in range(rng.randint(0, 3)):
        if rng.random() < 0.6:
            option = rng.choice(list(OPTIONS))
            values = OPTIONS[option]
            line += [option, rng.choice(values)] if values and rng.random() < 0.9 else [option]
        else:
            line.append(rng.choice([*WORDS, *LETTERS, *NUMBERS, "tiny", "p.png", "rec.png", "odd.png", ".", "none"]))
    return line


def recipe(rng: random.Random) -> dict[str, Any]:
    """One of the tiny recipes with up to three other values."""
    changed = copy.deepcopy(rng.choice([RECIPE, FLOW | {"steps": 1, "batch_size": 2, "out": "run"}]))
    for _ in range(rng.randint(1, 3)):
        at: Any = changed
        while True:
            keys = [key for key in at if key not in FIXED]
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(at[key], dict) and at[key] and rng.random() < 0.7:
                at = at[key]
                continue
            chance = rng.random()
            if chance < 0.1:
                del at[key]
            elif chance < 0.25:
                at[f"{key}{rng.choice(['s', 'x', ' ', '-'])}"] = at[key]
            else:
                at[key] = rng.choice(VALUES)
            break
    return changed


def fuzzed(folder: Path, count: int, seed: int) -> list[Case]:
    """`count` command lines, recipes and prompts as cases; a number of them share a process and a room."""
    rng = random.Random(seed)
    parts = {"tiny": tiny_model(), "tiny-v": tiny_float_model()}
    for name, model in parts.items():
        model.save(folder / "whole" / name)
    cases = []
    for number in range(count):
        room = folder / "rooms" / str(number // (4 * TOGETHER))
        if not room.exists():
            furnish(room, folder / "whole")
        kind = rng.choice(["command", "recipe", "prompt"])
        if kind == "command":
            line = command_line(rng)
        elif kind == "recipe":
            path = room / f"{number}.yaml"
            path.write_text(yaml.safe_dump(recipe(rng), allow_unicode=False))
            line = ["train", path.name, f"out=run-{number}", "device=cpu"]
        else:
            line = ["generate", "--model", rng.choice(list(parts)), "--steps", "1", "-o", "out", "--", prompt(rng)]
        if any("\0" in word for word in line):  # which no command line can hold
            line = [word.replace("\0", "0") for word in line]
        cases.append(Case(f"{kind} {number} of seed {seed}", [line], room, [False]))
    return cases


def furnish(room: Path, whole: Path) -> None:
    """What command lines may name."""
    room.mkdir(parents=True)
    for model in whole.iterdir():
        (room / model.name).symlink_to(model)
    picture = Image.new("RGB", (32, 32), "red")
    picture.save(room / "p.png")
    from tessera.record import save_png

    save_png(RECORD.attach(picture), room / "rec.png")
    (room / "odd.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    (room / "text.txt").write_bytes(b"a red circle\r\n\xff\xfe\n\n")


def request_bodies(count: int, seed: int) -> Iterator[bytes]:
    """Bodies for `POST /v1/images/generations`: one picture of one step where they are right."""
    rng = random.Random(seed)
    values = [*VALUES, *NUMBERS, 10**400, -0.0, "9" * 400, {"prompt": "a"}, "32x32", "\ud800"]
    right = {
        "prompt": ["a red circle"], "model": ["tiny"], "n": [1], "size": ["32x32", "auto", None], "seed": [0, 7], "steps": [1],
        "response_format": ["b64_json", "url", None], "guidance": [1.0, 2], "sampler": ["ancestral", None],
        "truncation": [0.9, 5, None], "temperature": [1.0, 0.5],
    }  # fmt: skip
    for _ in range(count):
        body: dict[str, Any] = {
            key: rng.choice(choices) for key, choices in right.items() if key in ("prompt", "steps", "model") or rng.random() < 0.3
        }
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            key = rng.choice([*right, "user", "quality", "stream"])
            body[key] = (
                prompt(rng) if rng.random() < 0.2 else rng.choice([value for value in values if not (key == "steps" and value == 3)])
            )
        text = json.dumps(body).encode()
        chance = rng.random()
        if chance < 0.05:
            text = b"[" * rng.choice([10, 10**5])
        elif chance < 0.1:
            place = rng.randrange(len(text))
            text = text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :]
        elif chance < 0.15:
            text = text[: rng.randrange(len(text))]
        yield text
