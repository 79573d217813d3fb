"""Words taken out of a text's latent and put in; the original's numbers are a recorded case."""

import pytest
import torch
from PIL import Image

from tessera.errors import UsageError
from tessera.families.versatile.blending import counted, uncounted
from tessera.families.versatile.editing import edit_blend, edited

Z, REMOVE, ADD = torch.randn(3, 8), torch.randn(1, 8), torch.randn(1, 8)


def test_nothing_is_left_along_what_is_removed():
    torch.testing.assert_close((edited(Z, REMOVE) * REMOVE).sum(-1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(edited(edited(Z, REMOVE), 5 * REMOVE), edited(Z, REMOVE))  # only its direction counts


def test_adding_and_doing_nothing():
    torch.testing.assert_close(edited(Z, REMOVE, ADD) - edited(Z, REMOVE), ADD.expand(3, -1))
    assert torch.equal(edited(Z), Z)
    assert torch.equal(edited(Z, torch.zeros(1, 8)), Z)


def test_latents_of_another_size():
    with pytest.raises(UsageError, match="latents of 4 numbers cannot edit latents of 8"):
        edited(Z, torch.zeros(1, 4))


def test_what_the_new_picture_is_made_of():
    picture = Image.new("RGB", (8, 8))
    both, one = edit_blend(picture, "a red cat", "red"), edit_blend(picture, "a cat", words=0.5)
    assert (both.texts, one.texts) == (("a red cat", "red"), ("a cat",))
    assert both.shares == pytest.approx({"text": 0.67, "image": 0.33})
    assert one.shares == {"text": 0.5, "image": 0.5}
    tokens = torch.randn(2, 7, 6)
    assert counted(tokens, both.pictures[0]).shape == (2, 6, 6)  # its class token is left out
    assert torch.equal(uncounted(tokens, both.pictures[0]), tokens[:, 1:])
