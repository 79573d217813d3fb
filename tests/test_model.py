import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import tessera
from tessera.apps.catalogue import summary
from tessera.data.scenes import BACKGROUNDS, Scenes, render
from tessera.errors import TesseraError, UsageError
from tessera.flow import SamplingSettings
from tessera.model import Model
from tessera.model_folder import DESCRIPTION, WEIGHTS, bundled, read_description, shapes, weights_sha256
from tessera.model_weights import write_model
from tessera.pictures import to_tensor
from tessera.record import Record
from tessera.samplers.loop import Progress
from tests.tiny import tiny_model

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def saved(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def same(a: list[Image.Image], b: list[Image.Image]) -> bool:
    return [p.tobytes() for p in a] == [p.tobytes() for p in b]


# A picture depends on (seed, index) and the settings only.


@settings(max_examples=10, deadline=None, derandomize=True)
@given(batch_size=st.integers(1, 6), index=st.integers(0, 4), seed=st.integers(0, 2**63 - 1))
def test_picture_depends_on_seed_and_index_only(batch_size: int, index: int, seed: int) -> None:
    model = tiny_model()
    whole = model.text_to_image(PROMPT, n=5, seed=seed, guidance=2.0)
    part = model.text_to_image(PROMPT, n=5 - index, seed=seed, guidance=2.0, batch_size=batch_size, index=index)
    assert same(part, whole[index:])


def test_pictures_of_a_request_differ(model: Model) -> None:
    pictures = model.text_to_image([PROMPT, "a blue square"], n=2, seed=0)
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert [Record.of(picture).prompt for picture in pictures] == [PROMPT, PROMPT, "a blue square", "a blue square"]
    assert [Record.of(picture).index for picture in pictures] == [0, 1, 2, 3]


def test_record_is_enough_to_make_the_picture_again(model: Model) -> None:
    options = {"sampler": "purity:weight=2", "steps": 7, "guidance": 3.0, "truncation": 0.9, "temperature": 0.8, "size": (16, 32)}
    picture = model.text_to_image(PROMPT, n=3, **options)[2]
    record = Record.of(picture)
    assert picture.size == (32, 16)
    again = model.text_to_image(
        record.prompt, seed=record.seed, index=record.index, sampler=record.sampler, steps=record.steps, guidance=record.guidance,
        truncation=record.truncation, temperature=record.temperature, size=record.size,
    )  # fmt: skip
    assert same(again, [picture])


def test_random_seed_is_drawn_and_carried(model: Model) -> None:
    first, second = (Record.of(model.text_to_image(PROMPT)[0]).seed for _ in range(2))
    assert first != second


def test_image_to_image_starts_from_more_of_the_picture_at_lower_strength(model: Model) -> None:
    start = model.text_to_image("a blue square", seed=5)[0]
    tokens = model.flows["text_to_image"].codec.encode(to_tensor(start, model.size)[None])

    def kept(strength: float) -> float:
        first: list[Progress] = []
        model.text_to_image(PROMPT, n=8, seed=1, init=start, strength=strength, steps=20, callback=first.append)
        return float((first[0].x == tokens).float().mean())

    assert kept(0.1) > 0.8 > kept(0.5) > 0.3 > kept(1.0)


def test_image_to_image_record(model: Model) -> None:
    start = model.text_to_image("a blue square", seed=5)[0]
    record = Record.of(model.text_to_image(PROMPT, seed=1, init=start)[0])
    assert record.start == 0.6
    assert record.init is not None


def test_half_precision_is_recorded(model: Model) -> None:
    picture = model.text_to_image(PROMPT, seed=0, precision="bfloat16")[0]
    assert Record.of(picture).precision == "bfloat16"


def test_pictures_come_batch_by_batch(model: Model) -> None:
    steps = 0

    def count(_: object) -> None:
        nonlocal steps
        steps += 1

    stream = model.stream(PROMPT, 3, 0, SamplingSettings(steps=4), batch_size=1, callback=count)
    next(stream)
    assert steps == 4


def test_cancelled_request_has_given_its_finished_pictures(model: Model) -> None:
    given: list[Image.Image] = []

    def cancel(progress: object) -> None:
        if len(given) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        given.extend(model.stream(PROMPT, 4, 0, SamplingSettings(steps=4), batch_size=1, callback=cancel))
    assert same(given, model.text_to_image(PROMPT, n=2, seed=0, steps=4))


# Bad arguments.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompts": ""}, "prompt is empty"),
        ({"prompts": []}, "prompt is empty"),
        ({"prompts": ["a red circle", "  "]}, "prompt is empty"),
        ({"n": 0}, "n, the number of pictures"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 21}, "steps must be between 1 and 20"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"temperature": 0.0}, "temperature"),
        ({"truncation": 1.5}, "truncation"),
        ({"sampler": "purty"}, "'purity'"),
        ({"size": (30, 32)}, "multiples of 8"),
        ({"size": (0, 32)}, "multiples of 8"),
        ({"size": (320, 16)}, "smaller along the other"),
        ({"size": (64, 64), "stride": 5}, "leaves gaps"),
        ({"window_weights": "round"}, "known: even, tent"),
        ({"batch_size": 0}, "batch_size"),
        ({"strength": 0.5}, "strength"),
        ({"strength": 0.0, "init": Image.new("RGB", (8, 8))}, "start"),
        ({"strength": float("nan"), "init": Image.new("RGB", (8, 8))}, "start"),
        ({"precision": "float61"}, "precision"),
    ],
)
def test_bad_argument_is_one_sentence(model: Model, arguments: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(")) as error:
        model.text_to_image(**{"prompts": PROMPT, "seed": 0} | arguments)
    assert "\n" not in str(error.value)


# Folders.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_saved_model_is_the_same(model: Model, tmp_path: Path, dtype: str) -> None:
    loaded = tessera.load(model.save(tmp_path / "tiny", dtype=dtype))
    kind = getattr(torch, dtype)
    for name, tensor in model.flows["text_to_image"].network.state_dict().items():
        assert torch.equal(loaded.flows["text_to_image"].network.state_dict()[name], tensor.to(kind).float())
    assert (loaded.name, loaded.family, loaded.size, loaded.defaults, loaded.card) == (
        model.name, model.family, model.size, model.defaults, model.card,
    )  # fmt: skip
    assert json.loads((tmp_path / "tiny" / DESCRIPTION).read_text())["dtype"] == dtype


def test_saved_model_draws_the_same(model: Model, saved: Path) -> None:
    assert same(tessera.load(saved).text_to_image(PROMPT, n=2, seed=3), model.text_to_image(PROMPT, n=2, seed=3))


def test_record_names_the_weights(saved: Path) -> None:
    loaded = tessera.load(saved)
    assert loaded.weights is not None
    assert Record.of(loaded.text_to_image(PROMPT, seed=0)[0]).weights == loaded.weights


@pytest.fixture
def sharded(model: Model, saved: Path, tmp_path: Path) -> Path:
    """The saved model again, its weights in several files."""
    about = {key: value for key, value in read_description(saved).items() if key not in ("format", "dtype", "weights_sha256", "flows")}
    write_model(tmp_path / "sharded", about, model.flows, "float32", overwrite=False, shard_bytes=20_000)
    assert len(list((tmp_path / "sharded").glob("model-*-of-*.safetensors"))) > 2
    return tmp_path / "sharded"


def test_sharded_model_is_the_same(saved: Path, sharded: Path) -> None:
    assert same(tessera.load(sharded).text_to_image(PROMPT, n=2, seed=3), tessera.load(saved).text_to_image(PROMPT, n=2, seed=3))
    assert shapes(sharded) == shapes(saved)
    assert {key: value for key, value in summary(sharded).items() if key != "folder"} == {
        key: value for key, value in summary(saved).items() if key != "folder"
    }


def test_hash_of_the_weights(saved: Path, sharded: Path) -> None:
    for folder in (saved, sharded):
        assert read_description(folder)["weights_sha256"] == weights_sha256(folder) == tessera.load(folder).weights
    assert weights_sha256(saved) != weights_sha256(sharded)


def test_shard_missing(sharded: Path) -> None:
    shard = min(sharded.glob("model-00002-of-*.safetensors"))
    shard.unlink()
    fails(sharded, f"{shard.name} is missing")
    with pytest.raises(TesseraError, match="is missing"):
        weights_sha256(sharded)


def test_weights_are_readable_by_all(saved: Path) -> None:
    assert (saved / WEIGHTS).stat().st_mode == (saved / DESCRIPTION).stat().st_mode


def test_saving_never_replaces_silently(model: Model, folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(UsageError, match="already exists"):
        tiny_model(seed=1).save(folder)
    assert (folder / WEIGHTS).read_bytes() == before
    tiny_model(seed=1).save(folder, overwrite=True)
    assert (folder / WEIGHTS).read_bytes() != before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_saving_where_nothing_can_be_written(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TesseraError, match="cannot write"):
        model.save(tmp_path / "file" / "tiny")


def test_cut_weights(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        (folder / WEIGHTS).write_bytes(content[:length])
        fails(folder, "cannot be read")


def test_damaged_header(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[8:16] = b"\xff" * 8
    (folder / WEIGHTS).write_bytes(content)
    fails(folder, "cannot be read")


def test_weights_missing(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    fails(folder, "cannot be read")


def test_tensor_missing(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["text_to_image.network.head.bias"]
    save_file(tensors, folder / WEIGHTS)
    fails(folder, r"'text_to_image.network.head.bias' is missing;")


def test_tensor_of_another_shape_or_unknown(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"text_to_image.network.head.bias": torch.zeros(3), "stray": torch.zeros(1)}, folder / WEIGHTS)
    fails(folder, r"has shape \[3\], not \[24\] \(and 1 more such\)")


def describe(folder: Path, change) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description, description["flows"]["text_to_image"])
    (folder / DESCRIPTION).write_text(json.dumps(description))


def test_codebook_does_not_fit(folder: Path) -> None:
    describe(folder, lambda _, flow: flow["codec"].update(classes=32))
    fails(folder, "codec has 32 classes but the network was made for 24")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _, flow: flow["network"].update(classes=25), "network has 25 classes but the process 24"),
        (lambda _, flow: flow["network"].update(timesteps=10), "network has 10 time steps but the process 20"),
        (lambda _, flow: flow["context"].update(width=32), "needs a context of width 16 but the context encoder gives 32"),
        (lambda _, flow: flow["network"].update(kind="vq-difusion"), "did you mean 'vq-diffusion'"),
        (lambda _, flow: flow["network"].update(shape="round"), "shape"),
        (lambda _, flow: flow["loss"].update(weight=1), "weight"),
        (lambda _, flow: flow.pop("process"), "'process'"),
        (lambda about, _: about.update(format=2), "format 2"),
        (lambda about, _: about.pop("size"), "'size'"),
        (lambda about, _: about.update(size=[64]), "size"),
        (lambda about, _: about["defaults"].update(step=3), "step"),
        (lambda about, _: about["defaults"].update(steps=-3), "steps"),
    ],
)
def test_description_does_not_fit(folder: Path, change, says: str) -> None:
    describe(folder, change)
    fails(folder, says)


def test_description_is_no_json(folder: Path) -> None:
    (folder / DESCRIPTION).write_text('{"format": 1,')
    fails(folder, "cannot be read")


def fails(folder: Path, says: str) -> None:
    with pytest.raises(TesseraError, match=says) as error:
        tessera.load(folder)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["scnes", "no/such/folder"])
def test_unknown_model_names_the_known(name: str) -> None:
    with pytest.raises(UsageError, match="scenes"):
        tessera.load(name)


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model\.json"):
        tessera.load(tmp_path)
    file = tmp_path / "coco_learnable.pth"
    file.write_bytes(b"x")
    with pytest.raises(TesseraError, match="no checkpoint"):
        tessera.load(file)


def test_unknown_device(saved: Path) -> None:
    for device in ("gpu", "cuda:99", "meta2"):
        with pytest.raises(UsageError, match="device") as error:
            tessera.load(saved, device=device)
        assert "\n" not in str(error.value)


def test_shapes_are_read_without_the_weights(model: Model, saved: Path) -> None:
    assert shapes(saved)["text_to_image.network.head.bias"] == (24,)


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_model_draws(name: str) -> None:
    loaded = tessera.load(name)
    picture = loaded.text_to_image("a red circle above a blue square", seed=0, steps=2)[0]
    assert (picture.height, picture.width) == loaded.size


def test_the_bundled_model_of_four_flows_reads_scenes() -> None:
    """Its captions name the background where they name one, which all of 500 do that were measured; so do variations show it."""
    assert sum(path.stat().st_size for path in bundled()["scenes-versatile"].iterdir()) <= 25e6
    loaded = tessera.load("scenes-versatile")
    scenes = Scenes("held-out", seed=1000)
    shown = [scenes.describe(index, seed=0)[0] for index in range(8)]
    pictures = [Image.fromarray(render(scene).transpose(1, 2, 0)) for scene in shown]
    captions = loaded.image_to_text(pictures, seed=0)
    for scene, caption in zip(shown, captions, strict=True):
        assert caption.split()[0] in ("a", "an", "two", "three", "there")
        assert not set(caption.split()) & (set(BACKGROUNDS) - {scene.background})
    assert sum(scene.background in caption for scene, caption in zip(shown, captions, strict=True)) >= 2
    (varied,) = loaded.image_variation(pictures[0], seed=0, steps=5)
    assert np.abs(np.subtract(varied.getpixel((0, 0)), BACKGROUNDS[shown[0].background])).max() < 30
    assert loaded.text_variation("two purple squares", seed=0)[0]
