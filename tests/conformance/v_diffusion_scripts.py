"""Whole runs of v-diffusion's three scripts."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tessera.contexts.context import Context
from tessera.contexts.joint import JointEncoder, as_input, standardise
from tessera.contexts.weighted_prompts import CFG_WEIGHT, CLIP_WEIGHT, parse_prompts
from tessera.guidance.clip_guidance import CLIPGuidance, ClipSlope, clip_target, picture_embedding, shrunk
from tessera.guidance.cutouts import cut, draw_boxes, magnified
from tessera.guidance.descent import Descent
from tessera.guidance.weighted import mixing_weights, weighted
from tessera.pictures import as_tensor, resize_and_center_crop, to_picture
from tessera.processes.gaussian import Estimate, GaussianProcess
from tessera.processes.gaussian_schedules import Cosine, make_gaussian_schedule
from tessera.randomness import Draws
from tessera.samplers.registry import float_sampler
from tessera.samplers.sampler import FloatSampler, FloatStep, PredictFloat
from tests.conformance.cases import Case
from tests.conformance.settings import UnknownSetting, known
from tests.conformance.v_diffusion_conditioning import Recorded, levels_of, picture_from
from tests.conformance.v_diffusion_networks import network_of
from tests.conformance.v_diffusion_samplers import FUNCTIONS

__all__ = ["COMPONENTS"]

PROCESS = GaussianProcess(Cosine())


@dataclass
class Trace:
    """What a run did. before, after: x around each step; calls: (x_t, t, estimate) of each call; first: the call that begins each step."""

    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    calls: list[tuple[Tensor, Tensor, Estimate]] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    """eps that each step kept for later ones: of the multistep samplers, what the originals report a prediction of."""

    def run(self, sampler: FloatSampler, predict: PredictFloat, x: Tensor, times: Sequence[float], draws: Draws) -> Tensor:
        def observed(x_t: Tensor, t: Tensor) -> Estimate:
            estimate = predict(x_t, t)
            self.calls.append((x_t, t, estimate))
            return estimate

        state = sampler.init(x)
        for t, s in pairwise(times):
            self.before.append(x)
            self.first.append(len(self.calls))
            x, state = sampler.step(observed, PROCESS, x, FloatStep(t, s), state, draws)
            self.after.append(x)
            self.kept.append(state[0] if state else self.calls[self.first[-1]][2].eps)
        return x

    def pred(self) -> Tensor:
        """Of each step, from the eps that it kept."""
        rows = []
        for i, eps in zip(self.first, self.kept, strict=True):
            x_t, t, here = self.calls[i]
            alpha, sigma = PROCESS.alpha_sigma(t, x_t)
            rows.append(here.x_0 - torch.where(eps == here.eps, 0.0, sigma / alpha * (eps - here.eps)))
        return torch.stack(rows)

    def v(self) -> Tensor:
        """Of the call that begins each step."""
        return torch.stack([_v(*self.calls[i]) for i in self.first])


def _v(x_t: Tensor, t: Tensor, estimate: Estimate) -> Tensor:
    alpha, sigma = PROCESS.alpha_sigma(t, x_t)
    return alpha * estimate.eps - sigma * estimate.x_0


class Watched(Descent):
    """Keeps x, t, the unguided estimate and g of every guided call."""

    seen: list[tuple[Tensor, Tensor, Estimate, Tensor]]

    def gradient(self, x_t: Tensor, t: Tensor) -> tuple[Estimate, Tensor]:
        estimate, g = super().gradient(x_t, t)
        self.seen = [*getattr(self, "seen", []), (x_t, t, estimate, g)]
        return estimate, g


class Encoder(JointEncoder):
    """The cases' stand-in for CLIP: stored text embeddings, and a convolution for pictures."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.size = case.config["clip_input_resolution"]
        self.texts = dict(zip(case.config["texts"], case.io["text_embeds"], strict=True))
        self.width = case.io["text_embeds"].shape[1]
        self.weights = case.state_dict("encoder.")
        self.stride = stride_of(case.config["encoder_formula"]) if "encoder_formula" in case.config else 1  # no pictures

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.texts[text] for text in texts])

    def encode_image(self, image: Tensor) -> Tensor:
        kernel, bias = self.weights["encoder.conv.weight"], self.weights["encoder.conv.bias"]
        hidden = torch.tanh(F.conv2d(standardise(image), kernel, bias, stride=self.stride))
        return hidden.flatten(1) @ self.weights["encoder.proj.weight"].T

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


