import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.checkpoints.diffusers import export_diffusers
from tessera.checkpoints.verification.comparison import ROWS, Row, accepted_for, compare
from tessera.checkpoints.verification.trial import Outcome, Probe, Trial
from tessera.checkpoints.verify import Inputs, Verification, verify
from tessera.codecs.patch import PatchVQ
from tessera.contexts.context import ContextEncoder, Unconditional
from tessera.contexts.labels import Labels
from tessera.errors import TesseraError, UsageError
from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.flow import TokenFlow
from tessera.model import Model
from tessera.model_weights import read_model
from tessera.processes.discrete import DiscreteProcess
from tessera.processes.discrete_loss import DiscreteLoss
from tessera.processes.schedules import make_schedule
from tests.checkpoints.verifying import RECORDING, measured, recorded_model, verdicts
from tests.conformance.cases import ORIGINALS
from tests.tiny import tiny_model

PORT = {
    "codec_tokens": 0, "reconstruction_pixels": 5, "reconstruction_levels": 1, "probabilities_max": 9.8e-9, "probabilities_mean": 1.4e-10,
    "unmasked_probabilities_max": 9.8e-9, "unmasked_probabilities_mean": 1.4e-10, "token_ids": 0, "text_embedding_max": 0.0147,
    "text_embedding_mean": 9.4e-4, "run_tokens": 0, "final_pixels": 5, "final_levels": 1,
}  # fmt: skip
"""What the authors of the port printed for it."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded model as a folder."""
    return recorded_model().save(tmp_path_factory.mktemp("models") / "small")


def changed(folder: Path, target: Path, change: Callable[[TokenFlow], None]) -> Path:
    """A copy of a model with some weights changed."""
    model = Model(*read_model(folder))
    with torch.no_grad():
        change(model.flows["text_to_image"])
    return model.save(target)


def all_hold(result: Verification, *without: str) -> None:
    expected = {name: "not compared" if name in without else "holds" for name in ROWS}
    assert verdicts(result) == expected
    assert result.holds


def test_the_bundled_model_against_itself() -> None:
    result = verify("scenes", "scenes", steps=10, device="cpu")  # of 100, for time
    all_hold(result, "final_pixels", "final_levels")
    assert set(measured(result).values()) == {0, None}
    assert len(result.steps) == 10


def test_a_model_against_itself(tiny: Path) -> None:
    result = verify(tiny, tiny, device="cpu")
    all_hold(result)
    assert set(measured(result).values()) == {0}
    assert len(result.steps) == 20


@pytest.mark.skipif(
    not (ORIGINALS / "vq_diffusion" / "clip_bpe").exists(), reason="CLIP's merges are not part of the project, and are not beside it"
)
def test_every_stage_of_the_recorded_run_of_the_original(small: Path) -> None:
    result = verify(small, RECORDING, device="cpu")
    all_hold(result, "unmasked_probabilities_max", "unmasked_probabilities_mean")
    assert [step.differ for step in result.steps] == [0] * 100
    assert [step.t for step in result.steps] == list(range(99, -1, -1))
    assert result.settings["guidance"] == 5.0
    assert [pair.title for pair in result.pairs] == ["Reconstruction 1", "Reconstruction 2", "Final picture 1", "Final picture 2"]


