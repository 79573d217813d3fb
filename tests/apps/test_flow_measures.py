"""`tessera evaluate versatile`, and `evaluate scenes` of models of several flows, as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tessera.data.scenes import Scene, Thing, render
from tessera.part_folder import save_part
from tests.apps.conftest import Run
from tests.tiny_floats import tiny_clip
from tests.tiny_versatile import tiny_versatile

DATA = "data:scenes,split=held-out,seed=1000"
FLOWS = ["text_to_image", "image_to_image", "image_to_text", "text_to_text"]
LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    # `--multi_gpu` is how accelerate starts processes by itself, on the CPU where there is no GPU.
    "accelerate": (
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--main_process_port=0"),
        *("--mixed_precision=no", "--dynamo_backend=no"),
    ),
}


@pytest.fixture(scope="session")
def versatile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model of four flows."""
    return tiny_versatile().save(tmp_path_factory.mktemp("models") / "four")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_measure_and_make_what_one_does(launcher: str, run: Run, versatile: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "versatile", "--model", versatile, "--data", DATA, "-n", 5, "--steps", 2, "--seed", 3, "--device", "cpu"]
    alone = run(*arguments, "--batch-size", 4, "--keep", tmp_path / "one", "--json")
    assert alone.code == 0, alone.err
    both = subprocess.run(
        [
            *(sys.executable, *LAUNCHERS[launcher], "-m", "tessera", *map(str, arguments)),
            *("--batch-size", "2", "--keep", str(tmp_path / "two"), "-o", str(tmp_path / "two.json")),
        ],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("5 pairs of") == 1  # one of them speaks
    shared = json.loads((tmp_path / "two.json").read_text())
    for part in ("recipe", "samples"):
        assert shared[part] == alone.json[part]
    for name, value in alone.json["values"].items():
        assert shared["values"][name] == (None if value is None else pytest.approx(value, rel=1e-5)), name
    made = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*.*")}
    assert {str(path) for path in made} == {
        f"{flow}/{number:06}.{'txt' if flow.endswith('text') else 'png'}" for flow in FLOWS for number in range(5)
    }
    assert made == {path.relative_to(tmp_path / "two"): path.read_bytes() for path in (tmp_path / "two").rglob("*.*")}


def test_what_is_measured_of_each_flow(run: Run, versatile: Path, tmp_path: Path) -> None:
    save_part(tiny_clip(), tmp_path / "clip")
    arguments = ["--model", versatile, "--data", DATA, "-n", 3, "--steps", 1]
    report = run("evaluate", "versatile", *arguments, "--encoder", tmp_path / "clip", "--json").json
    names = {flow: {key.partition(".")[2] for key in report["values"] if key.startswith(f"{flow}.")} for flow in FLOWS}
    assert {"fid", "clip_score", "right"} <= names["text_to_image"]
    assert {"fid", "clip_similarity", "same"} <= names["image_to_image"]
    assert {"bleu", "clip_score", "right", "clauses", "understood"} <= names["image_to_text"]
    assert {"bleu", "differs", "same", "both"} <= names["text_to_text"]
    assert report["recipe"]["pairs"] == 3
    assert report["recipe"]["clip"]["sha256"]
    assert report["samples"]["settings"]["steps"] == 1
    assert report["samples"]["flows"] == FLOWS
    words = run("evaluate", "versatile", *arguments, "--flows", "text_to_text,image_to_text")
    assert words.code == 0
    assert [line.partition(":")[0] for line in words.out.splitlines()[1:]] == FLOWS[2:]


def test_reports_of_other_data_refuse_to_be_compared(run: Run, versatile: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        data = f"data:scenes,split=held-out,seed={seed}"
        run(
            *("evaluate", "versatile", "--model", versatile, "--data", data, "-n", 2, "--steps", 1),
            *("--flows", "text_to_text", "-o", tmp_path / f"{name}.json"),
        )
    assert run("evaluate", "compare", tmp_path / "a.json", tmp_path / "b.json").code == 0
    other = run("evaluate", "compare", tmp_path / "a.json", tmp_path / "c.json")
    assert other.code == 1
    assert "words_sha256 is" in other.sentence


def test_pairs_that_are_not_whole_are_reported(run: Run, versatile: Path, tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a red circle" if number else "")
    (tmp_path / "3.png").write_bytes(b"no picture")
    arguments = ["--model", versatile, "--data", f"data:folder,root={tmp_path},size=16", "--flows", "image_to_text", "--steps", 1]
    result = run("evaluate", "versatile", *arguments, "--json")
    assert result.code == 0, result.err
    assert result.json["recipe"]["pairs"] == 2
    assert "warning: 2 examples were skipped, the first because " in result.err
    assert not any(name.endswith(".right") for name in result.json["values"])  # that is for scenes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "nowhere"], "'nowhere' is no dataset of pictures with words: give data:KIND"),
        (["--data", "data:scnes"], "did you mean 'scenes'"),
        (["--data", DATA, "--flows", "text_to_imag"], "did you mean 'text_to_image'"),
        (["--data", DATA, "-n", 0], "count must be a whole number from 1"),
        (["--data", "data:scenes,length=5", "-n", 6], "has 5 examples, but 6 are needed"),
        (["--data", DATA, "--batch-size", 0], "batch_size must be"),
        (["--data", DATA, "--seed", -1], "seed must be"),
        (["--data", DATA, "-n", 1, "--flows", "text_to_image", "--steps", 1], "at least 2 pictures on each side"),
        (["--data", DATA, "--extractor", "incepton"], "did you mean 'inception'"),
        (["--data", DATA, "--sampler", "purity"], "purity"),
    ],
)
def test_bad_input_is_one_sentence(run: Run, versatile: Path, options: list[object], sentence: str) -> None:
    result = run("evaluate", "versatile", "--model", versatile, *options)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err.strip().splitlines()[-1]


def test_a_model_without_the_flow_is_named(run: Run, folder: Path) -> None:
    result = run("evaluate", "versatile", "--model", folder, "--data", DATA, "--flows", "image_to_text")
    assert result.code == 2
    assert "image_to_text" in result.sentence


@pytest.mark.parametrize(("mode", "headline", "others"), [
    ("--captions", "right", {"things", "relation", "region", "background", "understood", "clauses"}),
    ("--rewrites", "same", {"differs", "both", "understood", "clauses"}),
    ("--variations", "same", {"things", "background", "clean"}),
])  # fmt: skip
def test_scenes_measures_each_flow(mode: str, headline: str, others: set[str], run: Run, versatile: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "scenes", "--model", versatile, mode, "-n", 3, "--steps", 1, "--batch-size", 2]
    result = run(*arguments, "--json", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    shares = result.json[mode.removeprefix("--")]
    assert shares.keys() == {"count", headline, "standard_error", *others}
    assert shares["count"] == 3
    verdicts = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert len(verdicts) == 3
    if mode == "--variations":
        assert all((tmp_path / "out" / verdict["picture"]).is_file() for verdict in verdicts)
    else:
        assert all(isinstance(verdict["text"], str) for verdict in verdicts)
        assert run(*arguments).out.startswith(f"{headline}: ")


def test_a_caption_is_checked_against_a_picture(run: Run, tmp_path: Path) -> None:
    things = (Thing("circle", "red", "small", 0, 3), Thing("square", "blue", "large", 5, 3))
    picture = tmp_path / "scene.png"
    Image.fromarray(render(Scene("white", things)).transpose(1, 2, 0)).save(picture)
    right = run("evaluate", "caption", picture, "A small red circle over a blue square.")
    assert right.out.splitlines() == [
        "right", "holds: a small red circle", "holds: a blue square", "holds: a small red circle above a blue square",
        "the picture shows: a small red circle, a large blue square, on white",
    ]  # fmt: skip
    wrong = run("evaluate", "caption", picture, "a blue square on black")
    assert wrong.out.splitlines()[:3] == ["wrong", "holds: a blue square", "does not hold: on a black background"]
    assert run("evaluate", "caption", picture, "blue is the square").out.startswith("not understood: ")
    found = run("evaluate", "caption", picture, "a red circle and a blue square", "--json").json
    assert (found["right"], found["understood"], found["clean"], found["background"]) == (True, True, True, "white")
    assert found["clauses"] == {"a red circle": True, "a blue square": True}
    noise = tmp_path / "noise.png"
    Image.effect_noise((64, 64), 90).save(noise)
    assert "and something else" in run("evaluate", "caption", noise, "a red circle").out
    assert run("evaluate", "caption", tmp_path / "none.png", "a red circle").code == 2
