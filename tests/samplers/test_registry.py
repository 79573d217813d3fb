import pytest

from tessera.errors import UsageError
from tessera.registry import SAMPLERS
from tessera.samplers.purity import Purity
from tessera.samplers.registry import sampler_name, token_sampler
from tessera.samplers.sampler import TokenSampler
from tessera.samplers.skipping import Skipping


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_name_makes_a_sampler_that_is_named_so(name):
    sampler = token_sampler(name)
    assert isinstance(sampler, TokenSampler)
    assert sampler_name(sampler) == name


@pytest.mark.parametrize("sampler", [Purity(weight=0.5, per_pass=16), Skipping(speed=4), Skipping(speed=2.5)])
def test_a_name_holds_the_options(sampler):
    assert token_sampler(sampler_name(sampler)) == sampler


def test_options_as_arguments():
    assert token_sampler("purity:weight=2", per_pass=3) == Purity(2, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("purty", "did you mean 'purity'"),
        ("purity:wait=2", "did you mean 'weight'"),
        ("purity:weight=x", "name=number"),
        ("purity:weight", "name=number"),
        ("ancestral:speed=2", "has no option 'speed'"),
        ("skipping:speed=0", "from 1"),
    ],
)
def test_a_bad_name_is_one_sentence(name, words):
    with pytest.raises(UsageError, match=words):
        token_sampler(name)
