"""`tessera vary`, `blend`, `edit`, `caption` and `rewrite`, as a user runs them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from tessera.applications import blend_of, vary
from tessera.loading import load
from tessera.record import Record
from tests.apps.conftest import Result, Run
from tests.closeness import alike
from tests.tiny_versatile import ending, tiny_versatile

WORDS = "a red circle"


@pytest.fixture(scope="module")
def versatile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ending(tiny_versatile(), by=-10).save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.effect_mandelbrot((20, 16), (-2, -1, 1, 1), 20).convert("RGB").save("first.png")
    Image.new("RGB", (16, 16), (200, 30, 40)).save("second.png")
    mask = Image.new("L", (20, 16), 0)
    mask.paste(255, (0, 0, 9, 16))
    mask.save("mask.png")
    Image.new("L", (8, 8), 255).save("small.png")
    Path("text.png.txt").write_text("no picture")
    return tmp_path


@pytest.fixture
def call(run: Run, versatile: Path, files: Path) -> Callable[..., Result]:
    return lambda command, *arguments: run(command, *arguments, "--model", versatile)


MASKED = ["first.png", "second.png:0.9", WORDS, "--mix", 0.4, "--mask", "mask.png", "--mask", "-", "--focus", 0.5, "--focus", 0.2]
DRAWN = {
    "vary": ["vary", "first.png", "--fidelity", 0.4, "--focus", 0.8, "--colour", "match"],
    "level": ["vary", "first.png", "--level", -1, "--sampler", "dpm-solver++", "--steps", 4],
    "blend": ["blend", *MASKED, "--by", "layer"],
    "edit": ["edit", "first.png", "--remove", "red", "--add", "blue", "--seed", 1],
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_can_be_made_again(name: str, call, files: Path) -> None:
    command, *arguments = DRAWN[name]
    result = call(command, *arguments, "-n", 2, "--no-sheet", "--json")
    assert result.code == 0, result.err
    made = Path(result.json["pictures"][1]["path"])
    given = [one for one in arguments if str(one).split(":")[0].endswith(".png") and one != "mask.png"]
    masks = [one for flag, one in pairwise(arguments) if flag == "--mask"]
    again = call(command, *[str(one).split(":")[0] for one in given], *[part for one in masks for part in ("--mask", one)], "--from", made)
    assert again.code == 0, again.err
    assert Path(again.out.strip()).read_bytes() == made.read_bytes()
    refused = call("generate", "--from", made)
    assert refused.code == 2
    assert f"tessera {'vary' if command == 'vary' else 'blend'} PICTURE" in refused.sentence


def test_pictures_are_those_of_the_model(call, versatile: Path, files: Path) -> None:
    first, second, mask = (Image.open(f"{name}.png") for name in ("first", "second", "mask"))
    call("blend", *MASKED, "--seed", 5, "-n", 2)
    expected = load(versatile).blend(
        [first, second], WORDS, n=2, seed=5, mix=0.4, masks=[mask, None], focus=[0.5, 0.2], strengths=[1.0, 0.9]
    )  # fmt: skip
    assert Image.open("out/a-red-circle-002.png").tobytes() == expected[1].tobytes()
    call("vary", "first.png", "--seed", 5, "--fidelity", 0.5, "--mask", "mask.png", "-o", "varied")
    (made,) = Path("varied").iterdir()
    record = Record.read(made)
    assert record.start == 0.5
    assert record.init is not None
    assert record.blend is not None
    assert record.blend["pictures"][0]["hidden"] is not None


def test_several_pictures_are_varied_each_by_itself(call, versatile: Path, files: Path) -> None:
    first, second, mask = (Image.open(f"{name}.png") for name in ("first", "second", "mask"))
    how = ["first.png", "second.png", "--mask", "mask.png", "--mask", "-", "--focus", 0.2, "--focus", 0.7, "--seed", 5]
    paths = [Path(one["path"]) for one in call("vary", *how, "-n", 2, "--json").json["pictures"]]
    assert len(paths) == 4
    model = load(versatile)
    blends = [blend_of([first], masks=mask, focus=0.2), blend_of([second], focus=0.7)]
    expected = list(vary(model, blends, 2, 5, model.defaults))
    assert [Image.open(path).tobytes() for path in paths] == [picture.tobytes() for picture in expected]
    started = call("vary", *how, "--fidelity", 0.5, "-o", "started", "--json").json["pictures"]
    assert len({one["init"] for one in started}) == 2
    for made, given in (
        (paths[3], ["second.png"]),
        (Path(started[1]["path"]), ["second.png"]),
        (paths[0], ["first.png", "--mask", "mask.png"]),
    ):
        again = call("vary", *given, "--from", made)
        assert again.err == "" or "warning" not in again.err
        assert alike(Image.open(again.out.strip()), Image.open(made))  # drawn alone here, in a batch there


def test_what_is_changed_of_a_picture_made_again(call, files: Path) -> None:
    call("blend", *MASKED, "--seed", 5)
    made = "out/a-red-circle-001.png"
    changed = call("blend", "first.png", "second.png", "--mask", "mask.png", "--mask", "-", "--from", made, "--mix", "2:1", "--json")
    blend = changed.json["pictures"][0]["blend"]
    assert blend["mix"] == [2.0, 1.0]
    assert [one["weight"] for one in blend["pictures"]] == [1.0, 0.9]
    assert changed.json["pictures"][0]["seed"] == 5
    other = call("blend", "first.png", "first.png", "--mask", "mask.png", "--mask", "-", "--from", made)
    assert other.code == 0
    assert "picture 2 or its mask is not the one that was given then" in other.err


def test_words(call, versatile: Path, files: Path) -> None:
    model = load(versatile)
    first, second = Image.open("first.png"), Image.open("second.png")
    result = call("caption", "first.png", "--seed", 3, "-n", 2)
    assert result.code == 0, result.err
    assert result.out.splitlines() == model.image_to_text(first, n=2, seed=3)
    result = call("caption", "first.png", "second.png", "--seed", 3, "--json", "--temperature", 0.9)
    expected = model.image_to_text([first, second], seed=3, temperature=0.9)
    assert [one["text"] for one in result.json["texts"]] == expected
    assert [(one["of"], one["index"], one["beams"]) for one in result.json["texts"]] == [("first.png", 0, 0), ("second.png", 1, 0)]
    Path("texts.txt").write_text(f"{WORDS}\nabove\n")
    result = call("rewrite", "--texts", "texts.txt", "--seed", 3, "--add", "blue", "--beams", 2)
    expected = model.text_variation([WORDS, "above"], seed=3, add="blue", beams=2)
    assert result.out.splitlines() == [f"{WORDS}: {expected[0]}", f"above: {expected[1]}"]


def test_no_words(run: Run, files: Path) -> None:
    mute = ending(tiny_versatile(), by=10).save(files / "mute")
    result = run("caption", "first.png", "second.png", "--model", mute, "--seed", 4)
    assert result.code == 1
    assert "second.png decoded to no words (seed 4, number 1)" in result.err
    result = run("edit", "first.png", "--remove", "red", "--model", mute, "--seed", 4)
    assert result.code == 1
    assert "the picture decoded to no words (seed 4)" in result.sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["vary", "none.png"], "there is no picture none.png"),
        (["vary", "text.png.txt"], "not a readable picture"),
        (["vary", "first.png", "--mask", "small.png"], "the mask has 8x8 pixels, its picture 20x16"),
        (["vary", "first.png", "none.png"], "there is no picture none.png"),
        (["vary", "first.png", "second.png", "--mask", "mask.png"], "2 pictures, but 1 of masks"),
        (["vary", "first.png", "second.png", "--focus", "0", "--focus", "1", "--focus", "1"], "2 pictures, but 3 of focus"),
        (["vary", "first.png", "--focus", "1.5"], "the focus must be between"),
        (["vary", "first.png", "--level", "3"], "the level must be one of"),
        (["vary", "first.png", "--fidelity", "1"], "--fidelity must be"),
        (["vary", "first.png", "--colour", "matched"], "'match'"),
        (["vary", "first.png", "--temperature", "2"], "temperature is for models of tokens"),
        (["blend", WORDS], "a blend needs a picture"),
        (["blend", "first.png", WORDS, "above"], "one text at most"),
        (["blend", "first.png", WORDS, "--mix", "1.5"], "shares of words and pictures"),
        (["blend", "first.png", WORDS, "--mix", "-1:2"], "shares of words and pictures"),
        (["blend", "first.png", WORDS, "--mix", "0:0"], "whose sum is above 0"),
        (["blend", "first.png", WORDS, "--mix", "much"], "neither a share of the words"),
        (["blend", "first.png:0", "second.png:0"], "sum to 0"),
        (["blend", "first.png:-1", "second.png"], "a number from 0"),
        (["blend", "first.png", "second.png", "--mask", "mask.png"], "2 pictures, but 1 of masks"),
        (["blend", "first.png", "second.png", "--by", "layers"], "'layer'"),
        (["blend", "first.png", " "], "the prompt is empty"),
        (["edit", "first.png"], "give --remove or --add"),
        (["edit", "first.png", "--add", "red", "--mix", "2"], "shares of words and pictures"),
        (["caption", WORDS], "there is no picture"),
        (["caption", "first.png", "--beams", "1", "--temperature", "2"], "temperature and truncation are for words that are drawn"),
        (["rewrite"], "nothing to rewrite"),
        (["rewrite", "first.png"], "this takes words, not the picture first.png"),
        (["rewrite", "a \udcff circle"], "not valid Unicode"),
        (["rewrite", WORDS, "--sampler", "purity"], "purity"),
    ],
)
def test_bad_argument(call, files: Path, arguments: list[str], says: str) -> None:
    result = call(*arguments)
    assert result.code in (1, 2)
    assert says in result.sentence
    assert result.out == ""
    assert not Path("out").exists() or not list(Path("out").iterdir())


def test_models_without_the_flows(run: Run, folder: Path, files: Path) -> None:
    for arguments in (["vary", "first.png"], ["blend", "first.png", WORDS], ["caption", "first.png"], ["rewrite", WORDS]):
        result = run(*arguments, "--model", folder)
        assert result.code == 2
        assert "flow" in result.sentence
    made = run("generate", WORDS, "--model", folder, "-o", "plain")
    assert made.code == 0
    refused = run("vary", "first.png", "--from", next(Path("plain").iterdir()), "--model", folder)
    assert "was made without pictures as a context" in refused.sentence
