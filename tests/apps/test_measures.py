"""`tessera evaluate` of sets of pictures, as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.codecs.patch import PatchVQ
from tessera.contexts.context import Unconditional
from tessera.data.scenes import Scenes
from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.flow import SamplingSettings, TokenFlow
from tessera.model import Model
from tessera.nn.lpips import LPIPS
from tessera.part_folder import save_part
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.schedules import make_schedule
from tests.apps.conftest import Result, Run
from tests.tiny_floats import tiny_clip, tiny_float_model


@pytest.fixture
def evaluate(run: Run, tmp_path: Path) -> Run:
    """`tessera evaluate`, with a cache of its own."""

    def evaluate_(verb: str, *arguments: object) -> Result:
        cached = verb in ("fid", "kid", "prdc", "statistics", "reconstruction", "neighbours")
        return run("evaluate", verb, *arguments, *(["--cache", tmp_path / "cache"] if cached else []))

    return evaluate_


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve scenes as files."""
    place = tmp_path / "pictures"
    place.mkdir()
    images, _ = Scenes("train", seed=9).batch(range(12), 0)
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number:02}.png")
    return place


@pytest.fixture(scope="session")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model without prompts."""
    torch.manual_seed(0)
    flow = TokenFlow(
        PatchVQ(classes=24, factor=8, dim=8), Unconditional(),
        TokenTransformer(24, (8, 8), width=16, depth=1, heads=2, timesteps=20, condition="none"),
        DiscreteLoss(DiscreteProcess(make_schedule("vq-diffusion", 20), 24)),
    )  # fmt: skip
    model = Model("blank", "vq-diffusion", {"text_to_image": flow}, (64, 64), SamplingSettings(steps=3))
    return model.save(tmp_path_factory.mktemp("models") / "blank")


REFERENCE = "data:scenes,split=held-out,seed=1000"


def test_fid_of_a_folder_and_its_recipe(evaluate: Run, pictures: Path, tmp_path: Path) -> None:
    report = tmp_path / "fid.json"
    result = evaluate("fid", pictures, REFERENCE, "-o", report)
    assert result.code == 0
    assert result.out.startswith("FID ")
    assert "12 pictures are few" in result.err
    written = json.loads(report.read_text())
    assert written["recipe"]["pictures"] == written["recipe"]["reference"]["pictures"] == 12
    assert written["recipe"]["extractor"]["name"] == "scenes"
    assert len(written["recipe"]["extractor"]["sha256"]) == len(written["recipe"]["reference"]["pixels_sha256"]) == 64
    assert evaluate("fid", pictures, REFERENCE, "--json").json == written
    assert abs(evaluate("fid", pictures, pictures, "--json").json["values"]["fid"]) < 1e-3


def test_what_could_not_be_read_is_said_and_written(evaluate: Run, pictures: Path, tmp_path: Path) -> None:
    (pictures / "0-broken.png").write_bytes(b"no picture")
    for _ in range(2):  # measured, then kept
        result = evaluate("fid", pictures, pictures, "-o", tmp_path / "report.json", "-n", 4)
        assert "warning: 1 of what was found in" in result.err
        assert "0-broken.png" in result.err
    assert list(json.loads((tmp_path / "report.json").read_text())["samples"]["skipped"]) == [str(pictures / "0-broken.png")]


def test_numbers_of_one_recipe_compare_and_others_refuse(evaluate: Run, run: Run, pictures: Path, tmp_path: Path) -> None:
    for name, arguments in {"a": [12], "b": [12], "c": [10], "d": [12, "--size", 32]}.items():
        evaluate("fid", pictures, REFERENCE, "-o", tmp_path / f"{name}.json", "-n", *arguments)
    same = run("evaluate", "compare", tmp_path / "a.json", tmp_path / "b.json")
    assert (same.code, same.out.startswith("fid: ")) == (0, True)
    for name, sentence in {
        "c": "reference.pictures is 12 in the first and 10 in the second",
        "d": "resized is None in the first and 32",
    }.items():
        other = run("evaluate", "compare", tmp_path / "a.json", tmp_path / f"{name}.json")
        assert other.code == 1
        assert "cannot be compared: " in other.sentence
        assert sentence in other.sentence


def test_prdc_and_kid(evaluate: Run, pictures: Path) -> None:
    values = evaluate("prdc", pictures, REFERENCE, "-k", 3, "--json").json
    assert set(values["values"]) == {"precision", "recall", "density", "coverage"}
    assert values["recipe"]["parameters"] == {"k": 3}
    assert evaluate("kid", pictures, REFERENCE, "--subset-size", 8, "--subsets", 4).out.startswith("KID ")


def test_statistics_stand_in_for_pictures(evaluate: Run, pictures: Path, tmp_path: Path) -> None:
    kept = tmp_path / "held-out.safetensors"
    assert evaluate("statistics", REFERENCE, "-n", 12, "-o", kept).code == 0
    by_file, by_pictures = (evaluate("fid", pictures, reference, "--json").json for reference in (kept, REFERENCE))
    assert by_file["values"] == by_pictures["values"]
    assert by_file["recipe"] == by_pictures["recipe"]
    save_part(tiny_clip(), tmp_path / "clip")
    refused = evaluate("fid", pictures, kept, "--extractor", f"clip:{tmp_path / 'clip'}")
    assert refused.code == 1
    assert "come from the extractor scenes" in refused.sentence


def test_what_a_model_draws(evaluate: Run, folder: Path, tmp_path: Path) -> None:
    """Prompts: the other side's captions, or a file's lines."""
    model = f"model:{folder},steps=2,seed=3,sampler=purity:weight=2,per_pass=4"
    values = evaluate("prdc", model, REFERENCE, "-k", 2, "-n", 4, "--json").json
    assert values["samples"]["prompts"] == REFERENCE
    assert values["samples"]["settings"]["steps"] == 2
    assert values["samples"]["settings"]["sampler"] == "purity:weight=2,per_pass=4"
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    again = evaluate("prdc", model, REFERENCE, "-k", 2, "-n", 4, "--prompts", tmp_path / "prompts.txt", "--json").json
    assert again["samples"]["prompts"] == str(tmp_path / "prompts.txt")


def test_clip_score_of_a_model_and_of_pictures_that_know_their_prompts(evaluate: Run, generate: Run, tmp_path: Path) -> None:
    save_part(tiny_clip(), tmp_path / "clip")
    generate("a red circle", "a blue square", "--seed", 0, "--no-sheet", "-n", 2)
    result = evaluate("clip-score", tmp_path / "out", "--encoder", tmp_path / "clip", "--json").json
    assert result["recipe"]["pictures"] == 4
    assert 0 <= result["values"]["clip_score"] <= 100
    assert -1 <= result["values"]["cosine"] <= 1


def test_pictures_without_words_have_no_clip_score(evaluate: Run, pictures: Path, tmp_path: Path) -> None:
    save_part(tiny_clip(), tmp_path / "clip")
    result = evaluate("clip-score", pictures, "--encoder", tmp_path / "clip")
    assert result.code == 2
    assert "comes without words" in result.sentence


def test_neighbours_are_shown_in_pairs(evaluate: Run, pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "pairs"
    training = "data:scenes,split=train,seed=9"
    result = evaluate("neighbours", pictures, training, "-n", 3, "-k", 2, "--training-count", 20, "-o", target, "--json").json
    assert [pair["nearest"][0]["index"] for pair in result["pairs"]] == [0, 1, 2]  # the pictures are of that very set
    with Image.open(result["sheet"]) as sheet:
        assert sheet.width > 3 * 64
    first = np.asarray(Image.open(target / "sample-1-training-001.png"))
    assert (first == np.asarray(Image.open(pictures / "00.png"))).all()
    assert json.loads((target / "neighbours.json").read_text())["pairs"] == result["pairs"]


def test_neighbours_by_lpips(evaluate: Run, pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LPIPS("alex")
    tensors = {f"features.{name.split('.', 2)[2]}": value for name, value in network.state_dict().items() if name.startswith("stages")}
    torch.save(tensors | {f"lin{i}.model.1.weight": torch.rand(1, len(w), 1, 1) for i, w in enumerate(network.weights)}, tmp_path / "a.pth")
    result = evaluate(
        "neighbours", pictures, pictures, "-n", 2, "-k", 1, "--lpips", tmp_path / "a.pth", "-o", tmp_path / "o", "--json"
    ).json
    assert [pair["nearest"][0]["index"] for pair in result["pairs"]] == [0, 1]
    assert result["by"] == "lpips"


def test_reconstruction_of_a_models_codec_and_of_a_codec(evaluate: Run, pictures: Path, folder: Path, tmp_path: Path) -> None:
    values = evaluate("reconstruction", folder, pictures, "--json").json["values"]
    assert values["fid"] > 0
    assert values["psnr"] > 0
    save_part(tiny_clip(), tmp_path / "clip")
    refused = evaluate("reconstruction", tmp_path / "clip", pictures)
    assert refused.code != 0
    assert refused.sentence


def test_samples_without_prompts_are_judged(run: Run, unconditional: Path) -> None:
    found = run("evaluate", "scenes", "--model", unconditional, "--unconditional", "-n", 6, "-k", 2, "--json").json["unconditional"]
    assert found["valid"] == 0  # of random tokens
    assert 0 <= found["prdc"]["coverage"] <= found["ceiling"] <= 1


def test_a_model_of_prompts_is_not_measured_without(run: Run, folder: Path) -> None:
    result = run("evaluate", "scenes", "--model", folder, "--unconditional", "-n", 6)
    assert result.code == 2
    assert "needs prompts: leave --unconditional out" in result.sentence


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["fid", "EMPTY", REFERENCE], 2, "no picture was found in"),
        (["fid", "nowhere", REFERENCE], 2, "there is no folder nowhere"),
        (["fid", "PICTURES", REFERENCE, "-n", 13], 2, "has 12 pictures, but 13 are needed"),
        (["fid", "PICTURES", REFERENCE, "-n", 1], 2, "at least 2 pictures are needed on each side, not 1"),
        (["prdc", "PICTURES", REFERENCE, "-k", 12], 2, "but k = 12 neighbours of each need at least 13"),
        (["prdc", "PICTURES", REFERENCE, "-k", 5, "--reference-count", 4], 2, "4 real pictures, but k = 5"),
        (["kid", "PICTURES", REFERENCE], 2, "subsets of 1000 pictures"),
        (["fid", "PICTURES", "data:scnes"], 2, "did you mean 'scenes'"),
        (["fid", "PICTURES", "data:scenes,split"], 2, "is not key=value"),
        (["fid", "PICTURES", "data:scenes,splt=train"], 2, "splt"),
        (["fid", "model:scenes,step=3", REFERENCE], 2, "did you mean 'steps'"),
        (["fid", "PICTURES", REFERENCE, "--extractor", "incepton"], 2, "did you mean 'inception'"),
        (["fid", "PICTURES", REFERENCE, "--extractor", "inception"], 2, "never downloaded"),
        (["neighbours", "PICTURES", REFERENCE, "--training-count", 3, "-k", 4], 2, "3 training pictures, but 4 neighbours"),
        (["reconstruction", "nothing", "PICTURES"], 2, "nothing"),
    ],
)
def test_bad_input_is_one_sentence(
    evaluate: Run, pictures: Path, tmp_path: Path, arguments: list[object], code: int, sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "PICTURES": pictures}
    extra = ["-o", tmp_path / "o"] if arguments[0] == "neighbours" else []
    result = evaluate(*(places.get(str(argument), argument) for argument in arguments), *extra)
    assert result.code == code
    assert sentence in result.sentence


def test_variations_of_scenes_are_compared_with_them(evaluate: Run, tmp_path: Path):
    model = tiny_float_model()
    model.size = (64, 64)
    model.save(tmp_path / "v")
    result = evaluate("scenes", "--model", tmp_path / "v", "--variations", "-n", 3, "--steps", 2, "--json", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    shares = json.loads(result.out)["variations"]
    assert shares["count"] == 3
    assert shares["same"] == 0  # of noise
    verdicts = json.loads((tmp_path / "out" / "verdicts.json").read_text())
    assert [verdict["prompt"] for verdict in verdicts] == ["000000", "000001", "000002"]
    assert all((tmp_path / "out" / verdict["picture"]).is_file() for verdict in verdicts)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--variations"], "has no flow image_to_image, but text_to_image"),
        (["--captions"], "has no flow image_to_text"),
        (["--rewrites"], "has no flow text_to_text"),
        (["--variations", "--unconditional"], "--unconditional and --variations are different measures"),
        (["--captions", "--rewrites"], "choose one"),
        (["--captions", "-n", 0], "count must be a whole number from 1"),
    ],
)
def test_a_measure_needs_its_flow(run: Run, unconditional: Path, options: list[object], sentence: str) -> None:
    result = run("evaluate", "scenes", "--model", unconditional, *options)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.sentence
