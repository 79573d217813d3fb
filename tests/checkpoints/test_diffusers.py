"""Against the real pipeline of diffusers, in small configurations."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.checkpoints.diffusers import INDEX, OUR_WEIGHTS, OURS, export_diffusers, import_diffusers
from tessera.checkpoints.diffusers_names import CODEC, NETWORK, NULL, TEXT, places
from tessera.checkpoints.recording import RecordedDraws, gumbel
from tessera.codecs.presets import PRESETS
from tessera.codecs.vqgan import VQGAN
from tessera.contexts.clip import CLIPText
from tessera.contexts.context import Context
from tessera.contexts.labels import Labels
from tessera.errors import TesseraError, UsageError
from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.families.vq_diffusion.presets import preset
from tessera.flow import SamplingSettings, TokenFlow
from tessera.model import Model
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.schedules import make_schedule
from tessera.registry import CODECS, NETWORKS, build
from tessera.samplers.loop import Progress
from tests.conformance.cases import Case, NotInProject, original_file
from tests.conformance.vq_diffusion_codecs import picture_of
from tests.conformance.vq_diffusion_released import flow_from
from tests.tiny import tiny_model
from tests.tiny_pipeline import MERGES, text_model

SMALL_CODEC: dict[str, Any] = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "features": 8, "dim": 4}
PROMPTS = ["a red cat", "cat"]
CASE = Path(__file__).parents[1] / "reference" / "vq_diffusion" / "diffusers_port_small"


def flow_of(model: Model) -> TokenFlow:
    return model.flows["text_to_image"]


def encoder_of(model: Model) -> CLIPText:
    encoder = flow_of(model).context_encoder
    assert isinstance(encoder, CLIPText)
    return encoder


def differing(a: Model, b: Model) -> list[str]:
    """Tensors that are not the same in both."""
    ours, theirs = flow_of(a).state_dict(), flow_of(b).state_dict()
    return [name for name in sorted(ours.keys() | theirs.keys()) if name not in ours or name not in theirs or not same(ours, theirs, name)]


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], name: str) -> bool:
    return ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])


def pipeline_of(folder: Path) -> Any:
    from diffusers import VQDiffusionPipeline

    pipeline = VQDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


KINDS = {
    "nearest": {},
    "ema": {"quantizer": "ema"},
    "gumbel": {"quantizer": "gumbel"},
    "mapped": {"mapped": True},
    "mapped gumbel": {"quantizer": "gumbel", "mapped": True},
    "empty prompt as null": {"null": False},
    "exact gelu": {"network": {"activation": "gelu"}},
}


@pytest.fixture(scope="module", params=KINDS, ids=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = text_model(**KINDS[request.param])
    return model, export_diffusers(model, tmp_path_factory.mktemp("exported") / "tiny")


# Export and import.


def test_model_comes_back_bit_for_bit(exported: tuple[Model, Path]) -> None:
    model, folder = exported
    back = import_diffusers(folder)
    assert differing(model, back) == []
    for part in ("codec", "context_encoder", "network"):
        assert getattr(flow_of(back), part).config == getattr(flow_of(model), part).config
    assert flow_of(back).process.config == flow_of(model).process.config
    assert (back.name, back.family, back.size, back.defaults, back.card) == (
        model.name, model.family, model.size, model.defaults, model.card,
    )  # fmt: skip
    drawn = [m.text_to_image("a red cat", n=2, seed=0)[1].tobytes() for m in (model, back)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path: Path, dtype: str) -> None:
    model = text_model()
    folder = export_diffusers(model, tmp_path / "tiny", dtype=dtype)
    stored = load_file(folder / NETWORK / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    rounded = text_model()
    for tensor in flow_of(rounded).state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(getattr(torch, dtype)))
    assert differing(rounded, import_diffusers(folder)) == []


def test_exporting_never_replaces_silently(tmp_path: Path) -> None:
    folder = export_diffusers(text_model(), tmp_path / "tiny")
    with pytest.raises(UsageError, match="already exists"):
        export_diffusers(text_model(), folder)
    export_diffusers(text_model(null=False), folder, overwrite=True)
    assert encoder_of(import_diffusers(folder)).null_embedding is None
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_exporting_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TesseraError, match="cannot write"):
        export_diffusers(text_model(), tmp_path / "file" / "tiny")


# The real pipeline computes the same from the exported folder.


@torch.inference_mode()
def test_pipeline_computes_the_same(exported: tuple[Model, Path]) -> None:
    model, folder = exported
    flow, pipeline = flow_of(model), pipeline_of(folder)
    ids = pipeline.tokenizer(PROMPTS, padding="max_length", max_length=12, return_tensors="pt").input_ids
    assert torch.equal(ids, encoder_of(model).tokenize(PROMPTS))
    text = pipeline._encode_prompt(PROMPTS, 1, do_classifier_free_guidance=True)
    context, null = flow.context_encoder(PROMPTS), flow.context_encoder.unconditional(2)
    torch.testing.assert_close(text, torch.cat([null.embeddings, context.embeddings]), rtol=0, atol=2e-6)

    x_t = torch.randint(0, flow.codec.classes + 1, (2, 16), generator=torch.Generator().manual_seed(0))
    for t in (10, 1):
        theirs = pipeline.transformer(x_t, encoder_hidden_states=text[2:], timestep=torch.tensor(t - 1)).sample
        ours = flow.predictor(context)(x_t, torch.full((2,), t))
        torch.testing.assert_close(theirs.transpose(1, 2), ours, rtol=0, atol=2e-5)

    tokens = x_t.clamp(max=flow.codec.classes - 1)
    codes = pipeline.vqvae.quantize.get_codebook_entry(tokens, shape=(2, 4, 4, 4))
    image = pipeline.vqvae.decode(codes, force_not_quantize=True).sample
    torch.testing.assert_close(image.clamp(-1, 1), flow.codec.decode(tokens, (4, 4)), rtol=0, atol=2e-5)


def test_pipeline_draws_pictures(exported: tuple[Model, Path]) -> None:
    _, folder = exported
    pictures = pipeline_of(folder)(PROMPTS, num_inference_steps=10, generator=torch.Generator().manual_seed(0)).images
    assert [picture.size for picture in pictures] == [(8, 8), (8, 8)]


# Folders that diffusers wrote.


def without_ours(folder: Path) -> Path:
    (folder / OURS).unlink()
    (folder / OUR_WEIGHTS).unlink()
    return folder


@pytest.mark.parametrize("null", [True, False])
def test_folder_that_diffusers_saved(tmp_path: Path, null: bool) -> None:
    model = text_model(null=null)
    pipeline_of(export_diffusers(model, tmp_path / "ours")).save_pretrained(tmp_path / "theirs")
    back = import_diffusers(tmp_path / "theirs")
    assert differing(model, back) == ["codec.quantizer.idle"]  # a record of training, which is not in it
    assert encoder_of(back).tokenizer.merges == MERGES
    assert (back.name, back.size, back.defaults) == ("theirs", (8, 8), SamplingSettings(guidance=5.0))


def test_sharded_component(tmp_path: Path) -> None:
    model = text_model()
    folder = export_diffusers(model, tmp_path / "tiny")
    pipeline_of(folder).transformer.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    shutil.rmtree(folder / NETWORK)
    (tmp_path / "shards").rename(folder / NETWORK)
    assert differing(model, import_diffusers(folder)) == []


OLD_ATTENTION = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}


def as_old_version(folder: Path) -> None:
    """As diffusers 0.8 and transformers 4 wrote a folder: pickles, older names, fewer settings."""
    for component, name in {NETWORK: "", CODEC: "", NULL: "", TEXT: "pytorch_model.bin"}.items():
        (path,) = (folder / component).glob("*.safetensors")
        tensors = load_file(path)
        path.unlink()
        if component == CODEC:
            for new, old in OLD_ATTENTION.items():
                tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
        if component == TEXT:
            assert all(key.startswith("text_model.") for key in tensors)
            tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
        torch.save(tensors, folder / component / (name or "diffusion_pytorch_model.bin"), _use_new_zipfile_serialization=component != NULL)
    edit(folder / NETWORK / "config.json", lambda config: config.pop("norm_type"))
    edit(folder / CODEC / "config.json", lambda config: config.pop("sample_size"))
    edit(folder / "scheduler" / "scheduler_config.json", lambda config: [config.pop(key) for key in list(config) if "cum" in key])
    edit(folder / INDEX, lambda index: index.update({NULL: ["vq_diffusion", "LearnedClassifierFreeSamplingEmbeddings"]}))


def test_folder_of_an_older_version(tmp_path: Path) -> None:
    model = text_model()
    folder = without_ours(export_diffusers(model, tmp_path / "tiny"))
    as_old_version(folder)
    assert differing(model, import_diffusers(folder)) == ["codec.quantizer.idle"]


# Every name of the largest released model.


def test_names_of_the_released_ithq_model() -> None:
    try:
        spec = json.loads(original_file("vq_diffusion", "diffusers_keys.json").read_text())
    except NotInProject as error:
        pytest.skip(str(error))
    process = DiscreteProcess(make_schedule("vq-diffusion", 100), 4096)
    with torch.device("meta"):
        parts = build("codec", CODECS, PRESETS["ithq_4096"]), CLIPText(null=True), build("network", NETWORKS, preset("ithq"))
        flow = TokenFlow(*parts, DiscreteLoss(process))
    ours = {(place.component, name.removeprefix("text_model.")) for place in places(flow).values() for name in place.names}
    assert ours == {(component, name) for component, name, *_ in spec["map_released_ithq"]}


# The recorded case: what the published notebook compared, and its accepted discrepancies.


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, TokenFlow, Any]:
    case = Case.read(CASE)
    flow = flow_from(case, case.config["codec"])
    if encoder_of(model := Model("port", "vq-diffusion", {"text_to_image": flow}, (32, 32))).tokenizer is None:
        pytest.skip("CLIP's merges ship with the original, not with the project")
    return case, flow, pipeline_of(export_diffusers(model, tmp_path_factory.mktemp("port") / "model"))


@torch.inference_mode()
def test_port_text(port: tuple[Case, TokenFlow, Any]) -> None:
    case, flow, pipeline = port
    prompts = case.config["prompt"]
    ours, theirs = flow.context_encoder(prompts).embeddings, pipeline._encode_prompt(prompts, 1, False)
    assert float((ours - theirs).abs().max()) <= 1e-6


@torch.inference_mode()
def test_port_codec(port: tuple[Case, TokenFlow, Any]) -> None:
    case, flow, pipeline = port
    image = picture_of(case.io["image"])
    *_, (_, _, indices) = pipeline.vqvae.quantize(pipeline.vqvae.encode(image).latents)
    assert torch.equal(indices.view(2, 64), flow.codec.encode(image))
    tokens = case.io["tokens_in"]
    codes = pipeline.vqvae.quantize.get_codebook_entry(tokens, shape=(2, 8, 8, 20))
    theirs = in_bytes(pipeline.vqvae.decode(codes, force_not_quantize=True).sample)
    difference = (theirs - in_bytes(flow.codec.decode(tokens, (8, 8)))).abs()
    assert int((difference > 0).sum()) <= 5
    assert int(difference.max()) <= 1


def in_bytes(image: Tensor) -> Tensor:
    return ((image / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8).int()


@torch.inference_mode()
def test_port_probabilities(port: tuple[Case, TokenFlow, Any]) -> None:
    case, flow, pipeline = port
    context, x_t = flow.context_encoder(case.config["prompt"]), case.io["x_t"]
    for t in (100, 51, 1):
        # The notebook's numbers are of 4096 classes; rounding grows with the probabilities, and here a class has 51 times as much.
        check_probabilities(flow, pipeline, context, x_t, t, share=4096 / 80)


@torch.inference_mode()
def test_probabilities_of_as_many_classes_as_in_the_notebook(tmp_path: Path) -> None:
    model = text_model(network={"classes": 4096}, codec={"codebook": 4096})
    # Logarithms of the size of 8 are rounded by 1e-6, and so the probabilities by 1e-6 of themselves: the notebook's 9.8e-9 is
    # the number of a model that gives no class more than a hundredth.
    torch.nn.init.normal_(flow_of(model).network.head.weight, std=0.1)
    flow, pipeline = flow_of(model), pipeline_of(export_diffusers(model, tmp_path / "tiny"))
    x_t = torch.randint(0, 4097, (2, 16), generator=torch.Generator().manual_seed(0))
    check_probabilities(flow, pipeline, flow.context_encoder(PROMPTS), x_t, 10, share=1.0)


def check_probabilities(flow: TokenFlow, pipeline: Any, context: Context, x_t: Tensor, t: int, share: float) -> None:
    theirs = pipeline.transformer(x_t, encoder_hidden_states=context.embeddings, timestep=torch.tensor(t - 1)).sample.transpose(1, 2)
    ours = flow.predictor(context)(x_t, torch.full((len(x_t),), t))
    difference = (ours.exp() - theirs.exp()).abs()
    assert float(difference.max()) <= 9.8e-9 * share
    assert float(difference.mean()) <= 1.4e-10 * share


def test_port_guided_run_token_for_token(port: tuple[Case, TokenFlow, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    case, flow, pipeline = port
    config, noise = case.config, case.io["noise"]
    draws = iter(range(1000))

    def noised(logits: Tensor, generator: object) -> Tensor:
        return logits + gumbel(noise[next(draws) % len(noise)])[:, : logits.shape[1]]

    monkeypatch.setattr("diffusers.schedulers.scheduling_vq_diffusion.gumbel_noised", noised)
    theirs: list[Tensor] = []
    picture = pipeline(
        config["prompt"], num_inference_steps=100, guidance_scale=config["guidance_scale"], truncation_rate=config["truncation"],
        callback=lambda _step, _t, sample: theirs.append(sample), output_type="numpy",
    ).images  # fmt: skip
    ours: list[Progress] = []
    settings = SamplingSettings(guidance=config["guidance_scale"], truncation=config["truncation"])
    tokens = flow.sample(config["prompt"], (8, 8), settings, RecordedDraws(noise), callback=ours.append)
    assert len(theirs) == len(ours) == 100
    assert [step for step, (a, b) in enumerate(zip(theirs, ours, strict=True)) if not torch.equal(a, b.x)] == []
    difference = (in_bytes(flow.codec.decode(tokens, (8, 8))) - (torch.from_numpy(picture) * 255).to(torch.uint8).permute(0, 3, 1, 2)).abs()
    assert int((difference > 0).sum()) <= 5
    assert int(difference.max()) <= 1


# Models that the pipeline cannot hold.


def labelled() -> Model:
    network = TokenTransformer(12, (4, 4), width=32, depth=1, heads=4, timesteps=10, condition="class", class_count=3)
    process = DiscreteProcess(make_schedule("vq-diffusion", 10), 12)
    codec = VQGAN(codebook=12, **SMALL_CODEC)
    return Model("classes", "vq-diffusion", {"text_to_image": TokenFlow(codec, Labels(3, "mean"), network, DiscreteLoss(process))}, (8, 8))


def without_tokenizer() -> Model:
    model = text_model()
    encoder_of(model).tokenizer = None
    return model


def with_two_flows() -> Model:
    model = text_model()
    model.flows["image_to_text"] = flow_of(model)
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (labelled, "its context is 'labels'"),
        (tiny_model, "its context is 'words'"),
        (without_tokenizer, "no tokenizer"),
        (with_two_flows, "its flows are image_to_text, text_to_image"),
        (lambda: text_model(text={"normalise": False}), "not of unit length"),
        (lambda: text_model(network={"mlp": "conv"}), "has mlp 'conv'"),
        (lambda: text_model(network={"mlp_ratio": 2}), "has mlp_ratio 2"),
        (lambda: text_model(network={"time_embedding": "sinusoidal"}), "time_embedding 'sinusoidal'"),
        (lambda: text_model(network={"neighbours": True}), "has neighbours True"),
        (lambda: text_model(network={"position_table": [8, 8]}), "one square"),
        (lambda: text_model(network={"grid": [2, 8]}), "one square"),
        (lambda: text_model(schedule={"kind": "absorbing", "steps": 10}), "its schedule is 'absorbing'"),
        (lambda: text_model(codec={"multipliers": (2, 2)}), "multiplier of 2"),
    ],
)
def test_model_that_does_not_fit(tmp_path: Path, make: Callable[[], Model], says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        export_diffusers(make(), tmp_path / "model")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_dtype(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'float16'"):
        export_diffusers(text_model(), tmp_path / "model", dtype="float61")


# Folders that are not whole.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_diffusers(text_model(), tmp_path_factory.mktemp("whole") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage, without the files of ours, as from elsewhere."""
    return without_ours(Path(shutil.copytree(whole, tmp_path / "tiny")))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def fails(folder: Path, says: str, kind: type[TesseraError] = TesseraError) -> None:
    with pytest.raises(TesseraError, match=says) as error:
        import_diffusers(folder)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


