"""The small CLIP read token by token: words with a mask, positions of pictures, masks of them, and "no prompt"."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tessera.contexts.blend import MaskedPicture
from tessera.contexts.tower_tokens import TowerTokens
from tessera.contexts.two_towers import TwoTowers
from tessera.data.scenes_language import VOCABULARY
from tessera.errors import UsageError
from tessera.part_folder import load_part, save_part
from tessera.registry import CONTEXTS

SMALL = {
    "vocabulary": list(VOCABULARY), "length": 12, "text_width": 16, "text_depth": 1, "text_heads": 2, "size": 16, "image_width": 16,
    "image_depth": 1, "image_heads": 2, "width": 8,
}  # fmt: skip


def tokens() -> TowerTokens:
    torch.manual_seed(0)
    return TowerTokens(**SMALL).eval()


def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_the_mean_of_the_rows_is_the_towers_own_vector() -> None:
    encoder = tokens()
    towers = TwoTowers(**SMALL)  # type: ignore[arg-type]
    towers.load_state_dict(encoder.state_dict())
    seen = encoder.see(pictures())
    assert seen.shape == (3, 5, 8)
    direction = torch.nn.functional.normalize(towers.eval().encode_image(pictures()), dim=-1)
    torch.testing.assert_close(seen[:, 0], 8**0.5 * direction)
    # The code of the positions is the same in all pictures, another one at each position.
    torch.testing.assert_close((seen[1:, 1:] - seen[:1, 1:]).mean(1), seen[1:, 0] - seen[:1, 0])
    rows = encoder.image_projection(encoder.positions(pictures()))
    code = seen[:, 1:] - rows * (8**0.5 / rows.mean(1, keepdim=True).norm(dim=-1, keepdim=True))
    torch.testing.assert_close(code, code[:1].expand(3, -1, -1))
    assert torch.pdist(code[0]).min() > 0.5
    read = encoder.read(["a red circle", "a red circle above a blue square"])
    assert read.mask is not None
    assert read.mask.sum(1).tolist() == [4, 8]  # the words and the end marker
    means = torch.stack([rows[mask].mean(0) for rows, mask in zip(read.embeddings, read.mask, strict=True)])  # type: ignore[arg-type]
    expected = torch.nn.functional.normalize(towers.encode_text(["a red circle", "a red circle above a blue square"]), dim=-1)
    torch.testing.assert_close(means, 8**0.5 * expected)


@torch.no_grad()
def test_a_mask_hides_positions_and_one_that_hides_nothing_is_none() -> None:
    encoder = tokens()
    torch.testing.assert_close(encoder.see(pictures(), torch.ones(3, 1, 5, 5)), encoder.see(pictures()))
    left = torch.ones(3, 1, 16, 16)
    left[..., 8:] = 0
    rows = encoder.see(pictures(), left)
    assert not rows[:, [2, 4]].any()
    assert rows[:, [0, 1, 3]].any(-1).all()
    changed = pictures()
    changed[..., 12:] = 0  # further from the seen half than the stem looks
    torch.testing.assert_close(encoder.see(changed, left), rows)
    with pytest.raises(UsageError, match="1 masks do not belong to 3 pictures"):
        encoder.see(pictures(), torch.ones(1, 1, 5, 5))


@torch.no_grad()
def test_views_read_one_kind_and_know_what_no_prompt_is() -> None:
    encoder = tokens()
    words, seen, black = encoder.view("words"), encoder.view("pictures"), encoder.view("pictures", 0)
    red = Image.new("RGB", (16, 16), "red")
    assert torch.equal(words([None]).embeddings, words([""]).embeddings)
    assert torch.equal(words.unconditional(2).mask, words([None, None]).mask)  # type: ignore[arg-type]
    assert not seen.unconditional(1).embeddings.any()  # type: ignore[union-attr]
    assert torch.equal(black.unconditional(1).embeddings, black([Image.new("RGB", (16, 16), "black")]).embeddings)  # type: ignore[arg-type]
    hidden = seen([MaskedPicture(red, Image.new("L", (16, 16), 255))]).embeddings
    assert hidden is not None
    assert not hidden.any()
    for view, prompt, message in [(words, red, "takes words, not a picture"), (seen, "a", "takes pictures, not the words 'a'")]:
        with pytest.raises(UsageError, match=message):
            view([prompt])
    with pytest.raises(UsageError, match="unknown reading of CLIP 'states'"):
        encoder.view("states")
    with pytest.raises(UsageError, match="encode them apart"):
        encoder(["a", red])
    with pytest.raises(UsageError, match="level of a blank picture"):
        encoder.blank(1, 256)


def test_what_a_view_needs_are_the_names_of_its_tower() -> None:
    encoder = tokens()
    names = set(encoder.state_dict())
    read, seen = ({name for name in names if name.startswith(encoder.towers[of])} for of in ("words", "pictures"))
    assert not read & seen
    assert names - read - seen == {"log_warmth"}


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    encoder = tokens()
    save_part(encoder, tmp_path / "clip")
    twin = load_part("context encoder", CONTEXTS, tmp_path / "clip")
    assert isinstance(twin, TowerTokens)
    assert torch.equal(twin.see(pictures()), encoder.see(pictures()))
