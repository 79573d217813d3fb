"""A model: named flows, the size of its pictures and its own best sampling settings."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tessera import __version__, applications
from tessera.contexts.blend import Blend
from tessera.drawing import Drawing, draw
from tessera.errors import UsageError, suggest
from tessera.flow import Flow, SamplingSettings
from tessera.model_weights import write_model
from tessera.pictures import fingerprint, upright_rgb
from tessera.record import Record, Written
from tessera.repainting import Repaint, place_of
from tessera.samplers.loop import Callback
from tessera.samplers.registry import any_sampler, sampler_name

__all__ = ["PRECISIONS", "Model", "override", "settings_of", "torch_device", "whole_number"]

Prompt = str | int | Blend | None
"""Words, a class label, or None for models that take no prompt; of models of floats also pictures and mixtures, see `float_flow`, and of
those with several flows blends."""

PRECISIONS = ("auto", "float32", "bfloat16")
"""Of matrix products while sampling; auto is bfloat16 on CUDA and float32 elsewhere."""

KEPT = ("sampler", "steps", "guidance", "truncation", "temperature")
"""Settings that a description always names; others only where they differ from the usual."""


class Model:
    """Flows by name, with what they need to be used.

    Args:
        name: what the model is called.
        family: the kind of model, such as "vq-diffusion".
        flows: the flows; `text_to_image` needs the one of this name.
        size: (height, width) of pictures in pixels, unless asked otherwise.
        defaults: sampling settings that suit this model.
        card: what is known about it (data, training, measurements), JSON values.
        weights: SHA-256 of the weights file it was read from.
        partial: whether it has only some of the flows that were stored, and of parts that these share only what they need.
    """

    def __init__(
        self,
        name: str,
        family: str,
        flows: Mapping[str, Flow],
        size: tuple[int, int],
        defaults: SamplingSettings | None = None,
        card: Mapping[str, Any] | None = None,
        weights: str | None = None,
        partial: bool = False,
    ) -> None:
        self.name, self.family, self.flows, self.size = name, family, dict(flows), size
        self.defaults, self.card, self.weights = defaults or next(iter(flows.values())).own_settings, dict(card or {}), weights
        self.partial = partial
        self._blending: dict[str, Flow] = {}
        for flow in self.flows.values():
            flow.eval()

    @property
    def device(self) -> torch.device:
        return next(iter(self.flows.values())).device

    @property
    def own_strength(self) -> float:
        """Share of the process that image-to-image runs unless told otherwise."""
        return next(iter(self.flows.values())).own_strength

    def to(self, device: torch.device | str) -> "Model":
        """The same model, moved."""
        for flow in self.flows.values():
            flow.to(device)
        return self

    def save(self, folder: str | Path, dtype: str = "float32", overwrite: bool = False) -> Path:
        """Writes the model folder, whole or not at all, and returns it.

        Args:
            dtype: of the stored weights, "float32", "float16" or "bfloat16"; they are read back as float32.
            overwrite: replace a folder that exists.

        Raises:
            UsageError: the folder exists and `overwrite` is not set, the dtype is unknown, or only a part of the model was read.
            TesseraError: it cannot be written.
        """
        if self.partial:
            raise UsageError(f"model {self.name!r} was read in part, for {', '.join(self.flows)}: read all of its flows to save it")
        written = write_model(Path(folder), self.about(), self.flows, dtype, overwrite)
        self.weights = written if dtype == "float32" else self.weights  # rounded weights are not the ones that draw here
        return Path(folder)

    def about(self) -> dict[str, Any]:
        """What a description says of the model beside its flows, JSON values."""
        plain = asdict(SamplingSettings())
        given = {name: value for name, value in asdict(self.defaults).items() if name in KEPT or value != plain[name]}
        defaults = {**given, "sampler": _name_of(self.defaults)}
        return {"name": self.name, "family": self.family, "size": list(self.size), "defaults": defaults, "card": self.card}

    def text_to_image(
        self,
        prompts: Prompt | Sequence[Prompt],
        n: int = 1,
        seed: int | None = None,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        truncation: float | int | None = None,
        temperature: float | None = None,
        spacing: str | None = None,
        clip_guidance: float | None = None,
        cutouts: int | None = None,
        cut_power: float | None = None,
        stride: int | None = None,
        window_weights: str | None = None,
        moving_windows: bool | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = 8,
        init: Image.Image | None = None,
        strength: float | None = None,
        invert: bool = False,
        precision: str = "auto",
        index: int = 0,
        callback: Callback | None = None,
    ) -> list[Image.Image]:
        """Pictures of prompts, `n` of each in a row. Each carries how it was made in `picture.info["tessera"]` (see `Record`).

        Args:
            n: pictures per prompt.
            seed: fixes the result; None draws one, which the pictures carry. Picture i depends on (seed, index + i) only.
            sampler, steps, guidance, truncation, temperature: see `SamplingSettings`; None is the model's own.
            size: (height, width) in pixels; None is the model's own, which it draws best. Larger ones are drawn through windows of it.
            stride, window_weights, moving_windows: of these windows, see `guidance.tiling.Tiling`.
            batch_size: pictures computed together; changes memory and speed, not the pictures.
            spacing, clip_guidance, cutouts, cut_power: of models of floats, see `SamplingSettings`; the model's own unless given.
            init: a picture to start from (image-to-image), scaled and cropped to the size.
            strength: share of the process that is run on `init`, in (0, 1]: more changes it more; 0.6 unless given, of floats 0.9.
            invert: start from the noise that `init` is encoded as, for editing it (models of floats).
            precision: see `PRECISIONS`.
            index: number of the first picture, to make one of a larger request again.
            callback: called after every step of every batch with its `Progress`; raise to cancel.

        Raises:
            UsageError: an argument out of range, before the first step.
        """
        if strength is not None and init is None:
            raise UsageError("strength says how much to change a picture, but none is given: give init too")
        start = None if init is None else self.own_strength if strength is None else strength
        settings = override(
            self.defaults, sampler=sampler, steps=steps, guidance=guidance, truncation=truncation, temperature=temperature, start=start,
            spacing=spacing, clip_guidance=clip_guidance, cutouts=cutouts, cut_power=cut_power, invert=invert or None,
            stride=stride, window_weights=window_weights, moving_windows=moving_windows,
        )  # fmt: skip
        return list(
            self.stream(
                prompts, n, seed, settings, size=size, batch_size=batch_size, init=init, precision=precision, index=index, callback=callback
            )
        )

    def inpaint(
        self,
        picture: Image.Image,
        mask: Image.Image,
        prompts: Prompt | Sequence[Prompt] = None,
        n: int = 1,
        seed: int | None = None,
        *,
        feather: int = 0,
        strength: float | None = None,
        batch_size: int = 8,
        precision: str = "auto",
        index: int = 0,
        callback: Callback | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        """The picture with the white parts of the mask drawn anew; the others are returned pixel for pixel.

        Args:
            mask: of the picture's size; levels above half are white.
            feather: pixels over which given and drawn ones are mixed, inside the white.
            strength: share of the process that is run, below 1 from what the picture shows there; 1 unless given.
            settings: see `SamplingSettings`. The others are as in `text_to_image`.

        Raises:
            UsageError: as `text_to_image`; a mask that does not fit, or without any white.
        """
        return self._repainted(
            Repaint.masked(picture, mask, feather), prompts, n, seed, settings | {"start": strength}, batch_size, precision, index, callback
        )

    def extend(
        self,
        picture: Image.Image,
        size: tuple[int, int],
        prompts: Prompt | Sequence[Prompt] = None,
        n: int = 1,
        seed: int | None = None,
        *,
        anchor: str = "center",
        feather: int = 0,
        batch_size: int = 8,
        precision: str = "auto",
        index: int = 0,
        callback: Callback | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        """The picture on a canvas of `size` = (height, width), the rest of which is drawn to go with it.

        Args:
            anchor: where the picture is on the canvas, one of `repainting.ANCHORS`: at the "left" it grows to the right.
            feather, settings and the others: as in `inpaint`.
        """
        repaint = Repaint.extended(picture, size, self.place(picture, size, anchor), feather)
        return self._repainted(repaint, prompts, n, seed, settings, batch_size, precision, index, callback)

    def place(self, picture: Image.Image, size: tuple[int, int], anchor: str) -> tuple[int, int]:
        """(top, left) of a picture on a larger canvas, such that its latents stay where they are."""
        upright = upright_rgb(picture)
        return place_of((upright.height, upright.width), size, anchor, self.drawing_flow.codec.factor)

    def _repainted(
        self, repaint: Repaint, prompts: Prompt | Sequence[Prompt], n: int, seed: int | None, settings: Mapping[str, Any], batch_size: int,
        precision: str, index: int, callback: Callback | None,
    ) -> list[Image.Image]:  # fmt: skip
        chosen = self.settings(**settings)
        return list(
            self.stream(
                prompts, n, seed, chosen, repaint=repaint, batch_size=batch_size, precision=precision, index=index, callback=callback
            )
        )

    image_variation = applications.image_variation
    blend = applications.blend
    edit = applications.edit
    image_to_text = applications.image_to_text
    text_variation = applications.text_variation

    def settings(self, **given: Any) -> SamplingSettings:
        """The model's own with those that are given, and not None, in their place. UsageError for an unknown one, or one out of range."""
        known = [field.name for field in fields(SamplingSettings)]
        for name in given:
            if name not in known:
                raise UsageError(suggest("setting", name, known))
        return override(self.defaults, **given)

    def blending(self, to: str) -> Flow:
        """The flows to "image" or to "text" as one, whose prompts are blends. UsageError where there is none."""
        from tessera.families.versatile.blending import BlendFlow

        if to not in self._blending:
            self._blending[to] = BlendFlow.among(self.flows, to)
        return self._blending[to]

    @property
    def drawing_flow(self) -> Flow:
        """The flow that makes pictures. UsageError where there is none."""
        if "text_to_image" not in self.flows:
            raise UsageError(f"model {self.name!r} does not make pictures from prompts; it has: {', '.join(sorted(self.flows))}")
        return self.flows["text_to_image"]

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        n: int,
        seed: int | None,
        settings: SamplingSettings,
        *,
        size: tuple[int, int] | None = None,
        batch_size: int = 8,
        init: Image.Image | None = None,
        repaint: Repaint | None = None,
        precision: str = "auto",
        index: int = 0,
        callback: Callback | None = None,
    ) -> Iterator[Image.Image]:
        """Like `text_to_image`, but gives pictures as their batch is finished, so that a cancelled request keeps what it has.

        repaint: the picture of which part is drawn anew; it gives the size, and is where a start below 1 begins.
        """
        whole_number("batch_size", batch_size, 1)
        drawing = self.drawing(prompts, n, seed, settings, size=size, init=init, repaint=repaint, precision=precision, index=index)
        return _drawn(drawing, batch_size, callback)

    def write(
        self,
        blends: Blend | Sequence[Blend],
        n: int,
        seed: int | None,
        settings: SamplingSettings,
        *,
        batch_size: int = 8,
        precision: str = "auto",
        index: int = 0,
        callback: Callback | None = None,
    ) -> Iterator[Written]:
        """`n` texts of each blend in a row, as their batch is finished. Each has its `record`; what is empty decoded to no words."""
        whole_number("batch_size", batch_size, 1)
        return _drawn(self.drawing(blends, n, seed, settings, precision=precision, index=index, to="text"), batch_size, callback)

    def drawing(
        self,
        prompts: Prompt | Sequence[Prompt],
        n: int,
        seed: int | None,
        settings: SamplingSettings,
        *,
        size: tuple[int, int] | None = None,
        init: Image.Image | None = None,
        repaint: Repaint | None = None,
        precision: str = "auto",
        index: int = 0,
        to: str = "image",
    ) -> Drawing:
        """What `stream` draws, or `write` writes (to "text"), batch by batch; `drawing.draw` makes it beside those of others.

        Raises:
            UsageError: as `text_to_image`.
        """
        listed = [prompts] if prompts is None or isinstance(prompts, str | int | Blend) else list(prompts)
        if not listed:
            raise UsageError("the prompt is empty: say what to draw")
        flow = self.blending(to) if to == "text" or any(isinstance(prompt, Blend) for prompt in listed) else self.drawing_flow
        if repaint is not None:
            size = (repaint.picture.height, repaint.picture.width)
        height, width = size or self.size
        grid = flow.grid((height, width))
        flow.check(settings)
        flow.windows(grid, settings)
        if settings.invert and init is None:
            raise UsageError("invert encodes a picture as noise, but none is given: give init too")
        whole_number(f"n, the number of {'pictures' if to == 'image' else 'texts'},", n, 1)
        whole_number("index", index, 0)
        seed = secrets.randbelow(2**32) if seed is None else seed
        whole_number("seed", seed, 0)
        if precision not in PRECISIONS:
            raise UsageError(suggest("precision", precision, PRECISIONS))
        if precision == "auto":
            precision = "bfloat16" if self.device.type == "cuda" else "float32"
        for prompt in listed:
            flow.check_prompt(prompt, settings)
        rows = [prompt for prompt in listed for _ in range(n)]
        record = Record(
            version=__version__, model=self.name, weights=self.weights, prompt=None, seed=seed, index=index, size=(height, width),
            precision=precision, init=None if init is None else fingerprint(init), **asdict(replace(settings, sampler=_name_of(settings))),
        )  # fmt: skip
        if repaint is not None:
            record = replace(record, picture=repaint.picture_sha256, mask=repaint.mask_sha256, feather=repaint.feather, place=repaint.place)
        return Drawing(flow, rows, grid, settings, record, init, repaint)


