"""Released names ⇄ ours, on the manifests of the released checkpoints (names and shapes; no memory for the values)."""

from pathlib import Path

import pytest
import torch

from tessera.contexts.context import Context
from tessera.errors import TesseraError
from tessera.families.vq_diffusion.checkpoint import NETWORK, export_network, load_network
from tests.conformance.cases import Case
from tests.conformance.vq_diffusion_build import network_from

CASES = Path(__file__).parents[2] / "reference" / "vq_diffusion"
RELEASED = ["released_coco", "released_ithq", "released_imagenet", "released_imagenet_cf", "released_ffhq"]
SMALL = ["text_transformer_small", "class_transformer_small", "class_transformer_insnorm_small", "uncond_transformer_small"]


@pytest.mark.parametrize("name", RELEASED + SMALL)
def test_names_and_shapes_are_those_of_the_release(name: str) -> None:
    case = Case.read(CASES / name)
    with torch.device("meta"):
        network = network_from(case.config.get("diffusion_config", {}).get("params", case.config))
    ours = {released: list(tensor.shape) for released, tensor in export_network(network).items()}
    theirs = {released: shape for released, shape in case.manifest.items() if released.startswith(NETWORK)}
    # The released mask buffers of cross-attention are read by nothing.
    assert ours == {released: shape for released, shape in theirs.items() if not released.endswith(".attn2.mask")}


@pytest.mark.parametrize("name", SMALL)
def test_export_inverts_load(name: str) -> None:
    case = Case.read(CASES / name)
    network, weights = network_from(case.config), case.state_dict()
    load_network(network, weights)
    exported = export_network(network)
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[released], weights[released]) for released in weights)


def test_any_prefix_and_dtype() -> None:
    """`ckpt["ema"]` lacks the outer prefix, and copies in half precision exist."""
    case = Case.read(CASES / "text_transformer_small")
    network, other = network_from(case.config).eval(), network_from(case.config).eval()
    load_network(network, case.state_dict())
    load_network(other, {name.removeprefix("transformer."): value.double() for name, value in case.state_dict().items()}, "transformer.")
    x_t, t, context = case.io["x_t"], case.io["t"], Context(embeddings=case.io["cond_emb"])
    assert torch.equal(network(x_t, t, context), other(x_t, t, context))


def test_a_missing_or_misfit_tensor_is_named() -> None:
    case = Case.read(CASES / "text_transformer_small")
    network, weights = network_from(case.config), case.state_dict()
    key = NETWORK + "blocks.1.attn2.value.weight"
    with pytest.raises(TesseraError, match=r"no tensor '.*blocks\.1\.attn2\.value\.weight'"):
        load_network(network, {name: value for name, value in weights.items() if name != key})
    with pytest.raises(TesseraError, match=r"to_logits\.1\.weight.* another configuration"):
        load_network(network, weights | {NETWORK + "to_logits.1.weight": torch.zeros(17, 64)})
