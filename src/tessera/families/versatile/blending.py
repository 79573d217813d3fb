"""Flows to the same data as one flow, whose prompts are blends of pictures, words and palettes (Xu et al. 2022, arXiv 2211.08332).

    blend → all texts' words, what counts of all pictures' tokens, the palette, each with its share → mixed → as any flow's context

One picture alone is image variation, or a caption; words alone are a picture of them, or a rewriting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tessera.colours import recoloured
from tessera.contexts.blend import Blend, MaskedPicture, Seen
from tessera.contexts.context import Context, ContextEncoder
from tessera.contexts.focus import directions, focus
from tessera.errors import UsageError
from tessera.families.versatile.composition import Ingredient, composed
from tessera.families.versatile.editing import edited
from tessera.families.versatile.network import FlowNetwork
from tessera.float_flow import FloatFlow
from tessera.flow import Flow, SamplingSettings
from tessera.pictures import as_tensor, upright_rgb
from tessera.processes.gaussian import Estimate
from tessera.randomness import Draws
from tessera.samplers.sampler import PredictFloat

__all__ = ["BlendFlow", "counted", "uncounted"]

GREY = (127, 127, 127)
"""Of the picture that stands for "no prompt" in the first release."""


class BlendFlow(FloatFlow):
    """The flows to one kind of data from words, from pictures and from palettes, or some of them.

    Args:
        flows: by context type, with the same codec and process, over views of the same network. data: that they lead to.

    Raises UsageError where there is none.
    """

    def __init__(self, flows: Mapping[str, FloatFlow], data: str) -> None:
        if not flows:
            raise UsageError(
                f"this model has neither the flow text_to_{data} nor image_to_{data}: "
                "take one of several flows, such as Versatile Diffusion"
            )
        one = next(iter(flows.values()))
        super().__init__(one.codec, one.context_encoder, one.network, one.loss)
        self._flows, self._data = (dict(flows),), data  # in a tuple, because others own them

    @classmethod
    def among(cls, flows: Mapping[str, Flow], data: str) -> BlendFlow:
        """Those of a model's flows that lead to "image" or to "text"."""
        found = {context: flows.get(f"{context}_to_{data}") for context in _READ}
        fitting = {
            context: flow for context, flow in found.items() if isinstance(flow, FloatFlow) and isinstance(flow.network, FlowNetwork)
        }
        return cls(fitting, data)

    def check(self, settings: SamplingSettings) -> None:
        super().check(settings)
        if settings.clip_guidance:
            raise UsageError("CLIP guidance leads to a prompt of its own, not to a blend: leave it out")

    def check_prompt(self, prompt: Any, settings: SamplingSettings) -> None:
        if not isinstance(prompt, Blend):
            raise UsageError(f"this takes a blend of pictures and words, not {prompt!r}")
        for context in prompt.shares:
            if context not in self._flows[0]:
                raise UsageError(f"this needs the flow {context}_to_{self._data}, which the model has not, or was not loaded with")
        if "palette" in prompt.shares:
            self._flows[0]["palette"].context_encoder([prompt.palette])
        if self.writes and prompt.colour != "none":
            raise UsageError("words have no colours: leave colour out")
        if not self.writes and (prompt.remove or prompt.add):
            raise UsageError("words are removed from and added to words, but this draws a picture: see Model.edit, or `tessera edit`")

    def guided(self, prompts: Sequence[Any], grid: tuple[int, ...], settings: SamplingSettings, draws: Draws) -> PredictFloat:
        """The denoiser of a batch. Blends of different makings are computed in groups. None everywhere: without any prompt."""
        if all(prompt is None for prompt in prompts):
            return super().guided(prompts, grid, settings, draws)
        made = {blend: self.ingredients(blend) for blend in dict.fromkeys(prompts)}
        groups: dict[Any, list[int]] = {}
        for row, blend in enumerate(prompts):
            kind = blend.by, *((id(one.network), one.ratio, _length(one.context)) for one in made[blend])
            groups.setdefault(kind, []).append(row)
        parts = []
        for rows in groups.values():
            own = draws if len(groups) == 1 else draws.rows(rows)
            joined = [_stacked(column) for column in zip(*(made[prompts[row]] for row in rows), strict=True)]
            parts.append((rows, composed(self.process, joined, settings.guidance, prompts[rows[0]].by, own)))
        return parts[0][1] if len(parts) == 1 else _in_groups(parts)

    def ingredients(self, blend: Blend) -> list[Ingredient]:
        """The contexts of a blend, words first, each of one row."""
        found = []
        for name, share in blend.shares.items():
            flow = self._flows[0][name]
            context, nothing = _READ[name](flow.context_encoder, blend)
            found.append(Ingredient(flow.network, context.to(self.device), nothing.to(self.device), share))
        return found

    def finish(self, latents: Tensor, grid: tuple[int, ...], prompt: Any, settings: SamplingSettings, draws: Draws) -> Any:
        if self.writes:
            remove, add = (None if words is None else self.codec.encode([words]) for words in (prompt.remove, prompt.add))
            return super().finish(edited(latents, remove, add), grid, prompt, settings, draws)
        image = super().finish(latents, grid, prompt, settings, draws)
        if prompt.colour == "none":
            return image
        return recoloured(image.clamp(-1, 1), as_tensor(upright_rgb(prompt.pictures[0].plain)).to(image), prompt.colour)