def _drawn(drawing: Drawing, batch_size: int, callback: Callback | None) -> Iterator[Any]:
    """Pictures or texts, as their batch is finished."""
    numbers = range(len(drawing))
    for first in range(0, len(drawing), batch_size):
        yield from draw([(drawing, number) for number in numbers[first : first + batch_size]], callback)


def override(base: SamplingSettings, **given: Any) -> SamplingSettings:
    """`base` with every setting that is given, and is not None, in its place. Raises UsageError for a value out of range."""
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def settings_of(record: Record) -> SamplingSettings:
    """The settings a picture was made with."""
    return SamplingSettings(**{field.name: getattr(record, field.name) for field in fields(SamplingSettings)})


def torch_device(name: torch.device | str) -> torch.device:
    """The device of this name. Raises UsageError for one that does not exist here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise UsageError(
            f"device {str(name)!r} cannot be used here ({reason}): give cpu, or a GPU this machine has, such as cuda"
        ) from None
    return device


def whole_number(what: str, value: int, least: int) -> None:
    """Raises UsageError unless `value` is a whole number from `least` (and below 2⁶³)."""
    if not isinstance(value, int) or not least <= value < 2**63:
        raise UsageError(f"{what} must be a whole number from {least}, not {value!r}")


def _name_of(settings: SamplingSettings) -> str:
    return sampler_name(any_sampler(settings.sampler) if isinstance(settings.sampler, str) else settings.sampler)
