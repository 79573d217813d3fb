import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tessera.record import Record
from tests.apps.conftest import Run
from tests.closeness import alike
from tests.tiny import tiny_model

PROMPT = "a red circle"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pictures_and_contact_sheet(generate: Run, tmp_path: Path) -> None:
    result = generate(PROMPT, "a blue square", "-n", 2, "--seed", 7)
    assert result.code == 0
    assert names(tmp_path / "out") == [
        "a-blue-square-001.png", "a-blue-square-002.png", "a-red-circle-001.png", "a-red-circle-002.png", "sheet-001.png",
    ]  # fmt: skip
    assert [Path(line).name for line in result.out.splitlines()] == [
        "a-red-circle-001.png", "a-red-circle-002.png", "a-blue-square-001.png", "a-blue-square-002.png", "sheet-001.png",
    ]  # fmt: skip
    assert "4 pictures" in result.err
    assert "seed 7" in result.err


def test_pictures_are_those_of_the_model(generate: Run, tmp_path: Path) -> None:
    generate(PROMPT, "-n", 2, "--seed", 7, "--sampler", "purity:weight=2", "--steps", 4, "--guidance", 2, "--temperature", 0.9)
    expected = tiny_model().text_to_image(PROMPT, n=2, seed=7, sampler="purity:weight=2", steps=4, guidance=2.0, temperature=0.9)
    for i, picture in enumerate(expected, start=1):
        assert Image.open(tmp_path / "out" / f"a-red-circle-00{i}.png").tobytes() == picture.tobytes()


def test_json_is_all_of_standard_output(generate: Run) -> None:
    answer = generate(PROMPT, "-n", 2, "--json", "--truncation", "0.9").json
    assert [picture["index"] for picture in answer["pictures"]] == [0, 1]
    assert all(Path(picture["path"]).is_file() for picture in answer["pictures"])
    assert answer["pictures"][0]["truncation"] == 0.9
    assert answer["interrupted"] is False


def test_single_picture_has_no_sheet(generate: Run, tmp_path: Path) -> None:
    generate(PROMPT)
    assert names(tmp_path / "out") == ["a-red-circle-001.png"]


def test_sheet_can_be_left_out(generate: Run, tmp_path: Path) -> None:
    generate(PROMPT, "-n", 2, "--no-sheet")
    assert "sheet-001.png" not in names(tmp_path / "out")


def test_existing_files_stay(generate: Run, tmp_path: Path) -> None:
    generate(PROMPT, "--seed", 0)
    before = (tmp_path / "out" / "a-red-circle-001.png").read_bytes()
    generate(PROMPT, "--seed", 1)
    assert (tmp_path / "out" / "a-red-circle-001.png").read_bytes() == before
    assert (tmp_path / "out" / "a-red-circle-002.png").is_file()
    generate(PROMPT, "--seed", 1, "--overwrite")
    assert (tmp_path / "out" / "a-red-circle-001.png").read_bytes() != before
    assert names(tmp_path / "out") == ["a-red-circle-001.png", "a-red-circle-002.png"]


# --from


@pytest.mark.parametrize(
    "how",
    [
        ["--steps", 20, "--truncation", "5"],
        ["--sampler", "high-quality:speed=0.5", "--guidance", 3, "--truncation", "0.9", "--temperature", 0.7],
        ["--method", "guidance-fast", "--size", "32x16"],
        ["--size", "64x48", "--stride", 1, "--window-weights", "tent", "--still-windows"],
    ],
)
def test_from_makes_the_picture_again(generate: Run, tmp_path: Path, how: list[object]) -> None:
    generate(PROMPT, "-n", 3, *how)
    original = tmp_path / "out" / "a-red-circle-003.png"
    result = generate("--from", original)
    assert result.code == 0, result.err
    again = tmp_path / "out" / "a-red-circle-004.png"
    assert Record.read(again) == Record.read(original)
    assert alike(Image.open(again), Image.open(original))  # one was drawn with two others, one alone


