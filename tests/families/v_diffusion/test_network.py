"""Laws of v-diffusion's networks; their values are checked against the original by the conformance cases."""

import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.contexts.context import Context
from tessera.errors import UsageError
from tessera.families.v_diffusion.network import UNet, stage_shapes
from tessera.registry import NETWORKS, build
from tests.families.v_diffusion.small import ALL, SIZES, case, context, inputs, network

KINDS = pytest.mark.parametrize("kind", ALL)
close = {"atol": 1e-4, "rtol": 1e-4}


@KINDS
def test_prepared_context_equals_raw(kind: str) -> None:
    made, (x_t, t) = network(kind), inputs()
    prepared = made.prepare(context(kind))
    for times in (t, t.flip(0)):  # the same prepared context serves every step
        assert torch.equal(made(x_t, times, prepared), made(x_t, times, context(kind)))
        assert torch.equal(made(x_t[:2], times[:2], prepared[:2]), made(x_t[:2], times[:2], context(kind)[:2]))


@KINDS
@pytest.mark.parametrize("size", [(16, 24), (64, 32), (4, 4)])  # 64x32 has levels on both sides of the two ways to convolve
def test_inference_equals_training(kind: str, size: tuple[int, int]) -> None:
    made, (x_t, t) = network(kind), inputs(3, *size)
    trained = made(x_t, t, context(kind)).detach()
    with torch.inference_mode():
        torch.testing.assert_close(made(x_t, t, context(kind)), trained, **close)
    with torch.no_grad():
        torch.testing.assert_close(made(x_t, t, context(kind)), trained, **close)


@KINDS
def test_rows_do_not_depend_on_each_other(kind: str) -> None:
    made, (x_t, t) = network(kind), inputs()
    with torch.inference_mode():
        together = made(x_t, t, context(kind))
        for row in range(3):
            rows = slice(row, row + 1)
            torch.testing.assert_close(together[rows], made(x_t[rows], t[rows], context(kind)[rows]), **close)


@KINDS
def test_every_input_matters(kind: str) -> None:
    made, (x_t, t) = network(kind), inputs()
    with torch.inference_mode():
        first = made(x_t, t, context(kind))
        assert not torch.allclose(made(x_t.flip(0), t, context(kind)), first, atol=1e-3)
        assert not torch.allclose(made(x_t, t.flip(0), context(kind)), first, atol=1e-3)
        if kind == "modulated":
            changed = made(x_t, t, Context(embeddings=context(kind).embeddings.flip(0)))  # type: ignore[union-attr]
            assert not torch.allclose(changed, first, atol=1e-3)


@KINDS
def test_every_parameter_but_frozen_frequencies_has_a_gradient(kind: str) -> None:
    made, (x_t, t) = network(kind).train(), inputs()
    made(x_t, t, context(kind)).square().sum().backward()
    without = {name for name, parameter in made.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert without == ({"time_features.weight", "mapping.time.weight"} if kind == "modulated" else set())


@KINDS
def test_forward_leaves_its_arguments_and_weights_alone(kind: str) -> None:
    made, (x_t, t) = network(kind), inputs()
    given_x, weights = x_t.clone(), {name: value.clone() for name, value in made.state_dict().items()}
    with torch.inference_mode():
        prepared = made.prepare(context(kind))
        first = made(x_t, t, prepared)
        assert torch.equal(made(x_t, t, prepared), first)
    assert torch.equal(x_t, given_x)
    assert all(torch.equal(value, weights[name]) for name, value in made.state_dict().items())


@KINDS
def test_calls_at_once_do_not_disturb_each_other(kind: str) -> None:
    """Nothing is kept in the network between its layers."""
    made, (x_t, t) = network(kind), inputs()
    expected = [made(x_t[[i]], t[[i]], context(kind)[i : i + 1]).detach() for i in range(3)]
    found: dict[int, torch.Tensor] = {}

    def call(i: int) -> None:
        for _ in range(5):
            found[i] = made(x_t[[i]], t[[i]], context(kind)[i : i + 1]).detach()

    threads = [threading.Thread(target=call, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], expected[i]) for i in range(3))


@KINDS
def test_config_makes_the_same_network(kind: str) -> None:
    made, (x_t, t) = network(kind), inputs()
    again = build("network", NETWORKS, made.config).eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(x_t, t, context(kind)), made(x_t, t, context(kind)))


