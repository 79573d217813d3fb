"""Versatile Diffusion's applications, whole: from pictures and words to pictures and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tessera.codecs.kl import KLAutoencoder
from tessera.codecs.text_tidying import without_repetition
from tessera.codecs.text_vae import TextVAE
from tessera.codecs.text_writing import Writing
from tessera.contexts.blend import Blend, MaskedPicture, Seen
from tessera.contexts.clip_tokens import CLIPTokens
from tessera.families.versatile.blending import BlendFlow
from tessera.families.versatile.checkpoint import LAYOUTS, load_network
from tessera.families.versatile.kl_checkpoint import load_kl
from tessera.families.versatile.network import MultiFlowUNet
from tessera.families.versatile.parts_checkpoint import clip_config, load_part_state, text_vae_config
from tessera.families.versatile.presets import FLOWS
from tessera.families.versatile.released import SETTINGS
from tessera.float_flow import FloatFlow
from tessera.flow import SamplingSettings
from tessera.nn.initialisation import without_initialisation
from tessera.pictures import as_tensor, to_picture
from tessera.processes.gaussian_loss import GaussianLoss
from tessera.randomness import Draws
from tessera.samplers.ddim import DDIM
from tessera.samplers.loop import drive
from tessera.samplers.sampler import FloatStep
from tests.conformance.cases import Case
from tests.conformance.settings import UnknownSetting, known
from tests.conformance.v_diffusion_samplers import StoredNormal
from tests.conformance.versatile_networks import network_config
from tests.conformance.versatile_pictures import Recorded as RecordedNormal
from tests.conformance.versatile_pictures import autoencoder_config
from tests.conformance.versatile_sampling import process_of, times_of
from tests.conformance.versatile_words import Recorded, heads_of, last_drawn

__all__ = ["COMPONENTS"]

COLOURS = {"None": "none", "Simple": "match"}


class Told(CLIPTokens):
    """A CLIP whose texts' tokens are recorded."""

    ids: Mapping[str, Sequence[int]]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([self.ids[text] for text in texts])


def flows_of(case: Case) -> dict[str, FloatFlow]:
    weights, config = case.weights(), case.config
    towers = config["clip"]["text_config"], config["clip"]["vision_config"]
    heads, clips = (towers[0]["num_attention_heads"], towers[1]["num_attention_heads"]), {}
    sides = heads_of(config["vae_text"])
    with without_initialisation():
        network = MultiFlowUNet(**network_config(case)).eval()
        scale = config["vd"]["latent_scale_factor"]["image"]
        picture = KLAutoencoder(**autoencoder_config(case, config["vae_image"], "vae.image."), scale=scale).eval()
        text = TextVAE(**text_vae_config(case.manifest, "vae.text.", sides)).eval()
        for name in ("text", "image"):  # in the file each context type has a CLIP of its own
            clips[name] = Told(**clip_config(case.manifest, f"ctx.{name}.model.", heads)).eval()
            clips[name].ids = config["clip_token_ids"]
            load_part_state(clips[name].clip, weights, "CLIP", f"ctx.{name}.model.")
    load_network(network, weights, LAYOUTS["four-flow"])
    load_kl(picture, weights, "vae.image.")
    load_part_state(text, weights, "text autoencoder", "vae.text.")
    text.use_vocabularies(config["toy"]["wordpiece_vocab"], config["toy"]["bpe_merges"])
    codecs, loss = {"image": picture, "text": text}, GaussianLoss(process_of(case), "eps")
    views = {name: "words" if context == "text" else "pictures" for name, (_, context) in FLOWS.items()}
    return {
        name: FloatFlow(
            codecs[data], clips[context].view(views[name], 0 if name == "image_to_text" else None), network.view(data, context), loss
        ).eval()
        for name, (data, context) in FLOWS.items()
    }