def test_from_with_options_changes_these_only(generate: Run, tmp_path: Path) -> None:
    generate(PROMPT, "--seed", 5, "--guidance", 2)
    original = tmp_path / "out" / "a-red-circle-001.png"
    changed = generate("--from", original, "--guidance", 4, "--json").json["pictures"][0]
    assert (changed["seed"], changed["guidance"], changed["prompt"]) == (5, 4.0, PROMPT)
    other = generate("--from", original, "a blue square", "--json").json["pictures"][0]
    assert (other["seed"], other["guidance"], other["prompt"]) == (5, 2.0, "a blue square")


def test_from_needs_the_model_and_tells_other_weights(generate: Run, run: Run, tmp_path: Path) -> None:
    generate(PROMPT)
    original = tmp_path / "out" / "a-red-circle-001.png"
    result = run("generate", "--from", original, "-o", tmp_path / "out")
    assert result.code == 2
    assert "'tiny'" in result.sentence
    assert "--model" in result.sentence
    other = tiny_model(seed=1).save(tmp_path / "other")
    assert "other weights" in run("generate", "--from", original, "-o", tmp_path / "out", "--model", other).err


def test_from_a_foreign_picture(generate: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png")
    result = generate("--from", tmp_path / "foreign.png")
    assert result.code == 2
    assert "no Tessera metadata" in result.sentence


# --init


def test_image_to_image_and_back(generate: Run, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 20).save(start)
    assert generate(PROMPT, "--init", start, "--strength", 0.5).code == 0
    made = tmp_path / "out" / "a-red-circle-001.png"
    assert Record.read(made).start == 0.5
    assert "--init" in generate("--from", made).sentence
    generate("--from", made, "--init", start)
    assert (tmp_path / "out" / "a-red-circle-002.png").read_bytes() == made.read_bytes()
    Image.new("RGB", (8, 8)).save(start)
    assert "not the picture" in generate("--from", made, "--init", start).err


# Prompts from elsewhere.


def test_prompts_from_a_file_and_standard_input(generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("a green square\n\n  a red square  \n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("a blue square\n"))
    answer = generate(PROMPT, "-", "--prompts", tmp_path / "prompts.txt", "--json").json
    assert [picture["prompt"] for picture in answer["pictures"]] == [PROMPT, "a blue square", "a green square", "a red square"]


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe\xfa"])
def test_unusable_prompt_file(generate: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    result = generate("--prompts", tmp_path / "prompts.txt")
    assert result.code == 2
    assert "prompts.txt" in result.sentence


def test_missing_prompt_file(generate: Run, tmp_path: Path) -> None:
    result = generate("--prompts", tmp_path / "none.txt")
    assert result.code == 2
    assert "none.txt" in result.sentence


# Bad input: one sentence, exit code 2, nothing written.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "prompt is empty"),
        ([""], "prompt is empty"),
        (["  "], "prompt is empty"),
        ([PROMPT, "--model", "scnes"], "'scenes'"),
        ([PROMPT, "--sampler", "purty"], "'purity'"),
        ([PROMPT, "--sampler", "purity:wait=2"], "'weight'"),
        ([PROMPT, "--method", "fats"], "'fast'"),
        ([PROMPT, "--steps", "0"], "steps"),
        ([PROMPT, "--steps", "21"], "between 1 and 20"),
        ([PROMPT, "--steps", "x"], "'--steps'"),
        ([PROMPT, "-n", "0"], "number of pictures"),
        ([PROMPT, "-n", "-3"], "number of pictures"),
        ([PROMPT, "--guidance", "nan"], "guidance"),
        ([PROMPT, "--guidance", "inf"], "guidance"),
        ([PROMPT, "--truncation", "much"], "truncation"),
        ([PROMPT, "--truncation", "1.5"], "truncation"),
        ([PROMPT, "--truncation", "0"], "truncation"),
        ([PROMPT, "--truncation", "nan"], "truncation"),
        ([PROMPT, "--temperature", "-1"], "temperature"),
        ([PROMPT, "--size", "32"], "WIDTHxHEIGHT"),
        ([PROMPT, "--size", "30x32"], "30x32"),
        ([PROMPT, "--size", "0x0"], "0x0"),
        ([PROMPT, "--size", "640x16"], "smaller along the other"),
        ([PROMPT, "--size", "64x64", "--stride", "5"], "leaves gaps"),
        ([PROMPT, "--window-weights", "round"], "known: even, tent"),
        ([PROMPT, "--seed", "-1"], "seed"),
        ([PROMPT, "--seed", "x"], "'--seed'"),
        ([PROMPT, "--batch-size", "0"], "batch_size"),
        ([PROMPT, "--device", "gpu"], "'gpu'"),
        ([PROMPT, "--device", "cuda:99"], "'cuda:99'"),
        ([PROMPT, "--precision", "float61"], "precision"),
        ([PROMPT, "--strength", "0.5"], "--init"),
        ([PROMPT, "--init", "none.png"], "none.png"),
        ([PROMPT, "--from", "none.png"], "none.png"),
        ([PROMPT, "--bogus"], "--bogus"),
    ],
)
def test_bad_argument(generate: Run, tmp_path: Path, arguments: list[str], says: str) -> None:
    result = generate(*arguments)
    assert result.code == 2
    assert says in result.sentence
    assert result.out == ""
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


def test_prompt_too_long_shows_what_was_cut(generate: Run) -> None:
    result = generate("a red circle above a blue square above a green circle")
    assert result.code == 0
    assert "this end was cut: 'above a green circle'" in result.err


def test_unknown_words_are_told_once(generate: Run) -> None:
    result = generate("a mauve circle", "-n", 3, "--batch-size", 1)
    assert result.err.count("mauve") == 1


def test_broken_picture_to_start_from(generate: Run, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "start.png")
    (tmp_path / "start.png").write_bytes((tmp_path / "start.png").read_bytes()[:500])
    result = generate(PROMPT, "--init", tmp_path / "start.png")
    assert result.code == 1
    assert "start.png" in result.sentence


def test_damaged_model(generate: Run, folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.json").write_bytes((folder / "model.json").read_bytes())
    (damaged / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-10])
    result = generate(PROMPT, "--model", damaged)
    assert result.code == 1
    assert "model.safetensors" in result.sentence


def test_debug_shows_the_traceback(folder: Path, tmp_path: Path) -> None:
    result = tessera("generate", PROMPT, "--model", folder, "-o", tmp_path, "--steps", "0", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


# The output folder.


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/tessera"])
def test_unwritable_folder(generate: Run, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    result = generate(PROMPT, "-o", tmp_path / place)
    assert result.code == 1
    assert "cannot write to the output folder" in result.sentence


def test_full_folder_is_found_before_sampling(folder: Path, tmp_path: Path) -> None:
    result = tessera(
        "generate", PROMPT, "--model", folder, "-o", tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    )
    assert result.returncode == 1
    assert "cannot write to the output folder" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert names(tmp_path) == []


def test_more_pictures_than_the_disk_holds(generate: Run) -> None:
    result = generate(PROMPT, "-n", 10**12)
    assert result.code == 1
    assert "has room for" in result.sentence


# Ctrl-C.


def tessera(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tessera.apps.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_interrupted_request_keeps_finished_pictures(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tessera.apps.cli", "generate", PROMPT, "--model", str(folder), "-o", str(tmp_path / "out")]
    command += ["-n", "100000", "--batch-size", "1", "--steps", "5", "--seed", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "out" / "a-red-circle-002.png").is_file():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    answer = json.loads(out)
    kept = [Path(picture["path"]).name for picture in answer["pictures"]]
    assert answer["interrupted"] is True
    assert len(kept) >= 2
    assert names(tmp_path / "out") == sorted([*kept, "sheet-001.png"])
    expected = tiny_model().text_to_image(PROMPT, n=2, seed=0, steps=5)
    for name, picture in zip(kept, expected, strict=False):
        assert Image.open(tmp_path / "out" / name).tobytes() == picture.tobytes()


def test_interrupted_before_the_first_picture(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tessera.apps.cli", "generate", PROMPT, "--model", str(folder), "-o", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "-n", "2000", "--batch-size", "2000"], stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "out").is_dir():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert names(tmp_path / "out") == []


def test_start_up_imports_no_torch() -> None:
    code = "import sys; import tessera.apps.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=300).returncode == 0