def _of_words(encoder: ContextEncoder, blend: Blend) -> tuple[Context, Context]:
    """The context of a blend's words, and "no prompt" in its place."""
    return _joined([encoder([text]) for text in blend.texts]), _joined([encoder.unconditional(1)] * len(blend.texts))


def _of_pictures(encoder: ContextEncoder, blend: Blend) -> tuple[Context, Context]:
    both = [_seen(encoder, seen) for seen in blend.pictures]
    tokens, nothing = (Context(torch.cat(each, 1)) for each in zip(*both, strict=True))
    return tokens, nothing


def _of_palette(encoder: ContextEncoder, blend: Blend) -> tuple[Context, Context]:
    return encoder([blend.palette]), encoder.unconditional(1)


_READ = {"text": _of_words, "image": _of_pictures, "palette": _of_palette}
"""Context type → how the context of a blend is made for it."""


def _seen(encoder: ContextEncoder, seen: Seen) -> tuple[Float[Tensor, "1 n d"], Float[Tensor, "1 n d"]]:
    """A picture's tokens, as far as they count, and those of "no prompt" in their place."""
    if isinstance(seen.picture, MaskedPicture) and not encoder.takes_masks:
        raise UsageError("this model sees a picture as a whole, of which nothing can be hidden: leave the mask out")
    tokens = encoder([seen.picture]).embeddings
    nothing = (encoder.unconditional(1) if seen.directions is None else encoder([Image.new("RGB", (64, 64), GREY)])).embeddings
    if tokens is None or nothing is None:
        raise UsageError("this model's flow takes no pictures: use one from pictures")
    return counted(tokens, seen), uncounted(nothing, seen)


def counted(tokens: Float[Tensor, "b n d"], seen: Seen) -> Float[Tensor, "b m d"]:
    """What counts of a picture's tokens, of which the first is its class token. UsageError where there is no other and it must be."""
    whole, local = tokens[:, :1], tokens[:, 1:]
    if not local.shape[1] and (seen.focus != 0.5 or seen.directions is not None):
        raise UsageError("this model sees a picture as one vector, which has no focus: leave focus and level out")
    if seen.directions is not None:
        local = directions(local, *seen.directions)
    elif seen.focus != 0.5:
        local = focus(local, seen.focus)
    return seen.weight * (torch.cat([whole, local], 1) if seen.class_token else local)


def uncounted(nothing: Float[Tensor, "b n d"], seen: Seen) -> Float[Tensor, "b m d"]:
    """The same of "no prompt", whose tokens are reduced as the first release does it: with the class token only."""
    if not seen.class_token:
        return nothing[:, 1:]
    if seen.directions is None:
        return nothing
    return torch.cat([nothing[:, :1], directions(nothing[:, 1:], *seen.directions)], 1)


def _joined(contexts: Sequence[Context]) -> Context:
    """One row of embeddings out of several, one after the other."""
    embeddings, masks = [one.embeddings for one in contexts], [one.mask for one in contexts]
    found = [tokens for tokens in embeddings if tokens is not None]
    if len(found) != len(contexts):
        raise UsageError("this model's flow takes no words: use one from words")
    counting = [mask for mask in masks if mask is not None]
    return Context(torch.cat(found, 1), torch.cat(counting, 1) if len(counting) == len(contexts) else None)


def _stacked(column: Sequence[Ingredient]) -> Ingredient:
    """The same ingredient of several examples as one of a batch."""
    context, nothing = Context.cat([one.context for one in column]), Context.cat([one.nothing for one in column])
    return column[0]._replace(context=context, nothing=nothing)


def _length(context: Context) -> int:
    return 0 if context.embeddings is None else context.embeddings.shape[1]


def _in_groups(parts: Sequence[tuple[list[int], PredictFloat]]) -> PredictFloat:
    """The denoiser of a batch whose rows have denoisers of their own."""

    def predict(x_t: Float[Tensor, "b ..."], t: Float[Tensor, " b"]) -> Estimate:
        x_0, eps = torch.empty_like(x_t), torch.empty_like(x_t)
        for rows, part in parts:
            x_0[rows], eps[rows] = part(x_t[rows], t[rows])
        return Estimate(x_0, eps)

    return predict