class Given:
    """The case's pictures and masks, stretched to the size of the results as the original does it first."""

    def __init__(self, case: Case) -> None:
        self.io, self.size = case.io, tuple(case.config["app"]["output_dim"])

    def picture(self, name: str, how: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
        picture = Image.fromarray(self.io[name].movedim(0, -1).numpy())
        # First the height, as Pillow 13 did it in the recording and Pillow 12 does not: each pass rounds to bytes.
        return picture.resize((picture.width, self.size[1]), how).resize(self.size, how)

    def seen(self, name: str, focus: float = 0.5, weight: float = 1.0, mask: str | None = None) -> Seen:
        picture = self.picture(name)
        return Seen(picture if mask is None else MaskedPicture(picture, self.picture(mask, Image.Resampling.BILINEAR)), focus, weight)


def blend_of(method: str, args: Mapping[str, Any], given: Given) -> Blend:
    """A run's prompt in our words."""
    if method in ("inference_t2i", "inference_t2t"):
        return Blend(texts=(args["text"],))
    if method == "inference_i2t":
        return Blend((given.seen(args["im"]),))
    if method == "inference_i2i":
        return Blend((given.seen(args["im"], args["fcs_lvl"]),), colour=known("runs.args.clr_adj", args["clr_adj"], COLOURS))
    if method == "inference_dcg":
        share = args["textstrength"]
        return Blend((given.seen(args["imctx"], args["fcs_lvl"]),), (args["textctx"],), (share, 1 - share))
    if method != "inference_mcg":
        raise UnknownSetting(f"unknown runs.method {method!r}")
    seen = [given.seen(one["image"], one["focus"], one["strength"], one.get("mask")) for one in args["images"] if one]
    return Blend(tuple(seen), (args["text"],), (args["text_strength"], 1 - args["text_strength"]))


@torch.no_grad()
def applications(case: Case) -> dict[str, Any]:
    flows, given, outputs = flows_of(case), Given(case), {}
    for run in case.spec["runs"]:
        name, args = run["name"], run["args"]
        blend = blend_of(run["method"], args, given)
        flow = BlendFlow.among(flows, "text" if run["method"].endswith("t") else "image")
        noise = case.io[f"{name}.noise"]
        batch = [blend] * noise.shape[1]
        for number, one in enumerate(flow.ingredients(blend)):
            both = [each.embeddings for each in (one.nothing, one.context)]
            outputs[f"{name}.context_{number}"] = torch.cat([tokens.expand(len(batch), -1, -1) for tokens in both if tokens is not None])
        grid = flow.grid((given.size[1], given.size[0]))
        settings = replace(SETTINGS, steps=case.config["app"]["ddim_steps"])
        if args.get("fid_lvl"):
            latents = _from_picture(flow, batch, grid, settings, case, name, args)
        else:
            latents = flow.sample(batch, grid, settings, StoredNormal(noise))
        outputs[f"{name}.latents"] = latents
        outputs |= _words(flow, latents, case, name) if flow.writes else _pictures(flow, latents, blend, settings, name)
    return outputs


def _from_picture(
    flow: BlendFlow, batch: list[Blend], grid: tuple[int, ...], settings: SamplingSettings, case: Case, name: str, args: Any
) -> Tensor:
    """A partial start. The original adds the noise of the time one step before that of its first step, and samples the posterior."""
    assert settings.steps is not None
    io, process = case.io, process_of(case)
    image = as_tensor(batch[0].pictures[0].plain)[None]
    start = flow.codec.encode(image, RecordedNormal(io[f"{name}.posterior_noise"])).expand(len(batch), -1, -1, -1)
    first, *_ = io[f"{name}.noise"].unbind()
    times, kept = times_of(process, settings.steps), int(settings.steps * (1 - args["fid_lvl"]))
    x = process.noise(start, torch.full((len(batch),), times[-2 - kept], dtype=torch.float64), first)
    draws = Draws(0, range(len(batch)))
    plan = [FloatStep(t, s) for t, s in pairwise(times[-1 - kept :])]
    return drive(flow.guided(batch, grid, settings, draws), process, DDIM(), x, plan, draws)


def _pictures(flow: BlendFlow, latents: Tensor, blend: Blend, settings: SamplingSettings, name: str) -> dict[str, Tensor]:
    draws = Draws(0, [0])
    finished = [to_picture(flow.finish(row[None], latents.shape[2:], blend, settings, draws), truncate=True) for row in latents]
    levels = torch.stack([((as_tensor(picture) + 1) * 127.5).round().byte().movedim(0, -1) for picture in finished])
    return {f"{name}.decoded": ((flow.decode(latents, ()) + 1) / 2).clamp(0, 1), f"{name}.images": levels}


def _words(flow: BlendFlow, latents: Tensor, case: Case, name: str) -> dict[str, Any]:
    """The original draws one more token of a text that reaches its full length, and writes the end marker over it."""
    codec, how, u, place, drawn, texts = flow.codec, Writing(), case.io[f"{name}.u"], 0, list[Tensor](), list[str]()
    for row in latents:
        (tokens,) = codec.generate(row[None], codec.writer.begin, codec.writer.end, how, Recorded(u[None, place:]))
        texts.append(without_repetition(codec.decode(row[None], how, Recorded(u[None, place:]))[0]))
        taken = tokens[1:]
        if len(tokens) == how.length:
            log_p = how.log_p(codec.logits(row[None], tokens[None, :-1])[0, -1:])
            taken = torch.cat([taken[:-1], last_drawn(log_p, how, u[None], 0, place + len(taken) - 1)])
        drawn.append(taken)
        place += len(taken)
    return {f"{name}.tokens": torch.cat(drawn), name: "\n".join(texts)}


COMPONENTS = {"applications": applications}
