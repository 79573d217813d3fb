"""Training several flows of one network together (Xu et al. 2022, arXiv 2211.08332), from pictures with captions.

    loss = Σ_f w_f · mean over the pairs that flow f sees of its denoising loss

All flows learn at every step, so the layers that they share (the time's, those of a data type, those of a context type) get the sum of
their gradients; `gradients` of the recipe scales that of whole groups of layers before it is clipped. AdamW divides by the size of the
gradients it has seen, so such a factor changes how much a group counts in the clipped norm, and what flows with other weights add up
to, but not the length of its steps as SGD's would.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.contexts.context import Context
from tessera.contexts.null_prompt import fill_null
from tessera.errors import UsageError
from tessera.families.versatile.composition import Ingredient, composed
from tessera.families.versatile.network import MultiFlowUNet
from tessera.float_flow import FloatFlow
from tessera.flow import SamplingSettings
from tessera.model import Model
from tessera.processes.gaussian_loss import GaussianLossOutput
from tessera.processes.gaussian_schedules import make_spacing
from tessera.randomness import Draws, derive_seed
from tessera.samplers.loop import run_floats
from tessera.samplers.registry import float_sampler
from tessera.training.loader import Batch
from tessera.training.recipe import JointRecipe
from tessera.training.task import Panel, StepDraws, Task, to_bytes, to_picture

__all__ = ["JointTask"]

TIME_BINS = 10


class JointTask(Task):
    """Minimises the sum above.

    Args:
        flows: what learns, by name: views of one network, with codecs and an encoder that they share.
        network, codecs, encoder: these parts, whole; codecs by data type.
        recipe: what each flow counts, and how samples are drawn.
        size: side of the pictures in pixels.
    """

    network: Any
    codecs: Any

    def __init__(
        self, flows: Mapping[str, FloatFlow], network: MultiFlowUNet, codecs: Mapping[str, Any], encoder: Any, recipe: JointRecipe,
        size: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.codecs, self.encoder = network, nn.ModuleDict(codecs).requires_grad_(False), encoder
        self.flows: Any = (dict(flows),)  # in a tuple, because their layers are those above
        self.recipe, self.size = recipe, size
        encoder.requires_grad_(recipe.train_context)
        for name, factor in recipe.gradients.items():
            self._scale(name, factor)
        for _, flow in self._each():
            flow.check(self._sampling())
        # Compiled code is kept outside the module tree, so that names of the state do not change.
        self._networks = {name: torch.compile(flow.network) if recipe.compile else flow.network for name, flow in self._each()}
        self._warned: set[str] = set()
        self._nothing: dict[str, Context] = {}
        self.train()

    def _each(self) -> list[tuple[str, Any]]:
        return list(self.flows[0].items())

    def _scale(self, name: str, factor: float) -> None:
        chosen = [value for path, value in self.network.named_parameters() if path.startswith(f"{name}.")]
        if not chosen:
            raise UsageError(f"gradients: no layer's name begins with {name!r}: use time, data.TYPE or contexts.TYPE")
        for value in chosen:
            value.register_hook(lambda gradient: gradient * factor)

    def train(self, mode: bool = True) -> JointTask:
        super().train(mode)
        self.codecs.eval()
        if not self.recipe.train_context:
            self.encoder.eval()
        return self

    def forward(self, batch: Batch, seed: int, total: int) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss, and the report: `squared_error`, and that of every flow, in its network's own form."""
        assert batch.image is not None
        image, steps_rows = to_picture(batch.image), [position % total for position in batch.positions]
        chosen = {name: self._chosen(name, steps_rows, total) for name, _ in self._each()}
        contexts = self._contexts(batch, image, chosen)
        loss, report = image.new_zeros(()), {}
        for name, flow in self._each():
            places, settings = chosen[name], self.recipe.flows[name]
            # Every part of a step weighs the same in the end, however many of the flow's pairs it has.
            share = total / (len(steps_rows) * self._count(name, total))
            error = image.new_zeros(())
            if places:
                rows = [steps_rows[place] for place in places]
                context = self._some_dropped(name, contexts[name], derive_seed(seed, name, "drop"), total, rows)
                t = None if self.training else self._spread_times(rows, total)
                draws = StepDraws(derive_seed(seed, name), total, rows, self.device)
                out = self._loss(name, self._latents(flow, batch, image, places), context, draws, t)
                loss = loss + settings.weight * share * out.per_image.sum()
                error = share * out.squared_error.detach().float().sum()
            report[f"squared_error_{name}"] = error
        report["squared_error"] = torch.stack(list(report.values())).mean()
        return loss, report

    def _loss(self, name: str, x_0: Tensor, context: Context, draws: Draws, t: Tensor | None) -> GaussianLossOutput:
        network, flow = self._networks[name], self.flows[0][name]
        out: GaussianLossOutput = flow.loss(lambda x_t, t: network(x_t, t, context), x_0, draws, t)
        return out

    def _count(self, name: str, total: int) -> int:
        """Pairs of a whole step that a flow sees; in validation all."""
        return max(1, round(self.recipe.flows[name].share * total)) if self.training else total

    def _chosen(self, name: str, rows: Sequence[int], total: int) -> list[int]:
        """The places in this batch of those pairs, spread evenly over the step."""
        count = self._count(name, total)
        return [place for place, row in enumerate(rows) if row * count // total > (row - 1) * count // total]

    def _latents(self, flow: Any, batch: Batch, image: Float[Tensor, "b 3 h w"], places: Sequence[int]) -> Tensor:
        """Clean latents, in float32 whatever the network computes in."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            if not flow.writes:
                return flow.codec.encode(image[places])
            other = batch.rewordings if flow.context_encoder.reads_words and batch.rewordings is not None else batch.prompts
            with self._quiet("codec"):
                return flow.codec.means(_texts(other, places))

    def _contexts(self, batch: Batch, image: Float[Tensor, "b 3 h w"], chosen: Mapping[str, list[int]]) -> dict[str, Context]:
        """The context of every flow. What several flows read is encoded once."""
        found: dict[str, Context] = {}
        readings = {name: flow.context_encoder.of for name, flow in self._each() if chosen[name]}
        for reading in dict.fromkeys(readings.values()):
            flows = [name for name, other in readings.items() if other == reading]
            places = sorted({place for name in flows for place in chosen[name]})
            view = self.flows[0][flows[0]].context_encoder
            if view.reads_words:
                with self._quiet("context"):
                    whole = view(_texts(batch.prompts, places))
            else:
                whole = view.see(image[places])
            whole = whole.to(self.device)
            index = {place: row for row, place in enumerate(places)}
            for name in flows:
                found[name] = whole[torch.tensor([index[place] for place in chosen[name]], device=self.device)]
        return found

    def _some_dropped(self, name: str, context: Context, seed: int, total: int, rows: Sequence[int]) -> Context:
        share = self.recipe.flows[name].drop
        if not self.training or share == 0:
            return context
        dropped = (StepDraws(seed, total, rows).uniform() < share).tolist()
        return fill_null(context, self._without(name), [None if drop else "" for drop in dropped]) if any(dropped) else context

    def _without(self, name: str) -> Context:
        """The context of no prompt, one row; made once where the encoder does not learn."""
        if self.recipe.train_context or name not in self._nothing:
            with self._quiet("nothing"):
                self._nothing[name] = self.flows[0][name].context_encoder.unconditional(1).to(self.device)
        return self._nothing[name]

    def _quiet(self, reader: str) -> warnings.catch_warnings[None]:
        """What is cut from captions, or not known of them, is said for the first batch of each reader only."""
        quiet = warnings.catch_warnings(action="ignore", category=Warning) if reader in self._warned else warnings.catch_warnings()
        self._warned.add(reader)
        return quiet

    def _spread_times(self, rows: Sequence[int], total: int) -> Float[Tensor, " b"]:
        """Times spread evenly over (0, 1) by the number of the pair, so that every evaluation sees the same ones."""
        return torch.tensor([(row % total + 0.5) / total for row in rows], dtype=torch.float64, device=self.device)

    def live_state(self) -> dict[str, Tensor]:
        """The network, and the encoder where it learns."""
        learning = ("network.", "encoder.") if self.recipe.train_context else ("network.",)
        return {name: value.detach() for name, value in self.state_dict(keep_vars=True).items() if name.startswith(learning)}

    @property
    def asks(self) -> dict[str, bool]:
        return {"reworded": self.recipe.reworded}

    def remarks(self) -> dict[str, str]:
        weights = ", ".join(f"{name} {one.weight:g} of {one.share:g} of the pairs" for name, one in self.recipe.flows.items())
        return {"flows": weights} | ({"reworded": "words to words learn other words for the same"} if self.recipe.reworded else {})

    @torch.no_grad()
    def panel(self, batches: Sequence[Batch], prompts: Sequence[object], seed: int) -> Panel:
        """Errors by time of every flow; pictures drawn from the prompts and from pictures; what is written of pictures and of words."""
        labels = [f"t {b / TIME_BINS:.1f}-{(b + 1) / TIME_BINS:.1f}" for b in range(TIME_BINS)]
        count = sum(len(batch.prompts) for batch in batches)
        times: dict[str, list[Tensor]] = {name: [] for name, _ in self._each()}
        errors: dict[str, list[Tensor]] = {name: [] for name, _ in self._each()}
        for batch in batches:
            batch = batch.to(self.device)
            assert batch.image is not None
            image, places = to_picture(batch.image), list(range(len(batch.prompts)))
            contexts = self._contexts(batch, image, {name: places for name, _ in self._each()})
            for name, flow in self._each():
                draws = Draws(derive_seed(seed, "panel", name), batch.positions, self.device)
                t = self._spread_times(batch.positions, count)
                out = self._loss(name, self._latents(flow, batch, image, places), contexts[name], draws, t)
                times[name].append(out.t.cpu())
                errors[name].append(out.squared_error.float().cpu())
        scalars, series = {}, {}
        for name in times:
            t, error = torch.cat(times[name]), torch.cat(errors[name])
            bins = (t * TIME_BINS).long().clamp(max=TIME_BINS - 1)
            scalars[f"squared_error_{name}"] = float(error.mean())
            series[f"{name}_by_time"] = (labels, [float(error[bins == b].mean()) if (bins == b).any() else float("nan") for b in range(10)])
        pictures, texts = self._shown(batches[0].to(self.device), [str(prompt) for prompt in prompts], seed)
        return Panel(scalars, series, pictures, texts=texts)

    def _shown(self, batch: Batch, prompts: list[str], seed: int) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        assert batch.image is not None
        shown = batch.image[: self.recipe.panel.pictures if self.recipe.panel else 0]
        pictures: dict[str, Tensor] = {}
        texts: dict[str, list[str]] = {}
        for name, flow in self._each():
            if flow.context_encoder.reads_words:
                context, given = flow.context_encoder(prompts).to(self.device), prompts
            else:
                context, given = flow.context_encoder.see(to_picture(shown)).to(self.device), list(batch.prompts[: len(shown)])
            made = flow.codec.decode(self._sampled(name, context, seed))
            if flow.writes:
                texts[name] = [f"{before} -> {after}" for before, after in zip(given, made, strict=True)]
            elif flow.context_encoder.reads_words:
                pictures[name] = to_bytes(made).cpu()
            else:
                pictures[f"originals_and_{name}"] = torch.stack([shown, to_bytes(made)], 1).flatten(0, 1).cpu()
        return pictures, texts

    def _sampled(self, name: str, context: Context, seed: int) -> Tensor:
        """Latents of a context, from noise fixed by `seed`."""
        flow, settings, count = self.flows[0][name], self._sampling(), context.rows or 0
        with torch.autocast(self.device.type, enabled=False):  # rounding would hide small differences between runs
            predict = composed(flow.process, [Ingredient(flow.network, context, self._without(name).repeat(count))], settings.guidance)
            sampler: Any = float_sampler(settings.sampler) if isinstance(settings.sampler, str) else settings.sampler
            return run_floats(
                predict, flow.process, sampler, batch=count, shape=(flow.codec.channels, *flow.grid((self.size, self.size))),
                spacing=make_spacing(settings.spacing or flow.spacing, flow.process.schedule), steps=settings.steps,
                draws=Draws(derive_seed(seed, name), range(count), self.device),
            )  # fmt: skip

    def export(self, folder: Path, card: Mapping[str, Any]) -> None:
        mode = self.training
        Model(self.recipe.name, "versatile", self.flows[0], (self.size, self.size), self._sampling(), card).save(folder, overwrite=True)
        self.train(mode)

    def _sampling(self) -> SamplingSettings:
        return replace(self._each()[0][1].own_settings, **self.recipe.sampling.model_dump(exclude_none=True))


def _texts(prompts: Sequence[Any], places: Sequence[int]) -> list[str]:
    for place in places:
        if not isinstance(prompts[place], str):
            raise UsageError(f"flows from and to words learn captions, but the dataset gives {prompts[place]!r}: use one with captions")
    return [prompts[place] for place in places]