class Parser(argparse.ArgumentParser):
    """Of a script's command line."""

    def error(self, message: str) -> NoReturn:
        raise UnknownSetting(f"config.argv: {message}")


def parse(script: str, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a script's run, with the script's own defaults."""
    by_clip = known("config.script", script, {"clip_sample": True, "cfg_sample": False, "cfg_modify_image": False})
    parser = Parser(add_help=False, allow_abbrev=False)
    if script == "cfg_modify_image":
        parser.add_argument("init_positional")
    parser.add_argument("prompts", nargs="*")
    parser.add_argument("--images", nargs="*", default=[])
    parser.add_argument("--method", default="ddpm" if by_clip else "plms")
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("-n", type=int, default=1)
    parser.add_argument("--batch-size", "-bs", dest="bs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000 if by_clip else 50)
    parser.add_argument("--init")
    parser.add_argument("--starting-timestep", "-st", dest="st", type=float, default=0.9)
    parser.add_argument("--clip-guidance-scale", "-cs", dest="cs", type=float, default=500.0)
    parser.add_argument("--cutn", type=int, default=16)
    parser.add_argument("--cut-pow", type=float, default=1.0)
    parser.add_argument("--size", type=int, nargs=2)
    parser.add_argument("--max-timestep", "-mt", dest="mt", type=float, default=1.0)
    parser.add_argument("--output", "-o")
    # argparse takes "words:-0.5" for words but would stop at a leading "-"
    return parser.parse_intermixed_args(argv)


def denoiser_of(formula: str) -> Callable[[Tensor], Tensor]:
    """f of the stand-in for a network, in a case's words."""
    found = re.fullmatch(
        r"v\(x,t,clip_embed\) = (\w+)\(a x \+ b t \+ \(clip_embed @ denoiser\.cond\.weight\^T\) per sample and channel\); "
        "without clip_embed the last term is absent",
        formula,
    )
    if found is None:
        raise UnknownSetting(f"unknown config.denoiser_formula {formula!r}")
    return known("config.denoiser_formula", found[1], FUNCTIONS)


ENCODER = re.compile(
    r"stand-in for the CLIP image encoder: z \[M,3,\d+,\d+\] normalised cutouts; "
    r"h = tanh\(conv2d\(z, encoder\.conv\.weight, encoder\.conv\.bias, stride (\d+), no padding\)\) -> \[M,\d+,\d+,\d+\]; "
    r"flatten channel-major \(C,H,W\) to \[M,\d+\]; e = h @ encoder\.proj\.weight\^T -> \[M,\d+\], not normalised"
)
"""The stand-in for CLIP in a case's words, with the stride of its convolution."""


def stride_of(formula: str) -> int:
    found = ENCODER.fullmatch(formula)
    if found is None:
        raise UnknownSetting(f"unknown config.encoder_formula {formula!r}")
    return int(found[1])


@dataclass
class Script:
    """A recorded run of one of the scripts: its arguments, model and encoder."""

    case: Case

    def __post_init__(self) -> None:
        self.args = parse(self.name, self.case.config["argv"])
        self.model = self.case.config["model"]
        self.size = (self.args.size[1], self.args.size[0]) if self.args.size else tuple(self.model["shape"][1:])
        self.encoder = Encoder(self.case)
        self.network = network_of(self.case, self.model) if "network" in self.model else None

    @property
    def name(self) -> str:
        return self.case.config["script"]

    def picture(self, source: str) -> Image.Image:
        return picture_from(self.case.io[source.strip("{}")])

    def init(self, source: str | None) -> Tensor | None:
        return None if source is None else as_tensor(resize_and_center_crop(self.picture(source), self.size))[None]

    def predict(self, embedding: Tensor | None) -> PredictFloat:
        """The model with an embedding for each row of its batch."""
        if self.network is not None:
            assert embedding is not None
            context = Context(embedding[:, None])
            return lambda x_t, t: PROCESS.estimate("v", self.network(x_t, t, context), x_t, t)  # type: ignore[misc]
        function, weight = denoiser_of(self.case.config["denoiser_formula"]), self.case.weights()["denoiser.cond.weight"]
        shift = 0.0 if embedding is None else (embedding @ weight.T)[:, :, None, None]

        def predict(x_t: Tensor, t: Tensor) -> Estimate:
            v = function(self.model["a"] * x_t + self.model["b"] * t.float()[:, None, None, None] + shift)
            return PROCESS.estimate("v", v, x_t, t)

        return predict

    def times(self, start: float) -> list[float]:
        late = self.name == "clip_sample" and self.model["min_t"] > 0
        return PROCESS.times(make_gaussian_schedule("ddpm" if late else "spliced"), self.args.steps, start)

    def x_noise(self) -> Tensor:
        if "x_noise" in self.case.io:
            return self.case.io["x_noise"]
        repeats = self.case.config["tile_repeats"]
        return self.case.io["x_noise_tile"].repeat(1, 1, repeats, repeats)

    @property
    def sampler(self) -> FloatSampler:
        method: str = self.args.method
        return float_sampler("ddim", eta=self.args.eta) if method == "ddim" else float_sampler(method)

    def batches(self) -> list[slice]:
        size = self.args.bs
        return [slice(first, min(first + size, self.args.n)) for first in range(0, self.args.n, size)]

    def outputs(self, traces: Sequence[Trace], outs: Sequence[Tensor], times: Sequence[float]) -> dict[str, Tensor]:
        """What every script reports."""
        plain = self.args.method in ("ddim", "ddpm")
        out = torch.cat(list(outs))
        values = {
            "steps": torch.tensor(times[:-1]),
            "x_noised": traces[0].before[0],
            "out": out,
            "png": torch.stack([levels_of(to_picture(image, truncate=True)) for image in out]),
            "x_steps": torch.cat([torch.stack(trace.before if plain else trace.after) for trace in traces]),
            "pred_steps": torch.cat([trace.pred() for trace in traces]),
            "v_steps": torch.cat([trace.v() for trace in traces]),
        }
        return self.sliced(values)

    def sliced(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        strides = self.case.config.get("slices", {})
        return {name: value[..., :: strides[name], :: strides[name]] if name in strides else value for name, value in values.items()}


def script(case: Case) -> dict[str, Tensor]:
    made = Script(case)
    return {"clip_sample": clip_sample, "cfg_sample": cfg_sample, "cfg_modify_image": cfg_modify_image}[made.name](made)


def _mixed(made: Script, batch: int) -> PredictFloat:
    """Classifier-free guidance over the script's prompts and pictures."""
    words = parse_prompts(made.args.prompts, CFG_WEIGHT)
    pictures = parse_prompts(made.args.images, CFG_WEIGHT)
    prompts: list[Any] = [None, *(prompt.text for prompt in words), *(made.picture(prompt.text) for prompt in pictures)]
    embeddings = made.encoder(prompts).embeddings
    assert embeddings is not None
    weights = mixing_weights([prompt.weight for prompt in [*words, *pictures]])
    return weighted(made.predict(embeddings[:, 0].repeat_interleave(batch, 0)), weights[:, None])


def cfg_sample(made: Script) -> dict[str, Tensor]:
    init, times = made.init(made.args.init), made.times(made.args.st if made.args.init else 1.0)
    traces, outs = [], []
    for rows in made.batches():
        x = made.x_noise()[rows]
        if init is not None:
            x = PROCESS.noise(init.expand_as(x), torch.full((len(x),), times[0], dtype=torch.float64), x)
        traces.append(Trace())
        outs.append(traces[-1].run(made.sampler, _mixed(made, len(x)), x, times, Recorded(made.case.io, len(x))))
    outputs = made.outputs(traces, outs, times)
    for source in made.args.images:
        seen = as_input(made.picture(source.rpartition(":")[0]), made.encoder.size)[None]
        outputs |= {"image_prompt_clip_in": standardise(seen), "image_prompt_embeds_raw": made.encoder.encode_image(seen)}
    return outputs


def cfg_modify_image(made: Script) -> dict[str, Tensor]:
    init = made.init(made.args.init_positional)
    assert init is not None
    rising = PROCESS.inversion_times(make_gaussian_schedule("spliced"), made.args.steps, made.args.mt)
    latent = Trace().run(made.sampler, made.predict(torch.zeros(1, made.encoder.width)), init, rising, Recorded({}, 1))
    trace = Trace()
    out = trace.run(made.sampler, _mixed(made, 1), latent, rising[::-1], Recorded({}, 1))
    return {**made.outputs([trace], [out], rising[::-1]), "reverse_steps": torch.tensor(rising), "latent": latent}


def clip_sample(made: Script) -> dict[str, Tensor]:
    args, encoder = made.args, made.encoder
    guidance = CLIPGuidance(args.cs, args.cutn, args.cut_pow)
    words, pictures = parse_prompts(args.prompts, CLIP_WEIGHT), parse_prompts(args.images, CLIP_WEIGHT)
    draws = Recorded(made.case.io, 1)
    uniforms = draws.uniforms
    embeddings = [encoder.encode_text([prompt.text])[0] for prompt in words]
    embeddings += [picture_embedding(made.picture(prompt.text), encoder, made.size, guidance, draws) for prompt in pictures]
    target = clip_target(embeddings, [prompt.weight for prompt in [*words, *pictures]])[None]
    init, times = made.init(args.init), made.times(args.st if args.init else 1.0)
    traces: list[Trace] = []
    outs: list[Tensor] = []
    seen: list[tuple[Tensor, Tensor, Estimate, Tensor]] = []
    for rows in made.batches():
        x = made.x_noise()[rows]
        draws.batch = len(x)
        if init is not None:
            x = PROCESS.noise(init.expand_as(x), torch.full((len(x),), times[0], dtype=torch.float64), x)
        predict = made.predict(target.repeat(len(x), 1) if made.model["clip_conditioned"] else None)
        if guidance.scale:
            predict = Watched(predict, PROCESS, ClipSlope(encoder, target, guidance, draws))
        traces.append(Trace())
        outs.append(traces[-1].run(made.sampler, predict, x, times, draws))
        seen += getattr(predict, "seen", [])
    outputs = made.outputs(traces, outs, times)
    for prompt in pictures:
        again = Recorded({"uniforms": uniforms}, 1)
        image = as_tensor(shrunk(made.picture(prompt.text), made.size))[None]
        boxes = draw_boxes(image.shape[2], image.shape[3], encoder.size, guidance.cutouts, guidance.power, again)
        cuts = cut(image, boxes, encoder.size)
        outputs |= {
            "image_prompt_cuts": boxes, "image_prompt_resized": (image + 1) / 2, "image_prompt_cutouts": (cuts + 1) / 2,
            "image_prompt_embeds_raw": encoder.encode_image(cuts),
        }  # fmt: skip
        uniforms = again.uniforms
    return outputs | (made.sliced(_watched(made, guidance, target, seen, uniforms)) if seen else {})


def _watched(
    made: Script, guidance: CLIPGuidance, target: Tensor, seen: Sequence[tuple[Tensor, Tensor, Estimate, Tensor]], uniforms: Tensor
) -> dict[str, Tensor]:
    """The guided calls, and the parts of them that the run itself does not keep, computed again from the same numbers."""
    draws = Recorded({"uniforms": uniforms}, len(seen[0][0]))
    slope = ClipSlope(made.encoder, target, guidance, draws)
    pictures = [magnified(estimate.x_0) for _, _, estimate, _ in seen]
    boxes = [slope.boxes(image) for image in pictures]
    first = cut(pictures[0], boxes[0], made.encoder.size)
    return {
        "guide_x": torch.stack([x_t for x_t, *_ in seen]),
        "guide_t": torch.stack([t[0] for _, t, *_ in seen]).float(),
        "guide_pred": torch.stack([estimate.x_0 for _, _, estimate, _ in seen]),
        "guide_grad": torch.stack([g for *_, g in seen]),
        "guide_losses": torch.stack([slope.distances(image, places) for image, places in zip(pictures, boxes, strict=True)]),
        "guide_cuts": torch.stack([places[0] for places in boxes]),
        "guide_cut_in_0": (pictures[0] + 1) / 2,
        "guide_cut_out_0": (first + 1) / 2,
        "guide_clip_in_0": standardise(first),
        "guide_image_embeds_0": made.encoder.encode_image(first),
    }


COMPONENTS = {"script": script}
