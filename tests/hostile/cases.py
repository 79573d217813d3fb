"""All hostile inputs with the commands that each of them is given to, and what is wrong with what these did."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from tests.hostile.folders import HARMLESS, SECRET, UNUSED, write_folders
from tests.hostile.pickles import write_checkpoints
from tests.hostile.pictures import write_pictures
from tests.hostile.pipelines import write_pipelines
from tests.hostile.recipes import RECIPE, write_datasets, write_parts, write_recipes, write_runs
from tests.training.tiny import FLOW

__all__ = ["Case", "faults", "make_outside", "observed", "written"]

TOGETHER = 8
"""Cases that follow each other in one process: starting it costs more than most of them do."""
ROOT = Path(__file__).parents[2]
CONTROL = {chr(code) for code in [*range(32), *range(127, 160), 0x202E, 0x2066] if chr(code) not in "\n\t"}
TELLS = ("Traceback", "internal error", "out of memory", SECRET, "environment-secret", "root:x:")


class Case(NamedTuple):
    """Commands on a hostile input.

    refused: for each of them, whether only a refusal is right, exit code 1 or 2 with one sentence. Otherwise the input may also be harmless
    to this command: what `info` does not look at, what a damaged run goes on without.
    """

    name: str
    commands: list[list[str]]
    room: Path
    refused: list[bool]


def make_outside(folder: Path) -> Path:
    """A folder beside everything that holds what no command may read."""
    outside = folder / "outside"
    outside.mkdir(parents=True)
    (outside / "secret.txt").write_text(f"{SECRET}\n")
    Image.new("RGB", (64, 64), "red").save(outside / "secret.png")
    (outside / "secret.safetensors").write_bytes(SECRET.encode())
    return outside


def written(folder: Path) -> list[Case]:
    """Writes all inputs into `folder`, and says what is to be done with them."""
    outside = make_outside(folder)
    cases = []

    def add(place: Path, *commands: tuple[list[str], bool]) -> None:
        lines, refused = map(list, zip(*commands, strict=True))
        cases.append(Case(place.name, lines, folder / "rooms" / str(len(cases) // TOGETHER), refused))

    for place in write_folders(folder / "models", outside):
        path, bad, out = str(place), place.name not in HARMLESS, f"out-{len(cases)}"
        drawn = ["generate", "a red circle", "--model", path, "-o", "pictures", "--steps", "1"]
        add(
            place,
            (["info", path], False),
            (["convert", path, "-o", out], bad),
            (["load", path], bad),
            (drawn, bad and place.name not in UNUSED),
        )
    for place in write_pipelines(folder / "pipelines", outside):
        path = str(place)
        add(place, (["info", path], False), (["convert", path, "-o", f"out-{len(cases)}"], True), (["load", path], True))
    for place in write_checkpoints(folder / "files"):
        path, out = str(place), f"out-{len(cases)}"
        add(place, (["info", path], False), (["convert", path, "-o", out], True), (["load", path], True))
    for place in write_pictures(folder / "pictures"):
        add(place, (["info", str(place)], False), (["generate", "--from", str(place), "-o", "out", "--steps", "1"], False))
    for place in [*write_recipes(folder / "recipes"), *write_datasets(folder / "datasets", outside)]:
        add(place, (["train", str(place)], True))
    for place in write_parts(folder / "parts"):
        path, recipe = str(place), folder / "recipes" / f"{place.name}.yaml"
        recipe.write_text(yaml.safe_dump(FLOW | {"codec": path, "steps": 1, "out": "run"}))
        measured = ["evaluate", "reconstruction", path, "data:scenes,split=held-out", "-n", "2"]
        add(place, (["info", path], False), (["train", str(recipe)], True), (measured, True))
    for name in ("models", "files"):
        add(folder / name, (["shelf", str(folder / name)], False))
    return cases


def damaged_runs(folder: Path) -> list[Case]:
    """Run folders that something happened to. The run that they are copies of is trained here."""
    from tessera.training.run import train

    folder.mkdir(parents=True)
    recipe = folder / "whole.yaml"
    changes = {"steps": 2, "out": str(folder / "whole"), "checkpoint": {"every": 1, "minutes": None}}
    recipe.write_text(yaml.safe_dump(RECIPE | changes))
    train(recipe)
    return [Case(path.name, [["train", str(path)]], folder / "runs", [False]) for path, _ in write_runs(folder / "runs", folder / "whole")]


def observed(cases: Sequence[Case], folder: Path) -> Iterator[tuple[Case, int, dict[str, Any]]]:
    """Runs the commands of all cases; gives each report with its case and the number of the command."""
    jobs, reports = folder / "jobs.json", folder / "reports.jsonl"
    batches = [list(batch) for _, batch in groupby(cases, lambda one: one.room)]
    given = [{"commands": [line for case in batch for line in case.commands], "room": str(batch[0].room)} for batch in batches]
    jobs.write_text(json.dumps({"outside": str(folder / "outside"), "jobs": given}))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    subprocess.run([sys.executable, "-m", "tests.hostile.running", str(jobs), str(reports)], env=environment, cwd=ROOT, check=True)
    told = (json.loads(line) for line in reports.read_text().splitlines())
    for batch in batches:
        for case, number in [(one, number) for one in batch for number in range(len(one.commands))]:
            report = next(told)
            yield case, number, report
            if not isinstance(report["code"], int):  # the process has ended: what comes after it was not run
                break


def faults(report: dict[str, Any], refused: bool) -> list[str]:
    """What is wrong with what a command did."""
    text, lines = report["out"] + report["err"], report["err"].splitlines()
    sentences = [line for line in lines if line.startswith("tessera: ")]
    found = []
    if report["code"] not in ((1, 2) if refused else (0, 1, 2)):
        found.append(f"ended with {report['code']}")
    if report["code"] in (1, 2) and (len(sentences) != 1 or lines[-1] != sentences[0]):
        found.append("no one sentence at the end")
    found += [f"says {tell!r}" for tell in TELLS if tell in text]
    if CONTROL & set(text):
        found.append("shows control characters")
    if len(report["err"]) > 4000:
        found.append("says too much")
    found += report["notes"].splitlines()
    return found
