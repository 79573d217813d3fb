"""Training several flows of one network together: tiny ones on the built-in world."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tessera.codecs.kl import KLAutoencoder
from tessera.codecs.text_vae import TextVAE
from tessera.contexts.clip_tokens import CLIPTokens
from tessera.contexts.prompt_warnings import PromptTruncated
from tessera.contexts.two_towers import TwoTowers
from tessera.data.scenes import Scenes
from tessera.data.scenes_language import VOCABULARY
from tessera.errors import UsageError
from tessera.families.versatile.network import FlowNetwork
from tessera.families.versatile.presets import FLOWS
from tessera.float_flow import FloatFlow
from tessera.loading import load
from tessera.model import Model
from tessera.part_folder import save_part
from tessera.processes.gaussian import GaussianProcess
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.processes.gaussian_schedules import LinearBeta
from tessera.randomness import Draws
from tessera.record import Record
from tessera.training.joint_task import JointTask
from tessera.training.loader import Batch, Batches
from tessera.training.recipe_files import load_recipe, parse_recipe
from tessera.training.run import make_task, train
from tessera.training.task import to_picture
from tests.contexts.test_clip_joint import IMAGE as CLIP_IMAGE
from tests.contexts.test_clip_joint import MERGES
from tests.contexts.test_clip_joint import TEXT as CLIP_TEXT
from tests.data.shard_making import archive, captioned
from tests.tiny_versatile import tiny_network
from tests.training.tiny import COMMON, metrics, write

RECIPES = Path(__file__).parents[2] / "recipes"
KL: dict[str, Any] = {
    "kind": "kl", "channels": 6, "width": 16, "multipliers": [1], "blocks": 0, "features": 8, "patch": 16, "local": True, "kernel": 1,
    "linear_start": True, "scale": 1.0,
}  # fmt: skip
SIZES = {"length": 28, "layers": 1, "width": 16, "heads": 2}
TEXT: dict[str, Any] = {
    "kind": "text-vae", "latent": 8, "words": list(VOCABULARY), "encoder": SIZES, "decoder": SIZES, "pieces": 26, "dropout": 0.0,
    "pooling": "all", "normalised": True, "memories": 2,
}  # fmt: skip
CLIP: dict[str, Any] = {
    "kind": "tower-tokens", "vocabulary": list(VOCABULARY), "length": 26, "text_width": 16, "text_depth": 1, "text_heads": 2,
    "image_width": 16, "image_depth": 1, "image_heads": 2, "width": 16,
}  # fmt: skip
JOINT: dict[str, Any] = COMMON | {
    "task": "flows",
    "codecs": {"image": KL, "text": TEXT},
    "context": CLIP,
    "network": {
        "kind": "versatile", "widths": [32], "blocks": 1, "context_levels": [0], "heads": 2, "parametrisation": "v",
        "data": {"text": {"positions": 2}}, "contexts": {"text": {"factor": 1}},
    },
    "processes": {"image": {"kind": "cosine", "shift": -2.0}, "text": {"kind": "cosine"}},
    "flows": {
        "text_to_image": {"share": 0.5}, "image_to_image": {"share": 0.25, "weight": 2.0}, "image_to_text": {"blank": 0},
        "text_to_text": {"weight": 0.5},
    },
    "reworded": True,
    "steps": 4,
    "optimizer": {"rate": 2e-3, "weight_decay": 0.0, "clip": 1.0},
    "ema": {"decay": 0.9, "every": 1},
    "sampling": {"sampler": "ddim", "steps": 4, "guidance": 2.0},
}  # fmt: skip


def task_of(**changes: Any) -> JointTask:
    torch.manual_seed(0)
    made = make_task(parse_recipe({"out": "nowhere", **JOINT, **changes}, "here"), 64)
    assert isinstance(made, JointTask)
    return made


def test_a_run_writes_a_model_of_four_flows_over_one_network(tmp_path: Path) -> None:
    validation = {"data": {"kind": "scenes", "split": "held-out"}, "examples": 3, "every": 4}
    run = train(write(tmp_path, JOINT, validation=validation, panel={"every": 4, "pictures": 2, "prompts": ["a red circle"]}))
    assert {f"squared_error_{name}" for name in FLOWS} <= metrics(run)[-1].keys()
    assert {f"squared_error_{name}" for name in FLOWS} <= metrics(run, "panel")[-1].keys()
    files = {path.name.split("-", 1)[1] for path in (run / "panel").iterdir()}
    assert {"text_to_image-ema.png", "originals_and_image_to_image-ema.png", "image_to_text-ema.txt", "text_to_text-raw.txt"} <= files
    assert (run / "panel" / "00000004-text_to_text-ema.txt").read_text().startswith("a red circle -> ")
    model = load(run / "model", "cpu")
    assert set(model.flows) == set(FLOWS)
    networks = [flow.network for flow in model.flows.values()]
    assert all(isinstance(network, FlowNetwork) and network.whole is networks[0].whole for network in networks)
    assert model.flows["text_to_image"].loss.process.config != model.flows["text_to_text"].loss.process.config
    alone = load(run / "model", "cpu", flows=["text_to_image"])
    assert model.text_to_image("a red circle", seed=0)[0].tobytes() == alone.text_to_image("a red circle", seed=0)[0].tobytes()
    assert not alone.flows["text_to_image"].network.whole.config["data"].keys() & {"text"}


def test_going_on_gives_the_same_weights(tmp_path: Path) -> None:
    checkpoint = {"every": 2, "minutes": None}
    whole = train(write(tmp_path / "whole", JOINT, checkpoint=checkpoint))
    parts = write(tmp_path / "parts", JOINT, checkpoint=checkpoint)
    train(parts, ["steps=2"])
    parts = train(parts)
    assert (whole / "model" / "model.safetensors").read_bytes() == (parts / "model" / "model.safetensors").read_bytes()


@torch.no_grad()
def test_a_step_is_the_same_in_parts() -> None:
    """Loss, report and noise of a step of eight pairs are those of its halves, which have different numbers of each flow's pairs."""
    task, data = task_of(), Scenes(length=24)
    whole = Batches(data, 0, 8, reworded=True)[1]
    parts = [Batches(data, 0, size, stride=8, offset=offset, reworded=True)[1] for size, offset in ((2, 0), (2, 2), (2, 4), (2, 6))]
    loss, report = task(whole, 5, 8)
    made = [task(part, 5, 8) for part in parts]
    torch.testing.assert_close(torch.stack([each for each, _ in made]).mean(), loss)
    for name, value in report.items():
        torch.testing.assert_close(torch.stack([values[name] for _, values in made]).mean(), value)