def test_no_diffusers_folder(tmp_path: Path) -> None:
    fails(tmp_path, "is not a folder of diffusers", UsageError)


def test_folder_of_another_pipeline(folder: Path) -> None:
    edit(folder / INDEX, lambda index: index.update(_class_name="StableDiffusionPipeline"))
    fails(folder, "holds a StableDiffusionPipeline")


@pytest.mark.parametrize("component", [NETWORK, CODEC, TEXT, "tokenizer", "scheduler", NULL])
def test_component_missing(folder: Path, component: str) -> None:
    shutil.rmtree(folder / component)
    fails(folder, f"{component} is missing")
    if component != NULL:  # which the pipeline had not always
        edit(folder / INDEX, lambda index: index.pop(component))
        fails(folder, f"has None as {component}")


def test_what_save_pretrained_writes_of_a_variant(folder: Path) -> None:
    whole = import_diffusers(folder)
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    state, again = (model.flows["text_to_image"].state_dict() for model in (whole, import_diffusers(folder)))
    assert all(torch.equal(state[name], again[name]) for name in state)  # the same bytes, read twice
    shutil.rmtree(folder / NETWORK)
    fails(folder, f"{NETWORK} is missing")


def test_a_folder_from_before_the_null_prompt_was_learnt(folder: Path) -> None:
    for ours in (OURS, OUR_WEIGHTS):
        (folder / ours).unlink(missing_ok=True)
    shutil.rmtree(folder / NULL)
    edit(folder / INDEX, lambda index: index.pop(NULL))
    assert import_diffusers(folder).flows["text_to_image"].context_encoder.null_embedding is None


