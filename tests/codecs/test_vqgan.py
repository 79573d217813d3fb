import pytest
import torch
from torch import Tensor

from tessera.codecs.presets import PRESETS
from tessera.codecs.vqgan import VQGAN
from tessera.errors import UsageError
from tessera.randomness import Draws
from tessera.registry import CODECS, build

KINDS = ["nearest", "ema", "gumbel"]


def tiny(quantizer: str = "nearest", **settings: object) -> VQGAN:
    torch.manual_seed(0)
    arguments = {"width": 32, "multipliers": [1, 2, 2], "blocks": 1, "attention_levels": [2], "features": 16, "dim": 8} | settings
    return VQGAN(codebook=20, quantizer=quantizer, **arguments)


def pictures(count: int, height: int = 16, width: int = 16) -> Tensor:
    """Smooth random pictures in [-1, 1]."""
    small = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear").clamp(-1, 1)


@pytest.mark.parametrize("quantizer", KINDS)
@torch.no_grad()
def test_any_size_that_the_factor_divides(quantizer: str) -> None:
    codec = tiny(quantizer).eval()
    assert codec.factor == 4
    for height, width in [(16, 16), (8, 24), (20, 12)]:
        tokens = codec.encode(pictures(2, height, width))
        assert tokens.shape == (2, height * width // 16)
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < 20
        decoded = codec.decode(tokens, codec.grid((height, width)))
        assert decoded.shape == (2, 3, height, width)
        assert float(decoded.abs().max()) <= 1
    with pytest.raises(UsageError, match="multiples of 4"):
        codec.encode(pictures(1, 16, 18))


@torch.no_grad()
def test_latents_are_row_major() -> None:
    codec = tiny().eval()
    z = codec.latents(pictures(1, 16, 24))
    assert torch.equal(z, codec.to_codes(codec.encoder(pictures(1, 16, 24))).permute(0, 2, 3, 1).reshape(1, 24, 8))


@pytest.mark.parametrize("quantizer", KINDS)
def test_memory_saving_inference_computes_the_same(quantizer: str) -> None:
    codec, image = tiny(quantizer).eval(), pictures(2)
    with torch.enable_grad():
        z, decoded = codec.latents(image), codec.decode(codec.encode(image), (4, 4))
    with torch.inference_mode():
        torch.testing.assert_close(codec.latents(image), z)
        torch.testing.assert_close(codec.decode(codec.encode(image), (4, 4)), decoded)
    assert torch.equal(image, pictures(2))


@torch.no_grad()
def test_gumbel_tokens_are_drawn_or_the_most_probable() -> None:
    codec, image = tiny("gumbel").eval(), pictures(2)
    logits = codec.quantizer.logits(codec.latents(image))
    assert torch.equal(codec.encode(image), logits.argmax(-1))
    assert torch.equal(codec.encode(image, Draws(1, [0, 1])), Draws(1, [0, 1]).categorical(logits))
    assert not torch.equal(codec.encode(image, Draws(1, [0, 1])), codec.encode(image, Draws(2, [0, 1])))


@torch.no_grad()
def test_a_subset_of_the_codebook() -> None:
    whole, part = tiny().eval(), tiny(classes=5).eval()
    part.remap.use([0] * 8 + [4, 3, 2, 1] * 3)
    assert (whole.classes, part.classes) == (20, 5)
    image = pictures(3)
    assert torch.equal(part.encode(image), part.remap.to_class[whole.encode(image)])
    tokens = torch.tensor([[0, 1, 2, 3, 4, 0]])
    assert torch.equal(part.decode(tokens, (2, 3)), whole.decode(torch.tensor([[0, 11, 10, 9, 8, 0]]), (2, 3)))


@pytest.mark.parametrize("quantizer", KINDS)
def test_it_learns(quantizer: str) -> None:
    codec, image = tiny(quantizer).train(), pictures(4)
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        made = codec.reconstruct(image)
        loss = (made.image - image).abs().mean() + made.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for name, parameter in codec.named_parameters()), "a part has no gradient"
    assert sum(losses[-5:]) < 0.92 * sum(losses[:5])
    assert set(made.report) == {"usage", "perplexity"}
    assert 1 <= float(made.report["perplexity"]) <= 20


