"""Options that several commands share."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.errors import UsageError, shortened

if TYPE_CHECKING:
    from tessera.flow import SamplingSettings

__all__ = [
    "AsJSON", "Debug", "Device", "Guidance", "Method", "ModelName", "MovingWindows", "Precision", "Sampler", "Steps", "Stride",
    "Temperature", "Truncation", "WindowWeights", "chosen_settings", "parse_size", "parse_truncation",
]  # fmt: skip

DIGITS = 6

AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON to standard output, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error came from.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto: a GPU if there is one.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A bundled model (see `tessera models`), a model folder or a released file; unless given, the first bundled one that fits.",
    ),
]
Precision = Annotated[str, typer.Option(help="Of matrix products: float32, bfloat16; auto: bfloat16 on CUDA.")]
Method = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A published composition of the options below, in place of the model's own. Tokens: base, guidance, "
                 "high-quality, fast, purity, guidance-fast; floats: clip-sample, cfg-sample."),
]  # fmt: skip
Sampler = Annotated[
    str | None, typer.Option(help="Order of the steps; `tessera models` lists them. Options follow a colon: purity:weight=2.")
]
Steps = Annotated[int | None, typer.Option(help="Sampling steps: more is slower and usually better.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale: more follows the prompt more closely; 1 is none.")]
Truncation = Annotated[
    str | None, typer.Option(help="Draw from the most probable tokens: a mass such as 0.86, or a number such as 100; 1.0: all.")
]
Temperature = Annotated[float | None, typer.Option(help="Below 1 prefers probable tokens, above 1 adds variety.")]
Stride = Annotated[
    int | None,
    typer.Option(help="Beyond the model's size: latents from one window to the next; a whole window unless given, half of still ones."),
]
WindowWeights = Annotated[
    str | None, typer.Option(metavar="KIND", help="Beyond the model's size: even, or tent, which counts the middle of a window for more.")
]
MovingWindows = Annotated[
    bool | None,
    typer.Option("--moving-windows/--still-windows", help="Beyond the model's size: windows at random places at each step, or fixed."),
]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "64x48", width first as pictures are named, → (height, width)."""
    if text is None:
        return None
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise UsageError(f"size {text!r} is not WIDTHxHEIGHT in pixels, such as 64x64")
    if max(len(width), len(height)) > DIGITS:
        raise UsageError(f"size {shortened(text)!r} is larger than any picture: a side has at most {DIGITS} digits")
    return int(height), int(width)


def parse_truncation(text: str | None) -> float | int | None:
    """A whole number is a count of tokens, a number with a point a mass."""
    if text is None:
        return None
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise UsageError(f"truncation {text!r} is neither a mass in (0, 1], such as 0.86, nor a number of tokens, such as 100") from None


def chosen_settings(
    base: "SamplingSettings",
    method: str | None,
    *,
    sampler: str | None,
    truncation: str | None,
    eta: float | None = None,
    **given: Any,
) -> "SamplingSettings":
    """The method's settings, or else `base`, with every option that is given in its place. `given`: fields of the settings as they are."""
    from tessera.methods import method as settings_of_method
    from tessera.model import override

    settings = base if method is None else settings_of_method(method)
    return override(settings, sampler=with_eta(sampler, eta), truncation=parse_truncation(truncation), **given)


def with_eta(sampler: str | None, eta: float | None) -> str | None:
    """The sampler's name with `--eta`, an option of ddim, which is meant where none is named."""
    if eta is None:
        return sampler
    if sampler is not None and sampler.partition(":")[0] != "ddim":
        raise UsageError(f"--eta is an option of the sampler ddim, and {sampler!r} has none: leave one of them out")
    return f"ddim:eta={eta}"
