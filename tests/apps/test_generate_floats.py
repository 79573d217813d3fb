"""`tessera generate` with models of floats: weighted prompts, pictures, CLIP guidance."""

from pathlib import Path

import pytest
from PIL import Image

from tessera.part_folder import save_part
from tessera.record import Record
from tests.apps.conftest import Run
from tests.tiny_floats import tiny_clip, tiny_float_model

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with prompts, one without, and a CLIP."""
    folder = tmp_path_factory.mktemp("models")
    tiny_float_model().save(folder / "prompted")
    tiny_float_model("yfcc").save(folder / "plain")
    save_part(tiny_clip(), folder / "clip")
    Image.effect_mandelbrot((24, 20), (-2, -1, 1, 1), 20).save(folder / "start.png")
    return folder


@pytest.fixture
def draw(run: Run, folders: Path, tmp_path: Path) -> Run:
    """`tessera generate` into tmp_path/out with the model that is named first."""
    return lambda name, *arguments: run("generate", "--model", folders / name, "-o", tmp_path / "out", "--seed", 1, *arguments)


def test_pictures_are_those_of_the_model(draw: Run, folders: Path) -> None:
    start = folders / "start.png"
    answer = draw(
        "prompted", "a red circle:2", "--images", f"{start}:0.5", "--eta", 0.5, "--steps", 4, "--spacing", "cosine", "--size", "16x32",
        "--json",
    ).json["pictures"][0]  # fmt: skip
    made = tiny_float_model().text_to_image(
        f"a red circle:2 | {start}:0.5", seed=1, sampler="ddim:eta=0.5", steps=4, spacing="cosine", size=(32, 16)
    )[0]
    assert Image.open(answer["path"]).tobytes() == made.tobytes()
    assert (answer["prompt"], answer["sampler"], answer["spacing"]) == (f"a red circle:2 | {start}:0.5", "ddim:eta=0.5", "cosine")


def test_from_makes_the_picture_again(draw: Run, folders: Path, tmp_path: Path) -> None:
    how = ["--init", folders / "start.png", "--start", 0.5, "--clip-guidance", 50, "--cutn", 2, "--cut-power", 0.5]
    assert draw("prompted", PROMPT, *how).code == 0
    made = tmp_path / "out" / "a-red-circle-001.png"
    record = Record.read(made)
    assert (record.start, record.clip_guidance, record.cutouts, record.cut_power) == (0.5, 50.0, 2, 0.5)
    assert draw("prompted", "--from", made, "--init", folders / "start.png").code == 0
    assert (tmp_path / "out" / "a-red-circle-002.png").read_bytes() == made.read_bytes()


def test_a_picture_alone_is_a_prompt_and_nothing_is_none(draw: Run, folders: Path) -> None:
    assert draw("prompted", "--images", folders / "start.png", "--json").json["pictures"][0]["prompt"] == str(folders / "start.png")
    assert draw("prompted", "--json").json["pictures"][0]["prompt"] is None


def test_a_clip_leads_a_model_without_prompts(draw: Run, folders: Path) -> None:
    guided = ["--clip", folders / "clip", "--clip-guidance", 500, "--cutn", 2]
    answers = [draw("plain", prompt, *guided, "--json") for prompt in (PROMPT, "a blue square")]
    pictures = [Image.open(answer.json["pictures"][0]["path"]).tobytes() for answer in answers]
    assert pictures[0] != pictures[1]


METHODS = {
    "clip-sample": ["--sampler", "ddpm", "--guidance", 1, "--clip-guidance", 500],
    "cfg-sample": ["--sampler", "plms", "--guidance", 3],
}


@pytest.mark.parametrize("method", METHODS)
def test_the_programs_of_v_diffusion_draw_one_picture_of_all_prompts(draw: Run, folders: Path, method: str) -> None:
    start = folders / "start.png"
    quick = ["--steps", 6, "--cutn", 2, "--json"]
    asked = draw("prompted", "a red circle:2", "a blue square", "--images", start, "--init", start, "--method", method, *quick).json
    (answer,) = asked["pictures"]
    whole = f"a red circle:2 | a blue square | {start}"
    by_hand = draw("prompted", whole, "--init", start, "--starting-timestep", 0.9, *METHODS[method], *quick).json["pictures"][0]
    assert (answer["prompt"], answer["start"]) == (whole, 0.9)
    assert Image.open(answer["path"]).tobytes() == Image.open(by_hand["path"]).tobytes()
    later = draw("prompted", PROMPT, "--init", start, "--starting-t", 0.5, "--method", method, *quick).json["pictures"][0]
    assert later["start"] == 0.5
    assert len(draw("prompted", PROMPT, PROMPT, *quick).json["pictures"]) == 2


def test_cfg_samples_defaults_are_recorded(draw: Run) -> None:
    answer = draw("prompted", PROMPT, "--method", "cfg-sample", "--json").json["pictures"][0]
    assert (answer["sampler"], answer["steps"], answer["guidance"], answer["start"]) == ("plms", 50, 3.0, 1.0)


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        ("prompted", ["a red circle:much"], "no number after its last colon"),
        ("prompted", ["a red circle:inf"], "finite"),
        ("prompted", ["a red circle | "], "is empty"),
        ("prompted", ["a:1 | red:-1", "--clip-guidance", "5"], "sum to 0"),
        ("prompted", ["none.png:2"], "there is no picture none.png"),
        ("prompted", [PROMPT, "--images", "none.png"], "there is no picture none.png"),
        ("prompted", [PROMPT, "--images", "words"], "names no picture"),
        ("prompted", [PROMPT, "--images", "x.png:y"], "no number after its last colon"),
        ("prompted", ["http://127.0.0.1:1/p.png:1"], "not an address of the public internet"),
        ("prompted", [PROMPT, "--init", "http://[::1]/p.png"], "not an address of the public internet"),
        ("prompted", [PROMPT, "--size", "18x16"], "multiples of 4"),
        ("prompted", [PROMPT, "--sampler", "purity"], "continuous models"),
        ("prompted", [PROMPT, "--truncation", "0.9"], "models of tokens"),
        ("prompted", [PROMPT, "--sampler", "plms", "--eta", "1"], "--eta is an option of the sampler ddim"),
        ("prompted", [PROMPT, "--eta", "2"], "eta"),
        ("prompted", [PROMPT, "--spacing", "cosin"], "'cosine'"),
        ("prompted", [PROMPT, "--start", "0.5"], "--init"),
        ("prompted", [PROMPT, "--invert"], "none is given"),
        ("prompted", [PROMPT, "--init", "{start}", "--start", "0"], "start must be"),
        ("prompted", [PROMPT, "--init", "{start}", "--start", "1.5"], "start must be"),
        ("prompted", [PROMPT, "--init", "{start}", "--start", "0.001"], "lies below start"),
        ("prompted", [PROMPT, "--clip-guidance", "-1"], "CLIP guidance"),
        ("prompted", [PROMPT, "--clip-guidance", "5", "--cutn", "0"], "at least 1 cutout"),
        ("prompted", [PROMPT, "--clip-guidance", "5", "--cut-power", "0"], "cut power"),
        ("prompted", [PROMPT, "--clip", "{clip}"], "has a CLIP of its own"),
        ("prompted", ["--clip-guidance", "5"], "something to go to"),
        ("prompted", ["--method", "clip-sample"], "something to go to"),
        ("prompted", [PROMPT, "--method", "base"], "continuous models"),
        ("prompted", [PROMPT, "--method", "cfg-sampel"], "'cfg-sample'"),
        ("prompted", [PROMPT, "", "--method", "cfg-sample"], "is empty"),
        ("plain", [PROMPT], "takes no prompt"),
        ("plain", [PROMPT, "--clip-guidance", "5"], "no CLIP that sees pictures"),
        ("plain", [PROMPT, "--clip", "{clip}"], "only by CLIP guidance"),
    ],
)
def test_bad_argument(draw: Run, folders: Path, tmp_path: Path, model: str, arguments: list[str], says: str) -> None:
    places = {"start": folders / "start.png", "clip": folders / "clip"}
    result = draw(model, *(argument.format(**places) for argument in arguments))
    assert result.code == 2, result.err
    assert says in result.sentence
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_huge_picture_and_one_that_is_none(draw: Run, tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, says in (("huge.png", "too large"), ("text.png", "not a readable picture")):
        result = draw("prompted", "--images", tmp_path / name)
        assert result.code == 1
        assert says in result.sentence


def test_a_model_of_tokens_refuses_what_is_for_floats(generate: Run) -> None:
    for arguments in (["--clip-guidance", "5"], ["--spacing", "ddpm"], ["--eta", "0.5"], ["--sampler", "heun"], ["--method", "cfg-sample"]):
        result = generate(PROMPT, *arguments)
        assert result.code == 2
        assert "floats" in result.sentence or "token models" in result.sentence