def test_component_of_another_class(folder: Path) -> None:
    edit(folder / INDEX, lambda index: index.update({CODEC: ["diffusers", "AutoencoderKL"]}))
    fails(folder, "'AutoencoderKL'.*needs a VQModel")


@pytest.mark.parametrize("path", [INDEX, *(f"{part}/config.json" for part in (NETWORK, CODEC, TEXT)), "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_json(folder: Path, path: str, content: str) -> None:
    (folder / path).write_text(content, encoding="latin-1")
    fails(folder, f"{path} cannot be read")


@pytest.mark.parametrize("component", [NETWORK, CODEC, TEXT, NULL])
def test_weights_missing_or_cut(folder: Path, component: str) -> None:
    (path,) = (folder / component).glob("*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    fails(folder, "cannot be read")
    path.unlink()
    fails(folder, f"{component} has no weights: expected .*bin")


def test_pickle_that_runs_code(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(folder / "ran").touch, ())

    (folder / TEXT / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1), "evil": Evil()}, folder / TEXT / "pytorch_model.bin")
    fails(folder, "tries to run")
    assert not (folder / "ran").exists()


def test_pickle_without_weights(folder: Path) -> None:
    (folder / TEXT / "model.safetensors").unlink()
    torch.save([1, 2], folder / TEXT / "pytorch_model.bin")
    fails(folder, "is no state dict")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("out.bias"), "tensor 'out.bias' is missing"),
        (lambda tensors: tensors.update({"out.bias": torch.zeros(7)}), r"'out.bias' has shape \[7\], not \[12\]"),
        (lambda tensors: tensors.update(stray=torch.zeros(7)), "'stray' is not part of the model"),
    ],
)
def test_tensors_that_do_not_fit(folder: Path, change: Callable[[dict[str, Tensor]], Any], says: str) -> None:
    path = folder / NETWORK / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    fails(folder, says)


