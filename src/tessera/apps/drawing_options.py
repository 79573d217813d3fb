"""The options of every command that samples, and of those that draw pictures; see `option_lists`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.apps.loading_options import LoadingOptions
from tessera.apps.option_lists import takes
from tessera.apps.options import (
    AsJSON,
    Debug,
    Device,
    Guidance,
    Method,
    ModelName,
    MovingWindows,
    Precision,
    Sampler,
    Steps,
    Stride,
    Temperature,
    Truncation,
    WindowWeights,
    chosen_settings,
)

if TYPE_CHECKING:
    from tessera.flow import SamplingSettings

__all__ = ["DrawingOptions", "SamplingOptions", "drawing_command"]


@dataclass(frozen=True)
class SamplingOptions(LoadingOptions):
    """Which model, and how it samples. Defaults are those of the command line: None is the model's own."""

    model: ModelName = None
    method: Method = None
    sampler: Sampler = None
    steps: Steps = None
    guidance: Guidance = None
    truncation: Truncation = None
    temperature: Temperature = None
    eta: Annotated[float | None, typer.Option(help="Share of DDPM's noise in the sampler ddim, 0 to 1.")] = None
    spacing: Annotated[
        str | None, typer.Option(metavar="SCHEDULE", help="What spaces the steps (models of floats): spliced, ddpm, cosine, log-snr.")
    ] = None
    device: Device = "auto"
    precision: Precision = "auto"
    as_json: AsJSON = False
    debug: Debug = False

    @property
    def draws_one(self) -> bool:
        """Whether the method draws one picture of several prompts."""
        if self.method is None:
            return False
        from tessera.methods import V_DIFFUSION

        return self.method in V_DIFFUSION

    def settings(self, base: "SamplingSettings", **own: Any) -> "SamplingSettings":
        """The method's settings, or else `base`, with every option that is given in its place. `own`: fields of the command's own."""
        return chosen_settings(
            base, self.method, sampler=self.sampler, steps=self.steps, guidance=self.guidance, truncation=self.truncation,
            temperature=self.temperature, eta=self.eta, spacing=self.spacing, **own,
        )  # fmt: skip


@dataclass(frozen=True)
class DrawingOptions(SamplingOptions):
    """What the user typed; None can also be the setting of the picture in `source`."""

    n: Annotated[int, typer.Option("-n", help="Pictures per prompt.")] = 1
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("out")
    seed: Annotated[int | None, typer.Option(help="Fixes the result; drawn and reported unless given.")] = None
    stride: Stride = None
    window_weights: WindowWeights = None
    moving_windows: MovingWindows = None
    clip_guidance: Annotated[
        float | None, typer.Option(metavar="SCALE", help="CLIP guidance (models of floats): 500 is usual, 0 is none.")
    ] = None
    cutn: Annotated[int | None, typer.Option(help="CLIP guidance: cutouts of each picture at each step; 16 unless given.")] = None
    cut_power: Annotated[float | None, typer.Option(help="CLIP guidance: above 1 prefers small cutouts.")] = None
    source: Annotated[Path | None, typer.Option("--from", metavar="PICTURE", help="Make this PNG again; other options change it.")] = None
    batch_size: Annotated[int, typer.Option(help="Pictures computed together: speed and memory, not the result.")] = 8
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Number from 1 and replace existing files.")] = False
    sheet: Annotated[bool, typer.Option(help="Also a contact sheet when there are several pictures.")] = True

    def settings(self, base: "SamplingSettings", **own: Any) -> "SamplingSettings":
        return super().settings(
            base, clip_guidance=self.clip_guidance, cutouts=self.cutn, cut_power=self.cut_power, stride=self.stride,
            window_weights=self.window_weights, moving_windows=self.moving_windows, **own,
        )  # fmt: skip


drawing_command = takes(DrawingOptions)
"""Gives a command the options of drawing."""
