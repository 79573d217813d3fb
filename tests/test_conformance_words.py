"""How the conformance runner reads what cases say in words: command lines, formulas, kinds of sampling, schedules."""

import pytest
import torch

from tests.conformance.cases import Case
from tests.conformance.settings import Settings, UnknownSetting
from tests.conformance.v_diffusion_samplers import PROCESS, SPACINGS, check_spacing, times_of
from tests.conformance.v_diffusion_scripts import denoiser_of, parse, stride_of
from tests.conformance.vq_diffusion_build import network_from
from tests.conformance.vq_diffusion_codecs import codec_from
from tests.conformance.vq_diffusion_sampling import settings_from


def test_a_script_has_its_own_defaults_and_refuses_what_it_has_not() -> None:
    assert (parse("clip_sample", ["a"]).method, parse("clip_sample", ["a"]).steps) == ("ddpm", 1000)
    assert (parse("cfg_sample", []).method, parse("cfg_sample", []).steps) == ("plms", 50)
    given = parse("cfg_modify_image", ["{image_init}", "words:-0.5", "--max-timestep", "0.7", "-n", "2"])
    assert (given.init_positional, given.prompts, given.mt, given.n) == ("{image_init}", ["words:-0.5"], 0.7, 2)
    with pytest.raises(UnknownSetting, match="telepathy"):
        parse("cfg_sample", ["--telepathy", "3"])
    with pytest.raises(UnknownSetting, match=r"config\.script"):
        parse("telepathy", [])


def test_formulas_of_stand_ins() -> None:
    formula = (
        "v(x,t,clip_embed) = {}(a x + b t + (clip_embed @ denoiser.cond.weight^T) per sample and channel); "
        "without clip_embed the last term is absent"
    )
    assert denoiser_of(formula.format("sin")) is torch.sin
    for wrong in (formula.format("telepathy"), formula.format("sin").replace("a x", "a x^2")):
        with pytest.raises(UnknownSetting, match="denoiser_formula"):
            denoiser_of(wrong)
    encoder = (
        "stand-in for the CLIP image encoder: z [M,3,20,20] normalised cutouts; h = tanh(conv2d(z, encoder.conv.weight, "
        "encoder.conv.bias, stride 5, no padding)) -> [M,8,4,4]; flatten channel-major (C,H,W) to [M,128]; "
        "e = h @ encoder.proj.weight^T -> [M,16], not normalised"
    )
    assert stride_of(encoder) == 5
    with pytest.raises(UnknownSetting, match="encoder_formula"):
        stride_of(encoder.replace("tanh", "sin"))


@pytest.mark.parametrize(
    ("words", "truncation", "sampler"),
    [
        ("top0.86r", 0.86, "Ancestral"),
        ("top4p", 4, "Ancestral"),
        ("normal", None, "Ancestral"),
        ("top1.0r,time2", 1.0, "Skipping"),
        ("top0.9r,time0.5", 0.9, "HighQuality"),
    ],
)
def test_kinds_of_sampling(words: str, truncation: float | None, sampler: str) -> None:
    made = settings_from({"sample_type": words, "diffusion_config": {"params": {"diffusion_step": 100}}}, 1024)
    assert (made.truncation, type(made.sampler).__name__) == (truncation, sampler)


@pytest.mark.parametrize("words", ["top0.86", "top2.5p", "best", "top0.86r,speed2"])
def test_kinds_of_sampling_that_nobody_knows(words: str) -> None:
    with pytest.raises(UnknownSetting, match="sample_type"):
        settings_from({"sample_type": words, "diffusion_config": {"params": {"diffusion_step": 100}}}, 1024)


def test_what_is_said_twice_is_the_same() -> None:
    half = {"params": {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "resolution": [16, 16], "z_channels": 8}}
    params = {"encoder_config": half, "decoder_config": half, "quantizer_type": "EMAVQ", "n_embed": 4, "embed_dim": 4}
    assert codec_from({"kind": "ema", "params": params}).classes == 4
    other = {"params": half["params"] | {"ch": 64}}
    with pytest.raises(UnknownSetting, match="ch of encoder and decoder"):
        codec_from({"kind": "ema", "params": params | {"decoder_config": other}})
    inside = {
        "attn_type": "selfcross", "n_layer": 1, "content_seq_len": 4, "content_spatial_size": [2, 2], "n_embd": 8, "n_head": 2,
        "condition_dim": 3, "mlp_hidden_times": 2, "block_activate": "GELU2", "timestep_type": "adalayernorm",
    }  # fmt: skip
    content = {"params": {"num_embed": 5, "spatial_size": [2, 2]}}

    def built(**changes: object) -> object:
        network = {"target": "a.b.Text2ImageTransformer", "params": inside | changes}
        return network_from({"transformer_config": network, "content_emb_config": content, "diffusion_step": 10})

    built()
    for name, value in (("attn_type", "self"), ("content_seq_len", 5), ("block_activate", "ReLU"), ("timestep_type", "other")):
        with pytest.raises(UnknownSetting):
            built(**{name: value})


@pytest.mark.parametrize("schedule", ["spliced", "ddpm"])
def test_recorded_times_are_those_of_the_named_schedule(schedule: str, tmp_path: object) -> None:
    spacing = SPACINGS[schedule]
    assert spacing is not None
    falling = torch.tensor(PROCESS.times(spacing, 9)[:-1])
    rising = torch.tensor(PROCESS.inversion_times(spacing, 9))

    def made(steps: torch.Tensor, **config: object) -> Case:
        case = Case(tmp_path, Settings({"config": {"schedule": schedule, **config}}))  # type: ignore[arg-type]
        case.__dict__["io"] = {"steps": steps}
        return case

    cases = [
        made(falling, sampler="sample"),
        made(falling, sampler="plms_sample", starting_timestep=0.7),
        made(rising, sampler="reverse_sample", max_timestep=0.8),
        made(rising, sampler="pie_sample", is_reverse=True),
    ]
    for case in cases:
        check_spacing(case, times_of(case))
    wrong = made(falling * 0.999, sampler="sample")
    with pytest.raises(AssertionError, match="the nearest is off by"):
        check_spacing(wrong, times_of(wrong))
