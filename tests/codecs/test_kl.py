import pytest
import torch
from torch import Tensor

from tessera.codecs.kl import KLAutoencoder, kl_from_normal
from tessera.errors import UsageError
from tessera.randomness import Draws
from tessera.registry import CODECS, build


def tiny(**settings: object) -> KLAutoencoder:
    torch.manual_seed(0)
    return KLAutoencoder(**{"channels": 3, "width": 32, "multipliers": [1, 2], "blocks": 1, "features": 4} | settings)  # type: ignore[arg-type]


def pictures(count: int, height: int = 16, width: int = 16) -> Tensor:
    small = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear").clamp(-1, 1)


@torch.no_grad()
def test_shapes_of_any_size_that_the_factor_divides() -> None:
    codec = tiny().eval()
    latents = codec.encode(pictures(2, 8, 12))
    assert latents.shape == (2, 3, 4, 6)
    assert codec.decode(latents).shape == (2, 3, 8, 12)
    with pytest.raises(UsageError, match="multiples of 2"):
        codec.encode(pictures(1, 8, 9))


@torch.no_grad()
def test_latents_are_the_means_or_drawn_around_them() -> None:
    codec, image = tiny(scale=0.5).eval(), pictures(2)
    mean, log_variance = codec.moments(image)
    assert torch.equal(codec.encode(image), 0.5 * mean)
    drawn = torch.stack([codec.encode(image, Draws(seed, [0, 1])) for seed in range(400)]) / 0.5
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.4, rtol=0)
    torch.testing.assert_close(drawn.std(0).mean(), (log_variance / 2).exp().mean(), atol=0.02, rtol=0)


def test_the_divergence_is_that_of_torch() -> None:
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    ours = kl_from_normal(mean, log_variance)
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(ours, theirs.flatten(1).sum(1))


def test_every_part_learns_and_the_config_builds_it_again() -> None:
    codec, image = tiny().train(), pictures(2)
    made = codec.reconstruct(image, Draws(0, [0, 1]))
    ((made.image - image).abs().mean() + made.loss).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in codec.parameters())
    assert set(made.report) == {"kl", "latent_deviation"}
    again = build("codec", CODECS, codec.config)
    again.load_state_dict(codec.state_dict())
    assert torch.equal(again.encode(image), codec.encode(image))


def test_kl_f8_has_its_size() -> None:
    with torch.device("meta"):
        codec = KLAutoencoder()
    assert sum(parameter.numel() for parameter in codec.parameters()) == 83_653_863
    assert codec.grid((512, 512)) == (64, 64)


PATCHES = {"channels": 6, "width": 16, "multipliers": [1], "blocks": 0, "features": 8, "patch": 4, "local": True, "kernel": 1, "scale": 1.0}


@torch.no_grad()
def test_a_latent_of_patches_alone_knows_its_own_patch_only() -> None:
    codec, image = tiny(**PATCHES).eval(), pictures(1)
    latents = codec.encode(image)
    assert latents.shape == (1, 6, 4, 4)
    changed = image.clone()
    changed[..., :4, :4] = 0.5
    moved = codec.encode(changed)
    assert not torch.equal(moved[..., 0, 0], latents[..., 0, 0])
    assert torch.equal(moved[..., 1:], latents[..., 1:])
    even = codec.encode(torch.full((1, 3, 16, 16), 0.3))
    torch.testing.assert_close(even, even[..., :1, :1].expand_as(even))
    there, here = codec.decode(moved), codec.decode(latents)
    assert torch.equal(there[..., 4:], here[..., 4:])


@torch.no_grad()
def test_a_linear_start_is_the_best_linear_codec_with_latents_of_unit_size() -> None:
    codec, image = tiny(**PATCHES, linear_start=True).train(), pictures(40)
    codec.reconstruct(image)
    latents = codec.encode(image)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(6), atol=1e-3, rtol=0)
    patches = torch.nn.functional.pixel_unshuffle(image, 4).movedim(1, -1).flatten(0, 2)
    lost = torch.linalg.svdvals(patches - patches.mean(0))[6:].square().sum() / patches.numel()
    torch.testing.assert_close((codec.decode(latents) - image).square().mean(), lost, atol=1e-5, rtol=1e-3)
    before = codec.linear.encoder.weight.clone()  # type: ignore[union-attr]
    codec.reconstruct(pictures(3))
    assert torch.equal(codec.linear.encoder.weight, before)  # type: ignore[union-attr]
    again = build("codec", CODECS, codec.config)
    again.load_state_dict(codec.state_dict())
    again.train().reconstruct(pictures(3))
    assert torch.equal(again.encode(image), latents)


@torch.no_grad()
def test_the_least_deviation_is_added_to_that_of_training_alone() -> None:
    codec, image = tiny(**PATCHES, linear_start=True, least_deviation=0.5).train(), pictures(400)
    made = codec.reconstruct(image, Draws(0, range(400)))
    torch.testing.assert_close(made.report["latent_deviation"], torch.tensor(1.26).sqrt(), atol=0.02, rtol=0)
    assert torch.equal(codec.encode(image), codec.moments(image)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 24}, "multiples of 32"),
        ({"attention_levels": [2]}, "outside 0..1"),
        ({"scale": 0.0}, "positive"),
        ({"least_deviation": -1.0}, "not negative"),
        ({"local": True, "attention_levels": [1]}, "local layers see no other positions"),
        ({"patch": 0}, "at least 1"),
        ({"kernel": 2}, "odd"),
        ({"linear_start": True}, "one level"),
        (PATCHES | {"linear_start": True, "channels": 49}, "at most 48 channels"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(**settings)