def test_a_model_without_tokenizer_takes_the_recorded_ids(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    shutil.copytree(small, folder)
    (folder / "merges.txt").unlink(missing_ok=True)
    result = verify(folder, RECORDING, steps=3, device="cpu")
    rows = {row.name: row for row in result.rows}
    assert rows["token_ids"].verdict == "not compared"
    assert "tokenizer" in rows["token_ids"].detail
    assert rows["run_tokens"].verdict == "holds"
    assert rows["final_pixels"].verdict == "not compared"
    assert "3 of 100" in rows["final_pixels"].detail


def test_rounded_weights_fail_unless_accepted(tmp_path: Path) -> None:
    rounded = tiny_model().save(tmp_path / "bf16", dtype="bfloat16")
    whole = tiny_model().save(tmp_path / "float32")
    result = verify(rounded, whole, device="cpu")
    assert not result.holds
    failing = {name for name, verdict in verdicts(result).items() if verdict == "FAILS"}
    assert {"probabilities_max", "probabilities_mean", "text_embedding_max", "text_embedding_mean"} <= failing
    assert verify(rounded, whole, accept=dict.fromkeys(failing, 1000000.0), device="cpu").holds
    spared = failing - {"probabilities_max"}
    again = verify(rounded, whole, accept=dict.fromkeys(spared, 1000000.0), device="cpu")
    assert [name for name, verdict in verdicts(again).items() if verdict == "FAILS"] == ["probabilities_max"]


@pytest.mark.parametrize(
    ("change", "fails", "spares"),
    [
        (lambda flow: flow.network.head.weight[3, 2].add_(0.5), "probabilities_max", "codec_tokens"),
        (lambda flow: flow.codec.decoder.bias.add_(0.1), "reconstruction_levels", "run_tokens"),
        (lambda flow: flow.context_encoder.norm.bias[0].add_(0.01), "text_embedding_max", "reconstruction_pixels"),
        (lambda flow: flow.context_encoder.null_embedding.neg_(), "run_tokens", "probabilities_max"),
        (lambda flow: flow.codec.quantizer.codebook.copy_(flow.codec.quantizer.codebook.flip(0)), "codec_tokens", "text_embedding_max"),
    ],
    ids=["network", "decoder", "words", "null prompt", "codebook"],
)
def test_a_changed_weight_is_found_where_it_acts(
    tiny: Path, tmp_path: Path, change: Callable[[TokenFlow], None], fails: str, spares: str
) -> None:
    result = verify(changed(tiny, tmp_path / "changed", change), tiny, device="cpu")
    assert verdicts(result)[fails] == "FAILS"
    assert verdicts(result)[spares] == "holds"
    assert not result.holds


def test_a_changed_weight_of_the_recorded_model(small: Path, tmp_path: Path) -> None:
    result = verify(
        changed(small, tmp_path / "changed", lambda flow: flow.network.head.bias[5].add_(0.05)), RECORDING, steps=20, device="cpu"
    )
    rows = {row.name: row for row in result.rows}
    assert rows["probabilities_max"].verdict == "FAILS"
    assert rows["run_tokens"].verdict == "FAILS"
    first = next(step for step in result.steps if step.differ)
    assert f"the first at step {first.index} (t = {first.t}): {first.differ} of 128" in rows["run_tokens"].detail
    assert rows["run_tokens"].measured == sum(step.differ for step in result.steps)


def other_model(encoder: ContextEncoder, condition: str, folder: Path) -> Path:
    torch.manual_seed(0)
    network = TokenTransformer(12, (2, 2), 16, 1, 2, timesteps=6, condition=condition, class_count=5)
    flow = TokenFlow(PatchVQ(12, 8, 4), encoder, network, DiscreteLoss(DiscreteProcess(make_schedule("vq-diffusion", 6), 12)))
    return Model("other", "vq-diffusion", {"text_to_image": flow}, (16, 16)).save(folder)


@pytest.mark.parametrize(
    ("encoder", "condition", "guidance"),
    [(Labels(4, "learned"), "class", 5.0), (Labels(5), "class", 1.0), (Unconditional(), "none", 1.0)],
    ids=["labels with null", "labels", "no prompt"],
)
def test_models_without_words(tmp_path: Path, encoder: ContextEncoder, condition: str, guidance: float) -> None:
    folder = other_model(encoder, condition, tmp_path / "other")
    result = verify(folder, folder, device="cpu")
    all_hold(result, "token_ids", "text_embedding_max", "text_embedding_mean")
    assert {row.detail for row in result.rows if row.verdict == "not compared"} == {"the model takes no words"}
    assert result.settings["guidance"] == guidance


def test_progress_ends_at_the_whole(tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(tiny, tiny, steps=4, device="cpu", after_step=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]


def test_the_seed_and_the_picture_change_what_is_run(tiny: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    a, b = (verify(tiny, tiny, Inputs(seed=seed), device="cpu") for seed in (0, 1))
    red = verify(tiny, tiny, Inputs(picture=tmp_path / "red.png", prompt="a blue square"), device="cpu")
    assert not torch.equal(a.pairs[1].ours, b.pairs[1].ours)
    assert not torch.equal(a.pairs[0].ours, red.pairs[0].ours)
    assert red.settings["prompts"] == ["a blue square"]


# The table.


@pytest.mark.parametrize("classes", [4096, 8192, 16384])
def test_accepted_values_are_no_looser_than_the_ports(classes: int) -> None:
    accepted = accepted_for(classes, {})
    assert accepted.keys() == PORT.keys()
    assert all(accepted[name] <= value for name, value in PORT.items())


def test_accepted_probabilities_go_with_their_mean() -> None:
    assert accepted_for(80, {})["probabilities_max"] == pytest.approx(9.8e-9 * 4096 / 80)
    assert accepted_for(80, {"probabilities_max": 1e-3})["probabilities_max"] == 1e-3
    assert accepted_for(80, {})["run_tokens"] == 0


def test_what_is_no_number_does_not_hold() -> None:
    assert Row("a", "", float("nan"), 1e9).verdict == "FAILS"
    assert Row("a", "", None, 1.0).verdict == "not compared"


def outcomes(margin: float) -> tuple[Trial, Outcome, Outcome]:
    """Two runs of two steps that differ in a token of the second, drawn with this margin."""
    run = torch.tensor([[[1, 2, 3]], [[1, 2, 0]]])
    other = run.clone()
    other[1, 0, 1] = 0
    leads = torch.full((2, 1, 3), 0.5)
    leads[1, 0, 1] = margin
    leads[1, 0, 0] = margin / 2
    probe = Probe(torch.tensor([[4, 0, 1]]), 1)
    trial = Trial(
        [None], torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, dtype=torch.long), True, None, [probe], lambda draw: torch.zeros(0), 1.0, 0.86, 2
    )
    log_p = [torch.full((1, 3, 4), 0.25).log()]
    return trial, Outcome(run=run, margin=leads, log_p=log_p), Outcome(run=other, log_p=log_p)


@pytest.mark.parametrize(("margin", "tossed"), [(3e-7, True), (0.02, False)])
def test_a_first_difference_comes_with_how_sure_it_was(margin: float, tossed: bool) -> None:
    rows = {row.name: row for row in compare(*outcomes(margin), accepted_for(4, {}), 2, 4)}
    assert rows["run_tokens"].measured == 1  # counted, even where rounding decides
    assert rows["run_tokens"].verdict == "FAILS"
    assert f"the first at step 2 (t = 0): 1 of 3, smallest lead of a drawn class {margin:.1g}" in rows["run_tokens"].detail
    assert ("rounding" in rows["run_tokens"].detail) == tossed
    assert rows["codec_tokens"].verdict == "not compared"
    assert rows["probabilities_max"].measured == 0


def test_nothing_compared_is_not_verified() -> None:
    assert not Verification("a", "b", [Row("a", "", None, 0.0, "why")], [], [], {}).holds


# Bad input.


def test_nothing_there(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none"):
        verify(tiny, tmp_path / "none", device="cpu")
    with pytest.raises(UsageError, match="none"):
        verify(tmp_path / "none", tiny, device="cpu")


def test_a_recording_of_something_else(tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"recording of 'alpha_schedule'.*'port to diffusers'"):
        verify(tiny, RECORDING.parent / "schedule", device="cpu")


def test_models_of_another_size(tiny: Path, tmp_path: Path) -> None:
    other = tiny_model(classes=30, steps=10).save(tmp_path / "other")
    with pytest.raises(UsageError, match="token classes 24 and 30; time steps 20 and 10"):
        verify(tiny, other, device="cpu")
    with pytest.raises(UsageError, match="cannot be compared"):
        verify(tiny, RECORDING, device="cpu")


@pytest.mark.parametrize("inputs", [Inputs(prompt="a cat"), Inputs(seed=3), Inputs(picture=Path(__file__))])
def test_a_recording_has_its_own_inputs(small: Path, inputs: Inputs) -> None:
    with pytest.raises(TesseraError, match=r"own prompts|not a readable picture"):
        verify(small, RECORDING, inputs, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"accept": {"run_token": 3}}, "did you mean 'run_tokens'"),
        ({"accept": {"run_tokens": -1.0}}, "'run_tokens' must be a number from 0"),
        ({"accept": {"run_tokens": float("nan")}}, "must be a number"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"steps": 21}, "at most 20"),
        ({"inputs": Inputs(seed=-1)}, "seed"),
        ({"inputs": Inputs(prompt="  ")}, "prompt is empty"),
        ({"inputs": Inputs(picture=Path("none.png"))}, "no picture none.png"),
        ({"device": "gpu"}, "device 'gpu'"),
    ],
)
def test_arguments_out_of_range(tiny: Path, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        verify(tiny, tiny, **{"device": "cpu", **arguments})


def test_a_prompt_for_a_model_that_takes_none(tmp_path: Path) -> None:
    folder = other_model(Unconditional(), "none", tmp_path / "other")
    with pytest.raises(UsageError, match="takes no prompt"):
        verify(folder, folder, Inputs(prompt="a cat"), device="cpu")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A copy of the recording, to be damaged."""
    return Path(shutil.copytree(RECORDING, tmp_path / "recording", copy_function=shutil.copyfile))


def test_a_damaged_recording(tiny: Path, recording: Path) -> None:
    tensors = recording / "io.safetensors"
    whole = load_file(RECORDING / tensors.name)
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(TesseraError, match="cannot be read"):
        verify(tiny, recording, device="cpu")
    save_file({name: value for name, value in whole.items() if name != "original.sample_x"}, tensors)
    with pytest.raises(TesseraError, match=r"no 'original\.sample_x'"):
        verify(tiny, recording, device="cpu")
    tensors.unlink()
    with pytest.raises(TesseraError, match="cannot be read"):
        verify(tiny, recording, device="cpu")
    (recording / "case.json").write_text("{")
    with pytest.raises(TesseraError, match="cannot be read"):
        verify(tiny, recording, device="cpu")
    (recording / "case.json").write_text("[]")
    with pytest.raises(TesseraError, match="no JSON object"):
        verify(tiny, recording, device="cpu")


def pipeline_index(folder: Path, kind: str) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return folder


def test_without_diffusers(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pipeline_index(tmp_path / "pipeline", "VQDiffusionPipeline")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(TesseraError, match=r"pip install 'tessera\[diffusers\]'"):
        verify(tiny, folder, device="cpu")


def test_another_pipeline(tiny: Path, tmp_path: Path) -> None:
    folder = pipeline_index(tmp_path / "pipeline", "StableDiffusionPipeline")
    with pytest.raises(UsageError, match="StableDiffusionPipeline"):
        verify(tiny, folder, device="cpu")
    (folder / "model_index.json").write_text("{")
    with pytest.raises(TesseraError, match="cannot be read"):
        verify(tiny, folder, device="cpu")


def test_a_pipeline_with_a_part_missing(tiny: Path, tmp_path: Path) -> None:
    folder = pipeline_index(tmp_path / "pipeline", "VQDiffusionPipeline")
    with pytest.raises(TesseraError, match="vqvae is missing"):
        verify(tiny, folder, device="cpu")


# Diffusers' own code.


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded model as a folder of diffusers."""
    model = recorded_model()
    if model.flows["text_to_image"].context_encoder.tokenizer is None:
        pytest.skip("CLIP's merges ship with the original, not with the project")
    return export_diffusers(model, tmp_path_factory.mktemp("models") / "pipeline")


def test_every_stage_of_the_port(small: Path, pipeline: Path) -> None:
    result = verify(small, pipeline, device="cpu")
    all_hold(result)
    assert [step.differ for step in result.steps] == [0] * 100


def test_the_first_steps_of_the_port(small: Path, pipeline: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = verify(small, pipeline, Inputs(seed=5), steps=3, device="cpu", after_step=lambda *at: seen.append(at))
    all_hold(result, "final_pixels", "final_levels")
    assert len(result.steps) == 3
    assert seen[-1] == (6, 6)


def test_a_prompt_the_port_reads_differently(small: Path, pipeline: Path) -> None:
    rows = {row.name: row for row in verify(small, pipeline, Inputs(prompt="parked!"), steps=1, device="cpu").rows}
    assert rows["token_ids"].verdict == "FAILS"  # the port pads with "!" and so takes it for padding
    assert rows["token_ids"].measured == 1


def test_a_changed_weight_against_the_port(small: Path, pipeline: Path, tmp_path: Path) -> None:
    other = changed(small, tmp_path / "changed", lambda flow: flow.network.head.bias[5].add_(0.05))
    result = verify(other, pipeline, steps=2, device="cpu")
    assert {name for name, verdict in verdicts(result).items() if verdict == "FAILS"} >= {"probabilities_max", "unmasked_probabilities_max"}


def test_the_noise_is_given_back_to_diffusers(small: Path, pipeline: Path) -> None:
    from diffusers.schedulers import scheduling_vq_diffusion

    before = scheduling_vq_diffusion.gumbel_noised
    verify(small, pipeline, steps=1, device="cpu")
    assert scheduling_vq_diffusion.gumbel_noised is before


def test_a_pipeline_encodes_by_the_nearest_code_only(small: Path, tmp_path: Path) -> None:
    from tessera.codecs.vqgan import VQGAN

    model = Model(*read_model(small))
    old = model.flows["text_to_image"].codec
    torch.manual_seed(0)
    codec = VQGAN(**{**{key: value for key, value in old.config.items() if key != "kind"}, "quantizer": "gumbel"}).eval()
    model.flows["text_to_image"].codec = codec
    if model.flows["text_to_image"].context_encoder.tokenizer is None:
        pytest.skip("CLIP's merges ship with the original, not with the project")
    pipeline, folder = export_diffusers(model, tmp_path / "pipeline"), model.save(tmp_path / "gumbel")
    rows = {row.name: row for row in verify(folder, pipeline, steps=1, device="cpu").rows}
    assert rows["codec_tokens"].verdict == "not compared"
    assert "nearest" in rows["codec_tokens"].detail
    assert rows["reconstruction_pixels"].verdict == "holds"


def test_a_damaged_part_of_a_pipeline(small: Path, pipeline: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline, tmp_path / "pipeline", ignore=shutil.ignore_patterns("*.safetensors")))
    with pytest.raises(TesseraError, match="diffusers cannot read"):
        verify(small, folder, device="cpu")
