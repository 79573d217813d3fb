"""All tokens of CLIP, with masks. The towers' arithmetic is compared with recorded cases, and with OpenAI's in test_clip_joint."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.contexts.blend import MaskedPicture
from tessera.contexts.clip_tokens import CLIPTokens, load_clip_tokens, picture_input, seen_of
from tessera.contexts.prompt_warnings import PromptTruncated
from tessera.contexts.two_towers import TwoTowers
from tessera.errors import TesseraError, UsageError
from tessera.families.versatile.parts_checkpoint import clip_config, load_part_state
from tessera.part_folder import load_part, save_part
from tessera.pictures import PictureLimits, as_tensor
from tessera.registry import CONTEXTS, build
from tests.closeness import assert_same_but_for_rounding
from tests.contexts.test_clip_joint import IMAGE, MERGES, TEXT, in_transformers

IMAGES = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def clip(**changes) -> CLIPTokens:
    torch.manual_seed(0)
    encoder = CLIPTokens(**{"text": TEXT, "image": IMAGE, "width": 16, "merges": MERGES, **changes})
    for name, value in encoder.clip.named_parameters():
        value.data += torch.randn_like(value) * (0.1 if name != "logit_scale" else 0)
    return encoder.eval()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    torch.manual_seed(seed)
    return Image.fromarray((torch.rand(height, width, 3) * 255).byte().numpy())


def test_the_token_that_stands_for_all_has_length_one():
    encoder = clip()
    context = encoder(["red cat", None]).embeddings
    assert context.shape == (2, 9, 16)
    assert encoder.tokenize(["red cat"])[0].tolist()[3:] == [TEXT["vocabulary"] - 1] * 6  # the end marker, and padding like it
    torch.testing.assert_close(context[0, 3].norm(), torch.tensor(1.0))
    torch.testing.assert_close(encoder.see(IMAGES)[:, 0].norm(dim=-1), torch.ones(2))
    assert encoder.see(IMAGES).shape == (2, encoder.image_tokens, 16)


def test_those_tokens_are_what_the_joint_encoder_gives():
    encoder = clip()
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(encoder(["a cat"]).embeddings[:, 3], unit(encoder.encode_text(["a cat"])))
    torch.testing.assert_close(encoder.see(IMAGES)[:, 0], unit(encoder.encode_image(IMAGES), dim=-1))


def test_a_mask_that_hides_nothing_changes_nothing():
    encoder = clip()
    for size in (5, 12, 30):
        torch.testing.assert_close(encoder.see(IMAGES, torch.ones(2, 1, size, size)), encoder.see(IMAGES), atol=1e-6, rtol=1e-6)


def test_what_is_hidden_has_no_effect():
    """Whole patches under the mask: their pixels and their tokens count for nothing."""
    encoder, seen = clip(), torch.ones(2, 1, 12, 12)
    seen[:, :, :, 8:] = 0
    changed = IMAGES.clone()
    changed[:, :, :, 8:] = -1
    assert torch.equal(encoder.see(IMAGES, seen), encoder.see(changed, seen))
    assert not torch.equal(encoder.see(IMAGES), encoder.see(changed))
    patches = encoder.see(IMAGES, seen)[:, 1:].view(2, 3, 3, 16)
    assert (patches[:, :, 2] == 0).all()
    assert (patches[:, :, :2] != 0).any(-1).all()


def test_a_picture_does_not_depend_on_its_batch():
    encoder, prompts = clip(), [picture(12, 12, seed) for seed in range(3)]
    together = encoder(prompts).embeddings
    for i in range(3):
        assert_same_but_for_rounding(together[i], encoder([prompts[i]]).embeddings[0])


def test_a_masked_picture_as_a_prompt():
    encoder, shown = clip(), picture(24, 12)
    nothing = Image.new("L", shown.size, 0)
    right = nothing.copy()
    right.paste(255, (14, 0, 24, 12))  # of the middle, columns 6..17, the last four
    plain = encoder([shown]).embeddings
    torch.testing.assert_close(encoder([MaskedPicture(shown, nothing)]).embeddings, plain, atol=1e-6, rtol=1e-6)
    hidden = encoder([MaskedPicture(shown, right)]).embeddings[0, 1:].view(3, 3, 16)
    assert (hidden[:, 2] == 0).all()
    assert (hidden[:, 0] != 0).any()


@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 20))
def test_any_picture_becomes_the_square_that_is_seen(width, height, size):
    image = picture_input(picture(width, height), size)
    assert image.shape == (3, size, size)
    assert -1 <= float(image.min()) <= float(image.max()) <= 1


def test_the_square_is_the_middle():
    wide = picture(20, 8)
    assert torch.equal(picture_input(wide, 8), as_tensor(wide.crop((6, 0, 14, 8))))
    mask = Image.new("L", (20, 8), 255)
    mask.paste(0, (6, 0, 10, 8))
    assert torch.equal(seen_of(mask)[0, 0], torch.tensor([1.0] * 4 + [0.0] * 4))


def test_contexts_of_nothing():
    encoder = clip()
    assert_same_but_for_rounding(encoder.unconditional(2).embeddings, encoder(["", None]).embeddings)
    assert torch.equal(encoder.blank(3).embeddings, torch.zeros(3, 10, 16))
    black = encoder([Image.new("RGB", (12, 12))]).embeddings
    torch.testing.assert_close(encoder.blank(2, 0).embeddings, black.repeat(2, 1, 1))


def test_it_is_saved_and_read_again(tmp_path):
    encoder = clip()
    save_part(encoder, tmp_path / "part")
    for again in (load_part("context encoder", CONTEXTS, tmp_path / "part"), load_clip_tokens(tmp_path / "part")):
        assert again.config == encoder.config
        assert torch.equal(again(["red cat"]).embeddings, encoder(["red cat"]).embeddings)


def test_a_folder_in_the_layout_of_transformers(tmp_path):
    encoder = clip()
    in_transformers(encoder).save_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    again = load_clip_tokens(tmp_path)
    torch.testing.assert_close(again(["red cat"]).embeddings, encoder(["red cat"]).embeddings)
    torch.testing.assert_close(again.see(IMAGES), encoder.see(IMAGES))


def test_released_names_have_what_its_description_needs():
    encoder = clip(image=IMAGE | {"hidden": 100})
    state = {f"ctx.text.model.{name}": value for name, value in encoder.clip.state_dict().items()}
    config = clip_config({name: tuple(value.shape) for name, value in state.items()}, "ctx.text.model.")
    again = build("context encoder", CONTEXTS, {"kind": "clip-tokens", **config})
    load_part_state(again.clip, state, "CLIP", "ctx.text.model.")
    assert torch.equal(again.eval().see(IMAGES), encoder.see(IMAGES))
    with pytest.raises(TesseraError, match=r"CLIP is incomplete: 'text_model.embeddings.token_embedding.weight' is missing"):
        clip_config({})


def test_wrong_prompts():
    encoder = clip()
    with pytest.raises(UsageError, match="words and pictures have contexts of their own"):
        encoder(["red", picture(12, 12)])
    with pytest.raises(UsageError, match="must be words or a picture, not int"):
        encoder([7])
    with pytest.raises(UsageError, match="no tokenizer"):
        clip(merges=None)(["red"])
    with pytest.warns(PromptTruncated, match="this end was cut"):
        encoder(["red " * 20])


def test_wrong_pictures_and_masks():
    encoder = clip()
    with pytest.raises(UsageError, match="the mask has 6x4 pixels, its picture 12x12: give a mask of the picture's size"):
        MaskedPicture(picture(12, 12), Image.new("L", (6, 4)))
    with pytest.raises(UsageError, match="pictures of 12x12, not 8x16"):
        encoder.see(torch.zeros(1, 3, 16, 8))
    with pytest.raises(UsageError, match="1 masks do not belong to 2 pictures"):
        encoder.see(IMAGES, torch.ones(1, 1, 12, 12))
    with pytest.raises(UsageError, match="level of a blank picture"):
        encoder.blank(1, 256)
    with pytest.raises(TesseraError, match="too long and narrow"):
        picture_input(picture(1, 50), 12, PictureLimits(pixels=1000))


def test_an_encoder_of_one_vector_is_refused(tmp_path):
    save_part(TwoTowers(["a"], text_depth=0, image_depth=0), tmp_path / "towers")
    with pytest.raises(UsageError, match="one vector, not all tokens"):
        load_clip_tokens(tmp_path / "towers")