def test_reconstruct_gives_the_parts_of_other_losses() -> None:
    codec, image = tiny().eval(), pictures(2)
    made = codec.reconstruct(image)
    assert made.indices is not None
    assert torch.equal(made.indices.view(2, 16), codec.encode(image))
    torch.testing.assert_close(made.image.clamp(-1, 1), codec.decode(codec.encode(image), (4, 4)))
    made.image.mean().backward()
    assert float(codec.encoder.conv_in.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("quantizer", [*KINDS, {"kind": "ema", "decay": 0.9, "patience": 7}])
@torch.no_grad()
def test_its_config_builds_it_again(quantizer: object) -> None:
    codec = tiny(quantizer, classes=7).eval()  # type: ignore[arg-type]
    again = build("codec", CODECS, codec.config)
    again.load_state_dict(codec.state_dict())
    assert again.config == codec.config
    assert torch.equal(again.eval().encode(pictures(2)), codec.encode(pictures(2)))


def test_the_quantizer_takes_its_settings() -> None:
    quantizer = tiny({"kind": "ema", "decay": 0.9, "patience": 7}).quantizer  # type: ignore[arg-type]
    assert (quantizer.decay, quantizer.patience) == (0.9, 7)


@torch.no_grad()
def test_what_local_layers_see_is_their_surroundings() -> None:
    """Equal surroundings have equal codes, wherever they are and whatever the rest of the picture shows."""
    codec = tiny(multipliers=[1, 1], attention_levels=[], local=True, blocks=1).eval()
    image = torch.zeros(2, 3, 128, 128)
    image[1, :, :16, :16] = pictures(1)[0]
    z = codec.latents(image).unflatten(1, (64, 64))
    torch.testing.assert_close(z[0], z[0, :1, :1].expand_as(z[0]))  # one flat picture, one code, borders too
    torch.testing.assert_close(z[1, 40:, 40:], z[0, 40:, 40:])
    globally = tiny(multipliers=[1, 1], attention_levels=[]).eval().latents(image).unflatten(1, (64, 64))
    assert float((globally[1, 40:, 40:] - globally[0, 40:, 40:]).abs().max()) > 1e-3


@torch.no_grad()
def test_an_encoder_of_patches_sees_nothing_else() -> None:
    codec = tiny(multipliers=[1], attention_levels=[], local=True, patch=4, encoder_kernel=1).eval()
    assert codec.factor == 4
    image, other = pictures(1), pictures(1)
    other[:, :, 4:] = -0.3
    torch.testing.assert_close(codec.latents(image)[:, :4], codec.latents(other)[:, :4])


@torch.no_grad()
def test_networks_that_see_pictures_from_0_to_1() -> None:
    codec, inside = tiny().eval(), tiny(unit_range=True).eval()
    inside.load_state_dict(codec.state_dict())
    image = pictures(2)
    assert torch.equal(inside.latents(image), codec.latents((image + 1) / 2))
    tokens = codec.encode(image)
    mean = codec._picture(codec.quantizer.embed(tokens), (4, 4))
    torch.testing.assert_close(inside.decode(tokens, (4, 4)), (2 * mean - 1).clamp(-1, 1))


def test_a_linear_start_reconstructs_from_the_first_step() -> None:
    """Before anything is learnt the picture is that of classical vector quantisation: here of as many codes as there are patches."""
    settings = {"multipliers": [1], "attention_levels": [], "projections": False, "patch": 4, "local": True, "dim": 48}
    image = pictures(1)
    for quantizer in ("nearest", "ema"):
        codec = tiny({"kind": quantizer}, linear_start=True, **settings).train()  # type: ignore[arg-type]
        torch.testing.assert_close(codec.reconstruct(image).image, image, atol=1e-4, rtol=0)


def test_the_head_of_the_likelihood_alone_learns_from_it() -> None:
    codec = tiny(log_sigma=True, unit_range=True).eval()
    image = pictures(2)
    tokens = codec.encode(image)
    mean, log_sigma = codec.distribution(tokens, (4, 4))
    torch.testing.assert_close((2 * mean - 1).clamp(-1, 1), codec.decode(tokens, (4, 4)))
    nats = codec.nll(image, tokens)
    expected = -torch.distributions.Normal(mean, log_sigma.exp()).log_prob((image + 1) / 2).flatten(1).sum(1)
    torch.testing.assert_close(nats, expected)
    nats.sum().backward()
    assert {name for name, value in codec.named_parameters() if value.grad is not None} == {
        f"log_sigma.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    with pytest.raises(UsageError, match="log_sigma=true"):
        tiny().eval().nll(image, tokens)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built(name: str) -> None:
    with torch.device("meta"):
        codec = build("codec", CODECS, PRESETS[name])
    assert codec.grid((256, 256)) == ((16, 16) if "f16" in name else (32, 32))
    assert codec.classes == int(name.rsplit("_", 1)[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantizer": "gumble"}, "did you mean 'gumbel'"),
        ({"quantizer": {"kind": "ema", "decays": 0.5}}, "quantizer 'ema': unknown argument 'decays'"),
        ({"attention_levels": [3]}, "outside 0..2"),
        ({"width": 24}, "multiples of 32"),
        ({"classes": 21}, "cannot give 21 classes"),
        ({"local": True}, "see no other positions"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"encoder_kernel": 2}, "must be odd"),
        ({"linear_start": True}, "give one level"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(**settings)  # type: ignore[arg-type]
