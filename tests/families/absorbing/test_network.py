"""The token transformer: what it sees, the cache of the causal one, and what it refuses. Parity: tests/conformance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.contexts.context import Context
from tessera.errors import UsageError
from tessera.families.absorbing.checkpoint import export_network, load_network
from tessera.families.absorbing.network import Transformer
from tessera.registry import NETWORKS, build
from tests.closeness import assert_same_but_for_rounding

CLASSES, GRID = 7, (3, 4)
N = GRID[0] * GRID[1]


def network(causal: bool = False, neighbours: bool = False) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(CLASSES, GRID, width=16, depth=2, heads=4, causal=causal, neighbours=neighbours).eval()
    torch.nn.init.normal_(made.position)
    if made.start is not None:
        torch.nn.init.normal_(made.start)
    return made


def tokens(batch: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randint(CLASSES, (batch, N), generator=torch.Generator().manual_seed(seed))


def logits(made: Transformer, x: torch.Tensor, context: object = None) -> torch.Tensor:
    with torch.no_grad():
        return made(x, torch.zeros(len(x), dtype=torch.int64), context or Context())


@pytest.mark.parametrize("neighbours", [False, True])
def test_every_token_is_seen_and_the_time_is_not(neighbours: bool) -> None:
    made, x = network(neighbours=neighbours), tokens(1)
    x[0, 3] = CLASSES
    before = logits(made, x)
    for position in (0, N - 1):
        other = x.clone()
        other[0, position] = (x[0, position] + 1) % CLASSES
        assert ((logits(made, other) - before).abs().amax((0, 2)) > 1e-6).all()
    assert before.shape == (1, N, CLASSES)
    with torch.no_grad():
        assert torch.equal(made(x, torch.tensor([5]), Context()), before)


def test_a_causal_network_sees_the_tokens_before() -> None:
    made, x = network(causal=True), tokens(1)
    before = logits(made, x)
    for position in range(N):
        other = x.clone()
        other[0, position] = (x[0, position] + 1) % CLASSES
        changed = (logits(made, other) - before).abs().amax((0, 2)) > 1e-6
        assert changed.tolist() == [i > position for i in range(N)]


def test_gradients_agree_with_inference() -> None:
    """The kernels with and without gradients, and the masks of both."""
    for causal in (False, True):
        made, x = network(causal), tokens()
        torch.testing.assert_close(made(x, torch.zeros(3, dtype=torch.int64), Context()), logits(made, x), atol=1e-5, rtol=1e-5)


@given(st.lists(st.tuples(st.integers(0, N), st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=6))
def test_a_cache_changes_nothing(calls: list[tuple[int, int, int]]) -> None:
    """Whatever is asked in whatever order: tokens drawn one by one, several at once, others than before, another batch."""
    made = network(causal=True)
    cache = made.prepare(Context())
    for known, seed, batch in calls:
        x = tokens(batch, seed)
        x[:, known:] = CLASSES
        last = min(known, N - 1)
        expected = logits(made, x)[:, last]
        torch.testing.assert_close(logits(made, x, cache)[:, last], expected, atol=1e-5, rtol=1e-5)


def test_a_cache_reads_no_token_twice() -> None:
    made, x, read = network(causal=True), tokens(), []
    made.blocks[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[1]))
    cache = made.prepare(Context())
    for known in range(N):
        logits(made, torch.where(torch.arange(N) < known, x, CLASSES), cache)
    assert read == [1] * N


def test_the_same_network_again_from_its_description() -> None:
    made = network(neighbours=True)
    again = build("network", NETWORKS, made.config)
    again.load_state_dict(made.state_dict())
    assert torch.equal(logits(again, tokens()), logits(made, tokens()))


@pytest.mark.parametrize("neighbours", [False, True])
def test_a_picture_does_not_depend_on_its_batch(neighbours: bool) -> None:
    torch.manual_seed(0)
    made = Transformer(40, (8, 8), width=96, depth=2, heads=3, neighbours=neighbours).eval()
    x = torch.randint(41, (5, 64))
    whole = logits(made, x)
    for size in (1, 2, 3):
        assert_same_but_for_rounding(torch.cat([logits(made, part) for part in x.split(size)]), whole)


def test_nor_does_one_drawn_token_by_token() -> None:
    torch.manual_seed(0)
    made = Transformer(40, (8, 8), width=96, depth=2, heads=3, causal=True).eval()
    x = torch.randint(40, (3, 64))

    def drawn(rows: torch.Tensor) -> torch.Tensor:
        cache = made.prepare(Context())
        return torch.stack([logits(made, torch.where(torch.arange(64) < known, rows, 40), cache)[:, known] for known in (0, 1, 2, 20, 21)])

    assert torch.equal(drawn(x)[:, 1:2], drawn(x[1:2]))


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match="width 16 is not a multiple of heads 3"):
        Transformer(CLASSES, GRID, 16, 1, 3)
    with pytest.raises(UsageError, match="neighbours would show a causal network"):
        Transformer(CLASSES, GRID, 16, 1, 4, causal=True, neighbours=True)
    with pytest.raises(UsageError, match="14 tokens are too many for a network with 3x4 positions"):
        logits(network(), torch.zeros(1, 14, dtype=torch.int64))
    with pytest.raises(UsageError, match="takes no prompt"):
        network().prepare(Context(labels=torch.zeros(1, dtype=torch.int64)))
    with pytest.raises(UsageError, match="takes no prompt"):
        logits(network(), tokens(1), Context(embeddings=torch.zeros(1, 2, 3)))


@pytest.mark.parametrize("causal", [False, True])
def test_positions_beyond_the_grid_are_kept_and_not_read(causal: bool) -> None:
    network = Transformer(7, (2, 3), 8, 1, 2, causal=causal, positions=9).eval()
    x, t = torch.tensor([[0, 1, 2, 3, 4, 5]]), torch.zeros(1, dtype=torch.int64)
    before = network(x, t, Context())
    with torch.no_grad():
        network.position[6:] += 1
    assert torch.equal(network(x, t, Context()), before)
    again = Transformer(**{key: value for key, value in network.config.items() if key != "kind"})
    load_network(again, export_network(network))
    assert torch.equal(again.position, network.position)
    with pytest.raises(UsageError, match="5 positions are too few"):
        Transformer(7, (2, 3), 8, 1, 2, positions=5)
