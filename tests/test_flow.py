"""A flow from parts that are no more than their contracts."""

import pytest
import torch

from tessera.contexts.context import Unconditional
from tessera.errors import UsageError
from tessera.flow import SamplingSettings
from tessera.randomness import Draws
from tests.toy_flow import Codec, toy_flow

STEPS = 8


@pytest.fixture
def flow():
    return toy_flow(STEPS)


def sample(flow, prompts=(1, 3), settings=SamplingSettings(), indices=None, **options):  # noqa: B008
    return flow.sample(list(prompts), (20, 30), settings, Draws(0, indices or range(len(prompts))), **options)


def share(tokens, prompt):
    return (tokens == prompt).float().mean().item()


def test_tokens_follow_the_prompt(flow):
    tokens = sample(flow)
    probability = torch.tensor([2.0, 0, 0, 0, 0]).softmax(0)[0].item()
    assert tokens.shape == (2, 600)
    assert share(tokens[0], 1) == pytest.approx(probability, abs=0.06)
    assert share(tokens[1], 3) == pytest.approx(probability, abs=0.06)


def test_the_network_sees_the_times_less_one_and_prepares_once(flow):
    sample(flow)
    assert [call[1].tolist() for call in flow.network.calls] == [[i, i] for i in reversed(range(STEPS))]
    assert flow.network.prepared == 1


def test_guidance_runs_one_doubled_batch_and_follows_the_prompt_more(flow):
    tokens = sample(flow, settings=SamplingSettings(guidance=3))
    probability = torch.tensor([6.0, 0, 0, 0, 0]).softmax(0)[0].item()
    assert share(tokens[0], 1) == pytest.approx(probability, abs=0.02)
    assert [len(call[0]) for call in flow.network.calls] == [4] * STEPS
    assert flow.network.prepared == 1


def test_temperature_comes_before_truncation(flow):
    """At temperature 1 the mass 0.9 takes four classes; at 0.5 one holds 0.93, so none of the others may be drawn."""
    flat = sample(flow, settings=SamplingSettings(truncation=0.9))
    sharp = sample(flow, settings=SamplingSettings(truncation=0.9, temperature=0.5))
    assert len(flat[0].unique()) > 1
    assert sharp[0].unique().tolist() == [1]
    assert sharp[1].unique().tolist() == [3]


@pytest.mark.parametrize("settings", [SamplingSettings(), SamplingSettings("purity", 4, guidance=2.0, truncation=0.9)])
def test_a_picture_does_not_depend_on_its_batch(flow, settings):
    together = sample(flow, (1, 2, 3), settings)
    assert torch.equal(sample(flow, (2,), settings, indices=[1]), together[1:2])


def test_sampling_leaves_the_global_random_state_alone(flow):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sample(flow)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(sample(flow), first)


def test_a_partial_start_keeps_tokens_of_the_picture(flow):
    init = torch.full((2, 600), 4)
    kept = share(sample(flow, settings=SamplingSettings(start=0.25), init=init), 4)
    assert kept > share(sample(flow, settings=SamplingSettings(start=0.75), init=init), 4) > share(sample(flow), 4)


def test_nothing_to_guide_with():
    flow = toy_flow(STEPS, encoder=Unconditional())
    with pytest.raises(UsageError, match="nothing to guide with"):
        sample(flow, (None,), SamplingSettings(guidance=2.0))


def test_a_codec_of_another_codebook_is_refused():
    with pytest.raises(UsageError, match="7 classes"):
        toy_flow(STEPS, codec=Codec(7))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "purty"}, "did you mean 'purity'"),
        ({"steps": 0}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"truncation": 1.5}, "truncation"),
        ({"truncation": 0}, "truncation"),
        ({"temperature": 0.0}, "temperature"),
        ({"start": 0.0}, "start"),
        ({"start": float("nan")}, "start"),
    ],
)
def test_a_setting_out_of_range_is_refused_when_it_is_made(settings, words):
    with pytest.raises(UsageError, match=words):
        SamplingSettings(**settings)