@pytest.mark.parametrize("name", ["init_cc12m_1", "init_yfcc_1", "init_danbooru_128"])
def test_initial_values(name: str) -> None:
    from tessera.families.v_diffusion.checkpoint import export_network
    from tests.conformance.v_diffusion_networks import network_from

    recorded = case(name)
    torch.manual_seed(0)
    tensors = export_network(network_from(recorded.config))
    laws = recorded.spec["law"]
    assert set(laws) == set(tensors)
    for key, (law, value) in laws.items():
        tensor = tensors[key]
        if law == "constant":
            assert tensor.flatten().tolist() == pytest.approx([value] * tensor.numel(), rel=1e-6)
        elif law == "uniform":
            assert tensor.abs().max() <= value * (1 + 1e-6)
            if tensor.numel() > 500:
                assert tensor.square().mean().sqrt().item() == pytest.approx(value / 3**0.5, rel=0.1)
        else:
            assert law == "normal"
            assert tensor.square().mean().sqrt().item() == pytest.approx(value, rel=0.75 if tensor.numel() < 20 else 0.3)


@KINDS
def test_bfloat16(kind: str) -> None:
    made, (x_t, t) = network(kind), inputs()
    with torch.inference_mode():
        full = made(x_t, t, context(kind))
        with torch.autocast("cpu", torch.bfloat16):
            autocast = made(x_t, t, context(kind))
        half = made.bfloat16()(x_t, t, context(kind))
    for other in (autocast, half):
        assert other.dtype == torch.float32
        assert (other - full).norm() < 0.1 * full.norm()


def test_no_time_is_too_small_or_too_large() -> None:
    made, (x_t, _) = network("jax"), inputs()
    first, last = made.times
    assert (first, last) == pytest.approx((0.006366, 0.99571), abs=1e-5)
    assert network("yfcc").times == (0.0, 1.0)
    with torch.inference_mode():
        outside = made(x_t, torch.tensor([0.0, 1.0, 0.5]), Context())
        ends = made(x_t, torch.tensor([first, last, 0.5], dtype=torch.float64), Context())
    assert outside.isfinite().all()
    torch.testing.assert_close(outside, ends, **close)


def test_the_zero_embedding_stays_zero() -> None:
    made, (x_t, t) = network("modulated"), inputs()
    zero = Context(embeddings=torch.zeros(3, 1, 10))
    assert not made.prepare(zero).embedding.any()  # type: ignore[union-attr]
    assert made(x_t, t, zero).isfinite().all()
    longer = made.prepare(Context(embeddings=7 * context("modulated").embeddings)).embedding  # type: ignore[operator]
    torch.testing.assert_close(longer.norm(dim=1), torch.full((3,), 10**0.5))  # type: ignore[union-attr]
    torch.testing.assert_close(longer, made.prepare(context("modulated")).embedding)


@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_stages_fit_each_other(levels: int, blocks: int, data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 8).map(lambda n: 8 * n), min_size=levels, max_size=levels))
    rows = stage_shapes(widths, blocks, range(1, levels), 8)
    assert [row.level for row in rows] == [*range(levels), *range(levels - 2, -1, -1)]
    assert sum(len(row.blocks) for row in rows) == 2 * blocks * levels
    assert (rows[0].blocks[0].enter, rows[-1].blocks[-1].leave) == (19, 3)
    for row in rows:
        assert all(channels.hidden == widths[row.level] for channels in row.blocks)
        assert all(a.leave == b.enter for a, b in zip(row.blocks, row.blocks[1:], strict=False))
    for place in range(1, len(rows)):
        skip = rows[2 * levels - 2 - place].blocks[-1].leave if place >= levels else 0
        assert rows[place].blocks[0].enter == rows[place - 1].blocks[-1].leave + skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"join": "outer"}, "did you mean 'outer-first'"),
        ({"upsampling": "linear"}, "did you mean 'bilinear'"),
        ({"time": "log_snr"}, "did you mean 'log-snr'"),
        ({"head_width": 7}, "head_width 7 does not divide the 24 features"),
        ({"attention_levels": [3]}, "attention level 3 is none of the levels 0 to 2"),
        ({"blocks": 0}, "at least 1"),
        ({"widths": []}, "at least 1"),
        ({"size": 18}, "size 18 is not a multiple of 4"),
        ({"context_width": 3}, "go together"),
    ],
)
def test_bad_configuration(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        UNet(**{**SIZES, **arguments})


@pytest.mark.parametrize(("size", "near"), [((16, 18), "16x16 or 20x16"), ((2, 16), "16x4"), ((0, 16), "4x4")])
def test_sizes_it_cannot_take(size: tuple[int, int], near: str) -> None:
    made, (x_t, t) = network("yfcc"), inputs(3, *size)
    with pytest.raises(UsageError, match=f"pictures of {size[1]}x{size[0]}: both sides must be multiples of 4, such as {near}$"):
        made(x_t, t, Context())


def test_contexts_it_cannot_take() -> None:
    made, (x_t, t) = network("modulated"), inputs()
    for given_context, what in (
        (Context(), "not none"),
        (Context(embeddings=torch.zeros(3, 2, 10)), "not 2 of width 10"),
        (Context(embeddings=torch.zeros(3, 1, 9)), "not 1 of width 9"),
    ):
        with pytest.raises(UsageError, match=f"one embedding of width 10 per picture, {what}"):
            made(x_t, t, given_context)
