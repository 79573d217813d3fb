"""The multi-flow network: its table, its types, contexts mixed in it, and new types of data and context."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.contexts.context import Context
from tessera.contexts.labels import Labels
from tessera.errors import UsageError
from tessera.families.versatile.checkpoint import LAYOUTS, export_network, load_network
from tessera.families.versatile.kinds import CONTEXT_TYPES, DATA_TYPES, ContextLayers
from tessera.families.versatile.mixing import Prepared, mix
from tessera.families.versatile.network import MultiFlowUNet, steps
from tessera.families.versatile.presets import PRESETS, preset
from tessera.families.versatile.shapes import network_config
from tests.closeness import assert_same_but_for_rounding
from tests.tiny_versatile import LATENT, NETWORK, noisy, tiny_network

T = torch.tensor([0.9, 0.2], dtype=torch.float64)
SHAPES = {"image": (4, 8, 8), "text": (LATENT,)}


def x_of(data: str, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *SHAPES[data], generator=torch.Generator().manual_seed(1))


def context(batch: int = 2, rows: int = 5, seed: int = 2) -> Context:
    return Context(torch.randn(batch, rows, 16, generator=torch.Generator().manual_seed(seed)))


@given(widths=st.lists(st.sampled_from([32, 64, 96]), min_size=1, max_size=4), levels=st.sets(st.integers(0, 3)), drawn=st.data())
def test_the_table_ends_where_it_began(widths: list[int], levels: set[int], drawn: st.DataObject) -> None:
    """What a join takes was saved, channels follow each other, and every level has its blocks."""
    levels = {level for level in levels if level < len(widths)}
    blocks = drawn.draw(st.lists(st.integers(1, 3), min_size=len(widths), max_size=len(widths)))
    table = steps(widths, blocks, sorted(levels))
    assert steps(widths, 2, sorted(levels)) == steps(widths, [2] * len(widths), sorted(levels))
    saved: list[int] = []
    channels = 0
    for step in table:
        if step.what == "save":
            saved.append(channels)
        elif step.what == "join":
            channels += saved.pop()
        else:
            assert step.enter == channels
            channels = step.leave
    assert (saved, channels) == ([], 0)
    assert sum(step.what == "block" for step in table) == sum(2 * count + 1 for count in blocks) + 2
    assert sum(step.what == "context" for step in table) == sum(2 * blocks[level] + 1 for level in levels) + 1
    assert sum(step.what == "down" for step in table) == sum(step.what == "up" for step in table) == len(widths) - 1


@st.composite
def descriptions(draw: st.DrawFn) -> dict[str, Any]:
    """Levels, blocks of each, levels with contexts, widths, heads, positions and widths of contexts at random."""
    widths = draw(st.lists(st.sampled_from([32, 64]), min_size=1, max_size=3))
    blocks = draw(st.lists(st.integers(1, 2), min_size=len(widths), max_size=len(widths)))
    return {
        "widths": widths,
        "blocks": blocks if len(set(blocks)) > 1 else blocks[0],
        "context_levels": sorted(draw(st.sets(st.integers(0, len(widths) - 1)))),
        "heads": draw(st.sampled_from([1, 2, 8, {"text": 2, "image": 4}])),
        "data": {
            "image": {"kind": "grid", "channels": draw(st.integers(1, 4))},
            "text": {"kind": "vector", "width": draw(st.integers(3, 9)), "positions": draw(st.sampled_from([1, 2, 4]))},
        },
        "contexts": {name: {"kind": "rows", "width": draw(st.integers(4, 12))} for name in ("text", "image")},
    }


@torch.no_grad()
@settings(max_examples=12, deadline=None)
@given(described=descriptions(), layout=st.sampled_from(["four-flow", "four-flow-deprecated"]))
def test_any_description_runs_is_told_by_its_names_and_comes_back(described: dict[str, Any], layout: str) -> None:
    network = MultiFlowUNet(**described).eval()
    written = export_network(network, LAYOUTS[layout])
    found = network_config({name: value.shape for name, value in written.items()}, layout)
    assert {**found, "heads": described["heads"]} == network.config
    again = MultiFlowUNet(**{key: value for key, value in network.config.items() if key != "kind"}).eval()
    load_network(again, written, LAYOUTS[layout])
    side = 2 ** len(described["widths"])
    for data, shape in [("image", (described["data"]["image"]["channels"], side, side)), ("text", (described["data"]["text"]["width"],))]:
        for kind, rows in described["contexts"].items():
            x, given_context = torch.randn(2, *shape), Context(torch.randn(2, 3, rows["width"]))
            out = network.view(data, kind)(x, T, given_context)
            assert out.shape == x.shape
            assert torch.equal(again.view(data, kind)(x, T, given_context), out)


def test_heads_of_each_context_type_are_its_own() -> None:
    """A flow from one type is that of a network whose every type has its heads; other names are refused."""
    mixed = tiny_network(heads={"text": 2, "image": 4})
    for kind, heads in (("text", 2), ("image", 4)):
        alike = tiny_network(heads=heads)
        alike.load_state_dict(mixed.state_dict())
        made = mixed.view("image", kind)(x_of("image"), T, context())
        assert torch.equal(alike.view("image", kind)(x_of("image"), T, context()), made)
        other = tiny_network(heads=8)
        other.load_state_dict(mixed.state_dict())
        assert not torch.allclose(other.view("image", kind)(x_of("image"), T, context()), made)
    assert MultiFlowUNet.only(mixed.config, [{"data": "image", "context": "image"}])["heads"] == {"image": 4}
    with pytest.raises(UsageError, match="give one number, or one for each of text, image"):
        tiny_network(heads={"text": 2})
    with pytest.raises(UsageError, match="3 heads do not divide"):
        tiny_network(heads={"text": 3, "image": 4})


@pytest.mark.parametrize("blocks", [0, [], [1], [1, 0], [1, 1, 1]])
def test_blocks_of_other_levels_are_refused(blocks: Any) -> None:
    with pytest.raises(UsageError, match="blocks of at least 1"):
        tiny_network(widths=[32, 32], blocks=blocks)


@pytest.mark.parametrize("name", PRESETS)
def test_released_sizes(name: str) -> None:
    with torch.device("meta"):
        made = MultiFlowUNet(**{key: value for key, value in preset(name).items() if key != "kind"})
    assert sum(parameter.numel() for parameter in made.parameters()) == PRESETS[name].parameters
    assert len(made.contexts[next(iter(made.contexts))].blocks) == 16


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_gradients_take_another_way_to_the_same_result(data: str, kind: str) -> None:
    torch.manual_seed(0)  # biases are drawn from it
    flow = tiny_network().view(data, kind)
    x, given_context = x_of(data), context()
    with torch.no_grad():
        expected = flow(x, T, given_context)
    out = flow(x, T, given_context)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=1e-3)  # norms of two numbers magnify what is rounded
    out.square().mean().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


def test_a_new_network_predicts_nothing() -> None:
    torch.manual_seed(0)
    network = MultiFlowUNet(**NETWORK)
    for data in SHAPES:
        assert torch.equal(network.view(data, "text")(x_of(data), T, context()), torch.zeros(2, *SHAPES[data]))


def test_flows_share_weights() -> None:
    network = tiny_network()
    first, second = network.view("image", "text"), network.view("image", "image")
    assert first.data_layers is second.data_layers is network.data["image"]
    before = second(x_of("image"), T, context())
    with torch.no_grad():
        network.data["image"].layers[0].weight.add_(0.1)
    assert not torch.equal(second(x_of("image"), T, context()), before)


@torch.no_grad()
def test_where_a_mask_hides_a_context_it_has_no_effect() -> None:
    flow = tiny_network().view("image", "text")
    whole = context(rows=5)
    assert whole.embeddings is not None
    masked = Context(torch.cat([whole.embeddings, torch.ones(2, 2, 16)], 1), torch.tensor([[True] * 5 + [False] * 2] * 2))
    torch.testing.assert_close(flow(x_of("image"), T, masked), flow(x_of("image"), T, whole), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@settings(max_examples=10)
@given(share=st.floats(0.05, 0.95), scale=st.floats(0.1, 10))
def test_ratios_count_relative_to_their_sum(share: float, scale: float) -> None:
    network = tiny_network()
    words, picture = network.view("image", "text"), network.view("image", "image")
    contexts = [words.prepare(context(seed=3)), picture.prepare(context(seed=4, rows=7))]
    mixed = words(x_of("image"), T, mix(contexts, [share, 1 - share]))
    torch.testing.assert_close(words(x_of("image"), T, mix(contexts, [scale * share, scale * (1 - share)])), mixed, atol=1e-4, rtol=1e-4)
    nested = mix([mix(contexts, [1, 1]), contexts[1]], [2 * share, 1 - 2 * share]) if share < 0.5 else None
    if nested is not None:
        torch.testing.assert_close(words(x_of("image"), T, nested), mixed, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_ends_of_a_mixture_are_its_contexts() -> None:
    network = tiny_network()
    words, picture = network.view("text", "text"), network.view("text", "image")
    contexts = [words.prepare(context(seed=3)), picture.prepare(context(seed=4))]
    alone = [words(x_of("text"), T, prepared) for prepared in contexts]
    assert_same_but_for_rounding(words(x_of("text"), T, mix(contexts, [3.0, 0.0])), alone[0])
    for which in (0, 1):
        chosen = Prepared(mix(contexts, [0.5, 0.5]).shares, torch.full((2, words.places), which))
        torch.testing.assert_close(words(x_of("text"), T, chosen), alone[which], atol=2e-4, rtol=1e-4)
    each = Prepared(mix(contexts, [0.5, 0.5]).shares, torch.tensor([[0] * words.places, [1] * words.places]))
    torch.testing.assert_close(words(x_of("text"), T, each), torch.stack([alone[0][0], alone[1][1]]), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("ratios", [[1.0], [-0.5, 1.5], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_ratios_that_mean_nothing(ratios: list[float]) -> None:
    flow = tiny_network().view("image", "text")
    prepared = flow.prepare(context())
    with pytest.raises(UsageError, match=r"ratios"):
        mix([prepared, prepared], ratios)


@torch.no_grad()
def test_a_third_context_type_of_embeddings_is_an_entry() -> None:
    """A palette: colours are rows of three numbers. Nothing else of the network changes."""
    network = tiny_network(contexts={**NETWORK["contexts"], "palette": {"kind": "rows", "width": 3}})
    flow = network.view("image", "palette")
    red, blue = (torch.tensor(colour).expand(2, 1, 3) for colour in ([1.0, -1, -1], [-1.0, -1, 1]))
    assert not torch.equal(flow(x_of("image"), T, Context(red)), flow(x_of("image"), T, Context(blue)))
    words = network.view("image", "text").prepare(context())
    assert flow(x_of("image"), T, mix([flow.prepare(Context(red)), words], [1, 2])).isfinite().all()


def test_a_third_context_type_learns() -> None:
    """Class labels lead to their own constant pictures."""
    network = tiny_network(contexts={"label": {"kind": "labels", "width": 8, "count": 2}}, data={"image": NETWORK["data"]["image"]})
    flow = network.view("image", "label")
    labels = Labels(2, null="learned")
    target = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, *SHAPES["image"])
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (flow(torch.zeros(2, *SHAPES["image"]), T, labels([0, 1])) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert flow.context_width is None


@torch.no_grad()
def test_a_new_kind_of_context_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Squares(ContextLayers):
        def rows(self, context: Context) -> torch.Tensor:
            assert context.embeddings is not None
            return context.embeddings.square()

    monkeypatch.setitem(CONTEXT_TYPES, "squares", Squares)
    flow = noisy(MultiFlowUNet(**{**NETWORK, "contexts": {"odd": {"kind": "squares", "width": 16}}})).view("image", "odd")
    given_context = context()
    assert given_context.embeddings is not None
    opposite = Context(-given_context.embeddings)
    assert torch.equal(flow(x_of("image"), T, given_context), flow(x_of("image"), T, opposite))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": [30]}, "width 30 is no multiple of 32"),
        ({"widths": []}, "needs widths"),
        ({"heads": 5}, "5 heads do not divide the width 32"),
        ({"context_levels": [2]}, "context level 2 is none of the levels 0 to 1"),
        ({"data": {}}, "at least one data type"),
        ({"data": {"sound": {"kind": "wave"}}}, "unknown kind of data type 'wave'"),
        ({"contexts": {"text": {"kind": "row", "width": 3}}}, "unknown kind of context type 'row'"),
        ({"contexts": {"text": {"kind": "rows", "size": 3}}}, "bad configuration of context type 'rows'"),
    ],
)
def test_wrong_configurations(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MultiFlowUNet(**{**NETWORK, **changes})


def test_wrong_inputs() -> None:
    network = tiny_network()
    flow = network.view("image", "text")
    with pytest.raises(UsageError, match="unknown data type 'images'"):
        network.view("images", "text")
    with pytest.raises(UsageError, match="unknown context type 'words'"):
        network.view("image", "words")
    with pytest.raises(UsageError, match="takes embeddings of width 16, not embeddings of width 4"):
        flow.prepare(Context(torch.zeros(1, 2, 4)))
    with pytest.raises(UsageError, match="latents of 7x8: both sides must be multiples of 2"):
        flow.check_size(8, 7)
    with pytest.raises(UsageError, match="vectors, which have no size"):
        network.view("text", "text").check_size(8, 8)


def test_only_the_types_of_some_flows() -> None:
    config = tiny_network().config
    kept = MultiFlowUNet.only(config, [{"data": "image", "context": "text"}])
    assert (list(kept["data"]), list(kept["contexts"])) == (["image"], ["text"])
    assert {key: value for key, value in kept.items() if key not in ("data", "contexts")} == {
        key: value for key, value in config.items() if key not in ("data", "contexts")
    }
    assert set(DATA_TYPES) >= {"grid", "vector"}
