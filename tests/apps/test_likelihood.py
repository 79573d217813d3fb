"""`tessera evaluate likelihood` of VQ-Diffusion's process: pictures with captions, with classes, and without either."""

from pathlib import Path

import pytest
from PIL import Image

from tessera.contexts.labels import Labels
from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.flow import TokenFlow
from tessera.model import Model
from tests.apps.conftest import Run
from tests.tiny import tiny_model

COLOURS = ("red", "green", "blue")


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """A picture of each colour, with its caption, and one without."""
    place = tmp_path / "captioned"
    place.mkdir()
    for name in (*COLOURS, "gray"):
        Image.new("RGB", (32, 32), name).save(place / f"{name}.png")
        if name in COLOURS:
            (place / f"{name}.txt").write_text(f"a {name} square\n")
    return place


def test_of_pictures_with_captions(run: Run, folder: Path, captioned: Path, tmp_path: Path) -> None:
    data = f"data:folder,root={captioned},size=32"
    report = run("evaluate", "likelihood", folder, data, "-o", tmp_path / "a.json", "--json").json
    values = report["values"]
    assert values["bits_per_token"] > 0
    assert 0 < values["last"] < 1e-3
    assert (report["recipe"]["pictures"], report["recipe"]["times"]) == (3, 20)
    assert [Path(name).name for name in report["samples"]["skipped"]] == ["gray.png"]
    assert "without the" in run("evaluate", "likelihood", folder, data, "--times", 4).out


def test_of_pictures_with_classes(run: Run, tmp_path: Path) -> None:
    flow = tiny_model().flows["text_to_image"]
    network = TokenTransformer(24, (4, 4), width=16, depth=1, heads=2, timesteps=20, condition="class", class_count=3)
    made = Model(
        "classes", "vq-diffusion", {"text_to_image": TokenFlow(flow.codec, Labels(3), network, flow.loss)}, (32, 32), tiny_model().defaults
    )
    model = made.save(tmp_path / "classes")
    for colour in COLOURS:
        (tmp_path / "data" / "train" / colour).mkdir(parents=True)
        Image.new("RGB", (32, 32), colour).save(tmp_path / "data" / "train" / colour / "one.png")
    report = run("evaluate", "likelihood", model, f"data:imagenet,root={tmp_path / 'data'},size=32", "--json").json
    assert report["recipe"]["pictures"] == 3


def test_pictures_that_say_nothing_are_refused(run: Run, folder: Path, captioned: Path) -> None:
    result = run("evaluate", "likelihood", folder, captioned)
    assert (result.code, "picture 1 says nothing of what it shows" in result.sentence) == (2, True)
