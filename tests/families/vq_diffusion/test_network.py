"""Laws of VQ-Diffusion's network; its values are checked against the original by the conformance cases."""

from typing import Any

import pytest
import torch
from torch import nn

from tessera.contexts.context import Context
from tessera.errors import UsageError
from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.registry import NETWORKS, build
from tests.closeness import assert_same_but_for_rounding

TEXT = {"condition": "text", "context_width": 10}
CLASS = {"condition": "class", "class_count": 5, "mlp": "conv"}
NONE = {"condition": "none", "mlp": "conv", "position_table": [6, 8]}
KINDS = pytest.mark.parametrize("kind", [TEXT, CLASS, NONE], ids=["text", "class", "none"])


def network(kind: dict[str, Any], **more: Any) -> TokenTransformer:
    torch.manual_seed(0)
    made = TokenTransformer(**{"classes": 7, "grid": [3, 4], "width": 16, "depth": 2, "heads": 4, "timesteps": 20, **kind, **more})
    for parameter in made.parameters():  # away from the small initial values, so that every input matters
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def context(kind: dict[str, Any], batch: int) -> Context:
    generator = torch.Generator().manual_seed(1)
    if kind is TEXT:
        mask = torch.arange(6) < torch.tensor([[4], [6], [1]])
        return Context(embeddings=torch.randn(3, 6, 10, generator=generator)[:batch], mask=mask[:batch])
    return Context(labels=torch.tensor([3, 5, 0])[:batch]) if kind is CLASS else Context()


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x_t = torch.randint(0, 8, (batch, 12), generator=torch.Generator().manual_seed(2))
    return x_t, torch.tensor([0, 19, 7])[:batch]


@KINDS
def test_prepared_context_equals_raw(kind: dict[str, Any]) -> None:
    made, (x_t, t) = network(kind), inputs()
    prepared = made.prepare(context(kind, 3))
    for index in (t, t.flip(0)):  # the same prepared context serves every step
        assert torch.equal(made(x_t, index, prepared), made(x_t, index, context(kind, 3)))


@KINDS
def test_inference_equals_training(kind: dict[str, Any]) -> None:
    made, (x_t, t) = network(kind), inputs()
    trained = made(x_t, t, context(kind, 3)).detach()
    with torch.inference_mode():
        torch.testing.assert_close(made(x_t, t, context(kind, 3)), trained, atol=1e-4, rtol=1e-4)
        for row in range(3):  # one time for the whole batch takes another way through the norms
            same = made(x_t, t[row].expand(3), context(kind, 3))[row]
            torch.testing.assert_close(same, trained[row], atol=1e-4, rtol=1e-4)


@KINDS
def test_the_times_of_other_images_change_no_bit(kind: dict[str, Any]) -> None:
    made, (x_t, t) = network(kind), inputs()
    with torch.inference_mode():
        prepared = made.prepare(context(kind, 3))
        together = made(x_t, t, prepared)
        for row in range(3):
            rows = slice(row, row + 1)
            assert_same_but_for_rounding(made(x_t[rows], t[rows], prepared[rows]), together[rows])


@KINDS
@pytest.mark.parametrize("grid", [[16, 40], [20, 24]])
def test_batches_too_large_for_one_pass(kind: dict[str, Any], grid: list[int]) -> None:
    made, n = network(kind, grid=grid, position_table=grid, width=8, heads=2, depth=1), grid[0] * grid[1]
    x_t, t = torch.randint(0, 8, (3, n), generator=torch.Generator().manual_seed(3)), inputs()[1]
    trained = made(x_t, t, context(kind, 3)).detach()
    with torch.inference_mode():
        torch.testing.assert_close(made(x_t, t, context(kind, 3)), trained, atol=1e-4, rtol=1e-4)


@KINDS
def test_rows_do_not_depend_on_each_other(kind: dict[str, Any]) -> None:
    made, (x_t, t) = network(kind), inputs()
    together = made(x_t, t, context(kind, 3))
    for row in range(3):
        alone = made(x_t[row : row + 1], t[row : row + 1], context(kind, 3)[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)


@KINDS
def test_every_parameter_has_a_gradient(kind: dict[str, Any]) -> None:
    made, (x_t, t) = network(kind).train(), inputs()
    made(x_t, t, context(kind, 3)).square().sum().backward()
    without = [name for name, parameter in made.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


@KINDS
def test_forward_leaves_its_arguments_and_weights_alone(kind: dict[str, Any]) -> None:
    made, (x_t, t) = network(kind), inputs()
    given, weights = x_t.clone(), {name: value.clone() for name, value in made.state_dict().items()}
    with torch.inference_mode():
        prepared = made.prepare(context(kind, 3))
        first = made(x_t, t, prepared).clone()
        assert torch.equal(made(x_t, t, prepared), first)
    assert torch.equal(x_t, given)
    assert all(torch.equal(value, weights[name]) for name, value in made.state_dict().items())


@KINDS
def test_config_makes_the_same_network(kind: dict[str, Any]) -> None:
    made, (x_t, t) = network(kind), inputs()
    again = build("network", NETWORKS, made.config).eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(x_t, t, context(kind, 3)), made(x_t, t, context(kind, 3)))


def test_initial_values() -> None:
    torch.manual_seed(0)
    made = TokenTransformer(60, [8, 8], 64, 2, 4, condition="text", context_width=32)
    for module in made.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.2)
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_dropout_acts_only_while_training() -> None:
    made, (x_t, t) = network(TEXT, dropout=0.5), inputs()
    assert torch.equal(made(x_t, t, context(TEXT, 3)), made(x_t, t, context(TEXT, 3)))
    made.train()
    assert not torch.equal(made(x_t, t, context(TEXT, 3)), made(x_t, t, context(TEXT, 3)))


@pytest.mark.parametrize("times", [[0, 19, 7], [7, 7, 7]])
@KINDS
def test_bfloat16(kind: dict[str, Any], times: list[int]) -> None:
    made, (x_t, _) = network(kind), inputs()
    t = torch.tensor(times)
    with torch.inference_mode():
        full = made(x_t, t, context(kind, 3))
        with torch.autocast("cpu", torch.bfloat16):
            autocast = made(x_t, t, context(kind, 3))
        half = made.bfloat16()(x_t, t, context(kind, 3))
    for other in (autocast, half):
        assert other.dtype == torch.bfloat16
        assert (other - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"condition": "txt"}, "did you mean 'text'"),
        ({"activation": "gleu"}, "did you mean 'gelu'"),
        ({"context_width": None}, "needs context_width"),
        ({"condition": "class"}, "needs class_count"),
    ],
)
def test_bad_configuration(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        network(TEXT, **arguments)


def test_bad_inputs() -> None:
    made, (x_t, t) = network(TEXT), inputs()
    with pytest.raises(UsageError, match="needs a context with embeddings"):
        made(x_t, t, Context())
    with pytest.raises(UsageError, match="too many for a network with 3x4 positions"):
        made(torch.zeros(3, 13, dtype=torch.int64), t, context(TEXT, 3))