@pytest.mark.parametrize(
    ("component", "change", "says"),
    [
        (CODEC, {"num_vq_embeddings": 13}, "codec has 13 classes but the network was made for 12"),
        (CODEC, {"layers_per_block": 2}, "is missing"),
        (CODEC, {"block_out_channels": [32, 48]}, "multiples of the first"),
        (CODEC, {"block_out_channels": [0, 0]}, "does not describe a model"),
        (CODEC, {"block_out_channels": "wide"}, "does not describe a model"),
        (CODEC, {"block_out_channels": [32]}, "mirror each other"),
        (CODEC, {"up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]}, "mirror each other"),
        (CODEC, {"down_block_types": ["DownBlock2D", "AttnDownEncoderBlock2D"]}, "type 'DownBlock2D'"),
        (CODEC, {"act_fn": "relu"}, "act_fn 'relu', but only 'silu'"),
        (NETWORK, {"activation_fn": "geglu"}, "'geglu-approximate' or 'gelu'"),
        (NETWORK, {"attention_bias": False}, "attention_bias False"),
        (NETWORK, {"num_attention_heads": "four"}, "does not describe a model"),
        (NETWORK, {"num_vector_embeds": 20}, "not of one model"),
        (NETWORK, {"num_embeds_ada_norm": 20}, "20 time steps but the process 10"),
        (NETWORK, {"cross_attention_dim": 64}, "context of width 64 but the context encoder gives 32"),
        (NETWORK, {"num_layers": 3}, "is missing"),
        (TEXT, {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        (TEXT, {"intermediate_size": 64}, "only four times hidden_size"),
        (TEXT, {"num_attention_heads": 5}, "multiple of heads"),
        (TEXT, {"vocab_size": 600}, "has shape .518, 32., not .600, 32."),
        (TEXT, {"max_position_embeddings": 14}, r"has shape \[12, 32\], not \[14, 32\]"),
        (NULL, {"learnable": None}, "does not describe a model"),
    ],
)
def test_settings_that_do_not_fit(folder: Path, component: str, change: dict[str, Any], says: str) -> None:
    edit(folder / component / "config.json", lambda config: config.update(change))
    fails(folder, says)


def test_setting_missing(folder: Path) -> None:
    edit(folder / NETWORK / "config.json", lambda config: config.pop("num_layers"))
    fails(folder, "the setting 'num_layers' is missing")


@pytest.mark.parametrize("change", [{"alpha_cum_start": 2.0}, {"num_train_timesteps": 0}, {"num_train_timesteps": "many"}])
def test_schedule_that_is_none(folder: Path, change: dict[str, Any]) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", lambda config: config.update(change))
    fails(folder, "does not describe a model")


def test_tokenizer_missing_or_of_another_size(folder: Path) -> None:
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\nr e\n")
    fails(folder, "merges.txt does not fit the text encoder")
    (folder / "tokenizer" / "merges.txt").unlink()
    fails(folder, "has no tokenizer: expected merges.txt or tokenizer.json")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return export_diffusers(text_model(mapped=True), tmp_path / "tiny")


def test_weights_of_ours_that_do_not_fit(ours: Path) -> None:
    tensors = load_file(ours / OUR_WEIGHTS)
    save_file({**tensors, "codec.remap.to_code": torch.full((9,), 12)}, ours / OUR_WEIGHTS)
    fails(ours, "maps classes to codes that do not exist")
    save_file({"stray": torch.zeros(1)}, ours / OUR_WEIGHTS)
    fails(ours, r"does not fit its tessera\.json")
    (ours / OUR_WEIGHTS).unlink()
    fails(ours, "cannot be read")


def test_description_of_ours_that_does_not_fit(ours: Path, tmp_path: Path) -> None:
    edit(ours / "scheduler" / "scheduler_config.json", lambda config: config.update(alpha_cum_end=0.5))
    fails(ours, r"scheduler of .* has alpha_cum_end 0\.5, but tessera\.json describes 9e-06")
    tiny_model().save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.json", ours / OURS)
    fails(ours, "describes no model of VQDiffusionPipeline .its context is 'words'")
    (ours / OURS).write_text("{")
    fails(ours, "cannot be read")


def test_codes_that_diffusers_changed_are_read(ours: Path) -> None:
    path = ours / CODEC / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "quantize.embedding.weight": torch.ones(9, 4)}, path)
    codec = flow_of(import_diffusers(ours)).codec
    assert torch.equal(codec.codebook(), torch.ones(9, 4))
