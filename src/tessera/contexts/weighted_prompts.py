"""Prompts with weights, as v-diffusion reads them: `a fox:0.7`, `picture.png:0.3`, `https://host/p.png:2`, `rain:-0.5`.

What follows the last colon is the weight. The colon of `http://` or `https://` at the very start is not counted, so an address alone has
the default weight; one with a port, or words that hold a colon, need a weight of their own. Several prompts for one picture stand in one
text with bars between them: `a fox:2 | in snow | style.png:0.5`.
"""

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from tessera.contexts.prompt_warnings import NotAsTyped
from tessera.errors import UsageError, shortened
from tessera.pictures import SUFFIXES, is_address

__all__ = [
    "CFG_WEIGHT", "CLIP_WEIGHT", "SEPARATOR", "Caption", "WeightedPrompt", "parse_prompts", "split_prompt", "split_weight", "warn_unread",
    "warn_weights",
]  # fmt: skip

SEPARATOR = " | "
"""Between the parts of a prompt."""
CFG_WEIGHT = 3.0
"""A prompt's weight in classifier-free guidance when it names none."""
CLIP_WEIGHT = 1.0
"""The same in CLIP guidance."""


WEIGHT_LIKE = re.compile(r":\s*-?\d+(\.\d*)?$")
CLOCK_LIKE = re.compile(r"\d:\d+$")


class Caption(str):
    """Words that are one prompt without a weight, whatever is in them: what data says of a picture."""


@dataclass(frozen=True)
class WeightedPrompt:
    """text: words, or a picture's path or address. weight: how much it counts; negative leads away from it."""

    text: str
    weight: float

    @property
    def is_picture(self) -> bool:
        """Whether `text` names a picture: an http(s) address, or something that ends as picture files do."""
        return not isinstance(self.text, Caption) and (is_address(self.text) or PurePath(self.text).suffix.lower() in SUFFIXES)


def split_weight(prompt: str, default: float) -> tuple[str, float]:
    """Words and weight of a prompt. The weight is any number that Python reads, infinities and NaN included.

    Raises UsageError when what follows the last colon is no number.
    """
    scheme = prompt[: prompt.index("//") + 2] if is_address(prompt) else ""
    text, colon, weight = prompt.removeprefix(scheme).rpartition(":")
    if not colon:
        return prompt, default
    try:
        return scheme + text, float(weight)
    except ValueError:
        raise UsageError(
            f"the prompt {prompt!r} has no number after its last colon, where its weight belongs: write it at the end, "
            f"such as {prompt + ':1'!r}"
        ) from None


def parse_prompts(prompts: Sequence[str], default: float) -> list[WeightedPrompt]:
    """Prompts as typed → words and weights. Raises UsageError for a weight that is not a finite number."""
    parsed = [WeightedPrompt(*split_weight(prompt, default)) for prompt in prompts]
    for prompt, read in zip(prompts, parsed, strict=True):
        if not math.isfinite(read.weight):
            raise UsageError(f"the weight of the prompt {prompt!r} must be a finite number, not {read.weight}")
    return parsed


def split_prompt(prompt: str | None, default: float) -> list[WeightedPrompt]:
    """The parts of a prompt, none of None, with the weight `default` where they name none.

    Raises UsageError for an empty part or a bad weight.
    """
    if prompt is None:
        return []
    if isinstance(prompt, Caption):
        return [WeightedPrompt(prompt, default)]
    parts = parse_prompts([part.strip() for part in prompt.split(SEPARATOR)], default)
    if not all(part.text.strip() for part in parts):
        raise UsageError("the prompt is empty: say what to draw" if len(parts) == 1 else f"a part of the prompt {prompt!r} is empty")
    return parts


def warn_weights(prompt: str) -> None:
    """Warns (`NotAsTyped`) of a number after a colon that is read as a weight though it may be a time or a ratio: "a clock at 10:30"."""
    for part in [] if isinstance(prompt, Caption) else [part.strip() for part in prompt.split(SEPARATOR)]:
        if CLOCK_LIKE.search(part):
            message = f"{part.rpartition(':')[2]} is taken as the weight of {shortened(part)!r}"
            warnings.warn(f"{message}: if it belongs to the words, write {part[-40:] + ':1'!r}", NotAsTyped, stacklevel=2)


def warn_unread(prompt: str) -> None:
    """Warns (`NotAsTyped`) of weights and bars in a prompt for a model that reads one text as it is."""
    if SEPARATOR in prompt or WEIGHT_LIKE.search(prompt):
        warnings.warn(
            f"this model reads no weights and no parts of a prompt: {shortened(prompt)!r} is all words to it", NotAsTyped, stacklevel=2
        )