@torch.no_grad()
def test_flows_count_by_their_weights() -> None:
    batch = Batches(Scenes(length=24), 0, 8, reworded=True)[0]
    loss, report = task_of()(batch, 1, 8)
    weights = {"text_to_image": 1.0, "image_to_image": 2.0, "image_to_text": 1.0, "text_to_text": 0.5}
    torch.testing.assert_close(loss, sum(weight * report[f"squared_error_{name}"] for name, weight in weights.items()))


def gradients(task: JointTask, seed: int = 1) -> dict[str, torch.Tensor]:
    batch = Batches(Scenes(length=24), 0, 8, **task.asks)[0]
    task(batch, seed, 8)[0].backward()
    return {name: value.grad for name, value in task.network.named_parameters() if value.grad is not None}


def random_heads(task: Any) -> Any:
    """What starts at zero hides what is before it. task: or a flow."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in task.network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return task


def test_gradients_of_groups_of_layers_are_scaled() -> None:
    plain = gradients(random_heads(task_of()))
    scaled = gradients(random_heads(task_of(gradients={"data.image": 0.1, "time": 0.5, "contexts.text": 0.0})))
    for name, value in plain.items():
        factor = 0.1 if name.startswith("data.image.") else 0.5 if name.startswith("time.") else 0.0 if "contexts.text" in name else 1.0
        torch.testing.assert_close(scaled[name], factor * value)
    assert any(value.abs().sum() > 0 for name, value in plain.items() if name.startswith("contexts.text."))


def test_a_flow_alone_trains_nothing_of_the_others() -> None:
    task = random_heads(task_of(flows={"image_to_text": {}}))
    assert set(task.network.data) == {"text"}
    assert set(task.network.contexts) == {"image"}
    assert all(value.abs().sum() > 0 for value in gradients(task).values())


def test_words_to_words_learn_other_words() -> None:
    batch = Batches(Scenes(length=24), 0, 4, reworded=True)[0]
    task = task_of()
    flow = dict(task._each())["text_to_text"]
    image = torch.zeros(4, 3, 64, 64)
    expected = task.codecs["text"].means(batch.rewordings)
    assert batch.rewordings is not None
    assert all(given != other for given, other in zip(batch.prompts, batch.rewordings, strict=True))
    assert torch.equal(task._latents(flow, batch, image, [0, 1, 2, 3]), expected)
    assert torch.equal(task._latents(dict(task._each())["image_to_text"], batch, image, [1]), task.codecs["text"].means([batch.prompts[1]]))


def test_everything_but_the_network_is_frozen_unless_asked() -> None:
    before = {name: value.clone() for name, value in task_of().state_dict().items()}
    for train_context in (False, True):
        task = random_heads(task_of(train_context=train_context))
        optimizer = torch.optim.SGD([value for value in task.parameters() if value.requires_grad], 0.1)
        gradients(task)
        optimizer.step()
        tensors = [name for name, value in task.state_dict().items() if not torch.equal(value, before[name])]
        assert not train_context or {"encoder.text_projection.weight", "encoder.image_projection.weight"} <= set(tensors)
        changed = {name.split(".")[0] for name in tensors}
        assert changed == ({"network", "encoder"} if train_context else {"network"})
        assert {name.split(".")[0] for name in task.live_state()} == changed
        assert not task.codecs["text"].training


def test_it_starts_from_a_model_of_one_flow(tmp_path: Path) -> None:
    """As Versatile Diffusion did from Stable Diffusion: what is there is taken over, what is not is new or a copy of other layers."""
    one = {key: value for key, value in JOINT.items() if key != "network"}
    single = {**JOINT["network"], "data": {}, "contexts": {}}
    run = train(write(tmp_path / "one", JOINT, flows={"text_to_image": {}}, network=single, steps=1))
    first: Any = load(run / "model", "cpu").flows["text_to_image"]
    init = {"init": str(run / "model"), "copies": {"contexts.image": "contexts.text"}, "context": None, "codecs": {"text": TEXT}}
    task = task_of(**{**one, "network": {}, **init})
    ours, theirs = task.network.state_dict(), first.network.whole.state_dict()
    assert set(task.network.data) == {"image", "text"}
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert all(
        torch.equal(value, theirs[name.replace("contexts.image", "contexts.text")])
        for name, value in ours.items()
        if name.startswith("contexts.image.")
    )
    assert task.flows[0]["text_to_image"].loss.process.config == first.loss.process.config
    for changes, message in [
        ({"network": {**JOINT["network"], "widths": [64]}}, "does not fit the recipe: time.first.weight is"),
        ({"copies": {"contexts.image": "contexts.sound"}}, "has no layers 'contexts.sound'"),
        ({"codecs": {}}, "codecs.text is missing"),
    ]:
        with pytest.raises(UsageError, match=message):
            task_of(**{**one, "network": {}, **init, **changes})


def test_a_third_context_type_joins_a_trained_model(tmp_path: Path) -> None:
    """Pictures from palettes: what the model has is taken over, what it draws follows the palette, alone and beside words."""
    run = train(write(tmp_path / "first", JOINT, steps=1))
    first = load(run / "model", "cpu")
    rest = {key: value for key, value in JOINT.items() if key not in ("network", "context", "codecs", "processes", "reworded")}
    recipe = rest | {
        "init": str(run / "model"), "encoders": {"palette": {"kind": "palette", "colours": 3}}, "steps": 2,
        "flows": {"text_to_image": {"share": 0.5}, "palette_to_image": {}},
        "validation": {"data": {"kind": "scenes", "split": "held-out"}, "examples": 3, "every": 2},
        "panel": {"every": 2, "pictures": 2, "prompts": ["a star"]},
    }  # fmt: skip
    again = train(write(tmp_path / "second", recipe))
    assert {path.name.split("-", 1)[1] for path in (again / "panel").iterdir()} >= {"originals_and_palette_to_image-ema.png"}
    model = load(again / "model", "cpu")
    assert set(model.flows) == {"text_to_image", "palette_to_image"}
    assert model.flows["palette_to_image"].loss.process.config == first.flows["text_to_image"].loss.process.config
    for flow in model.flows.values():
        random_heads(flow)
    drawn = [
        model.blend(palette=palette, text=text, seed=0)[0].tobytes()
        for palette in ("white:3, red", "black, red") for text in (None, "a star")
    ]  # fmt: skip
    assert len(set(drawn)) == 4
    picture = model.blend(palette="white:3, red", seed=0)[0]
    assert Record.of(picture).prompt == "white:3, red"
    assert (
        model.blend(text="a star", palette="red", palette_share=0.0, seed=0)[0].tobytes()
        == model.text_to_image("a star", seed=0)[0].tobytes()
    )
    for changes, message in [
        ({"flows": {"sound_to_image": {}}}, "unknown flow 'sound_to_image'"),
        ({"encoders": {"text": {"kind": "palette"}}}, "encoders.text: words are read by `context`"),
        ({"encoders": {"palette": {"kind": "labels", "count": 3}}}, "'labels' does not read pictures"),
    ]:
        with pytest.raises(UsageError, match=message):
            make_task(parse_recipe({"out": "nowhere", **recipe, **changes}, "here"), 64)


def test_a_trained_clip_is_read_token_by_token(tmp_path: Path) -> None:
    torch.manual_seed(3)
    towers = TwoTowers(**{name: value for name, value in CLIP.items() if name != "kind"})
    save_part(towers, tmp_path / "clip")
    task = task_of(context=str(tmp_path / "clip"))
    assert all(torch.equal(value, towers.state_dict()[name]) for name, value in task.encoder.state_dict().items())


def test_the_scenes_recipe_fits_its_memory(tmp_path: Path) -> None:
    """Its parts, made new, are those of the other recipes; all of them fit 25 MB in half precision."""
    for name, part, key in [("kl", KLAutoencoder, "codec"), ("text-vae", TextVAE, "codec"), ("clip", TwoTowers, "encoder")]:
        config = dict(getattr(load_recipe(RECIPES / f"scenes_{name.replace('-', '_')}.yaml"), key))
        config.pop("kind")
        save_part(part(**config), tmp_path / name)
    folders = [f"codecs.image={tmp_path / 'kl'}", f"codecs.text={tmp_path / 'text-vae'}", f"context={tmp_path / 'clip'}"]
    task: Any = make_task(load_recipe(RECIPES / "scenes_versatile.yaml", folders), 64)
    assert sum(value.numel() for value in task.parameters()) * 2 <= 25e6
    assert all(isinstance(flow, FloatFlow) for flow in task.flows[0].values())


def test_what_is_cut_from_captions_is_said_once_by_each_reader() -> None:
    """Both the encoder of words and the text autoencoder read captions."""
    task = task_of(flows={"text_to_text": {}})
    long = Batch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), None, ["a red circle and " * 9 + "a star"], [0], {})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed in range(3):
            task(long, seed, 1)
    assert [each.category for each in said] == [PromptTruncated] * 2


def test_labels_are_no_captions() -> None:
    with pytest.raises(UsageError, match="learn captions, but the dataset gives 3"):
        task_of()(Batch(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), None, ["a", 3], [0, 1], {}), 0, 2)


@pytest.mark.filterwarnings("ignore::tessera.contexts.prompt_warnings.PromptTruncated")
def test_pairs_of_archives_that_lack_something_are_counted_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a caption, with a broken picture, and with no number where the .parquet that should say it is missing too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for shard in range(2):
        pictures, captions = Scenes(length=24).batch(range(8 * shard, 8 * shard + 8), 0)
        members = []
        for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            image = Image.fromarray(picture.permute(1, 2, 0).numpy())
            made = captioned(f"{shard}{i}", caption, image, **({} if i == 2 else {"similarity": 0.4 if i else 0.2}))
            made = [(made[0][0], made[0][1][:100]), *made[1:]] if i == 3 else made
            members += [member for member in made if i != 4 or not member[0].endswith(".txt")]
        archive(tmp_path / "data" / f"{shard:05}.tar", members)
    data = {"kind": "shards", "root": str(tmp_path / "data"), "size": 64, "crop": "centre", "where": {"similarity": [0.3, None]}}
    run = train(write(tmp_path, JOINT, data=data))
    assert metrics(run)[-1]["skipped"] == 6
    said = (run / "skipped-0.txt").read_text()
    assert said.count("it has no .txt with a caption") == said.count("it does not say 'similarity'") == 2
    assert sum(f"{shard}3.jpg" in said for shard in range(2)) == 2
    assert (run / "model" / "model.json").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flows": {}}, "name at least one flow"),
        ({"flows": {"text_to_picture": {}}}, "unknown flow 'text_to_picture': did you mean"),
        ({"flows": {"text_to_image": {"share": 0}}}, "share.* is 0"),
        ({"flows": {"text_to_image": {"weight": -1}}}, "weight.* is -1"),
        ({"flows": {"text_to_image": {"blank": 3}}}, "a blank picture is for the reading 'pictures'"),
        ({"codecs": {"text": TEXT}}, "codecs.image is missing"),
        ({"codecs": {"image": TEXT, "text": TEXT}}, "codecs.image is 'text-vae'"),
        ({"codecs": {"image": {"kind": "patch"}, "text": TEXT}}, "codecs.image is 'patch': the flows need a codec of floats"),
        ({"context": None}, "context is missing"),
        ({"context": {"kind": "words", "vocabulary": ["a"], "length": 3, "width": 8, "depth": 0, "heads": 1}}, "token by token"),
        ({"network": {"kind": "absorbing"}}, "network"),
        ({"network": {**JOINT["network"], "data": {"text": {"width": 9}}}}, "texts of 9 channels, but their codec has 8"),
        ({"network": {**JOINT["network"], "contexts": {"text": {"width": 9}}}}, "rows of 9, but the encoder gives 16"),
        ({"network": {**JOINT["network"], "parametrisation": "w"}}, "parametrisation"),
        ({"gradients": {"data.sound": 0.1}}, "no layer's name begins with 'data.sound'"),
        ({"copies": {"contexts.image": "contexts.text"}}, "there is no init"),
    ],
)
def test_wrong_recipes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(write(tmp_path, {**JOINT, **changes}))


def test_it_starts_from_stable_diffusion_with_its_autoencoder_and_clip(tmp_path: Path) -> None:
    """A converted single-flow model: its CLIP, of which Stable Diffusion reads the states, is read as Versatile Diffusion does."""
    network = tiny_network(data={"image": {"kind": "grid", "channels": 4}}, contexts={"text": {"kind": "rows", "width": 16}})
    codec = KLAutoencoder(channels=4, width=32, multipliers=(1, 1), blocks=1, features=4)
    clip = CLIPTokens(text={**CLIP_TEXT, "width": 16}, image=CLIP_IMAGE, width=16, merges=MERGES)
    loss = GaussianLoss(GaussianProcess(LinearBeta()), "eps")
    flow = FloatFlow(codec, clip.view("states"), network.view("image", "text"), loss)
    Model("sd", "versatile", {"text_to_image": flow}, (64, 64)).save(tmp_path / "sd")
    recipe = {key: value for key, value in JOINT.items() if key not in ("network", "context", "processes")}
    started = {"init": str(tmp_path / "sd"), "copies": {"contexts.image": "contexts.text"}, "codecs": {"text": TEXT}}
    flows = {"text_to_image": {}, "image_to_image": {}, "image_to_text": {"blank": 0}, "text_to_text": {}}
    run = train(write(tmp_path, {**recipe, **started}, flows=flows, steps=2))
    model: Any = load(run / "model", "cpu")
    assert {name: made.context_encoder.of for name, made in model.flows.items()} == {
        "text_to_image": "words", "image_to_image": "pictures", "image_to_text": "pictures", "text_to_text": "words"
    }  # fmt: skip
    assert model.flows["text_to_text"].loss.process.config == loss.process.config
    stored = model.flows["text_to_image"].codec.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in codec.state_dict().items())


def test_every_flow_learns_what_belongs_to_what() -> None:
    """Four pairs by heart, on different backgrounds: each flow errs less with what belongs to its data."""
    wider = {**JOINT["network"], "widths": [64], "data": {"text": {"positions": 4}}}  # groups of one or two features would all be ±1
    task = task_of(
        flows={name: {"drop": 0.0} for name in FLOWS},
        network=wider,
        denoising={data: {"time_sampling": "stratified"} for data in ("image", "text")},
    )
    scenes = Scenes(seed=5)
    pictures, captions = scenes.batch(list({scenes.describe(index)[0].background: index for index in range(30)}.values()), 0)
    task.codecs["image"].train().reconstruct(to_picture(pictures))  # its linear start
    task.codecs["image"].eval()
    optimizer = torch.optim.Adam(task.network.parameters(), 3e-3, betas=(0.9, 0.98))
    losses = []
    for step in range(50):
        batch = Batch(pictures.repeat(2, 1, 1, 1), None, captions * 2, list(range(8 * step, 8 * step + 8)), {})
        loss, _ = task(batch, step, 8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    task.eval()
    batch = Batch(pictures, None, captions, [0, 1, 2, 3], {})
    with torch.no_grad():
        contexts = task._contexts(batch, to_picture(pictures), {name: [0, 1, 2, 3] for name in FLOWS})
        for name, flow in task._each():
            x_0, t = (
                task._latents(flow, batch, to_picture(pictures), [0, 1, 2, 3]).repeat_interleave(16, 0),
                torch.arange(1, 17).repeat(4) / 17,
            )
            own, others = (
                task._loss(name, x_0, context.repeat(16), Draws(0, range(64)), t).squared_error.mean()
                for context in (contexts[name], contexts[name][torch.tensor([1, 2, 3, 0])])
            )
            assert own < 0.8 * others, name
