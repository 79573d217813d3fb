import json
import warnings

import pytest
import torch

from tessera.contexts.context import Context
from tessera.contexts.prompt_warnings import PromptTruncated, UnknownWords
from tessera.contexts.words import Words, split_words, vocabulary_of
from tessera.errors import UsageError
from tessera.registry import CONTEXTS, build

VOCABULARY = ["a", "red", "blue", "circle", "square", "above", ","]


def words(seed: int = 0, **changes) -> Words:
    torch.manual_seed(seed)
    return Words(**{"vocabulary": VOCABULARY, "length": 8, "width": 16, "depth": 2, "heads": 2, **changes})


def embeddings(context: Context) -> torch.Tensor:
    assert context.embeddings is not None
    return context.embeddings


def test_splits_words_and_punctuation_in_lower_case():
    assert split_words("A red Circle, above;blue don't") == ["a", "red", "circle", ",", "above", ";", "blue", "don't"]
    assert vocabulary_of(["Red circle.", "a red ring"]) == [".", "a", "circle", "red", "ring"]


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("attend_padding", [True, False])
@pytest.mark.parametrize("null", [True, False])
def test_shapes_and_mask(depth, attend_padding, null):
    encoder = words(depth=depth, attend_padding=attend_padding, null=null)
    for context in (encoder(["a red circle", "a", ""]), encoder.unconditional(3)):
        assert context.embeddings.shape == (3, 8, 16)
        assert context.embeddings.isfinite().all()
        assert (context.mask is None) == attend_padding
    if not attend_padding:
        assert encoder(["a red circle", ""]).mask.sum(1).tolist() == [4, 1]


def test_conditional_and_unconditional_contexts_can_be_joined():
    for attend_padding in (True, False):
        encoder = words(null=True, attend_padding=attend_padding)
        assert Context.cat([encoder(["a", "red"]), encoder.unconditional(2)]).embeddings.shape == (4, 8, 16)


def test_without_padding_a_prompt_does_not_depend_on_the_length():
    long, short = words(attend_padding=False), words(attend_padding=False, length=4)
    state = long.state_dict()
    short.load_state_dict(state | {"position_embedding": state["position_embedding"][:4]})
    torch.testing.assert_close(embeddings(long(["a red circle"]))[:, :4], embeddings(short(["a red circle"])))


def test_a_row_does_not_depend_on_its_batch_and_word_order_counts():
    encoder = words()
    both = embeddings(encoder(["red above blue", "blue above red"]))
    torch.testing.assert_close(both[1:], embeddings(encoder(["blue above red"])))
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_null_prompt():
    learned, zero_shot = words(null=True), words(null=False)
    assert torch.equal(embeddings(learned.unconditional(2)), learned.null_embedding.expand(2, -1, -1))
    # Not bit for bit: the convolution's order of summation depends on the batch.
    torch.testing.assert_close(embeddings(zero_shot.unconditional(2)), embeddings(zero_shot(["", ""])))
    mixed = embeddings(learned([None, "a red circle"]))
    assert torch.equal(mixed[0], learned.null_embedding)
    assert torch.equal(mixed[1], embeddings(learned(["", "a red circle"]))[1])
    mixed.sum().backward()
    assert learned.null_embedding.grad.abs().sum() > 0


def test_too_long_prompt_is_cut_and_the_warning_shows_what():
    with pytest.warns(PromptTruncated, match="'above a blue square'"):
        long = words()(["a red circle , a red circle above a blue square"])
    assert torch.equal(long.embeddings, words()(["a red circle, a red circle"]).embeddings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        words()(["a red circle above a blue square"])


def test_unknown_words_share_an_embedding_and_are_named():
    encoder = words()
    with pytest.warns(UnknownWords, match="purple, ring"):
        context = encoder(["a purple circle", "a purple ring"])
    with pytest.warns(UnknownWords, match="dotted"):
        torch.testing.assert_close(embeddings(encoder(["a dotted circle"]))[0], embeddings(context)[0])


def test_configuration_makes_the_same_encoder():
    encoder = words(null=True)
    twin = build("context encoder", CONTEXTS, json.loads(json.dumps(encoder.config)))
    twin.load_state_dict(encoder.state_dict())
    assert torch.equal(embeddings(twin(["a red circle"])), embeddings(encoder(["a red circle"])))


def test_learns_to_tell_words_apart():
    encoder = words(width=32, heads=4)
    head = torch.nn.Linear(32, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=3e-3)
    prompts = ["a red circle", "a blue circle", "red", "blue above a square"]
    targets = torch.tensor([0, 1, 0, 1])
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(head(embeddings(encoder(prompts))[:, 0]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"length": 0}, {"depth": -1}, {"vocabulary": ["Red"]}, {"vocabulary": ["a", "a"]}])
def test_wrong_configuration(wrong):
    with pytest.raises(UsageError, match="words encoder"):
        words(**wrong)
