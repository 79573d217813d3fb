"""CLIP's towers as Versatile Diffusion reads them: every token projected, none of them lost.

    words:    z_i = P_t h_i / |P_t h_end|,  h after the final norm, end the first end marker
    picture:  z_i = P_i h_i / |P_i h_class|,  h after the final norm, i = 0 the class token, then the patches

A mask hides parts of a picture: w = [mean of the mask, its mean in each patch] multiplies the embeddings before the first norm, and z.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from tessera.contexts.blend import MaskedPicture
from tessera.contexts.clip_joint import JointCLIP, load_clip
from tessera.contexts.context import Context, ContextEncoder
from tessera.contexts.joint import standardise
from tessera.contexts.tokenizer import ClipTokenizer, fix
from tessera.errors import TesseraError, UsageError, suggest
from tessera.pictures import LIMITS, PictureLimits, as_tensor, upright_rgb

__all__ = ["CLIPTokens", "CLIPView", "load_clip_tokens", "picture_input"]


class CLIPTokens(JointCLIP):
    """CLIP, frozen; a prompt is words, None (the empty text), a picture or a masked one, and all of a batch are of one kind.

    As a `JointCLIP` it also gives one embedding for words or a picture.
    """

    kind = "clip-tokens"
    takes_masks = True
    towers: ClassVar[dict[str, tuple[str, ...]]] = {
        "words": ("clip.text_model.", "clip.text_projection."),
        "states": ("clip.text_model.",),
        "pictures": ("clip.vision_model.", "clip.visual_projection."),
        "vectors": ("clip.vision_model.", "clip.visual_projection."),
    }
    """How it can be read, see `CLIPView` → how the names of the weights begin that this needs."""

    def _tokenizer(self, merges: Sequence[str], length: int) -> ClipTokenizer:
        return ClipTokenizer(merges, length, pad=self.config["text"]["vocabulary"] - 1, cleaned=fix)

    @property
    def image_tokens(self) -> int:
        """Tokens of a picture: the class token and the patches."""
        sizes = self.config["image"]
        return 1 + (sizes["size"] // sizes["patch"]) ** 2

    @torch.no_grad()
    def read(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Tokens of tokenized texts; the end marker is the largest id."""
        hidden = self.clip.text_projection(self.clip.text_model(ids.to(self.device)))
        end = hidden[torch.arange(len(ids), device=hidden.device), ids.argmax(-1).to(hidden.device)]
        return hidden / end.norm(dim=-1, keepdim=True)[:, None]

    @torch.no_grad()
    def see(self, image: Float[Tensor, "b 3 h w"], seen: Float[Tensor, "m 1 y x"] | None = None) -> Float[Tensor, "b n d"]:
        """Tokens of pictures of `size` × `size` pixels in [-1, 1].

        seen: masks in [0, 1], 1 where the picture counts, resized to it from any size.

        Raises UsageError for pictures of another size, or another number of masks.
        """
        if image.shape[2:] != (self.size, self.size):
            raise UsageError(f"this CLIP sees pictures of {self.size}x{self.size}, not {image.shape[3]}x{image.shape[2]}")
        if seen is not None and len(seen) != len(image):
            raise UsageError(f"{len(seen)} masks do not belong to {len(image)} pictures: give one of each")
        tower, weights = self.clip.vision_model, None if seen is None else self._weights(seen.to(image))
        z = self.clip.visual_projection(tower.post_layernorm(tower(standardise(image), weights)))
        z = z / z[:, :1].norm(dim=-1, keepdim=True)
        return z if weights is None else z * weights

    def _weights(self, seen: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b n 1"]:
        mask = F.interpolate(seen.clamp(0, 1), (self.size, self.size), mode="bilinear", align_corners=False)
        patches = F.avg_pool2d(mask, self.config["image"]["patch"]).flatten(1)
        return torch.cat([mask.mean((1, 2, 3))[:, None], patches], 1)[..., None]

    def forward(self, prompts: Sequence[object]) -> Context:
        """Context of embeddings [B, tokens, D].

        Warns (`PromptTruncated`) of what was cut. UsageError for words and pictures in one batch.
        """
        words = [prompt is None or isinstance(prompt, str) for prompt in prompts]
        if len(set(words)) > 1:
            raise UsageError("words and pictures have contexts of their own: encode them apart, and mix what they lead to")
        if not prompts or words[0]:
            return Context(self.read(self.tokenize(["" if prompt is None else str(prompt) for prompt in prompts])))
        return Context(torch.cat([self._see_one(prompt) for prompt in prompts]))  # one by one, so that no picture depends on its batch

    def _see_one(self, prompt: object) -> Float[Tensor, "1 n d"]:
        picture = prompt.picture if isinstance(prompt, MaskedPicture) else prompt
        if not isinstance(picture, Image.Image):
            raise UsageError(f"a prompt must be words or a picture, not {type(picture).__name__}")
        image = picture_input(picture, self.size)[None].to(self.device)
        if not isinstance(prompt, MaskedPicture):
            return self.see(image)
        return self.see(image, seen_of(prompt.hidden)[None].to(self.device))

    def view(self, of: str, blank: int | None = None) -> CLIPView:
        """The encoder of one kind of prompts, with a "no prompt" of its own; see `CLIPView`."""
        return CLIPView(self, of, blank)

    def keep_only(self, views: Iterable[str]) -> None:
        """Lets go of all tensors that none of these `views` reads; they have no elements afterwards."""
        kept = tuple(start for of in views for start in self.towers[of])
        for name, parameter in self.named_parameters():
            if not name.startswith(kept):
                parameter.data = torch.empty(0)

    def unconditional(self, batch: int) -> Context:
        """The context of the empty text."""
        return self([None]).repeat(batch)

    def blank(self, batch: int, level: int | None = None) -> Context:
        """A picture's context without a picture: zeros, or the tokens of a picture that has the `level` 0..255 everywhere.

        Versatile Diffusion has zeros for pictures from pictures, black (0) for words from pictures, and in its first release grey (127).
        """
        if level is None:
            return Context(torch.zeros(batch, self.image_tokens, self.width, device=self.device))
        if not 0 <= level <= 255:
            raise UsageError(f"the level of a blank picture must be in 0..255, not {level}")
        image = torch.full((1, 3, self.size, self.size), level / 127.5 - 1, device=self.device)
        return Context(self.see(image)).repeat(batch)


class CLIPView(ContextEncoder):
    """A CLIP as the encoder of words, or of pictures, alone.

    Args:
        whole: the CLIP, of which nothing is read but the tower that is needed; or what can be read as one (`towers`).
        of: "words" or "pictures", all tokens of which it gives; "states", of words what comes before the projection, as Stable Diffusion
            takes them; "vectors", of a picture its one embedding, as Stable Diffusion's image variation does.
        blank: of pictures, the picture that stands for "no prompt"; see `CLIPTokens.blank`.

    UsageError for another kind of prompts.
    """

    whole: Any

    outside = ("merges",)

    def __init__(self, whole: Any, of: str, blank: int | None = None) -> None:
        super().__init__()
        if of not in whole.towers:
            raise UsageError(suggest("reading of CLIP", of, whole.towers))
        if of != "pictures" and blank is not None:
            raise UsageError(f"a blank picture is for the reading 'pictures', not {of!r}: leave blank out")
        self.config = {"of": of, "blank": blank}
        self.of, self.reads_words, self.takes_masks = of, of in ("words", "states"), of == "pictures"
        self.whole, self.uses = whole, whole.towers[of]
        self.width: int = whole.config["text"]["width"] if of == "states" else whole.width

    @property
    def tokenizer(self) -> ClipTokenizer | None:
        tokenizer: ClipTokenizer | None = self.whole.tokenizer
        return tokenizer

    def forward(self, prompts: Sequence[str | Image.Image | MaskedPicture | None]) -> Context:
        for prompt in prompts:
            if prompt is not None and isinstance(prompt, str) != self.reads_words:
                wanted, given = ("words", "a picture") if self.reads_words else ("pictures", f"the words {prompt!r}")
                raise UsageError(f"this flow takes {wanted}, not {given}")
        if self.of == "states":
            ids = self.whole.tokenize(["" if prompt is None else str(prompt) for prompt in prompts])
            return Context(self.whole.clip.text_model(ids.to(self.whole.device)))
        if self.of == "words":
            context: Context = self.whole(prompts)
            return context
        return Context.cat([self.unconditional(1) if prompt is None else self._picture(prompt) for prompt in prompts])

    def _picture(self, prompt: Any) -> Context:
        if self.of == "pictures":
            context: Context = self.whole([prompt])
            return context
        if not isinstance(prompt, Image.Image):
            raise UsageError("this flow takes one embedding of a whole picture, of which nothing can be hidden: leave the mask out")
        return Context(self.whole.encode_image(picture_input(prompt, self.whole.size)[None].to(self.whole.device))[:, None])

    def see(self, image: Float[Tensor, "b 3 h w"]) -> Context:
        """The context of pictures in [-1, 1] of any size, all at once; of the reading "pictures"."""
        side = (self.whole.size, self.whole.size)
        seen = image if image.shape[2:] == side else F.interpolate(image, side, mode="bicubic", antialias=True).clamp(-1, 1)
        return Context(self.whole.see(seen))

    def unconditional(self, batch: int) -> Context:
        if self.of == "vectors":
            return Context(torch.zeros(batch, 1, self.width, device=self.whole.device))
        if self.reads_words:
            return self([None]).repeat(batch)
        context: Context = self.whole.blank(batch, self.config["blank"])
        return context


def picture_input(picture: Image.Image, size: int, limits: PictureLimits = LIMITS) -> Float[Tensor, "3 s s"]:
    """The middle of a picture whose shorter side is resized to `size`, in [-1, 1]: bicubic, as CLIP's own processor does it.

    Raises TesseraError for a picture so long and narrow that resizing it would exceed `limits`.
    """
    picture = upright_rgb(picture)
    short = min(picture.size)
    width, height = (size if side == short else size * side // short for side in picture.size)
    if width * height > limits.pixels:
        raise TesseraError(f"a picture of {picture.width}x{picture.height} pixels is too long and narrow for CLIP: crop it")
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return as_tensor(resized.crop((left, top, left + size, top + size)))


def seen_of(hidden: Image.Image) -> Float[Tensor, "1 s s"]:
    """What a mask leaves to be seen, 1 where it is black, in the square in its middle that the encoder sees."""
    side = min(hidden.size)
    left, top = (hidden.width - side) // 2, (hidden.height - side) // 2
    return (1 - as_tensor(hidden.convert("L").crop((left, top, left + side, top + side)))) / 2


def load_clip_tokens(source: str | Path, merges: str | Path | None = None) -> CLIPTokens:
    """CLIP from OpenAI's file, a folder in transformers' layout or a hub id; see `load_clip`."""
    encoder = load_clip(source, merges, CLIPTokens)
    if not isinstance(encoder, CLIPTokens):
        raise UsageError(f"{source} is an encoder that gives one vector, not all tokens: give a CLIP")
    return encoder
